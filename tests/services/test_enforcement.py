"""From rows to equipment and back: what is wanted, applied, read back, counted, and said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from equipment import Memory
from requests_and_outcomes import request

from mitigation.drivers.base import Counter
from mitigation.drivers.dryrun import DryRunDriver
from mitigation.models import EnforcementPoint, Mitigation, Rule, Sample
from mitigation.protocol.status import Status
from mitigation.rules.canonical import Kind
from mitigation.services import enforcement, mitigations

Submit = Callable[..., Any]


def key_of(kind: Kind) -> str:
    return Rule.objects.get(kind=kind.value).key


@pytest.mark.rows("SIG-STA-001", "ENF-GEN-008")
def test_rules_are_applied_read_back_and_then_said_to_be_installed(
    cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool], now: datetime
) -> None:
    submit(cast.alice, request(1))

    assert reconcile(at=now + timedelta(seconds=1))

    row = Mitigation.objects.get()
    assert row.status == Status.MITIGATED
    assert (row.rendered_at, row.installed_at, row.hitting_at) == (
        now + timedelta(seconds=1),
        now + timedelta(seconds=1),
        None,
    )
    assert set(Rule.objects.values_list("key", flat=True)) == set(driver.rules)
    assert set(Rule.objects.values_list("state", flat=True)) == {"installed"}
    assert {one.expires_in_seconds for one in driver.rules.values()} == {3600 - 1 + 300}
    assert not EnforcementPoint.objects.get().is_dirty


def test_doing_it_again_does_nothing(cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool]) -> None:
    submit(cast.alice, request(1))
    reconcile()

    reconcile()

    assert len(driver.applied) == 1
    assert Mitigation.objects.get().transitions.count() == 2


def test_what_disappears_is_put_back(cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool]) -> None:
    submit(cast.alice, request(1))
    reconcile()
    gone = next(iter(driver.rules))
    del driver.rules[gone]

    reconcile()

    assert gone in driver.rules
    assert driver.applied[-1] == (1, 0)


def test_a_refresh_moves_the_deadline(
    cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool], now: datetime
) -> None:
    submit(cast.alice, request(1, lifetime=600))
    reconcile()
    submit(cast.alice, request(1, lifetime=3000))

    reconcile()

    assert {one.expires_in_seconds for one in driver.rules.values()} == {3300}


@pytest.mark.rows("SIG-STA-003", "ENF-GEN-008")
def test_a_stop_takes_the_rules_away_and_a_withdrawal_does_not_yet(
    cast: Any,
    submit: Submit,
    withdraw: Callable[..., None],
    driver: Memory,
    reconcile: Callable[..., bool],
    now: datetime,
) -> None:
    submit(cast.alice, request(1))
    submit(cast.alice, request(2, "198.51.100.8/32"))
    reconcile()

    withdraw(cast.alice, 1)
    mitigations.stop(Mitigation.objects.get(mid=2).pk, actor="operator", reason="", now=now)
    reconcile()

    assert {key.split()[1] for key in driver.rules} == {"198.51.100.7/32"}
    mitigations.expire(now=now + timedelta(seconds=120))
    reconcile(at=now + timedelta(seconds=120))
    assert driver.rules == {}
    assert not Rule.objects.exists()


def test_a_point_that_is_down_is_said_and_caught_up(
    cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool]
) -> None:
    submit(cast.alice, request(1))
    driver.broken = "nft does not answer"

    reconcile()

    row, point = Mitigation.objects.get(), EnforcementPoint.objects.get()
    assert (row.status, row.installed_at, row.problem) == (Status.IN_PROGRESS, None, "nft does not answer")
    assert (point.health, point.health_sentence, point.is_dirty) == ("down", "nft does not answer", True)
    driver.broken = ""
    reconcile()
    row.refresh_from_db()
    assert (row.status, row.problem) == (Status.MITIGATED, "")
    assert EnforcementPoint.objects.get().health == "ready"


def test_rules_that_are_lost_take_the_word_back(
    cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool]
) -> None:
    submit(cast.alice, request(1))
    reconcile()
    driver.broken = "the cable is cut"

    reconcile()

    row = Mitigation.objects.get()
    assert (row.status, row.installed_at) == (Status.IN_PROGRESS, None)
    assert [step.happening for step in row.transitions.all()] == ["submitted", "rules-installed", "rules-lost"]


def test_a_dry_run_renders_and_claims_no_more(cast: Any, submit: Submit, reconcile: Callable[..., bool]) -> None:
    EnforcementPoint.objects.update(driver="dryrun", enforces=False, counts=False)
    submit(cast.alice, request(1))

    reconcile(using=DryRunDriver())

    row = Mitigation.objects.get()
    assert row.status == Status.EXCEEDED
    assert row.rendered_at is not None
    assert (row.installed_at, row.hitting_at, row.dropped_packets) == (None, None, None)
    assert set(Rule.objects.values_list("state", flat=True)) == {"wanted"}
    assert not EnforcementPoint.objects.get().is_dirty


def test_a_playbook_that_refuses_says_why_and_the_client_hears_4(
    cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool]
) -> None:
    cast.alice.domain.playbook = "discard"
    cast.alice.domain.save(update_fields=["playbook"])
    submit(cast.alice, request(1))
    submit(cast.alice, request(2, "198.51.100.8/32", ports=((80, 80),)))

    reconcile()

    whole, narrowed = Mitigation.objects.order_by("mid")
    assert (whole.status, whole.rendered_at) == (Status.EXCEEDED, None)
    assert "narrow" in whole.problem
    assert narrowed.status == Status.MITIGATED
    assert {key.split()[1] for key in driver.rules} == {"198.51.100.8/32"}


@pytest.mark.rows("ENF-GEN-002")
def test_a_row_alone_is_not_trusted(cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool]) -> None:
    submit(cast.alice, request(1))
    submit(cast.bob, request(1, "2001:db8:100::7/128", cuid="cuid-of-bob"))
    cast.alice.domain.prefixes.filter(family=4).delete()
    cast.alice.domain.never_block = ["2001:db8:100::/64"]
    cast.alice.domain.save(update_fields=["never_block"])

    reconcile()

    assert driver.rules == {}
    assert {row.problem for row in Mitigation.objects.all()} == {
        "198.51.100.7/32 is no longer inside the domain's prefixes",
        "2001:db8:100::7/128 touches the domain's never-block list",
    }


def test_only_the_holder_of_the_lease_works(
    cast: Any, submit: Submit, driver: Memory, reconcile: Callable[..., bool], now: datetime
) -> None:
    submit(cast.alice, request(1))
    assert reconcile(holder="one")
    fence = EnforcementPoint.objects.get().fence

    assert not reconcile(holder="two")
    assert reconcile(holder="two", at=now + enforcement.LEASE + timedelta(seconds=1))

    assert EnforcementPoint.objects.get().fence == fence + 1


@pytest.mark.rows("SIG-STA-005", "ENF-STA-001")
def test_counters_add_up_over_epochs_and_say_hitting(
    cast: Any, submit: Submit, reconcile: Callable[..., bool], count: Callable[..., None], now: datetime
) -> None:
    submit(cast.alice, request(1))
    reconcile()
    amplification, passed = key_of(Kind.AMPLIFICATION), key_of(Kind.PASSED)

    count(Counter(amplification, "a", 0, 0), Counter(passed, "a", 0, 0))
    row = Mitigation.objects.get()
    assert (row.dropped_packets, row.hitting_at) == (0, None)
    count(Counter(amplification, "a", 10, 1000), Counter(passed, "a", 3, 180), at=now + timedelta(seconds=1))
    count(Counter(amplification, "a", 15, 1500), Counter(amplification, "b", 7, 700), at=now + timedelta(seconds=2))
    count(Counter(amplification, "b", 9, 900), at=now + timedelta(seconds=3))

    row.refresh_from_db()
    assert (row.dropped_packets, row.dropped_octets) == (24, 2400)
    assert (row.passed_packets, row.passed_octets) == (3, 180)
    assert row.hitting_at == now + timedelta(seconds=1)
    rule = Rule.objects.get(key=amplification)
    assert (rule.packets, rule.octets) == (24, 2400)


def test_a_shared_rule_counts_for_each_that_needs_it(
    cast: Any, submit: Submit, reconcile: Callable[..., bool], count: Callable[..., None]
) -> None:
    submit(cast.alice, request(1, "198.51.100.0/24"))
    submit(cast.bob, request(1, cuid="cuid-of-bob"))
    reconcile()
    host = next(key for key in Rule.objects.values_list("key", flat=True) if key.startswith("amp 198.51.100.7/32"))

    count(Counter(host, "a", 0, 0))
    count(Counter(host, "a", 5, 500))

    assert set(Mitigation.objects.values_list("dropped_packets", flat=True)) == {5}


def test_samples_grow_for_ten_seconds_and_quiet_ones_are_left_out(
    cast: Any, submit: Submit, reconcile: Callable[..., bool], count: Callable[..., None], now: datetime
) -> None:
    submit(cast.alice, request(1))
    reconcile()
    key = key_of(Kind.AMPLIFICATION)

    for second in range(25):
        count(Counter(key, "a", second * 100, second * 1000), at=now + timedelta(seconds=second))
    quiet = Sample.objects.count()
    count(Counter(key, "a", 2400, 24000), at=now + timedelta(seconds=60))

    samples = list(Sample.objects.order_by("at"))
    assert len(samples) == quiet == 3
    assert sum(one.dropped_packets for one in samples) == 2400
    assert all(one.seconds <= 10 for one in samples)


def test_a_process_begins_thoroughly(cast: Any, submit: Submit, driver: Memory, now: datetime) -> None:
    submit(cast.alice, request(1))
    point = EnforcementPoint.objects.get()

    for thorough in (True, False):
        enforcement.reconcile(point.pk, driver, holder="me", clock=lambda: now, thorough=thorough)

    assert driver.resyncs == 1
    assert Mitigation.objects.get().status == Status.MITIGATED
