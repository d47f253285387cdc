"""What keeps tables small: old changes go, old samples are thinned."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Min, QuerySet

from mitigation.models import AclSample, Change, Sample, Session
from mitigation.services import datastore, locks, logins

CHANGES_KEPT = timedelta(hours=1)  # a reader that was away longer reads everything anew
FINE = timedelta(hours=6)  # ten-second samples
COARSE = timedelta(days=90)  # five-minute samples, then nothing
COARSE_SECONDS = 300
FILTERS_KEPT = timedelta(days=1)  # samples of clients' filters, all of them fine
SESSIONS_KEPT = timedelta(days=30)


def tidy(*, now: datetime) -> None:
    """Safe to run at any time and twice."""
    Change.objects.filter(at__lt=now - CHANGES_KEPT).delete()
    Session.objects.filter(closed_at__lt=now - SESSIONS_KEPT).delete()
    Sample.objects.filter(at__lt=now - COARSE).delete()
    AclSample.objects.filter(at__lt=now - FILTERS_KEPT).delete()
    datastore.let_go_of_expired(now=now)
    logins.tidy(now=now)
    while thin_once(now=now):
        pass


def thin_once(*, now: datetime, limit: int = 200) -> int:
    """Merge fine samples of up to `limit` mitigations into coarse ones; returns how many rows went."""
    old = Sample.objects.filter(at__lt=now - FINE, seconds__lt=COARSE_SECONDS)
    owners = list(old.order_by().values_list("mitigation", flat=True).distinct()[:limit])
    return sum(_thin(owner, now=now) for owner in owners)


def _thin(mitigation_id: int, *, now: datetime) -> int:
    with transaction.atomic():
        old = Sample.objects.filter(mitigation_id=mitigation_id, at__lt=now - FINE, seconds__lt=COARSE_SECONDS)
        first = old.aggregate(at=Min("at"))["at"]
        if first is None:
            return 0
        window = list(_locked(old.filter(at__lt=first + timedelta(seconds=COARSE_SECONDS))))
        if not window:  # another run was faster
            return 0
        merged = {name: sum(getattr(sample, name) for sample in window) for name in Sample.COUNTS}
        gone, _ = Sample.objects.filter(pk__in=[sample.pk for sample in window]).delete()
        at = max(sample.at for sample in window)
        Sample.objects.create(mitigation_id=mitigation_id, at=at, seconds=COARSE_SECONDS, **merged)
        return gone


def _locked(samples: QuerySet[Sample]) -> QuerySet[Sample]:
    """In one order, so that two runs wait for each other, and the later one finds nothing left."""
    return samples.order_by("pk").select_for_update() if locks.lockable() else samples
