"""Bring a point to what the rows want, prove it by reading back, count. Only the enforcer calls these."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, Q, QuerySet

from mitigation.drivers.base import Desired, Driver, HealthState, Installed
from mitigation.exceptions import DriverError
from mitigation.models import EnforcementPoint, Hold, Rule, RuleOwner
from mitigation.services import bulk, holds, points, shadow
from mitigation.services.batches import in_batches
from mitigation.services.counting import Clock, count
from mitigation.services.evidence import Evidence, advance
from mitigation.services.projection import Projection, Wanted, project_mitigations

LEASE = timedelta(seconds=30)
RENEW_BELOW = timedelta(seconds=60)  # a rule whose deadline would come earlier than wanted by more is renewed
RULES_AT_ONCE = 400  # rows in one transaction: 20 to 40 ms
OWNERS_AT_ONCE = 2_000

log = logging.getLogger(__name__)


def reconcile(
    point_id: int, driver: Driver, *, holder: str, clock: Clock, thorough: bool = False, most_rules: int = 0
) -> bool:
    """Make the point hold what the rows want; whether this process did the work (another may hold the lease).

    `thorough`, as at the start of a process, also repairs what the driver does not list: foreign or leftover parts.
    More than `most_rules` that started within a minute trip the breaker (0: never).

    Idempotent. Equipment is talked to, and everything is computed, outside transactions; what changed is written in
    batches that are each short, what did not change not at all. A point that does not do as told is a result: its
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
    _write_rules(point, projection, installed, now=now)
    advance(_evidence(point, projection, installed, problem), now=now)
    # Last: an end in the middle of the batches leaves the point dirty, and the next look goes on where it ended.
    done = {"reconciled": seen} if not problem or not point.enforces else {}
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
    """Rows as they are wanted and were read back. They are the enforcer's alone: what is read before a batch holds."""
    fields = ("key", "state", "installed_at", "deadline", "read_at")
    known = {row.key: row for row in Rule.objects.filter(point=point).only(*fields)}
    told = projection.wanted | projection.shown
    gone = [row.pk for key, row in known.items() if key not in told]
    changed = [row for key, row in known.items() if key in projection.wanted and _prove(row, installed.get(key), now)]
    changed += [row for key, row in known.items() if key in projection.shown and _only_show(row)]
    new = [_new_row(point, key, one, now) for key, one in told.items() if key not in known]
    for row in new:
        _only_show(row) if row.key in projection.shown else _prove(row, installed.get(row.key), now)
    in_batches(gone, RULES_AT_ONCE, lambda some, _: _delete(Rule.objects.filter(pk__in=some)), now=now)
    in_batches(changed, RULES_AT_ONCE, lambda some, _: bulk.update(some, fields), now=now)
    in_batches(new, RULES_AT_ONCE, lambda some, _: bulk.insert(some), now=now)
    _write_owners(point, {row.key: row.pk for row in [*known.values(), *new]}, projection, now=now)


def _new_row(point: EnforcementPoint, key: str, one: Wanted, now: datetime) -> Rule:
    return Rule(
        point=point, key=key, kind=one.rule.kind.value, text=one.rule.text[:500], drops=one.rule.drops, since=now
    )


def _delete(query: QuerySet[Any]) -> None:
    query.delete()


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


def _only_show(row: Rule) -> bool:
    """Of a domain in shadow mode; whether it was anything else before."""
    was = row.state
    row.state, row.installed_at, row.deadline = Rule.State.SHADOW, None, None
    return was != row.state


def _write_owners(point: EnforcementPoint, rules: Mapping[str, int], projection: Projection, *, now: datetime) -> None:
    """`rules`: ids by key."""
    told = projection.wanted | projection.shown
    wanted = {(rules[key], owner) for key, one in told.items() for owner in one.owners}
    links = RuleOwner.objects.filter(rule__point=point).values_list("pk", "rule_id", "mitigation_id")
    existing = {(rule_id, mitigation_id): pk for pk, rule_id, mitigation_id in links}
    gone = [pk for pair, pk in existing.items() if pair not in wanted]
    fresh = [RuleOwner(rule_id=rule, mitigation_id=owner) for rule, owner in sorted(wanted - existing.keys())]
    in_batches(gone, OWNERS_AT_ONCE, lambda some, _: _delete(RuleOwner.objects.filter(pk__in=some)), now=now)
    in_batches(fresh, OWNERS_AT_ONCE, lambda some, _: bulk.insert(some), now=now)


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
        in_shadow = mitigation_id in projection.shadow and not waiting
        touches = point.enforces and not in_shadow
        enforced = None if not touches else bool(plan.rules) and not missing[mitigation_id] and not waiting
        lacking = f"{missing[mitigation_id]} rules are missing at {point.name}" if missing[mitigation_id] else waiting
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
