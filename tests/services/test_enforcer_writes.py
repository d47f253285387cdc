"""How much the enforcer writes, and for how long it keeps others from writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from equipment import Memory
from requests_and_outcomes import request

from mitigation.drivers.base import Counter
from mitigation.models import EnforcementPoint, Mitigation, Rule, Sample
from mitigation.services import batches, counting, enforcement, evidence, rule_rows
from mitigation.services.filter_projection import FilterProjection
from mitigation.services.units import unit_of_work
from mitigation.tasks import enforcement as tasks

WRITES = ("INSERT", "UPDATE", "DELETE", "BEGIN", "SAVEPOINT")


class Watched:
    """Statements by their first word, and how many rows each write had."""

    def __init__(self) -> None:
        self.reads = 0
        self.rows: list[tuple[str, int]] = []

    def __call__(self, execute: Callable[..., Any], sql: str, values: Any, many: bool, context: Any) -> Any:
        result = execute(sql, values, many, context)
        word = sql.split(maxsplit=1)[0]
        if word in WRITES:
            self.rows.append((" ".join(sql.split()[:3]), len(values) if many else context["cursor"].rowcount))
        elif word == "SELECT":
            self.reads += 1
        return result

    def written(self) -> list[tuple[str, int]]:
        """Statements that change rows, with the number of them."""
        return [(words, rows) for words, rows in self.rows if words.split()[0] not in ("BEGIN", "SAVEPOINT")]


@contextmanager
def watched() -> Iterator[Watched]:
    seen = Watched()
    with connection.execute_wrapper(seen):
        yield seen


def readings(driver: Memory, total: int) -> list[Counter]:
    return [Counter(key, "a", total, total * 100) for key in driver.rules]


@pytest.fixture
def fill(cast: Any, submit: Callable[..., Any], reconcile: Callable[..., bool]) -> Callable[[int], None]:
    def do(count: int) -> None:
        first = Mitigation.objects.count()
        for mid in range(first + 1, first + count + 1):
            submit(cast.alice, request(mid, f"198.51.100.{2 * mid}/32"))
        reconcile()

    return do


def test_when_nothing_changed_a_look_writes_only_that_it_looked_however_much_there_is(
    fill: Callable[[int], None], driver: Memory, reconcile: Callable[..., bool]
) -> None:
    figures = []
    for more in (2, 38):
        fill(more)
        with watched() as seen:
            reconcile()
        figures.append((seen.written(), seen.reads))

    (few, reads_of_few), (many, reads_of_many) = figures
    assert few == many
    assert {words for words, _ in many} == {'UPDATE "mitigation_enforcementpoint" SET'}
    assert [rows for _, rows in many] == [1, 1, 1]  # the lease, the look, the health
    assert reads_of_few == reads_of_many < 20


def test_counters_that_did_not_move_cost_no_transaction_and_no_write(
    fill: Callable[[int], None], driver: Memory, count: Callable[..., None], now: datetime
) -> None:
    fill(40)
    count(*readings(driver, 5), at=now + timedelta(seconds=1))

    with watched() as seen:
        count(*readings(driver, 5), at=now + timedelta(seconds=2))

    assert seen.rows == []
    assert seen.reads == 3  # the point, by the test itself; its rules; mitigations whose attack may be over


def test_one_more_writes_its_own_rows_only(
    fill: Callable[[int], None], driver: Memory, reconcile: Callable[..., bool], cast: Any, submit: Callable[..., Any]
) -> None:
    fill(40)
    submit(cast.alice, request(99, "198.51.100.200/32"))

    with watched() as seen:
        reconcile()

    rules = Rule.objects.filter(mitigations__mid=99).count()
    assert rules > 1
    assert sum(rows for _, rows in seen.written()) < 2 * rules + 12


@pytest.mark.django_db(transaction=True)
def test_counting_many_is_many_short_transactions_and_adds_up(
    fill: Callable[[int], None], driver: Memory, count: Callable[..., None], now: datetime, monkeypatch: Any
) -> None:
    fill(30)
    monkeypatch.setattr(counting, "RULES_AT_ONCE", 7)  # fewer than one mitigation has: totals come in parts
    monkeypatch.setattr(batches, "LONGEST_PAUSE", 0.0)

    for second, total in ((1, 10), (2, 25)):
        with watched() as seen:
            count(*readings(driver, total), at=now + timedelta(seconds=second))

    if connection.vendor == "sqlite":  # elsewhere BEGIN is no statement of ours
        assert sum(words.startswith("BEGIN") for words, _ in seen.rows) == -(-len(driver.rules) // 7)
    assert max(rows for words, rows in seen.written() if "rule" in words) <= 7
    dropping = Rule.objects.filter(drops=True, mitigations__mid=1).count()
    assert set(Mitigation.objects.values_list("dropped_packets", flat=True)) == {25 * dropping}
    assert set(Rule.objects.values_list("packets", flat=True)) == {25}
    assert Sample.objects.count() == 30
    assert {sample.dropped_packets for sample in Sample.objects.all()} == {25 * dropping}


class Killed(Exception):
    """The process ends here."""


@pytest.mark.django_db(transaction=True)
def test_an_end_in_the_middle_loses_nothing_and_counts_nothing_twice(
    fill: Callable[[int], None],
    driver: Memory,
    reconcile: Callable[..., bool],
    count: Callable[..., None],
    now: datetime,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(batches, "LONGEST_PAUSE", 0.0)
    for module, name in ((counting, "RULES_AT_ONCE"), (rule_rows, "RULES_AT_ONCE"), (evidence, "AT_ONCE")):
        monkeypatch.setattr(module, name, 3)
    left = [2]

    @contextmanager
    def fragile(at: datetime) -> Iterator[Any]:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        with unit_of_work(at) as unit:
            yield unit

    monkeypatch.setattr(batches, "unit_of_work", fragile)
    with pytest.raises(Killed):
        fill(12)
    assert EnforcementPoint.objects.get().is_dirty
    assert 0 < Rule.objects.count() < len(driver.rules)
    left[0] = 1_000
    reconcile()
    assert not EnforcementPoint.objects.get().is_dirty
    assert Rule.objects.count() == len(driver.rules)
    assert set(Mitigation.objects.values_list("status", flat=True)) == {2}

    count(*readings(driver, 10), at=now + timedelta(seconds=1))
    left[0] = 2
    with pytest.raises(Killed):
        count(*readings(driver, 30), at=now + timedelta(seconds=2))
    left[0] = 1_000
    count(*readings(driver, 30), at=now + timedelta(seconds=3))

    dropping = Rule.objects.filter(drops=True, mitigations__mid=1).count()
    assert set(Rule.objects.values_list("packets", flat=True)) == {30}
    assert set(Mitigation.objects.values_list("dropped_packets", flat=True)) == {30 * dropping}


def test_equipment_that_failed_is_not_asked_and_waited_for_a_second_time(
    fill: Callable[[int], None], driver: Memory, reconcile: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(1)
    asked = []
    monkeypatch.setattr(driver, "health", lambda: asked.append(1))
    driver.broken = "nft did not answer within 20 seconds"

    reconcile()

    point = EnforcementPoint.objects.get()
    assert (asked, point.health, point.health_sentence) == ([], "down", driver.broken)


def test_equipment_that_stops_answering_between_two_looks_is_told_of_at_once(
    fill: Callable[[int], None], driver: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_driver", lambda _: driver)
    monkeypatch.setattr(tasks, "_mind_panic", lambda: None)
    fill(2)
    for known in (tasks._last_full, tasks._standing, tasks._counted):
        known.clear()  # type: ignore[attr-defined]
    EnforcementPoint.objects.update(lease_holder="")
    tasks.look("local")
    assert set(Mitigation.objects.values_list("status", flat=True)) == {2}
    looked = dict(tasks._last_full)

    driver.broken = "nft did not answer within 4 seconds"
    tasks.look("local")

    assert tasks._last_full == looked, "no look was due"
    point = EnforcementPoint.objects.get()
    assert (point.health, point.health_sentence) == ("down", driver.broken)
    assert set(Mitigation.objects.values_list("status", "problem")) == {(1, driver.broken)}
    driver.broken = ""
    tasks.look("local")
    assert EnforcementPoint.objects.get().health == "ready"
    assert set(Mitigation.objects.values_list("status", "problem")) == {(2, "")}


def test_a_look_is_due_when_somebody_changed_something_or_the_point_was_down(
    cast: Any, driver: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EnforcementPoint.objects.get()
    monkeypatch.setattr(tasks, "_driver", lambda _: driver)
    monkeypatch.setattr(driver, "is_as_read", lambda: False)
    long_ago = time.monotonic() - 5.0

    def due(*, took: float, health: str = "ready") -> bool:
        monkeypatch.setitem(tasks._last_full, point.pk, long_ago)
        monkeypatch.setitem(tasks._last_took, point.pk, took)
        point.health = health
        return tasks._is_due(point)

    assert due(took=2.0)
    assert not due(took=20.0), "looks may take half of the time, no more"
    assert due(took=20.0, health="down")
    monkeypatch.setattr(driver, "is_as_read", lambda: True)
    assert not due(took=2.0)
    monkeypatch.setitem(tasks._standing, point.pk, enforcement.Standing())
    assert due(took=2.0), "the last look did not find all that it had put there"
    tasks._standing[point.pk].is_known, tasks._standing[point.pk].filters.projection = True, FilterProjection()
    assert not due(took=2.0)
    tasks._standing[point.pk].has_leavings = True
    assert due(took=0.2)
    assert not due(took=2.0), "cleaning takes a tenth of the time, no more"
    tasks._standing[point.pk] = enforcement.Standing()
    assert not due(took=20.0)
