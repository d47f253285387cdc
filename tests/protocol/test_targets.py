"""Names and URIs as targets: what is read from them, and what is refused (RFC 9132, section 4.4.1.1)."""

from __future__ import annotations

import ipaddress
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import messages, targets
from mitigation.protocol.paths import Path
from mitigation.protocol.scope import MitigationRequest


def decode(entry: dict[int, Any]) -> MitigationRequest:
    body = cbor2.dumps({1: {2: [{14: 3600, **entry}]}})
    return messages.decode_mitigation(body, Path("mitigate", cuid="c", mid=1))


@pytest.mark.rows("SIG-MIT-011")
def test_names_are_compared_in_one_form() -> None:
    assert decode({11: ["WWW.A.Example.", "www.a.example"]}).scope.target_fqdn == ("www.a.example",)


@pytest.mark.parametrize(
    "text",
    ["localhost", "a..b", ".a.example", "-a.example", "a b.example", "198.51.100.7", "ä.example", "x" * 64 + ".b"],
)
def test_what_is_no_fully_qualified_name_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest, match="fully qualified"):
        decode({11: [text]})


@pytest.mark.rows("SIG-MIT-013")
@pytest.mark.parametrize(
    ("uri", "host", "protocols", "port"),
    [
        ("https://www.a.example/", "www.a.example", (6,), 443),
        ("HTTP://WWW.A.EXAMPLE:8080/x", "www.a.example", (6,), 8080),
        ("coap://198.51.100.7", ipaddress.ip_network("198.51.100.7/32"), (17,), 5683),
        ("https://[2001:db8::1]", ipaddress.ip_network("2001:db8::1/128"), (6,), 443),
        ("game://play.a.example:27015", "play.a.example", (), 27015),
    ],
)
def test_a_uri_gives_host_protocols_and_port(uri: str, host: Any, protocols: tuple[int, ...], port: int) -> None:
    location = targets.parse_target_uri(uri)

    assert (location.host, location.protocols, location.port) == (host, protocols, port)


@pytest.mark.rows("SIG-MIT-028", "SIG-MIT-006")
@pytest.mark.parametrize(
    "uri",
    [
        "foo://x.example/",
        "/path",
        "//a.example/",
        "https:///path",
        "https://",
        "www.a.example",
        "mailto:a@a.example",
        "https://a.example:0/",
        "https://a.example:99999/",
        "https://a.example:x/",
        "https://[::1/",
        "https://127.0.0.1/",
        "https://[ff02::1]/",
        "https://local/",
        "https://a.ex ample/",
        "https://a.example\n/",
    ],
)
def test_a_uri_without_a_host_or_a_port_is_refused(uri: str) -> None:
    with pytest.raises(MalformedRequest):
        decode({12: [uri]})


@given(st.text(max_size=60))
def test_any_text_is_a_location_or_a_refusal(text: str) -> None:
    for parse in (targets.parse_target_uri, targets.parse_target_fqdn):
        try:
            parse(text)  # type: ignore[operator]
        except MalformedRequest as refusal:
            assert str(refusal)


@pytest.mark.parametrize(
    ("name", "inside"),
    [("a.example", True), ("www.a.example", True), ("xa.example", False), ("example", False), ("a.example.b", False)],
)
def test_a_name_lies_in_itself_and_in_what_is_above_it(name: str, inside: bool) -> None:
    assert targets.lies_in(name, ["a.example"]) is inside
