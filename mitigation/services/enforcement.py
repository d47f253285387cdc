"""Bring a point to what the rows want, prove it by reading back, count. Only the enforcer calls these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import F, Q

from mitigation.drivers.base import Counter, Desired, Driver, HealthState, Installed
from mitigation.exceptions import DriverError
from mitigation.models import EnforcementPoint, Hold, Mitigation, Rule, RuleOwner, Sample
from mitigation.services import holds, locks, points
from mitigation.services.evidence import Evidence, advance, judge_attack
from mitigation.services.projection import Projection, Wanted, project_mitigations
from mitigation.services.units import unit_of_work

LEASE = timedelta(seconds=30)
RENEW_BELOW = timedelta(seconds=60)  # a rule whose deadline would come earlier than wanted by more is renewed
SAMPLE_SECONDS = 10.0

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def reconcile(
    point_id: int, driver: Driver, *, holder: str, clock: Clock, thorough: bool = False, most_rules: int = 0
) -> bool:
    """Make the point hold what the rows want; whether this process did the work (another may hold the lease).

    `thorough`, as at the start of a process, also repairs what the driver does not list: foreign or leftover parts.
    More than `most_rules` that started within a minute trip the breaker (0: never).

    Idempotent. Equipment is talked to outside transactions. A point that does not do as told is a result: its
    mitigations say so, and the next look tries again.
    """
    if not lease(point_id, holder=holder, now=clock()):
        return False
    point = EnforcementPoint.objects.get(pk=point_id)
    seen = point.wanted
    projection = _project(now=clock(), most_rules=most_rules)
    if point.enforces:
        installed, problem = _bring_about(point, driver, projection, holder=holder, clock=clock, thorough=thorough)
    else:
        installed, problem = {}, "dry run: no traffic is touched"
    now = clock()
    with unit_of_work(now):
        _write_rules(point, projection, installed, now=now)
        advance(_evidence(point, projection, installed, problem), now=now)
        done = {"reconciled": seen} if not problem or not point.enforces else {}
        locks.points()
        EnforcementPoint.objects.filter(pk=point_id).update(reconciled_at=now, **done)
    _note_health(point, driver, problem, now=now)
    return True


def _project(*, now: datetime, most_rules: int) -> Projection:
    found = project_mitigations(now=now, most_rules=most_rules)
    if found.surge is None:
        return found
    log.error("the breaker opens: %s", found.surge.reason)
    holds.throw(
        Hold.Kind.BREAKER, actor="server", reason=found.surge.reason, now=now, door="server", since=found.surge.since
    )
    return project_mitigations(now=now)


def lease(point_id: int, *, holder: str, now: datetime) -> bool:
    """Take or keep the point; a new holder raises the fence, so that an old one can be told from it."""
    mine = EnforcementPoint.objects.filter(pk=point_id, lease_holder=holder)
    if mine.update(leased_until=now + LEASE):
        return True
    free = EnforcementPoint.objects.filter(Q(leased_until=None) | Q(leased_until__lt=now), pk=point_id)
    return bool(free.update(lease_holder=holder, leased_until=now + LEASE, fence=F("fence") + 1))


def release(point_id: int, *, holder: str) -> None:
    """Let another process take the point at once."""
    EnforcementPoint.objects.filter(pk=point_id, lease_holder=holder).update(lease_holder="", leased_until=None)


def _bring_about(
    point: EnforcementPoint, driver: Driver, projection: Projection, *, holder: str, clock: Clock, thorough: bool
) -> tuple[dict[str, Installed], str]:
    """Apply the difference; returns what was read back, and the problem in a sentence if there is one."""
    try:
        before = driver.installed()
        add, remove = _difference(projection.wanted, before, now=clock())
        if not add and not remove and not thorough:
            return before, ""
        if not lease(point.pk, holder=holder, now=clock()):
            return before, "another process took this point over"
        driver.apply(add, remove)
        if remove:
            count(point.pk, driver, clock=clock)  # the last totals of what went, while its rows are still there
        if thorough:
            driver.resync(_desired(projection.wanted.values(), now=clock()))
        return driver.installed(), ""
    except DriverError as error:
        log.error("point %s: %s", point.name, error)
        return {}, str(error)


def _difference(
    wanted: Mapping[str, Wanted], installed: Mapping[str, Installed], *, now: datetime
) -> tuple[list[Desired], set[str]]:
    missing = [one for key, one in wanted.items() if key not in installed or _deadline_is_off(one, installed[key], now)]
    return _desired(missing, now=now), installed.keys() - wanted.keys()


def _desired(wanted: Iterable[Wanted], *, now: datetime) -> list[Desired]:
    return [Desired(one.rule, max(1, round((one.deadline - now).total_seconds()))) for one in wanted]


def _deadline_is_off(wanted: Wanted, installed: Installed, now: datetime) -> bool:
    """Refreshed or shortened since; what merely ran on is left alone, for a renewal resets counters."""
    gap = wanted.deadline - (now + timedelta(seconds=installed.expires_in_seconds))
    return abs(gap) > RENEW_BELOW


# -- rows -------------------------------------------------------------------------------------------------------------


def _write_rules(
    point: EnforcementPoint, projection: Projection, installed: Mapping[str, Installed], *, now: datetime
) -> None:
    rows = {row.key: row for row in Rule.objects.filter(point=point)}
    Rule.objects.filter(point=point, key__in=rows.keys() - projection.wanted.keys()).delete()
    new = [_new_row(point, key, one, now) for key, one in projection.wanted.items() if key not in rows]
    rows |= {row.key: row for row in Rule.objects.bulk_create(new)}
    changed = [row for key, row in rows.items() if key in projection.wanted and _prove(row, installed.get(key), now)]
    Rule.objects.bulk_update(changed, ["state", "installed_at", "deadline", "read_at"], batch_size=500)
    _write_owners(point, rows, projection)


def _new_row(point: EnforcementPoint, key: str, one: Wanted, now: datetime) -> Rule:
    return Rule(
        point=point, key=key, kind=one.rule.kind.value, text=one.rule.text[:500], drops=one.rule.drops, since=now
    )


def _prove(row: Rule, read_back: Installed | None, now: datetime) -> bool:
    """Set what the reading shows; whether anything worth writing changed."""
    if read_back is None:
        was = row.state
        row.state, row.installed_at, row.deadline = Rule.State.WANTED, None, None
        return was != row.state
    deadline = now + timedelta(seconds=read_back.expires_in_seconds)
    moved = row.deadline is None or abs(deadline - row.deadline) > timedelta(seconds=5)
    if row.state == Rule.State.INSTALLED and not moved:
        return False
    row.state, row.installed_at = Rule.State.INSTALLED, row.installed_at or now
    row.deadline, row.read_at = deadline, now
    return True


def _write_owners(point: EnforcementPoint, rows: Mapping[str, Rule], projection: Projection) -> None:
    wanted = {(rows[key].pk, owner) for key, one in projection.wanted.items() for owner in one.owners}
    links = RuleOwner.objects.filter(rule__point=point).values_list("pk", "rule_id", "mitigation_id")
    existing = {(rule_id, mitigation_id): pk for pk, rule_id, mitigation_id in links}
    gone = [pk for pair, pk in existing.items() if pair not in wanted]
    if gone:
        RuleOwner.objects.filter(pk__in=gone).delete()
    fresh = wanted - existing.keys()
    RuleOwner.objects.bulk_create(RuleOwner(rule_id=rule, mitigation_id=owner) for rule, owner in sorted(fresh))


def _evidence(
    point: EnforcementPoint, projection: Projection, installed: Mapping[str, Installed], problem: str
) -> Iterable[Evidence]:
    missing: dict[int, int] = dict.fromkeys(projection.plans, 0)
    for key, one in projection.wanted.items():
        if key not in installed:
            for owner in one.owners:
                missing[owner] += 1
    for mitigation_id, plan in projection.plans.items():
        waiting = projection.waiting.get(mitigation_id, "")
        enforced = None if not point.enforces else bool(plan.rules) and not missing[mitigation_id] and not waiting
        lacking = f"{missing[mitigation_id]} rules are missing at {point.name}" if missing[mitigation_id] else waiting
        shown = (problem or lacking) if not enforced else ""
        yield Evidence(mitigation_id, plan.refused, plan.notes, enforced, shown, rendered=bool(plan.rules))


def _note_health(point: EnforcementPoint, driver: Driver, problem: str, *, now: datetime) -> None:
    if not point.enforces:
        points.note_health(point.pk, health=EnforcementPoint.Health.READY, sentence=problem, now=now)
        return
    found = driver.health()
    down = problem or found.state is HealthState.DOWN
    state = EnforcementPoint.Health.DOWN if down else EnforcementPoint.Health.READY
    points.note_health(point.pk, health=state, sentence=problem or found.sentence, now=now)


# -- counters ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What one mitigation's rules counted since the last reading."""

    dropped_packets: int = 0
    dropped_octets: int = 0
    passed_packets: int = 0
    passed_octets: int = 0
    rules: list[Rule] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        return bool(self.dropped_packets or self.passed_packets)


def count(point_id: int, driver: Driver, *, clock: Clock) -> None:
    """Read the counters and add what is new to rules, mitigations and samples. Raises DriverError."""
    readings: dict[str, list[Counter]] = {}
    for reading in driver.counters():
        readings.setdefault(reading.key, []).append(reading)
    if not readings:
        return
    now = clock()
    with unit_of_work(now) as unit:
        rows = list(Rule.objects.filter(point_id=point_id, key__in=readings))
        seen, moved = _deltas(rows, readings)
        Rule.objects.bulk_update(
            moved, ["packets", "octets", "epoch", "raw_packets", "raw_octets", "read_at"], batch_size=500
        )
        locks.domains_of_mitigations(seen)
        for mitigation in Mitigation.objects.filter(pk__in=seen).select_related("domain"):
            fields = _add_up(mitigation, seen[mitigation.pk], now)
            if fields:
                unit.save(mitigation, *fields)
            judge_attack(mitigation, unit)


def _deltas(rows: list[Rule], readings: Mapping[str, list[Counter]]) -> tuple[dict[int, _Seen], list[Rule]]:
    owners: dict[int, list[int]] = {}
    for rule_id, mitigation_id in RuleOwner.objects.filter(rule__in=rows).values_list("rule_id", "mitigation_id"):
        owners.setdefault(rule_id, []).append(mitigation_id)
    seen: dict[int, _Seen] = {}
    moved = []
    for row in rows:
        epoch, packets, octets = row.epoch, 0, 0
        # The epoch known so far goes first: the others began after it.
        for reading in sorted(readings[row.key], key=lambda one: one.epoch != epoch):
            more_packets, more_octets = _take(row, reading)
            packets += more_packets
            octets += more_octets
        if packets or row.epoch != epoch:
            moved.append(row)
        for owner in owners.get(row.pk, ()):
            total = seen.setdefault(owner, _Seen())
            if row.drops:
                total.dropped_packets += packets
                total.dropped_octets += octets
            else:
                total.passed_packets += packets
                total.passed_octets += octets
    return seen, moved


def _take(row: Rule, reading: Counter) -> tuple[int, int]:
    """Add what is new since the last reading, and return it; a new epoch began at zero."""
    packets, octets = reading.packets, reading.octets
    if row.epoch == reading.epoch:
        packets, octets = packets - row.raw_packets, octets - row.raw_octets
    row.packets += packets
    row.octets += octets
    row.epoch, row.raw_packets, row.raw_octets = reading.epoch, reading.packets, reading.octets
    return packets, octets


def _add_up(mitigation: Mitigation, seen: _Seen, now: datetime) -> list[str]:
    """Totals, the sample, and the word "hitting"; returns the fields to write, none when nothing moved."""
    first = mitigation.dropped_packets is None
    if not seen.anything and not first:
        return []
    _sample(mitigation, seen, now)
    mitigation.dropped_packets = (mitigation.dropped_packets or 0) + seen.dropped_packets
    mitigation.dropped_octets = (mitigation.dropped_octets or 0) + seen.dropped_octets
    mitigation.passed_packets = (mitigation.passed_packets or 0) + seen.passed_packets
    mitigation.passed_octets = (mitigation.passed_octets or 0) + seen.passed_octets
    mitigation.counted_at = now
    if seen.dropped_packets:
        mitigation.dropped_at = now
    fields = ["dropped_packets", "dropped_octets", "passed_packets", "passed_octets", "counted_at", "dropped_at"]
    if seen.dropped_packets and mitigation.hitting_at is None and mitigation.installed_at is not None:
        mitigation.hitting_at = now
        fields.append("hitting_at")
    return fields


def _sample(mitigation: Mitigation, seen: _Seen, now: datetime) -> None:
    """One row for ten seconds, growing while they last, so that a live chart need not wait for the end of them."""
    if not seen.anything:
        return
    since = mitigation.counted_at or mitigation.installed_at or now
    elapsed = min(max((now - since).total_seconds(), 0.001), SAMPLE_SECONDS)
    last = mitigation.samples.order_by("-at").first()
    if last is None or last.seconds + elapsed > SAMPLE_SECONDS or (now - last.at).total_seconds() > SAMPLE_SECONDS:
        last = Sample(mitigation=mitigation, at=now, seconds=0.0)
    last.at = now
    last.seconds += elapsed
    last.dropped_packets += seen.dropped_packets
    last.dropped_octets += seen.dropped_octets
    last.passed_packets += seen.passed_packets
    last.passed_octets += seen.passed_octets
    last.save()
