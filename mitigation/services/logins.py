"""Slows down who guesses passwords, and nobody else. Counted in rows, so that all workers count together.

A try is counted before its password is looked at, so that many at once are no way around it, and forgotten when it was
right. Three counts:

- a name from one address: after five wrong tries each further one has to wait, twice as long as the one before;
- all names from one address, and one name from all addresses: above a bound they wait, but not where that name has
  logged in from that address before. So whoever shares an address, or a name that is being guessed, with somebody who
  guesses still comes in from where they always do.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil

from django.db.models import Min, Q, QuerySet, Sum

from mitigation.exceptions import DotsError
from mitigation.models import LoginRecord
from mitigation.services import locks
from mitigation.services.units import Unit, unit_of_work

FREE_TRIES = 5
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=30), timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(hours=1)  # of quiet
WINDOW = timedelta(minutes=15)
OF_AN_ADDRESS = 50  # wrong tries in the window, over all names
OF_A_NAME = 100  # the same over all addresses
KEPT = timedelta(days=90)  # for so long a name is known at an address


class MustWait(DotsError):
    """Too many wrong tries; nothing was looked at. `seconds` until the next one."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many wrong tries; the next one is looked at in {seconds} s")
        self.seconds = seconds


def begin(name: str, address: str, *, now: datetime) -> None:
    """Count a try before its password is looked at. Raises MustWait, and then it does not count."""
    with unit_of_work(now) as unit:
        locks.table(LoginRecord)
        known = LoginRecord.objects.filter(name=name, address=address).first()
        record = known or LoginRecord(name=name, address=address)  # no row for who has to wait anyway
        wait = _wait(record, now)
        if wait <= timedelta(0):
            _count(record, unit)
    if wait > timedelta(0):
        raise MustWait(ceil(wait.total_seconds()))


def succeeded(name: str, address: str, *, now: datetime) -> None:
    """The try that was begun was right: what was wrong before it is forgotten, and the name is known there."""
    LoginRecord.objects.filter(name=name, address=address).update(failures=0, failed_at=None, succeeded_at=now)


def tidy(*, now: datetime) -> None:
    """Let go of what tells nothing any more."""
    quiet = Q(failed_at=None) | Q(failed_at__lt=now - FORGOTTEN_AFTER)
    LoginRecord.objects.filter(quiet, Q(succeeded_at=None) | Q(succeeded_at__lt=now - KEPT)).delete()


def _count(record: LoginRecord, unit: Unit) -> None:
    is_over = record.failed_at is None or record.failed_at < unit.now - FORGOTTEN_AFTER
    record.failures = 1 if is_over else record.failures + 1
    record.failed_at = unit.now
    record.save()
    wait = _own_wait(record)
    if wait:  # told once for each wait, however often it is tried in vain
        unit.audit(
            door="dashboard",
            actor="unknown",
            action="login-slowed",
            subject=f"login {record.name}",
            after={"address": record.address, "tries": record.failures, "seconds": round(wait.total_seconds())},
        )


def _wait(record: LoginRecord, now: datetime) -> timedelta:
    own = _own_wait(record) - (now - record.failed_at) if record.failed_at is not None else timedelta(0)
    if record.succeeded_at is not None and record.succeeded_at > now - KEPT:
        return own
    recent = LoginRecord.objects.filter(failed_at__gt=now - WINDOW)
    return max(
        own,
        _above(recent.filter(address=record.address), OF_AN_ADDRESS, now),
        _above(recent.filter(name=record.name), OF_A_NAME, now),
    )


def _own_wait(record: LoginRecord) -> timedelta:
    if record.failures < FREE_TRIES:
        return timedelta(0)
    return min(FIRST_WAIT * (1 << min(record.failures - FREE_TRIES, 10)), LONGEST_WAIT)


def _above(recent: QuerySet[LoginRecord], bound: int, now: datetime) -> timedelta:
    """Until the oldest of them leaves the window."""
    found = recent.aggregate(failures=Sum("failures"), oldest=Min("failed_at"))
    if (found["failures"] or 0) < bound:
        return timedelta(0)
    oldest: datetime = found["oldest"]
    return WINDOW - (now - oldest)
