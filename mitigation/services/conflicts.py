"""Requests of several clients of one domain for the same target: who is told what (RFC 9132, section 4.4.1.3).

What a client is told stands in its row, and is looked at again whenever a request that is part of a conflict starts,
stops or comes to stand for other addresses. Nobody is told whose the other request is.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Q

from mitigation.models import Mitigation
from mitigation.protocol.conflicts import ConflictCause, ConflictInformation, ConflictStatus
from mitigation.protocol.constants import INDEFINITE_LIFETIME, RECOMMENDED_LIFETIME, RETRY_MARGIN
from mitigation.protocol.scope import Scope
from mitigation.services.overlaps import Neighbours, Shared, asker_of, common_scope, reach_now
from mitigation.services.units import Unit


def active(others: Iterable[Shared]) -> list[Shared]:
    """Those that stand in the way of a new request: what is only armed, or inactive itself, does not."""
    return [one for one in others if one.mitigation.is_active]


def goes_on(others: Iterable[Shared]) -> ConflictInformation | None:
    """What a request that is active is told of those others, if there are any."""
    others = list(others)
    return _information(ConflictStatus.REQUEST_ACTIVE, others) if others else None


def gives_way(others: Iterable[Shared], *, now: datetime) -> ConflictInformation:
    """What a request is told that is refused or deactivated in favour of those others."""
    others = list(others)
    retry = max(_lasts(one.mitigation, now) for one in others)
    return _information(ConflictStatus.REQUEST_INACTIVE_OTHER_ACTIVE, others, retry_timer=retry)


def deactivate(mitigation: Mitigation, conflict: ConflictInformation, *, now: datetime) -> list[str]:
    """Set the lifetime of a request that gives way: until somewhat after it may ask again. Returns the fields set."""
    assert conflict.retry_timer is not None
    mitigation.retry_at = now + timedelta(seconds=conflict.retry_timer)
    mitigation.lifetime = conflict.retry_timer + RETRY_MARGIN
    mitigation.refreshed_at = now
    mitigation.expires_at = None
    mitigation.ends_at = now + timedelta(seconds=mitigation.lifetime)
    return ["retry_at", "lifetime", "refreshed_at", "expires_at", "ends_at", *_set(mitigation, conflict)]


def told(mitigation: Mitigation, *, now: datetime) -> ConflictInformation | None:
    """What this row says of a conflict, with the retry-timer counted down. One with another request goes first."""
    if mitigation.conflict is None:
        names = tuple(mitigation.accept_lists) if mitigation.is_active else ()
        return ConflictInformation(cause=ConflictCause.CONFLICT_WITH_ACCEPTLIST, acl_names=names) if names else None
    retry = None
    if mitigation.is_deactivated and mitigation.retry_at is not None:
        retry = max(0, round((mitigation.retry_at - now).total_seconds()))
    return ConflictInformation(
        cause=ConflictCause.OVERLAPPING_TARGETS,
        status=ConflictStatus(mitigation.conflict["conflict-status"]),
        scope=Scope.from_json(mitigation.conflict["scope"]),
        retry_timer=retry,
    )


def settle_at_end(mitigation: Mitigation, unit: Unit) -> None:
    """This request began, ended, or stands for something else: look again at whose conflict it makes or unmakes."""
    unit.at_end(lambda: _settle(mitigation, unit))


def _settle(changed: Mitigation, unit: Unit) -> None:
    rows = Mitigation.objects.live().filter(domain_id=changed.domain_id).select_related("client")
    rows = rows.prefetch_related("targets", "names")
    near = list(rows.filter(Q(conflict__isnull=False) | Q(pk=changed.pk)))
    reaches = {row.pk: reach_now(row) for row in near}
    neighbours = Neighbours(reaches.values(), [changed.domain_id], known=near)
    new: set[int] = set()
    for row in near:
        if row.pk == changed.pk:
            found = neighbours.overlapping(asker_of(row), reaches[row.pk], besides=row).others
            new = {one.mitigation.pk for one in _conflicting(row, found)}
    if missing := new - reaches.keys():
        added = list(rows.filter(pk__in=missing))
        near += added
        reaches |= {row.pk: reach_now(row) for row in added}
        neighbours = Neighbours(reaches.values(), [changed.domain_id], known=near)
    for row in near:
        found = neighbours.overlapping(asker_of(row), reaches[row.pk], besides=row).others
        _tell(row, _conflicting(row, found), unit)


def _conflicting(row: Mitigation, others: list[Shared]) -> list[Shared]:
    """An active request conflicts with active and deactivated ones; a deactivated one with active ones."""
    if row.is_active:
        return [one for one in others if one.mitigation.is_active or one.mitigation.is_deactivated]
    return active(others) if row.is_deactivated else []


def _tell(row: Mitigation, others: list[Shared], unit: Unit) -> None:
    inactive = row.is_deactivated
    status = ConflictStatus.REQUEST_INACTIVE_OTHER_ACTIVE if inactive else ConflictStatus.REQUEST_ACTIVE
    before = row.conflict
    fields = _set(row, _information(status, others) if others else None)
    if row.conflict != before:
        unit.save(row, *fields)


def _set(mitigation: Mitigation, conflict: ConflictInformation | None) -> list[str]:
    if conflict is None:
        mitigation.conflict = None
    else:
        assert conflict.status is not None
        assert conflict.scope is not None
        mitigation.conflict = {"conflict-status": int(conflict.status), "scope": conflict.scope.as_json()}
    return ["conflict"]


def _information(
    status: ConflictStatus, others: list[Shared], *, retry_timer: int | None = None
) -> ConflictInformation:
    return ConflictInformation(
        cause=ConflictCause.OVERLAPPING_TARGETS, status=status, scope=common_scope(others), retry_timer=retry_timer
    )


def _lasts(mitigation: Mitigation, now: datetime) -> int:
    """Seconds until it ends unless it is refreshed; one without end is worth another try after the usual lifetime."""
    left = mitigation.remaining(now)
    return RECOMMENDED_LIFETIME if left == INDEFINITE_LIFETIME else left
