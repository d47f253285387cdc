"""Attackers that a client's own filters let in (RFC 9132, section 4.4.1.3; RFC 9133, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import cbor2
import pytest
from requests_and_outcomes import granted, request

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Acl, Audit, Change, Client, Mitigation
from mitigation.protocol import messages
from mitigation.protocol.filters import ActivationType
from mitigation.services import accept_lists, filters
from mitigation.signal_channel import reports

Submit = Callable[..., Any]
ALICE = "cuid-of-alice"


def accepting(client: Client, now: datetime, source: str = "203.0.113.0/24", *, name: str = "an-accept-list") -> Acl:
    family = "ipv6" if ":" in source else "ipv4"
    matches = {family: {f"source-{family}-network": source}}
    return Acl.objects.create(
        client=client,
        cuid=ALICE,
        name=name,
        activation_type=ActivationType.ACTIVATE_WHEN_MITIGATING,
        aces=[{"name": "one", "matches": matches, "actions": {"forwarding": "ietf-access-control-list:accept"}}],
        created_at=now,
        refreshed_at=now,
        expires_at=now + timedelta(days=1),
    )


def told(row: Mitigation, now: datetime) -> Any:
    """Key 17 of what its client reads."""
    (entry,) = cbor2.loads(messages.encode_reports([reports.report(row, now=now)]))[1][2]
    return entry.get(17)


def attacked(*sources: str, now: datetime) -> list[str]:
    return accept_lists.report_attackers(Mitigation.objects.get().pk, sources, actor="op", now=now)


@pytest.mark.rows("SIG-OVL-012", "SIG-OVL-023")
def test_a_client_is_told_which_of_its_filters_accepts_an_attacker(cast: Any, submit: Submit, now: datetime) -> None:
    accepting(cast.alice, now)
    accepting(cast.alice, now, "2001:db8:1234::/48", name="six")
    granted(submit(cast.alice, request(1)))
    changes = Change.objects.count()

    assert attacked("203.0.113.9", "192.0.2.0/24", now=now) == ["an-accept-list"]

    row = Mitigation.objects.get()
    assert row.status in (1, 2)
    assert told(row, now) == {19: 2, 21: {22: [{23: "an-accept-list"}]}}
    assert Change.objects.count() > changes, "observers are told"
    assert Audit.objects.get(action="report-attackers").after == {"sources": ["192.0.2.0/24", "203.0.113.9/32"]}


@pytest.mark.rows("SIG-OVL-023")
def test_the_conflict_is_over_when_the_client_switches_the_filter_off(cast: Any, submit: Submit, now: datetime) -> None:
    row = accepting(cast.alice, now)
    granted(submit(cast.alice, request(1)))
    attacked("203.0.113.0/25", now=now)

    filters.activate((cast.alice.pk, "", ALICE), row.name, ActivationType.DEACTIVATE, now=now, door="data")
    assert told(Mitigation.objects.get(), now) is None

    filters.activate((cast.alice.pk, "", ALICE), row.name, ActivationType.IMMEDIATE, now=now, door="data")
    assert told(Mitigation.objects.get(), now) == {19: 2, 21: {22: [{23: "an-accept-list"}]}}


def test_a_report_is_replaced_and_taken_back(cast: Any, submit: Submit, now: datetime) -> None:
    accepting(cast.alice, now)
    granted(submit(cast.alice, request(1)))
    attacked("203.0.113.9", now=now)

    assert attacked(now=now) == []
    assert told(Mitigation.objects.get(), now) is None


@pytest.mark.parametrize("source", ["203.0.112.0/24", "2001:db8::/32"])
def test_filters_that_accept_others_are_no_conflict(cast: Any, submit: Submit, now: datetime, source: str) -> None:
    accepting(cast.alice, now)
    granted(submit(cast.alice, request(1)))

    assert attacked(source, now=now) == []


def test_mallorys_filter_is_none_of_alices(cast: Any, submit: Submit, now: datetime) -> None:
    accepting(cast.mallory, now)
    accepting(cast.bob, now)
    granted(submit(cast.alice, request(1)))

    assert attacked("203.0.113.9", now=now) == []


def test_what_is_no_network_or_not_live_is_refused(cast: Any, submit: Submit, now: datetime) -> None:
    granted(submit(cast.alice, request(1)))

    with pytest.raises(MalformedRequest, match="nonsense is not an IPv4 or IPv6 address"):
        attacked("nonsense", now=now)
    with pytest.raises(NotFound):
        accept_lists.report_attackers(999_999, ["203.0.113.9"], actor="op", now=now)
    assert Mitigation.objects.get().attackers == []
