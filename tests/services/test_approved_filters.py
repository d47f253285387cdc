"""Filters of a request that waits for people are switched with its approval (RFC 9133, section 3.2.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import FilterNotApplied, NotFound
from mitigation.models import Acl, Audit, EnforcementPoint, Mitigation, Transition
from mitigation.protocol.filters import AclControl, ActivationType
from mitigation.protocol.scope import MitigationRequest
from mitigation.protocol.status import Status
from mitigation.services import domains, mitigations
from mitigation.signal_channel import reports

Submit = Callable[..., Any]

WHEN_MITIGATING, IMMEDIATE, DEACTIVATE = ActivationType
WITHIN = 600


@pytest.fixture(autouse=True)
def people(cast: Any, now: datetime) -> None:
    """Two filters of alice, and a domain whose requests wait for an operator."""
    approve_by("one", now)
    for name in ("a", "b"):
        Acl.objects.create(
            client=cast.alice,
            cuid="cuid-of-alice",
            name=name,
            activation_type=WHEN_MITIGATING,
            created_at=now,
            refreshed_at=now,
            expires_at=now + timedelta(days=1),
        )


def approve_by(approval: str, now: datetime) -> None:
    domains.change_domain("a.example", {"approval": approval, "approval_within": WITHIN}, actor="test", now=now)


def switching(wanted: MitigationRequest, *names: str) -> MitigationRequest:
    return replace(wanted, acls=tuple(AclControl(name, DEACTIVATE) for name in names), digest="")


def kinds() -> dict[str, int]:
    return dict(Acl.objects.values_list("name", "activation_type"))


UNTOUCHED = {"a": WHEN_MITIGATING, "b": WHEN_MITIGATING}


def only() -> Mitigation:
    return Mitigation.objects.select_related("client", "domain").get(ended_at=None)


def told(now: datetime) -> tuple[AclControl, ...]:
    return reports.report(only(), now=now).acls


@pytest.mark.rows("SIG-FLT-008", "SIG-FLT-009", "SIG-FLT-012", "SIG-FLT-014")
def test_it_takes_effect_with_the_approval_and_not_before(cast: Any, submit: Submit, now: datetime) -> None:
    assert granted(submit(cast.alice, switching(request(), "a"))).created

    assert kinds() == UNTOUCHED
    assert only().status == Status.IN_PROGRESS
    assert only().status_reason == "needs approval by an operator; it switches filters: a"
    assert told(now) == ()

    granted(submit(cast.alice, switching(request(), "a"), at=now + timedelta(seconds=30)))
    assert kinds() == UNTOUCHED

    later = now + timedelta(seconds=60)
    EnforcementPoint.objects.update(wanted=0, reconciled=0)
    mitigations.approve(only().pk, actor="operator ann", now=later)

    assert kinds() == {"a": DEACTIVATE, "b": WHEN_MITIGATING}
    assert Acl.objects.get(name="a").expires_at == later + timedelta(minutes=10_080)
    assert EnforcementPoint.objects.get().is_dirty
    assert told(later) == (AclControl("a", DEACTIVATE),)
    assert Audit.objects.filter(action="acl-activate").count() == 1


def test_one_of_two_people_is_not_enough(cast: Any, submit: Submit, now: datetime) -> None:
    approve_by("two", now)
    granted(submit(cast.alice, switching(request(), "a")))

    mitigations.approve(only().pk, actor="operator ann", now=now)
    assert kinds() == UNTOUCHED
    mitigations.approve(only().pk, actor="operator bob", now=now)
    assert kinds()["a"] == DEACTIVATE


@pytest.mark.parametrize("end", ["rejected", "in no time", "withdrawn", "replaced"])
def test_what_is_never_approved_switches_nothing(
    cast: Any, submit: Submit, withdraw: Callable[..., None], now: datetime, end: str
) -> None:
    granted(submit(cast.alice, switching(request(), "a")))
    later = now + timedelta(seconds=WITHIN)
    if end == "rejected":
        mitigations.reject(only().pk, actor="operator ann", reason="no", now=now)
    elif end == "in no time":
        assert mitigations.expire(now=later) == 1
    elif end == "withdrawn":
        withdraw(cast.alice, 1)
    else:
        granted(submit(cast.alice, switching(request(2), "b")))
        mitigations.approve(only().pk, actor="operator ann", now=now)
    mitigations.expire(now=later + timedelta(seconds=300))

    assert kinds() == (UNTOUCHED if end != "replaced" else {"a": WHEN_MITIGATING, "b": DEACTIVATE})


def test_what_was_rejected_and_is_asked_for_again_switches_when_that_is_approved(
    cast: Any, submit: Submit, now: datetime
) -> None:
    granted(submit(cast.alice, switching(request(), "a")))
    mitigations.reject(only().pk, actor="operator ann", reason="no", now=now)
    granted(submit(cast.alice, switching(request(), "a")))
    assert kinds() == UNTOUCHED

    mitigations.approve(only().pk, actor="operator ann", now=now)

    assert kinds()["a"] == DEACTIVATE


def test_what_is_asked_for_again_where_nobody_is_asked_any_more_switches_at_once(
    cast: Any, submit: Submit, now: datetime
) -> None:
    granted(submit(cast.alice, switching(request(), "a", "b")))
    mitigations.reject(only().pk, actor="operator ann", reason="no", now=now)
    approve_by("automatic", now)
    before = Acl.objects.get(name="b")
    before.delete()
    assert isinstance(refused(submit(cast.alice, switching(request(), "a", "b"))).error, NotFound)
    assert (only().status, kinds()) == (Status.WITHDRAWN, {"a": WHEN_MITIGATING})
    before.save(force_insert=True)

    granted(submit(cast.alice, switching(request(), "a", "b")))

    assert kinds() == {"a": DEACTIVATE, "b": DEACTIVATE}
    Acl.objects.update(activation_type=IMMEDIATE)
    mitigations.stop(only().pk, actor="operator ann", reason="", now=now)
    granted(submit(cast.alice, switching(request(), "a", "b")))
    assert kinds() == {"a": IMMEDIATE, "b": IMMEDIATE}, "once is enough"


def test_a_filter_that_is_gone_by_then_is_told_in_history(cast: Any, submit: Submit, now: datetime) -> None:
    granted(submit(cast.alice, switching(request(), "a", "b")))
    Acl.objects.filter(name="a").delete()

    assert mitigations.approve(only().pk, actor="operator ann", now=now).approved

    assert kinds() == {"b": DEACTIVATE}
    assert told(now) == (AclControl("b", DEACTIVATE),)
    assert Transition.objects.get(happening="approved").reason == "filters that are there no more: a"


@pytest.mark.rows("SIG-FLT-007", "SIG-FLT-010")
def test_it_is_answered_as_one_that_waits_for_nobody(cast: Any, submit: Submit) -> None:
    assert isinstance(refused(submit(cast.alice, switching(request(), "no-such"))).error, NotFound)
    EnforcementPoint.objects.update(health=EnforcementPoint.Health.DOWN)
    assert isinstance(refused(submit(cast.alice, switching(request(), "a"))).error, FilterNotApplied)
    assert not Mitigation.objects.exists()
