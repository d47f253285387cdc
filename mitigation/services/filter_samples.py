"""Traffic of whole lists over time, for charts: ten-second rows, as mitigations have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from mitigation.models import Acl, AclSample
from mitigation.services import bulk
from mitigation.services.counting import SAMPLE_SECONDS


@dataclass(frozen=True, slots=True)
class Met:
    """What one entry met since the last reading."""

    acl_id: int
    drops: bool
    packets: int
    octets: int


def add(met: Iterable[Met], *, since: datetime | None, now: datetime) -> None:
    """Within the transaction that has written the counters of these entries.

    `since` is when counters were read before; None: a second ago.
    One row grows for ten seconds, so that a live chart need not wait for the end of them.
    """
    sums: dict[int, dict[str, int]] = {}
    for one in met:
        of_list = sums.setdefault(one.acl_id, dict.fromkeys(AclSample.COUNTS, 0))
        word = "dropped" if one.drops else "passed"
        of_list[f"{word}_packets"] += one.packets
        of_list[f"{word}_octets"] += one.octets
    if not sums:
        return
    recent = AclSample.objects.filter(acl__in=list(sums), at__gt=now - timedelta(seconds=SAMPLE_SECONDS))
    growing = {row.acl_id: row for row in recent.order_by("at")}
    fresh, grown = [], []
    # Whoever deletes a list waits for its counters, or has deleted it before this.
    for acl_id in Acl.objects.filter(pk__in=list(sums)).values_list("pk", flat=True):
        numbers = sums[acl_id]
        last = growing.get(acl_id)
        begin = last.at if last is not None else since or now - timedelta(seconds=1)
        elapsed = min(max((now - begin).total_seconds(), 0.001), SAMPLE_SECONDS)
        if last is None or last.seconds + elapsed > SAMPLE_SECONDS:
            fresh.append(AclSample(acl_id=acl_id, at=now, seconds=elapsed, **numbers))
            continue
        last.at, last.seconds = now, last.seconds + elapsed
        for name, more in numbers.items():
            setattr(last, name, getattr(last, name) + more)
        grown.append(last)
    bulk.update(grown, ["at", "seconds", *AclSample.COUNTS])
    bulk.insert(fresh)
