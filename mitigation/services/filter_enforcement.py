"""Bring clients' filters into force, prove it by reading back, count what they match. Only the enforcer calls these."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mitigation.drivers.base import Counter, DesiredFilters, Driver
from mitigation.exceptions import DriverError
from mitigation.models import Acl, EnforcedAce, EnforcementPoint
from mitigation.rules.filters import FilterList, FilterRule
from mitigation.services import bulk, filter_refusals, filter_samples, locks
from mitigation.services.batches import in_batches
from mitigation.services.counting import Clock, slices, take_all
from mitigation.services.filter_projection import FilterProjection, FilterProjector
from mitigation.services.filter_samples import Met
from mitigation.services.units import Unit

RENEW_BELOW = timedelta(seconds=60)  # filters whose deadline would come earlier than wanted by more are renewed
ROWS_AT_ONCE = 400

_PROOF = ("key", "text", "drops", "state", "installed_at")
_COUNTS = ("packets", "octets", "epoch", "raw_packets", "raw_octets", "read_at")
_State = EnforcedAce.State

log = logging.getLogger(__name__)


class StandingFilters:
    """What this process knows of a point's filters from its last look."""

    def __init__(self) -> None:
        self._projector = FilterProjector()
        self.projection: FilterProjection | None = None  # None: all is to be read and written again
        self.counted: dict[str, tuple[str, int]] = {}  # by key, epoch and packets as the rows have them
        self.counted_at: datetime | None = None

    def look(self, driver: Driver, *, now: datetime) -> FilterProjection:
        return self._projector.look(driver, now=now)

    def loses(self, found: FilterProjection) -> bool:
        """Whether lists that stand are to stand no more, and none is to come."""
        if self.projection is None:
            return False
        return found.lists.keys() < self.projection.lists.keys()

    def forget(self) -> None:
        """Somebody else may have been at work."""
        self.projection = None
        self.counted.clear()

    def is_due(self, now: datetime) -> bool:
        """Whether a list has expired since."""
        next_change = self.projection.next_change if self.projection is not None else None
        return next_change is not None and next_change <= now


def reconcile(
    point: EnforcementPoint,
    driver: Driver,
    standing: StandingFilters,
    found: FilterProjection,
    *,
    clock: Clock,
    full: bool = True,
) -> str:
    """Make the point hold the filters that should stand; the problem in a sentence if there is one.

    Not `full`, and nothing changed since the last look: the equipment is not asked.
    """
    now = clock()
    before = standing.projection
    _tell_refusals(point, before, found, now=now)
    if before is not None and not full and found.is_as(before) and _same_deadlines(found, before):
        found.wanted, standing.projection = before.wanted, found
        return ""
    standing.projection = None
    try:
        problem = _bring_about(point, driver, standing, before, found, now=now)
    except DriverError as error:
        problem = str(error)
    if problem:
        log.error("point %s: filters: %s", point.name, problem)
        return problem
    _write(point, found, now=clock())
    standing.projection = found
    return ""


def count(point_id: int, driver: Driver, standing: StandingFilters, *, clock: Clock) -> None:
    """Read the counters and add what is new to the rows. Raises DriverError."""
    _count(point_id, driver.filter_counters(), standing, now=clock())


def statistics(acl_ids: Iterable[int], aces: Iterable[str] | None = None) -> dict[int, dict[str, tuple[int, int]]]:
    """Packets and octets by list and name of the entry, over all points that count; what nobody counts is left out.

    `aces`: of entries with these names alone.
    """
    found: dict[int, dict[str, tuple[int, int]]] = {}
    rows = EnforcedAce.objects.filter(acl_id__in=list(acl_ids)).exclude(epoch="")
    if aces is not None:
        rows = rows.filter(ace__in=list(aces))
    for acl_id, ace, packets, octets in rows.values_list("acl_id", "ace", "packets", "octets"):
        of_list = found.setdefault(acl_id, {})
        more = of_list.get(ace, (0, 0))
        of_list[ace] = (packets + more[0], octets + more[1])
    return found


# -- equipment --------------------------------------------------------------------------------------------------------


def _bring_about(
    point: EnforcementPoint,
    driver: Driver,
    standing: StandingFilters,
    before: FilterProjection | None,
    found: FilterProjection,
    *,
    now: datetime,
) -> str:
    """Apply where something differs, and read back."""
    if not point.enforces:
        return ""
    desired = [one.desired(now) for one in found.wanted]
    # What stands beyond what is wanted does not show when reading, so a change and a first look always apply.
    if before is not None and found.is_as(before) and _all_stand(desired, driver.filters_in_force(desired)):
        return ""
    driver.apply_filters(desired)
    _count(point.pk, driver.parting_filter_counters(), standing, now=now)  # while their rows are there
    if _all_stand(desired, driver.filters_in_force(desired)):
        return ""
    return f"filters that were installed are not in force at {point.name}"


def _all_stand(desired: Sequence[DesiredFilters], in_force: Mapping[str, int]) -> bool:
    return all(
        abs(in_force.get(one.filters.key, 0) - min(one.expires_in_seconds, _LONGEST)) <= RENEW_BELOW.total_seconds()
        for one in desired
    )


_LONGEST = 45 * 86_400  # no equipment promises more


def _same_deadlines(found: FilterProjection, before: FilterProjection) -> bool:
    return all(
        abs(one.deadline - other.deadline) <= RENEW_BELOW
        for one, other in zip(found.wanted, before.wanted, strict=True)
    )


def _tell_refusals(
    point: EnforcementPoint, before: FilterProjection | None, found: FilterProjection, *, now: datetime
) -> None:
    """To the log all of them, to people those that nobody wanted."""
    for pk, why in found.refused.items():
        if before is None or before.refused.get(pk) != why:
            log.warning("filter list %s is not in force: %s", pk, why)
    if before is None or (before.refused, before.held) != (found.refused, found.held):
        wrong = {pk: why for pk, why in found.refused.items() if pk not in found.held}
        filter_refusals.write(point, wrong, now=now)


# -- rows -------------------------------------------------------------------------------------------------------------


def _write(point: EnforcementPoint, found: FilterProjection, *, now: datetime) -> None:
    """Rows of entries as they stand; a list that does not stand now keeps its rows, for what they counted."""
    in_force = _State.INSTALLED if point.enforces else _State.RENDERED
    wanted = dict(_entries(found.lists, in_force)) | dict(_entries(found.shadow, _State.RENDERED))
    gone: list[int] = []
    stale: list[int] = []
    known = set()
    rows = EnforcedAce.objects.filter(point=point)
    for pk, acl_id, ace, *proof in rows.values_list("pk", "acl_id", "ace", "key", "text", "state"):
        known.add((acl_id, ace))
        if (acl_id, ace) in wanted:
            if proof != _proof(*wanted[acl_id, ace]):
                stale.append(pk)
        elif acl_id in found.lists or acl_id in found.shadow:
            gone.append(pk)
        elif proof[-1] != _State.IDLE:
            stale.append(pk)
    changed = [row for pks in slices(stale) for row in rows.filter(pk__in=pks)]
    for row in changed:
        _prove(row, wanted.get((row.acl_id, row.ace)), now=now)
    fresh = [
        EnforcedAce(point=point, acl_id=acl_id, ace=ace, since=now)
        for acl_id, ace in wanted
        if (acl_id, ace) not in known
    ]
    for row in fresh:
        _prove(row, wanted[row.acl_id, row.ace], now=now)
    in_batches(gone, ROWS_AT_ONCE, lambda some, _: _delete(some), now=now)
    in_batches(changed, ROWS_AT_ONCE, lambda some, _: bulk.update(some, _PROOF), now=now)
    in_batches(fresh, ROWS_AT_ONCE, _insert, now=now)


def _entries(lists: Mapping[int, FilterList], state: str) -> Iterable[tuple[tuple[int, str], tuple[FilterRule, str]]]:
    return (((pk, rule.ace), (rule, state)) for pk, one in lists.items() for rule in one.rules)


def _proof(rule: FilterRule, state: str) -> list[str]:
    return [rule.key, rule.text[:500], state]


def _prove(row: EnforcedAce, wanted: tuple[FilterRule, str] | None, *, now: datetime) -> None:
    """Set what the reading shows; None: its list does not stand."""
    was = row.state
    if wanted is None:
        row.state = _State.IDLE
    else:
        row.key, row.text, row.state = _proof(*wanted)
        row.drops = wanted[0].drops
    if row.state != was or row.installed_at is None:
        row.installed_at = now if row.state == _State.INSTALLED else None


def _insert(rows: Sequence[EnforcedAce], _: Unit) -> None:
    """A list that its client deleted meanwhile needs none; one that is being deleted now must not be referred to."""
    lists = Acl.objects.filter(pk__in={row.acl_id for row in rows})
    locks.domains_of_clients(lists.values_list("client_id", flat=True))
    there = set(lists.values_list("pk", flat=True))
    bulk.insert([row for row in rows if row.acl_id in there])


def _delete(ids: Sequence[int]) -> None:
    EnforcedAce.objects.filter(pk__in=ids).delete()


def _count(point_id: int, readings: Iterable[Counter], standing: StandingFilters, *, now: datetime) -> None:
    by_key: dict[str, list[Counter]] = {}
    for reading in readings:
        by_key.setdefault(reading.key, []).append(reading)
    moved = [
        key
        for key, some in by_key.items()
        if any((one.epoch, one.packets) != standing.counted.get(key) for one in some)
    ]
    rows: list[tuple[EnforcedAce, Met]] = []
    for keys in slices(moved):
        for row in EnforcedAce.objects.filter(point_id=point_id, key__in=keys).only("acl", "drops", "key", *_COUNTS):
            was: Any = (row.epoch, row.raw_packets)
            packets, octets = take_all(row, by_key[row.key])
            standing.counted[row.key] = (row.epoch, row.raw_packets)
            if was != standing.counted[row.key]:
                row.read_at = now
                rows.append((row, Met(row.acl_id, row.drops, packets, octets)))

    def write(some: Sequence[tuple[EnforcedAce, Met]], _: Unit) -> None:
        bulk.update([row for row, _ in some], _COUNTS)
        filter_samples.add([met for _, met in some if met.packets], since=standing.counted_at, now=now)

    in_batches(rows, ROWS_AT_ONCE, write, now=now)
    standing.counted_at = now
