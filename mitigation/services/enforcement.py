"""Bring a point to what the rows want, prove it by reading back, count. Only the enforcer calls these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Set
from datetime import datetime, timedelta
from typing import Protocol

from django.db.models import F, Q

from mitigation.drivers.base import Desired, Driver, HealthState, Installed
from mitigation.exceptions import DriverError
from mitigation.models import EnforcementPoint, Hold
from mitigation.rules.canonical import parse_key
from mitigation.services import filter_enforcement, holds, points, shadow
from mitigation.services.counting import Clock, Written, count
from mitigation.services.evidence import Evidence, advance
from mitigation.services.filter_enforcement import StandingFilters
from mitigation.services.filter_projection import FilterProjection
from mitigation.services.projection import Projection, Projector, Wanted
from mitigation.services.rule_rows import write_rules

LEASE = timedelta(seconds=30)
RENEW_BELOW = timedelta(seconds=60)  # a rule whose deadline would come earlier than wanted by more is renewed
FEW = 4_000  # keys in one query
AT_ONCE = 2_000  # rules that come in one part; of shield, half a second's work on an idle machine

log = logging.getLogger(__name__)


class Standing:
    """What this process knows of a point from its last look, so that the next needs only see to what changed.

    `installed` says by key until when the equipment holds it, as read back. It is only worth something while
    `is_known`, which a look that failed or did not end takes away: then everything is read and compared again.
    """

    def __init__(self) -> None:
        self.projector = Projector()
        self.installed: dict[str, datetime] = {}
        self.is_known = False
        self.has_leavings = False  # rules went since everything was read: what they alone needed may be there still
        self.written: Written = {}  # counters as the rows have them
        self.filters = StandingFilters()

    @property
    def is_settled(self) -> bool:
        """Whether the last look read back all that is wanted, clients' filters included."""
        return self.is_known and self.filters.projection is not None

    def forget(self) -> None:
        """Somebody else may have been at work."""
        self.is_known = False
        self.filters.forget()
        self.written.clear()


def reconcile(
    point_id: int,
    driver: Driver,
    *,
    holder: str,
    clock: Clock,
    thorough: bool = False,
    most_rules: int = 0,
    most_share: int = 0,
    standing: Standing | None = None,
    full: bool = True,
    gives_way: bool = False,
) -> bool:
    """Make the point hold what the rows want; whether this process did the work (another may hold the lease).

    `thorough`, as at the start of a process, also repairs what the driver does not list: foreign or leftover parts.
    More than `most_rules`, or rules for more than `most_share` percent of all domains' addresses, that started within a
    minute trip the breaker (0: never). Not `full`, with the `standing` of
    an earlier look, sees only to what changed since, as long as nobody else changed the equipment. A full look sees to
    that first. While it then reads everything, and `gives_way`, it raises GaveWay once more is wanted: nothing is lost,
    what was wanted until then is done.

    Idempotent. Equipment is talked to, and everything is computed, outside transactions; what changed is written in
    batches that are each short, what did not change not at all. A point that does not do as told is a result: its
    mitigations say so, and the next look tries again.
    """
    standing = standing or Standing()
    if not lease(point_id, holder=holder, now=clock()):
        standing.forget()
        return False
    point = EnforcementPoint.objects.get(pk=point_id)
    seen = point.wanted

    def project(*, everything: bool) -> Projection:
        return _project(
            standing.projector, now=clock(), most_rules=most_rules, most_share=most_share, everything=everything
        )

    def follow(moved: Set[str], changed: Set[int]) -> bool:
        return _follow_in_parts(point, driver, standing, moved, changed, holder=holder, clock=clock, project=project)

    projection = project(everything=full or not standing.is_known)
    moved, changed = standing.projector.take_changes()
    is_known, standing.is_known = standing.is_known and point.enforces, False
    filters = standing.filters.look(driver, now=clock())
    is_last = standing.filters.loses(filters)
    # What a filter accepts is let through before anything new is dropped, and no more only after that.
    if is_last:
        settled = None
    else:
        unfiltered = _filter(point, driver, standing, filters, clock=clock, full=full or thorough)
        settled = None if unfiltered else seen
    followed = is_known and not thorough
    if followed and (moved or changed or not full):
        followed = follow(moved, changed)
    elif followed:
        standing.is_known = True
    if followed:
        _done(point, settled if standing.is_known else None, now=clock())
    if not followed or (full and standing.is_known):
        with driver.giving_way(points.more_wanted(point_id, seen) if followed and gives_way else None):
            _look_at_all(
                point, driver, standing, projection, holder=holder, clock=clock, thorough=thorough, follow=follow
            )
        _done(point, settled if standing.is_known or not point.enforces else None, now=clock())
    if is_last:
        unfiltered = _filter(point, driver, standing, filters, clock=clock, full=full or thorough)
        is_done = (standing.is_known or not point.enforces) and not unfiltered
        _done(point, seen if is_done else None, now=clock())
    return True


def _filter(
    point: EnforcementPoint, driver: Driver, standing: Standing, found: FilterProjection, *, clock: Clock, full: bool
) -> str:
    return filter_enforcement.reconcile(point, driver, standing.filters, found, clock=clock, full=full)


def _done(point: EnforcementPoint, seen: int | None, *, now: datetime) -> None:
    """Last: an end in the middle of the batches leaves the point dirty, and the next look goes on where it ended."""
    reconciled = {} if seen is None else {"reconciled": seen}
    EnforcementPoint.objects.filter(pk=point.pk).update(reconciled_at=now, **reconciled)


def _look_at_all(
    point: EnforcementPoint,
    driver: Driver,
    standing: Standing,
    projection: Projection,
    *,
    holder: str,
    clock: Clock,
    thorough: bool,
    follow: Follow,
) -> None:
    """Read back everything, repair it, and compare every row."""
    if point.enforces:
        installed, problem = _bring_about(
            point, driver, standing, projection, holder=holder, clock=clock, thorough=thorough, follow=follow
        )
    else:
        installed, problem = {}, "dry run: no traffic is touched"
    _conclude(point, driver, standing, projection, installed, problem, now=clock())


def _conclude(
    point: EnforcementPoint,
    driver: Driver,
    standing: Standing,
    projection: Projection,
    installed: Mapping[str, Installed],
    problem: str,
    *,
    now: datetime,
) -> None:
    """Write what a look at everything found."""
    standing.is_known = False
    evidence = _evidence(point, standing, projection.plans, installed, problem)
    if problem:  # who waits for this word hears it before all those rows are written
        _note_health(point, driver, problem, now=now)
        advance(evidence, now=now)
        write_rules(point, projection, installed, now=now)
    else:
        write_rules(point, projection, installed, now=now)
        advance(evidence, now=now)
        _note_health(point, driver, problem, now=now)
        standing.installed = _until(installed, now)
        # Whatever another hand took away after the difference was known shows in this reading, and in no later one
        # that only looks whether somebody was at work since: the next look reads and compares everything again.
        standing.is_known = installed.keys() == projection.wanted.keys()
        standing.has_leavings = False


def _until(installed: Mapping[str, Installed], now: datetime) -> dict[str, datetime]:
    return {key: now + timedelta(seconds=one.expires_in_seconds) for key, one in installed.items()}


Follow = Callable[[Set[str], Set[int]], bool]


class Project(Protocol):
    def __call__(self, *, everything: bool) -> Projection: ...


def _follow_in_parts(
    point: EnforcementPoint,
    driver: Driver,
    standing: Standing,
    moved: Set[str],
    changed: Set[int],
    *,
    holder: str,
    clock: Clock,
    project: Project,
) -> bool:
    """As `_follow`, much of it in parts: whoever asks meanwhile waits for one of them, and comes before the others."""
    projection, seen = standing.projector.projection, point.wanted
    wanted = projection.wanted
    parts = _parts(moved, wanted)
    while True:
        standing.is_known = False
        if len(parts[0]) > FEW:
            return False
        # Those with rules in a later part are told with it.
        later = {
            owner
            for part in (parts[1:] if changed else ())
            for key in part
            if key in wanted
            for owner in wanted[key].owners
        }
        if not _follow(point, driver, standing, projection, parts[0], changed - later, holder=holder, clock=clock):
            return False
        if len(parts) == 1 or not standing.is_known:
            return True
        standing.is_known = False
        parts, changed = parts[1:], frozenset()
        now_wanted = EnforcementPoint.objects.values_list("wanted", flat=True).get(pk=point.pk)
        if now_wanted != seen:
            seen = now_wanted
            project(everything=False)
            moved, changed = standing.projector.take_changes()
            parts = _parts(moved, wanted) + [rest for part in parts if (rest := part - moved)]


def _parts(moved: Set[str], wanted: Container[str]) -> list[Set[str]]:
    """Keys to be seen to one part after the other, at least one. First what goes, with all it may make room for."""
    if len(moved) <= AT_ONCE:
        return [moved]
    boxes = sorted((box.family, *box.addresses, key) for key in moved for box in [parse_key(key).box])
    groups: list[set[str]] = []
    end = 0, -1
    for family, first, last, key in boxes:
        if (family, first) > end:
            groups.append(set())
        groups[-1].add(key)
        end = max(end, (family, last))
    going = {key for group in groups if any(one not in wanted for one in group) for key in group}
    parts: list[Set[str]] = [going] if going else []
    part: set[str] = set()
    for group in groups:
        if group.isdisjoint(going):
            part |= group
            if len(part) >= AT_ONCE:
                parts.append(part)
                part = set()
    return [*parts, part] if part else parts


def _follow(
    point: EnforcementPoint,
    driver: Driver,
    standing: Standing,
    projection: Projection,
    moved: Set[str],
    changed: Set[int],
    *,
    holder: str,
    clock: Clock,
) -> bool:
    """See to these keys and these mitigations, nothing else; False where only a look at everything will do.

    Equipment that fails has failed for all: that is written, and everything is to be read again.
    """
    now = clock()
    wanted = {key: projection.wanted[key] for key in moved if key in projection.wanted}
    before = {
        key: Installed(key, round((standing.installed[key] - now).total_seconds()))
        for key in moved
        if standing.installed.get(key, now) > now
    }
    try:
        add, remove = _difference(wanted, before, projection, now=now)
        if add or remove:
            if not lease(point.pk, holder=holder, now=now):
                return False
            driver.apply(add, remove)
        if remove:
            count(point.pk, driver, clock=clock, only_parting=True, written=standing.written)
        standing.has_leavings |= not moved <= wanted.keys()
        installed = driver.installed_among(wanted.keys())
    except DriverError as error:
        log.error("point %s: %s", point.name, error)
        _conclude(point, driver, standing, projection, {}, str(error), now=clock())
        return True
    if installed is None or installed.keys() != wanted.keys():
        return False
    now = clock()
    for key in moved:
        standing.installed.pop(key, None)
    standing.installed |= _until(installed, now)
    write_rules(point, projection, installed, now=now, only=moved)
    told = {owner for one in wanted.values() for owner in one.owners} | changed
    advance(_evidence(point, standing, told & projection.plans.keys(), standing.installed, ""), now=now)
    standing.is_known = True
    return True


def _project(projector: Projector, *, now: datetime, most_rules: int, most_share: int, everything: bool) -> Projection:
    found = projector.look(now=now, most_rules=most_rules, most_share=most_share, everything=everything)
    if found.surge is None:
        return found
    log.error("the breaker opens: %s", found.surge.reason)
    holds.throw(
        Hold.Kind.BREAKER, actor="server", reason=found.surge.reason, now=now, door="server", since=found.surge.since
    )
    return projector.look(now=now)


def probe(point_id: int, driver: Driver, standing: Standing, *, clock: Clock) -> bool:
    """Whether the equipment answers at all; where it does not, that is said of the point and of all its mitigations.

    Between two looks at everything nothing else may ask it for half a minute.
    """
    health = driver.health()
    if health.state is not HealthState.DOWN:
        return True
    point = EnforcementPoint.objects.get(pk=point_id)
    log.error("point %s: %s", point.name, health.sentence)
    _conclude(point, driver, standing, standing.projector.projection, {}, health.sentence, now=clock())
    return False


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
    point: EnforcementPoint,
    driver: Driver,
    standing: Standing,
    projection: Projection,
    *,
    holder: str,
    clock: Clock,
    thorough: bool,
    follow: Follow,
) -> tuple[dict[str, Installed], str]:
    """Apply the difference; returns what was read back, and the problem in a sentence if there is one."""
    try:
        before = driver.installed()
        add, remove = _difference(projection.wanted, before, projection, now=clock())
        if not add and not remove and not thorough:
            driver.tidy()
            return before, ""
        if not lease(point.pk, holder=holder, now=clock()):
            return before, "another process took this point over"
        driver.give_way = None
        if len(add) > AT_ONCE:
            standing.installed = _until(before, clock())
            follow({one.rule.key for one in add} | remove, frozenset())
            before = driver.installed()
            add, remove = _difference(projection.wanted, before, projection, now=clock())
            if not add and not remove and not thorough:
                driver.tidy()
                return before, ""
        standing.is_known = False
        driver.apply(add, remove)
        if remove:  # the last totals of what went, while its rows are still there
            count(point.pk, driver, clock=clock, only_parting=True, written=standing.written)
        if thorough:
            driver.resync(_desired(projection.wanted.values(), projection, now=clock()))
        installed = driver.installed()
        driver.tidy()
        return installed, ""
    except DriverError as error:
        log.error("point %s: %s", point.name, error)
        return {}, str(error)


def _difference(
    wanted: Mapping[str, Wanted], installed: Mapping[str, Installed], projection: Projection, *, now: datetime
) -> tuple[list[Desired], Set[str]]:
    missing = [
        one
        for key, one in wanted.items()
        if key not in installed or _deadline_is_off(projection.deadline(one, now), installed[key], now)
    ]
    return _desired(missing, projection, now=now), installed.keys() - wanted.keys()


def _desired(wanted: Iterable[Wanted], projection: Projection, *, now: datetime) -> list[Desired]:
    return [Desired(one.rule, max(1, round((projection.deadline(one, now) - now).total_seconds()))) for one in wanted]


def _deadline_is_off(wanted: datetime, installed: Installed, now: datetime) -> bool:
    """Refreshed or shortened since; what merely ran on is left alone, for a renewal resets counters."""
    gap = wanted - (now + timedelta(seconds=installed.expires_in_seconds))
    return abs(gap) > RENEW_BELOW


def _evidence(
    point: EnforcementPoint,
    standing: Standing,
    mitigation_ids: Iterable[int],
    installed: Container[str],
    problem: str,
) -> Iterable[Evidence]:
    projector = standing.projector
    projection = projector.projection
    for mitigation_id in mitigation_ids:
        plan = projection.plans[mitigation_id]
        keys = projector.keys_of(mitigation_id)
        missing = sum(key in projection.wanted and key not in installed for key in keys)
        waiting = projection.waiting.get(mitigation_id, "")
        in_shadow = mitigation_id in projection.shadow and not waiting
        touches = point.enforces and not in_shadow
        enforced = None if not touches else bool(plan.rules) and not missing and not waiting
        lacking = f"{missing} rules are missing at {point.name}" if missing else waiting
        shown = shadow.SAID if in_shadow else (problem or lacking) if not enforced else ""
        yield Evidence(mitigation_id, plan.refused, plan.notes, enforced, shown, rendered=bool(plan.rules))


def _note_health(point: EnforcementPoint, driver: Driver, problem: str, *, now: datetime) -> None:
    if not point.enforces:
        points.note_health(point.pk, health=EnforcementPoint.Health.READY, sentence=problem, now=now)
        return
    if problem:  # known already: equipment that hangs is not asked, and waited for, again
        points.note_health(point.pk, health=EnforcementPoint.Health.DOWN, sentence=problem, now=now)
        return
    found = driver.health()
    state = EnforcementPoint.Health.DOWN if found.state is HealthState.DOWN else EnforcementPoint.Health.READY
    points.note_health(point.pk, health=state, sentence=found.sentence, now=now)
