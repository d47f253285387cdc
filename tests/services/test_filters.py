"""Filters switched by mitigation requests (RFC 9133, section 3.2.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import FilterNotApplied, MalformedRequest, NotFound
from mitigation.models import Acl, Audit, Client, EnforcementPoint, Mitigation, Target
from mitigation.protocol import messages
from mitigation.protocol.filters import AclControl, ActivationType
from mitigation.protocol.scope import MitigationRequest
from mitigation.protocol.status import Status
from mitigation.services import filters, mitigations
from mitigation.signal_channel import reports

Submit = Callable[..., Any]

WHEN_MITIGATING, IMMEDIATE, DEACTIVATE = ActivationType


@pytest.fixture
def acl(now: datetime) -> Callable[..., Acl]:
    def do(client: Client, name: str = "an-accept-list", *, cuid: str = "cuid-of-alice", **more: Any) -> Acl:
        times = {"created_at": now, "refreshed_at": now, "expires_at": now + timedelta(days=1)}
        kind = {"activation_type": WHEN_MITIGATING}
        return Acl.objects.create(client=client, cuid=cuid, name=name, **{**times, **kind, **more})

    return do


def switching(wanted: MitigationRequest, *acls: AclControl, trigger: bool = True) -> MitigationRequest:
    return replace(wanted, acls=acls, trigger_mitigation=trigger, digest="")


@pytest.mark.rows("SIG-FLT-008", "SIG-FLT-009", "SIG-FLT-012")
def test_a_filter_is_switched_refreshed_and_stays_so(
    cast: Any, submit: Submit, withdraw: Callable[..., None], acl: Callable[..., Acl], now: datetime
) -> None:
    row = acl(cast.alice)
    EnforcementPoint.objects.update(wanted=0, reconciled=0)
    later = now + timedelta(hours=1)

    outcome = granted(submit(cast.alice, switching(request(1), AclControl(row.name, DEACTIVATE)), at=later))
    withdraw(cast.alice, 1, at=later)
    mitigations.expire(now=later + timedelta(seconds=120))

    assert outcome.created
    row.refresh_from_db()
    assert row.activation_type == DEACTIVATE
    assert row.expires_at == later + timedelta(minutes=10_080)
    assert EnforcementPoint.objects.get().is_dirty
    audit = Audit.objects.get(action="acl-activate")
    assert (audit.before, audit.after) == ({"activation-type": WHEN_MITIGATING}, {"activation-type": DEACTIVATE})


@pytest.mark.rows("SIG-FLT-007", "SIG-FLT-015")
def test_an_unknown_filter_leaves_nothing_behind(
    cast: Any, submit: Submit, acl: Callable[..., Acl], now: datetime
) -> None:
    acl(cast.alice, "mine")
    acl(cast.bob, "bobs", cuid="cuid-of-bob")
    acl(cast.alice, "other-cuid", cuid="another")
    acl(cast.alice, "old", expires_at=now)

    for name in ("nothing", "bobs", "other-cuid", "old"):
        wanted = switching(request(1), AclControl("mine", DEACTIVATE), AclControl(name, DEACTIVATE))
        refusal = refused(submit(cast.alice, wanted))
        assert isinstance(refusal.error, NotFound)
        assert name in str(refusal.error)

    assert not Mitigation.objects.exists()
    assert not Target.objects.exists()
    assert not Acl.objects.filter(activation_type=DEACTIVATE).exists()


@pytest.mark.rows("SIG-FLT-002")
def test_in_idle_time_no_filter_is_switched(cast: Any, submit: Submit, acl: Callable[..., Acl]) -> None:
    row = acl(cast.alice)
    armed = switching(request(1), AclControl(row.name, DEACTIVATE), trigger=False)

    assert isinstance(refused(submit(cast.alice, armed)).error, MalformedRequest)
    row.refresh_from_db()
    assert (row.activation_type, Mitigation.objects.count()) == (WHEN_MITIGATING, 0)

    granted(submit(cast.alice, request(2, "198.51.100.99/32")))
    granted(submit(cast.alice, armed))
    row.refresh_from_db()
    assert row.activation_type == DEACTIVATE


@pytest.mark.rows("SIG-FLT-003", "SIG-PUT-005", "SIG-PUT-008")
def test_switching_takes_a_new_mid(cast: Any, submit: Submit, acl: Callable[..., Acl], now: datetime) -> None:
    row = acl(cast.alice)
    submit(cast.alice, request(1))

    assert isinstance(
        refused(submit(cast.alice, switching(request(1), AclControl(row.name, DEACTIVATE)))).error, MalformedRequest
    )
    with_it = switching(request(2), AclControl(row.name, DEACTIVATE))
    assert granted(submit(cast.alice, with_it)).created
    filters.activate((cast.alice.pk, "", "cuid-of-alice"), row.name, IMMEDIATE, now=now, door="data")
    assert not granted(submit(cast.alice, with_it)).created

    row.refresh_from_db()
    assert row.activation_type == IMMEDIATE  # a refresh repeats the list, it does not switch again


@pytest.mark.rows("SIG-FLT-010")
def test_what_cannot_be_applied_is_named(cast: Any, submit: Submit, acl: Callable[..., Acl]) -> None:
    row = acl(cast.alice)
    EnforcementPoint.objects.update(health=EnforcementPoint.Health.DOWN)
    wanted = switching(request(1), AclControl(row.name, DEACTIVATE))

    refusal = refused(submit(cast.alice, wanted))

    assert isinstance(refusal.error, FilterNotApplied)
    assert (refusal.error.mid, refusal.error.acls) == (1, wanted.acls)
    assert not Mitigation.objects.exists()
    assert granted(submit(cast.alice, request(1))).created


@pytest.mark.rows("SIG-FLT-014")
def test_a_change_from_outside_is_told_in_active_mitigations(
    cast: Any, submit: Submit, acl: Callable[..., Acl], now: datetime
) -> None:
    row = acl(cast.alice)
    submit(cast.alice, request(1))
    submit(cast.bob, request(1, "198.51.100.99/32", cuid="cuid-of-bob"))
    own = (cast.alice.pk, "", "cuid-of-alice")

    filters.activate(own, row.name, IMMEDIATE, now=now, door="data")
    filters.activate(own, row.name, DEACTIVATE, now=now, door="data")

    def told(client: Client) -> Any:
        body = reports.encode(list(Mitigation.objects.filter(client=client)), now=now)
        return messages.decode_reports(body)[0].get("ietf-dots-signal-control:acl-list")

    assert told(cast.alice) == [{"acl-name": row.name, "activation-type": DEACTIVATE}]
    assert told(cast.bob) is None
    with pytest.raises(NotFound):
        filters.activate((cast.bob.pk, "", "cuid-of-bob"), row.name, IMMEDIATE, now=now, door="data")


def test_an_own_switch_is_no_news(cast: Any, submit: Submit, acl: Callable[..., Acl], now: datetime) -> None:
    row = acl(cast.alice)

    submit(cast.alice, switching(request(1), AclControl(row.name, IMMEDIATE)))
    filters.activate((cast.alice.pk, "", "cuid-of-alice"), row.name, IMMEDIATE, now=now, door="data")

    mitigation = Mitigation.objects.get()
    assert (mitigation.status, mitigation.acl_changes) == (Status.IN_PROGRESS, [])
