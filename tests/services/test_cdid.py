"""What a trusted gateway asks for in several names is kept apart (RFC 9132, sections 4.4.1.2 and 4.4.1.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import MalformedRequest, NotFound, ScopeConflict
from mitigation.models import Acl, Audit, Client, Cuid, Domain, EquivalentCdid, Mitigation
from mitigation.protocol.scope import MitigationRequest
from mitigation.protocol.status import Status
from mitigation.services import cuids, domains, mitigations
from mitigation.services.cuids import Behind
from mitigation.services.mitigations import Withdrawal
from mitigation.signal_channel import reports
from tests.harness.aliases import make_alias

Submit = Callable[..., Any]


def through(cdid: str, wanted: MitigationRequest) -> MitigationRequest:
    return replace(wanted, cdid=cdid)


@pytest.mark.rows("SIG-CDI-009", "SIG-MID-007", "SIG-CUI-006")
def test_the_same_cuid_and_mid_behind_two_cdids_are_two_requests(cast: Any, submit: Submit, now: datetime) -> None:
    for cdid in ("one", "two", ""):
        assert granted(submit(cast.alice, through(cdid, request(7)))).created
        assert not granted(submit(cast.alice, through(cdid, request(7)))).created

    mitigations.withdraw(Withdrawal(cast.alice.pk, "cuid-of-alice", 7, "one"), now=now)

    found = {row.cdid: row.status for row in Mitigation.objects.all()}
    assert found == {"one": Status.TERMINATING, "two": Status.IN_PROGRESS, "": Status.IN_PROGRESS}
    assert Cuid.objects.count() == 3
    for cdid in found:
        assert [row.cdid for row in reports.live((cast.alice.pk, cdid, "cuid-of-alice", 7))] == [cdid]
    assert reports.live((cast.alice.pk, "three", "cuid-of-alice", None)) == []
    assert Audit.objects.filter(subject__contains="/one/").exists()


@pytest.mark.rows("SIG-OVL-022", "SIG-CUI-006")
def test_they_overlap_as_different_clients_do(cast: Any, submit: Submit) -> None:
    Domain.objects.update(conflict_policy="refuse-new")
    submit(cast.alice, through("one", request(7)))

    refusal = refused(submit(cast.alice, through("two", request(8))))

    assert isinstance(refusal.error, ScopeConflict)
    assert refusal.error.conflict.mid is None


def test_aliases_are_kept_apart(cast: Any, submit: Submit, now: datetime) -> None:
    make_alias(cast.alice, "cuid-of-alice", "web", {"target-prefix": ["198.51.100.7/32"]}, cdid="one", now=now)

    assert isinstance(refused(submit(cast.alice, through("two", request(1, aliases=("web",))))).error, MalformedRequest)
    assert granted(submit(cast.alice, through("one", request(1, aliases=("web",)))))


def test_a_gateway_is_made_one_by_an_operator(cast: Any, now: datetime) -> None:
    assert not cast.alice.is_gateway

    gateway = domains.add_client("gw", domain="a.example", actor="test", now=now, is_gateway=True)

    gateway.refresh_from_db()
    assert gateway.is_gateway
    assert Audit.objects.get(subject="client gw").after == {"domain": "a.example", "gateway": True}


@pytest.fixture
def gateways(cast: Any, now: datetime) -> list[str]:
    """Two of one domain, and one of another."""
    names = {"gw1": "a.example", "gw2": "a.example", "gw3": "m.example"}
    for name, domain in names.items():
        domains.add_client(name, domain=domain, actor="test", now=now, is_gateway=True)
    return list(names)


@pytest.mark.rows("SIG-CDI-008")
def test_equivalence_is_written_down_once_and_can_be_undone(gateways: list[str], now: datetime) -> None:
    this, that = Behind("gw2", "two"), Behind("gw1", "one")

    cuids.equate(this, that, actor="op", now=now)
    with pytest.raises(MalformedRequest, match="already"):
        cuids.equate(this, that, actor="op", now=now)
    cuids.separate(this, actor="op", now=now)

    with pytest.raises(NotFound):
        cuids.separate(this, actor="op", now=now)
    assert not EquivalentCdid.objects.exists()
    told = Audit.objects.filter(subject="cdid gw2/two").order_by("pk").values_list("actor", "action", "after")
    assert list(told) == [("op", f"cdid-{what}", {"same-as": "gw1/one"}) for what in ("equate", "separate")]


@pytest.mark.rows("SIG-CDI-008")
def test_what_would_be_out_of_reach_is_not_equated(gateways: list[str], submit: Submit, now: datetime) -> None:
    gateway = Client.objects.get(name="gw2")
    make_alias(gateway, "c", "web", {"target-prefix": ["198.51.100.7/32"]}, cdid="with-alias", now=now)
    times = {"created_at": now, "refreshed_at": now, "expires_at": now}
    Acl.objects.create(client=gateway, cdid="with-filter", cuid="c", name="a", activation_type=1, **times)
    submit(gateway, through("with-mitigation", request(1)))

    for cdid, words in (
        ("with-alias", "has aliases"),
        ("with-filter", "has filters"),
        ("with-mitigation", "has live mitigations"),
        ("", "1 to 250 octets"),
    ):
        with pytest.raises(MalformedRequest, match=words):
            cuids.equate(Behind("gw2", cdid), Behind("gw1", "one"), actor="op", now=now)
    with pytest.raises(MalformedRequest, match="different domains"):
        cuids.equate(Behind("gw3", "x"), Behind("gw1", "one"), actor="op", now=now)
