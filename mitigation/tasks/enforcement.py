"""Queues `enforcement.<point>`: the only tasks that touch equipment. One worker a point, one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from mitigation.drivers.base import Driver
from mitigation.drivers.registry import get_driver
from mitigation.exceptions import DriverError, GaveWay
from mitigation.models import EnforcementPoint
from mitigation.pki.home import Home
from mitigation.services import enforcement, filter_enforcement, holds, points
from mitigation.tasks import holder

FULL_LOOK = 30.0  # seconds between reconciliations when nothing is dirty

# When the equipment says that somebody changed something, a look comes earlier. It may well have been something of
# theirs, and often, so looks take no more than half of the time: that many times as long passes between them.
REST = 1.0

# Nothing of ours that nobody wants stays for more than some five seconds, but looks for that take a tenth of the time.
CLEAN_AFTER = 3.0
CLEAN_REST = 10.0

LONGEST_WAIT = 60.0  # seconds since the last one: then a full look, or counting, gives way to nothing any more

log = logging.getLogger(__name__)

_SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "nftables": lambda: {
        "table": settings.DOTS_NFT_TABLE,
        "mark": settings.DOTS_NFT_MARK,
        "runtime_dir": settings.DOTS_LOCKS,
    },
}

_working = threading.Lock()  # the task and the worker's own look share one driver
_drivers: dict[tuple[int, str], Driver] = {}
_last_full: dict[int, float] = {}
_last_took: dict[int, float] = {}  # seconds
_counted: dict[int, tuple[float, float]] = {}  # when that ended, and how many seconds it took
_standing: dict[int, enforcement.Standing] = {}
_holder = holder.this_process()


@shared_task
def reconcile(point_id: int) -> None:
    """Bring this point to what the rows want."""
    point = EnforcementPoint.objects.filter(pk=point_id, enabled=True).first()
    if point is not None:
        with _working:
            _reconcile(point, full=_is_due(point))


def look(name: str) -> None:
    """The worker's own look: mind the kill switch, reconcile when dirty or due, read the counters."""
    _mind_panic()
    point = EnforcementPoint.objects.filter(name=name, enabled=True).first()
    if point is None:
        return
    with _working:
        is_due = _is_due(point)
        if point.is_dirty or is_due:
            _reconcile(point, full=is_due)
        elif point.enforces and not _answers(point):
            return
        if point.counts and _is_to_count(point):
            _count(point)


def _is_due(point: EnforcementPoint) -> bool:
    since = time.monotonic() - _last_full.get(point.pk, 0.0)
    if since > FULL_LOOK or (point.enforces and point.health == EnforcementPoint.Health.DOWN):
        return True
    standing = _standing.get(point.pk)
    if standing is not None and standing.filters.is_due(_now()):
        return True
    took = _last_took.get(point.pk, 0.0)
    if since <= REST * took:
        return False
    if standing is not None and standing.has_leavings and since > max(CLEAN_AFTER, CLEAN_REST * took):
        return True
    is_settled = standing is None or standing.is_settled or not point.enforces
    return not is_settled or not _driver(point).is_as_read()


def _answers(point: EnforcementPoint) -> bool:
    """Asked each second: whoever is protected is to hear within some five seconds that nothing can be done here."""
    return enforcement.probe(point.pk, _driver(point), _standing[point.pk], clock=_now)


def _is_to_count(point: EnforcementPoint) -> bool:
    """Each second, but of many rules no more than half of the time."""
    ended, took = _counted.get(point.pk, (0.0, 0.0))
    return time.monotonic() - ended >= took


def _mind_panic() -> None:
    """`manage.py panic` leaves a file: rules go first, then the database hears of it. It may be away; then again."""
    file = Home(settings.DOTS_HOME).panic
    if not file.exists():
        return
    with _working:
        for driver in _drivers.values():
            with suppress(DriverError):
                driver.remove_all()
        for standing in _standing.values():
            standing.forget()
    holds.throw_from_file(file, now=_now())


def _reconcile(point: EnforcementPoint, *, full: bool) -> None:
    if point.lease_holder and holder.is_dead(point.lease_holder):
        enforcement.release(point.pk, holder=point.lease_holder)
    first, began = point.pk not in _last_full, time.monotonic()
    standing = _standing.setdefault(point.pk, enforcement.Standing())
    since = began - _last_full.get(point.pk, 0.0)
    try:
        was_ours = enforcement.reconcile(
            point.pk,
            _driver(point),
            holder=_holder,
            clock=_now,
            thorough=first and point.enforces,
            most_rules=settings.DOTS_BREAKER_RULES,
            most_share=settings.DOTS_BREAKER_SHARE,
            standing=standing,
            full=full,
            gives_way=since < LONGEST_WAIT,
        )
    except GaveWay:
        return
    if was_ours and (full or not standing.is_known):
        _last_full[point.pk] = time.monotonic()
        _last_took[point.pk] = _last_full[point.pk] - began


def _count(point: EnforcementPoint) -> None:
    began, driver = time.monotonic(), _driver(point)
    is_patient = began - _counted.get(point.pk, (0.0, 0.0))[0] < LONGEST_WAIT
    standing = _standing.setdefault(point.pk, enforcement.Standing())
    try:
        filter_enforcement.count(point.pk, driver, standing.filters, clock=_now)
        with driver.giving_way(points.more_wanted(point.pk, point.wanted) if is_patient else None):
            enforcement.count(point.pk, driver, clock=_now, written=standing.written)
    except GaveWay:
        return
    except DriverError as error:
        log.warning("point %s: counters cannot be read: %s", point.name, error)
        _last_full[point.pk] = 0.0  # look closely, soon
    ended = time.monotonic()
    _counted[point.pk] = (ended, ended - began)


def _driver(point: EnforcementPoint) -> Driver:
    key = (point.pk, point.driver)
    if key not in _drivers:
        _drivers[key] = get_driver(point.driver, **_SETTINGS.get(point.driver, dict)())
    return _drivers[key]


def _now() -> datetime:
    return timezone.now()
