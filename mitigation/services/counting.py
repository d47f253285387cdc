"""Counters of a point, added up: what each rule and each mitigation dropped and let pass. Only the enforcer calls this.

Counters are read every second whatever happens, so what did not move costs no write, and what did is read and computed
before anything is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from django.db.models import Q

from mitigation.drivers.base import Counter, Driver
from mitigation.models import EnforcedAce, Mitigation, Rule, RuleOwner, Sample
from mitigation.protocol.status import Status
from mitigation.rules.canonical import LIMITS, Kind
from mitigation.services import bulk, escalation, locks
from mitigation.services.batches import in_batches
from mitigation.services.escalation import Load, Traffic
from mitigation.services.evidence import attack_is_over, judge_attack
from mitigation.services.rows import raw
from mitigation.services.units import Unit

SAMPLE_SECONDS = 10.0
RULES_AT_ONCE = 400  # of some fifty mitigations: 20 to 40 ms
QUIET_AT_ONCE = 100
ASKED_AT_ONCE = 4_000  # parameters of one query, and rules in memory at a time

Clock = Callable[[], datetime]
Readings = Mapping[str, Sequence[Counter]]
Written = dict[str, tuple[str, int]]  # by key, epoch and packets as the row has them

_UNKNOWN = ("", 0)
_LIMITING = LIMITS | {Kind.RATE_LIMIT}  # they drop what is too much, not what is wrong

Asked = TypeVar("Asked")


@dataclass(slots=True)
class _Moved:
    """One rule whose row is to be written, and what it counted since the last reading."""

    rule: Rule
    packets: int
    octets: int
    owners: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Seen:
    """What one mitigation's rules counted since the last reading."""

    dropped_packets: int = 0
    dropped_octets: int = 0
    passed_packets: int = 0
    passed_octets: int = 0
    redirected_packets: int = 0
    redirected_octets: int = 0
    limited_packets: int = 0
    limited_octets: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.dropped_packets or self.passed_packets or self.redirected_packets)

    def add(self, moved: _Moved) -> None:
        if moved.rule.drops:
            self.dropped_packets += moved.packets
            self.dropped_octets += moved.octets
            if moved.rule.kind in _LIMITING:
                self.limited_packets += moved.packets
                self.limited_octets += moved.octets
        elif moved.rule.kind == Kind.REDIRECT:
            self.redirected_packets += moved.packets
            self.redirected_octets += moved.octets
        else:
            self.passed_packets += moved.packets
            self.passed_octets += moved.octets


def count(
    point_id: int, driver: Driver, *, clock: Clock, only_parting: bool = False, written: Written | None = None
) -> None:
    """Read the counters and add what is new to rules, mitigations and samples. Raises DriverError.

    What a rule counted and what its mitigations have of it are written together, some hundred rules at a time. Rule
    rows are the enforcer's alone, so what was read of them before the transaction still holds in it. `only_parting`
    asks for nothing but the last totals of what was taken away. `written` is what earlier calls remember of rows.
    Where the driver gives way, and what it calls raises GaveWay, the rest is left for the next call.
    """
    written = written if written is not None else {}
    _add(point_id, _by_key(driver.parting_counters()), written, clock(), _to_nobody)  # they come once only
    if only_parting:
        return
    readings, now, give_way = _by_key(driver.counters()), clock(), driver.give_way or _to_nobody
    owners = _add(point_id, readings, written, now, give_way, is_whole=True)
    for key in written.keys() - readings.keys():
        del written[key]

    def write_quiet(some: Sequence[int], unit: Unit) -> None:
        give_way()
        _add_up(dict.fromkeys(some, _Seen()), {}, {pk: {} for pk in some}, unit)

    in_batches(sorted(_quiet(point_id, readings, now) - owners), QUIET_AT_ONCE, write_quiet, now=now)


def _by_key(counters: Iterable[Counter]) -> Readings:
    found: dict[str, list[Counter]] = {}
    for one in counters:
        found.setdefault(one.key, []).append(one)
    return found


def _add(
    point_id: int,
    readings: Readings,
    written: Written,
    now: datetime,
    give_way: Callable[[], None],
    *,
    is_whole: bool = False,
) -> set[int]:
    """Returns the mitigations of which something moved."""
    owners: set[int] = set()
    loads: dict[int, Load] = {}
    candidates = _candidates(point_id, readings, written)
    samples = _latest_samples(now) if candidates else {}

    def write(some: Sequence[_Moved], unit: Unit) -> None:
        give_way()
        _write(some, samples, loads, unit)

    judges = is_whole and bool(candidates) and escalation.in_use()  # by all that a mitigation counted, at once
    try:
        for some in [candidates] if judges else slices(candidates):
            give_way()
            moved, same = _moved(some, readings)
            loads |= _loads(moved) if judges else {}
            in_batches(moved, RULES_AT_ONCE, write, now=now)
            written |= {row.key: (row.epoch, row.raw_packets) for row in (*same, *(one.rule for one in moved))}
            owners |= {owner for one in moved for owner in one.owners}
    except BaseException:
        written.clear()  # how far that went, the rows will tell
        raise
    return owners


def _to_nobody() -> None:
    """Gives way."""


# -- before anything is locked ----------------------------------------------------------------------------------------


def _candidates(point_id: int, readings: Readings, written: Written) -> list[int]:
    """Rules of which a counter moved, those of one mitigation beside each other."""
    keys = [key for key, some in readings.items() if _differ(some, written.get(key, _UNKNOWN))]
    found = []
    for pk, key, epoch, packets in _rows(point_id, keys, len(readings)):
        written[key] = epoch, packets
        if _differ(readings.get(key, ()), written[key]):
            found.append(pk)
    owners: dict[int, int] = {}
    for some in slices(found):
        links = RuleOwner.objects.filter(rule__in=some).values_list("rule_id", "mitigation_id")
        owners |= {rule_id: owner for rule_id, owner in raw(links)}  # noqa: C416  rows are no pairs for mypy
    return sorted(found, key=lambda pk: owners.get(pk, 0))


def _moved(candidates: Sequence[int], readings: Readings) -> tuple[list[_Moved], list[Rule]]:
    """What each of these rules counted, with its owners, and those that counted nothing after all."""
    moved: dict[int, _Moved] = {}
    same = []
    rows = Rule.objects.in_bulk(candidates)
    for rule in (rows[pk] for pk in candidates if pk in rows):
        epoch, (packets, octets) = rule.epoch, take_all(rule, readings[rule.key])
        if packets or rule.epoch != epoch:
            moved[rule.pk] = _Moved(rule, packets, octets)
        else:
            same.append(rule)
    for some in slices(list(moved)):
        for rule_id, owner in RuleOwner.objects.filter(rule__in=some).values_list("rule_id", "mitigation_id"):
            moved[rule_id].owners.append(owner)
    return list(moved.values()), same


def _loads(moved: Iterable[_Moved]) -> dict[int, Load]:
    """What rules of each kind counted, by mitigation: of all batches together, for a part of it says nothing."""
    found: dict[int, Load] = {}
    for one in moved:
        for owner in one.owners:
            load = found.setdefault(owner, {})
            load[one.rule.kind] = load.get(one.rule.kind, Traffic()) + Traffic(one.packets, one.octets)
    return found


def _rows(point_id: int, keys: Sequence[str], there_are: int) -> Iterable[tuple[int, str, str, int]]:
    """Of these keys, or of all where that is one question in the place of many."""
    rows = Rule.objects.filter(point_id=point_id).values_list("pk", "key", "epoch", "raw_packets")
    if len(keys) == there_are > ASKED_AT_ONCE:
        yield from rows
        return
    for some in slices(keys):
        yield from rows.filter(key__in=some)


def _differ(readings: Sequence[Counter], written: tuple[str, int]) -> bool:
    """A new epoch begins at nothing: until it counts there is nothing to write."""
    epoch, packets = written
    return any(one.packets != packets if one.epoch == epoch else one.packets for one in readings)


def take_all(rule: Rule | EnforcedAce, readings: Sequence[Counter]) -> tuple[int, int]:
    """Add what is new since the last reading, over all its epochs, and return it: packets and octets."""
    epoch, packets, octets = rule.epoch, 0, 0
    # The epoch known so far goes first: the others began after it.
    for reading in sorted(readings, key=lambda one: one.epoch != epoch):
        more_packets, more_octets = _take(rule, reading)
        packets += more_packets
        octets += more_octets
    return packets, octets


def _take(row: Rule | EnforcedAce, reading: Counter) -> tuple[int, int]:
    """Add what is new since the last reading, and return it; a new epoch began at zero."""
    packets, octets = reading.packets, reading.octets
    if row.epoch == reading.epoch:
        packets, octets = packets - row.raw_packets, octets - row.raw_octets
    row.packets += packets
    row.octets += octets
    row.epoch, row.raw_packets, row.raw_octets = reading.epoch, reading.packets, reading.octets
    return packets, octets


def _latest_samples(now: datetime) -> dict[int, Sample]:
    """By mitigation, those that may still grow."""
    since = now - timedelta(seconds=SAMPLE_SECONDS)
    return {sample.mitigation_id: sample for sample in Sample.objects.filter(at__gte=since).order_by("at")}


_LOOKED_AT = ("status", "dropped_packets", "dropped_at", "installed_at", "domain", "step_until", "pressed_since")


def _quiet(point_id: int, readings: Readings, now: datetime) -> set[int]:
    """Mitigations to look at though their rules did not move: without totals yet, with their attack over, or on a step.

    Only what was read counts: rules that are gone from the equipment say nothing about an attack.
    """
    may_be_over = Q(status=int(Status.MITIGATED), dropped_at__isnull=False, domain__attack_over_after__gt=0)
    on_a_step = Q(step_until__isnull=False) | Q(pressed_since__isnull=False)
    wanted = Q(dropped_packets=None) | may_be_over | on_a_step
    found = Mitigation.objects.enforced().filter(wanted).select_related("domain")
    quiet = [
        mitigation.pk
        for mitigation in found.only(*_LOOKED_AT)
        if mitigation.dropped_packets is None or attack_is_over(mitigation, now) or escalation.is_stepping(mitigation)
    ]
    owners: dict[int, list[int]] = {}
    for some in slices(quiet):
        for rule_id, owner in RuleOwner.objects.filter(mitigation__in=some).values_list("rule_id", "mitigation_id"):
            owners.setdefault(rule_id, []).append(owner)
    return {  # in two questions: SQLite takes minutes for a join of 80,000 with 10,000
        owner
        for some in slices(list(owners))
        for rule_id, key in Rule.objects.filter(point_id=point_id, pk__in=some).values_list("pk", "key")
        if key in readings
        for owner in owners[rule_id]
    }


def slices(ids: Sequence[Asked]) -> Iterable[Sequence[Asked]]:
    return (ids[start : start + ASKED_AT_ONCE] for start in range(0, len(ids), ASKED_AT_ONCE))


# -- in a transaction -------------------------------------------------------------------------------------------------


def _write(moved: Sequence[_Moved], samples: dict[int, Sample], loads: dict[int, Load], unit: Unit) -> None:
    seen: dict[int, _Seen] = {}
    for one in moved:
        one.rule.read_at = unit.now
        for owner in one.owners:
            seen.setdefault(owner, _Seen()).add(one)
    _add_up(seen, samples, loads, unit)
    bulk.update([one.rule for one in moved], ["packets", "octets", "epoch", "raw_packets", "raw_octets", "read_at"])


def _add_up(seen: Mapping[int, _Seen], samples: dict[int, Sample], loads: dict[int, Load], unit: Unit) -> None:
    """Totals, samples, the word "hitting", whether the attack is over, and whether another playbook is needed.

    Of `loads` is taken what has been judged.
    """
    locks.domains_of_mitigations(seen)
    touched: list[Sample] = []
    for mitigation in Mitigation.objects.filter(pk__in=list(seen)).select_related("domain"):
        one = seen[mitigation.pk]
        if one.anything:
            touched.append(_sample(mitigation, one, samples, unit.now))
        seconds = _since_counted(mitigation, unit.now)
        fields = _total(mitigation, one, unit.now)
        if fields:
            unit.save(mitigation, *fields)
        judge_attack(mitigation, unit)
        if (load := loads.pop(mitigation.pk, None)) is not None:
            escalation.judge(mitigation, load, seconds, unit)
    bulk.update([sample for sample in touched if sample.pk], ["at", "seconds", *Sample.COUNTS])
    bulk.insert([sample for sample in touched if not sample.pk])


_TOTALS = (
    "dropped_packets", "dropped_octets", "passed_packets", "passed_octets", "redirected_packets", "redirected_octets",
)  # fmt: skip


def _total(mitigation: Mitigation, seen: _Seen, now: datetime) -> list[str]:
    """Returns the fields to write, none when nothing moved."""
    if not seen.anything and mitigation.dropped_packets is not None:
        return []
    for name in _TOTALS:
        setattr(mitigation, name, (getattr(mitigation, name) or 0) + getattr(seen, name))
    mitigation.counted_at = now
    if seen.dropped_packets:
        mitigation.dropped_at = now
    fields = [*_TOTALS, "counted_at", "dropped_at"]
    if (
        (seen.dropped_packets or seen.redirected_packets)
        and mitigation.hitting_at is None
        and mitigation.installed_at is not None
    ):
        mitigation.hitting_at = now
        fields.append("hitting_at")
    return fields


def _since_counted(mitigation: Mitigation, now: datetime) -> float:
    since = mitigation.counted_at or mitigation.installed_at or now
    return max((now - since).total_seconds(), 0.001)


def _sample(mitigation: Mitigation, seen: _Seen, samples: dict[int, Sample], now: datetime) -> Sample:
    """One row for ten seconds, growing while they last, so that a live chart need not wait for the end of them."""
    elapsed = min(_since_counted(mitigation, now), SAMPLE_SECONDS)
    last = samples.get(mitigation.pk)
    if last is None or last.seconds + elapsed > SAMPLE_SECONDS:
        last = samples[mitigation.pk] = Sample(mitigation=mitigation, seconds=0.0)
    last.at = now
    last.seconds += elapsed
    for name in Sample.COUNTS:
        setattr(last, name, getattr(last, name) + getattr(seen, name))
    return last
