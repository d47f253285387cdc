"""Tables stay small: changes are pruned, samples thinned without losing a packet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Sum
from requests_and_outcomes import request

from mitigation.models import Change, Mitigation, Sample
from mitigation.services import upkeep


def test_old_samples_are_merged_and_nothing_is_lost(cast: Any, submit: Callable[..., Any], now: datetime) -> None:
    submit(cast.alice, request(1))
    mitigation = Mitigation.objects.get()
    begin = now - timedelta(hours=8)
    Sample.objects.bulk_create(
        Sample(
            mitigation=mitigation,
            at=begin + timedelta(seconds=10 * n),
            seconds=10,
            dropped_packets=n,
            passed_octets=1,
            redirected_octets=n,
            limited_packets=2,
        )  # fmt: skip
        for n in range(120)
    )
    fresh = Sample.objects.create(mitigation=mitigation, at=now, seconds=10, dropped_packets=1)

    upkeep.tidy(now=now)

    kept = Sample.objects.exclude(pk=fresh.pk)
    assert kept.count() == 4
    assert kept.aggregate(d=Sum("dropped_packets"), p=Sum("passed_octets")) == {"d": sum(range(120)), "p": 120}
    more = kept.aggregate(r=Sum("redirected_octets"), l=Sum("limited_packets"))
    assert more == {"r": sum(range(120)), "l": 240}
    assert Sample.objects.filter(pk=fresh.pk).exists()
    upkeep.tidy(now=now)
    assert Sample.objects.count() == 5


def test_changes_go_after_an_hour(cast: Any, now: datetime) -> None:
    assert Change.objects.exists()

    upkeep.tidy(now=now + timedelta(minutes=59))
    assert Change.objects.exists()
    upkeep.tidy(now=now + timedelta(minutes=61))

    assert not Change.objects.exists()
