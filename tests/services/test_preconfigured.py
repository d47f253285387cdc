"""Requests that start when the session is lost (RFC 9132, sections 4.4.1.1, 4.4.1.3 and 4.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import ScopeConflict
from mitigation.models import Mitigation
from mitigation.protocol.constants import WITHDRAWN_SHOWN
from mitigation.protocol.scope import MitigationRequest
from mitigation.protocol.status import Status
from mitigation.services import mitigations
from mitigation.services.mitigations import Outcome

Submit = Callable[..., Outcome]


def armed(mid: int = 1, *prefixes: str, **options: Any) -> MitigationRequest:
    return replace(request(mid, *prefixes, **options), trigger_mitigation=False, digest="")


def of(mid: int) -> Mitigation:
    return Mitigation.objects.get(mid=mid)


@pytest.mark.rows("SIG-LIF-008", "SIG-STA-004", "SIG-MIT-019", "ENF-TGT-012")
def test_it_is_kept_ready_and_not_enforced(cast: Any, submit: Submit) -> None:
    outcome = granted(submit(cast.alice, armed()))

    row = of(1)
    assert outcome.created
    assert (row.status, row.mitigation_start) == (Status.SIGNAL_LOSS, None)
    assert not Mitigation.objects.enforced().exists()
    assert not granted(submit(cast.alice, armed())).created


@pytest.mark.rows("SIG-LIF-009", "SIG-LIF-016", "SIG-HB-021")
def test_it_starts_when_the_session_is_lost_and_only_once(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, armed())
    submit(cast.bob, armed(cuid="cuid-of-bob"))
    later = now + timedelta(seconds=450)

    assert mitigations.session_lost(cast.alice.pk, now=later) == 1
    assert mitigations.session_lost(cast.alice.pk, now=later) == 0

    row = Mitigation.objects.get(client=cast.alice)
    assert (row.status, row.mitigation_start) == (Status.IN_PROGRESS, later)
    assert Mitigation.objects.get(client=cast.bob).status == Status.SIGNAL_LOSS


@pytest.mark.rows("SIG-LIF-010", "SIG-DEL-010")
def test_it_goes_on_until_it_is_withdrawn(
    cast: Any, submit: Submit, withdraw: Callable[..., None], now: datetime
) -> None:
    submit(cast.alice, armed())
    mitigations.session_lost(cast.alice.pk, now=now)
    submit(cast.alice, armed())

    assert of(1).status == Status.IN_PROGRESS

    withdraw(cast.alice, 1)
    assert of(1).status == Status.TERMINATING


@pytest.mark.rows("SIG-DEL-007")
def test_withdrawing_what_is_only_armed_ends_it_at_once(
    cast: Any, submit: Submit, withdraw: Callable[..., None]
) -> None:
    submit(cast.alice, armed())

    withdraw(cast.alice, 1)

    assert (of(1).status, of(1).is_live) == (Status.TERMINATED, False)


@pytest.mark.rows("SIG-OVL-002", "SIG-OVL-003")
def test_mids_are_compared_within_a_type(cast: Any, submit: Submit) -> None:
    submit(cast.alice, armed(5, "198.51.100.0/24"))
    granted(submit(cast.alice, request(3)))

    assert {of(5).status, of(3).status} == {Status.SIGNAL_LOSS, Status.IN_PROGRESS}
    assert isinstance(refused(submit(cast.alice, armed(4))).error, ScopeConflict)
    granted(submit(cast.alice, armed(6)))
    assert not of(5).is_live


@pytest.mark.rows("SIG-OVL-006", "SIG-LIF-012", "SIG-OVL-008")
def test_an_immediate_request_preempts_it_and_it_is_armed_again(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, armed(1, "198.51.100.0/24"))
    mitigations.session_lost(cast.alice.pk, now=now)

    granted(submit(cast.alice, request(2)))

    assert (of(1).status, of(2).status) == (Status.WITHDRAWN, Status.IN_PROGRESS)
    told = now + timedelta(seconds=WITHDRAWN_SHOWN)
    mitigations.expire(now=told)
    row = of(1)
    assert (row.status, row.mitigation_start, row.rearms) == (Status.SIGNAL_LOSS, None, False)
    assert row.remaining(told) == 3600 - WITHDRAWN_SHOWN
    assert mitigations.session_lost(cast.alice.pk, now=told) == 1


@pytest.mark.rows("SIG-OVL-007")
def test_a_loss_takes_over_from_immediate_requests_that_overlap(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, armed(1, "198.51.100.0/24"))
    submit(cast.alice, request(2))
    submit(cast.alice, request(3, "2001:db8:100::7/128"))

    mitigations.session_lost(cast.alice.pk, now=now)

    assert [of(mid).status for mid in (1, 2, 3)] == [Status.IN_PROGRESS, Status.WITHDRAWN, Status.IN_PROGRESS]
    mitigations.expire(now=now + timedelta(seconds=WITHDRAWN_SHOWN))
    assert of(2).status == Status.TERMINATED


def test_an_operators_stop_does_not_arm_it_again(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, armed())
    mitigations.session_lost(cast.alice.pk, now=now)
    mitigations.stop(of(1).pk, actor="operator", reason="", now=now)

    mitigations.expire(now=now + timedelta(seconds=WITHDRAWN_SHOWN))

    assert of(1).status == Status.TERMINATED
