"""Status 3: drops have stopped, and what follows from that (RFC 9132, section 4.4.2, Table 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, request

from mitigation.drivers.base import Counter
from mitigation.models import Domain, Mitigation, Rule
from mitigation.protocol.constants import NOTIFICATION_PERIOD, TOLD_FOUR_TIMES
from mitigation.protocol.status import Status
from mitigation.rules.canonical import Kind
from mitigation.services import mitigations

Submit = Callable[..., Any]
Count = Callable[..., None]
Reconcile = Callable[..., bool]

FOUR_TIMES = timedelta(seconds=TOLD_FOUR_TIMES * NOTIFICATION_PERIOD)


@pytest.fixture
def drops(count: Count, now: datetime) -> Callable[[int, int], Status]:
    """Read a total of dropped packets so many seconds on; returns the status after it."""

    def do(total: int, second: int) -> Status:
        key = Rule.objects.get(kind=Kind.AMPLIFICATION.value).key
        count(Counter(key, "a", total, total * 100), at=now + timedelta(seconds=second))
        return Status(Mitigation.objects.get().status)

    return do


@pytest.mark.rows("SIG-STA-001")
def test_an_attack_is_over_when_nothing_was_dropped_for_a_while(
    cast: Any, submit: Submit, reconcile: Reconcile, drops: Callable[[int, int], Status]
) -> None:
    submit(cast.alice, request(1))
    reconcile()

    assert drops(5, 1) is Status.MITIGATED
    assert drops(9, 10) is Status.MITIGATED
    assert drops(9, 309) is Status.MITIGATED
    assert drops(9, 310) is Status.STOPPED
    assert drops(9, 311) is Status.STOPPED
    assert drops(10, 312) is Status.MITIGATED

    steps = [(step.happening, step.actor) for step in Mitigation.objects.get().transitions.all()[2:]]
    assert steps == [("attack-ended", "enforcer"), ("attack-resumed", "enforcer")]


@pytest.mark.parametrize(("over_after", "status"), [(0, Status.MITIGATED), (60, Status.STOPPED)])
def test_how_long_is_the_domains_choice(
    cast: Any,
    submit: Submit,
    reconcile: Reconcile,
    drops: Callable[[int, int], Status],
    over_after: int,
    status: Status,
) -> None:
    Domain.objects.update(attack_over_after=over_after)
    submit(cast.alice, request(1))
    reconcile()
    drops(5, 1)

    assert drops(5, 61) is status


def test_an_attack_that_was_never_seen_does_not_end(
    cast: Any, submit: Submit, reconcile: Reconcile, drops: Callable[[int, int], Status]
) -> None:
    submit(cast.alice, request(1))
    reconcile()
    drops(0, 1)

    assert drops(0, 3000) is Status.MITIGATED


def test_rules_that_came_back_are_watched_from_then_on(
    cast: Any,
    submit: Submit,
    reconcile: Reconcile,
    drops: Callable[[int, int], Status],
    driver: Any,
    now: datetime,
) -> None:
    submit(cast.alice, request(1))
    reconcile()
    drops(5, 1)
    driver.broken = "away"
    reconcile(at=now + timedelta(seconds=100))
    driver.broken = ""
    reconcile(at=now + timedelta(seconds=400))

    assert drops(5, 401) is Status.MITIGATED
    assert drops(5, 700) is Status.STOPPED


@pytest.mark.rows("SIG-STA-002")
def test_an_immediate_request_stays_until_its_client_or_its_lifetime_ends_it(
    cast: Any, submit: Submit, reconcile: Reconcile, drops: Callable[[int, int], Status], now: datetime
) -> None:
    submit(cast.alice, request(1))
    reconcile()
    drops(5, 1)
    drops(5, 301)

    assert mitigations.expire(now=now + timedelta(seconds=3599)) == 0
    row = Mitigation.objects.get()
    assert (row.status, row.is_active, row.rearms_at) == (Status.STOPPED, True, None)
    assert not granted(submit(cast.alice, request(1), at=now + timedelta(seconds=3599))).created
    assert mitigations.expire(now=now + timedelta(seconds=7199)) == 1
    assert Mitigation.objects.get().status == Status.TERMINATING


@pytest.mark.rows("SIG-LIF-011", "SIG-LIF-010")
def test_what_a_loss_started_is_armed_again_after_its_attack(
    cast: Any, submit: Submit, reconcile: Reconcile, drops: Callable[[int, int], Status], now: datetime
) -> None:
    submit(cast.alice, replace(request(1, lifetime=86_400), trigger_mitigation=False, digest=""))
    mitigations.session_lost(cast.alice.pk, now=now)
    reconcile()
    drops(5, 1)
    assert drops(5, 301) is Status.STOPPED
    told = now + timedelta(seconds=301) + FOUR_TIMES

    assert mitigations.expire(now=told - timedelta(seconds=1)) == 0
    assert mitigations.expire(now=told) == 1

    row = Mitigation.objects.get()
    assert (row.status, row.mitigation_start, row.dropped_packets, row.installed_at) == (
        Status.SIGNAL_LOSS,
        None,
        None,
        None,
    )
    assert row.remaining(told) == 86_400 - 301 - int(FOUR_TIMES.total_seconds())
    reconcile(at=told)
    assert not Rule.objects.exists()
    assert mitigations.session_lost(cast.alice.pk, now=told) == 1


@pytest.mark.rows("SIG-LIF-011")
def test_an_attack_that_goes_on_keeps_it_started(
    cast: Any, submit: Submit, reconcile: Reconcile, drops: Callable[[int, int], Status], now: datetime
) -> None:
    submit(cast.alice, replace(request(1), trigger_mitigation=False, digest=""))
    mitigations.session_lost(cast.alice.pk, now=now)
    reconcile()
    drops(5, 1)
    drops(5, 301)

    assert drops(6, 330) is Status.MITIGATED
    assert mitigations.expire(now=now + timedelta(seconds=301) + FOUR_TIMES) == 0
    assert Mitigation.objects.get().rearms_at is None


def test_a_loss_started_request_whose_lifetime_ends_meanwhile_ends(
    cast: Any, submit: Submit, reconcile: Reconcile, drops: Callable[[int, int], Status], now: datetime
) -> None:
    submit(cast.alice, replace(request(1, lifetime=350), trigger_mitigation=False, digest=""))
    mitigations.session_lost(cast.alice.pk, now=now)
    reconcile()
    drops(5, 1)
    drops(5, 301)

    mitigations.expire(now=now + timedelta(seconds=350))
    assert Mitigation.objects.get().status == Status.TERMINATING
    mitigations.expire(now=now + timedelta(seconds=301) + FOUR_TIMES)
    assert Mitigation.objects.get().status == Status.TERMINATING


def test_four_times_fit_between_the_change_and_the_next(cast: Any) -> None:
    tellings = [period for period in range(10) if period < TOLD_FOUR_TIMES]

    assert len(tellings) == 4
