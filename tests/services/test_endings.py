"""How mitigations end: withdrawn, expired, stopped, renewed in time (RFC 9132, section 4.4.4)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, request

from mitigation.exceptions import NotFound
from mitigation.models import Mitigation, Target
from mitigation.protocol.status import Status
from mitigation.services import mitigations
from mitigation.services.mitigations import Outcome

Submit = Callable[..., Outcome]
Withdraw = Callable[..., None]


def status() -> Status:
    return Status(Mitigation.objects.latest("pk").status)


@pytest.mark.rows("SIG-DEL-001", "SIG-DEL-003", "SIG-DEL-004", "SIG-DEL-006")
def test_a_withdrawn_mitigation_goes_on_for_120_seconds(
    cast: Any, submit: Submit, withdraw: Withdraw, now: datetime
) -> None:
    submit(cast.alice, request(1))

    withdraw(cast.alice, 1)

    assert status() is Status.TERMINATING
    assert Mitigation.objects.enforced().count() == 1
    assert mitigations.expire(now=now + timedelta(seconds=119)) == 0
    assert mitigations.expire(now=now + timedelta(seconds=120)) == 1
    assert status() is Status.TERMINATED
    assert not Mitigation.objects.live().exists()
    assert not Target.objects.exists()


@pytest.mark.rows("SIG-DEL-002")
def test_withdrawing_twice_or_nothing_changes_nothing(
    cast: Any, submit: Submit, withdraw: Withdraw, now: datetime
) -> None:
    submit(cast.alice, request(1))
    withdraw(cast.alice, 1)
    ends = Mitigation.objects.get().ends_at

    withdraw(cast.alice, 1, at=now + timedelta(seconds=60))
    withdraw(cast.alice, 99)

    assert Mitigation.objects.get().ends_at == ends


@pytest.mark.rows("SIG-DEL-005", "SIG-PUT-015")
def test_renewal_inside_the_period_goes_on_and_doubles_the_next_one(
    cast: Any, submit: Submit, withdraw: Withdraw, now: datetime
) -> None:
    submit(cast.alice, request(1))
    lengths = []
    for _ in range(4):
        withdraw(cast.alice, 1)
        row = Mitigation.objects.get()
        assert row.ends_at is not None
        lengths.append((row.ends_at - now).total_seconds())
        outcome = granted(submit(cast.alice, request(1)))
        assert not outcome.created
        assert status() is Status.IN_PROGRESS

    assert lengths == [120, 240, 300, 300]
    assert Mitigation.objects.get().ends_at is None


@pytest.mark.rows("SIG-LIF-003")
def test_a_lifetime_ends_to_the_second_and_then_the_grace_period_runs(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, request(1, lifetime=5))

    assert mitigations.expire(now=now + timedelta(seconds=4.9)) == 0
    assert mitigations.expire(now=now + timedelta(seconds=5)) == 1

    assert status() is Status.TERMINATING
    assert Mitigation.objects.get().remaining(now + timedelta(seconds=5)) == 120


@pytest.mark.rows("SIG-LIF-006")
def test_an_indefinite_lifetime_does_not_end(cast: Any, submit: Submit, now: datetime) -> None:
    cast.alice.domain.grants_indefinite = True
    cast.alice.domain.save(update_fields=["grants_indefinite"])
    submit(cast.alice, request(1, lifetime=-1))

    assert mitigations.expire(now=now + timedelta(days=3650)) == 0
    assert Mitigation.objects.get().remaining(now + timedelta(days=3650)) == -1


@pytest.mark.rows("SIG-STA-003", "SIG-OVL-008")
def test_an_operators_stop_takes_effect_at_once_and_stays_visible(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, request(1))
    number = Mitigation.objects.get().pk

    mitigations.stop(number, actor="operator eve", reason="false alarm", now=now)

    assert status() is Status.WITHDRAWN
    assert not Mitigation.objects.enforced().exists()
    assert Mitigation.objects.live().exists()
    with pytest.raises(NotFound):
        mitigations.stop(number, actor="operator eve", reason="again", now=now)
    step = Mitigation.objects.get().transitions.last()
    assert step is not None
    assert (step.actor, step.reason) == ("operator eve", "false alarm")


def test_expiry_works_off_any_number(cast: Any, submit: Submit, now: datetime) -> None:
    for mid in range(7):
        submit(cast.alice, request(mid, f"198.51.100.{mid}/32", lifetime=1))

    assert mitigations.expire(now=now + timedelta(seconds=1), limit=5) == 5
    assert mitigations.expire(now=now + timedelta(seconds=1), limit=5) == 2
    assert mitigations.expire(now=now + timedelta(seconds=1), limit=5) == 0
