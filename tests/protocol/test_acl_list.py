"""acl-list in a request (RFC 9133, section 3.2.1 and Table 1)."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import messages
from mitigation.protocol.filters import AclControl, ActivationType
from mitigation.protocol.paths import Path
from mitigation.protocol.scope import MitigationRequest

GOOD = {6: ["198.51.100.7/32"], 14: 3600}
PATH = Path("mitigate", cuid="c", mid=1)


def decode(entry: dict[int, Any]) -> MitigationRequest:
    return messages.decode_mitigation(cbor2.dumps({1: {2: [{**GOOD, **entry}]}}), PATH)


@pytest.mark.rows("SIG-FLT-001")
def test_filters_by_name_and_what_they_become() -> None:
    found = decode({53: [{23: "one", 52: 3}, {23: "two"}]}).acls

    assert found == (
        AclControl("one", ActivationType.DEACTIVATE),
        AclControl("two", ActivationType.ACTIVATE_WHEN_MITIGATING),
    )


@pytest.mark.rows("SIG-FLT-002", "SIG-FLT-006")
@pytest.mark.parametrize(
    "entry",
    [
        {53: []},
        {53: [{52: 1}]},
        {53: [{23: ""}]},
        {53: [{23: "one", 52: 0}]},
        {53: [{23: "one", 52: 4}]},
        {53: [{23: "one", 24: "ipv4-acl-type"}]},
        {53: [{23: "one"}, {23: "one", 52: 2}]},
        {52: 1},
        {23: "one"},
        {22: [{23: "one"}]},
        {53: [{23: "one"}], 29: 1},
    ],
)
def test_anything_else_is_refused(entry: dict[int, Any]) -> None:
    with pytest.raises(MalformedRequest):
        decode(entry)


@pytest.mark.rows("SIG-FLT-003")
def test_the_list_belongs_to_what_a_refresh_repeats() -> None:
    plain, one, two = decode({}), decode({53: [{23: "one"}]}), decode({53: [{23: "one", 52: 2}]})
    both, turned = decode({53: [{23: "a"}, {23: "b"}]}), decode({53: [{23: "b"}, {23: "a", 52: 1}]})

    assert len({plain.digest, one.digest, two.digest}) == 3
    assert both.digest == turned.digest


def test_a_client_says_it_as_it_is_read() -> None:
    wanted = decode({53: [{23: "one", 52: 3}]})

    assert messages.decode_mitigation(messages.encode_mitigation(wanted), PATH) == wanted
