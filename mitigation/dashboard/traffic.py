"""Rates of traffic over time, from counters that somebody read. What nobody counted is None, never 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import ExpressionWrapper, F, FloatField, Func, IntegerField, Max, Sum
from django.db.models.functions import Cast, Greatest

from mitigation.models import Mitigation, Sample

# How old the last reading may be before "now" is no longer known, in seconds.
STALE = 15.0
# The present rate is taken over this many seconds before the last reading: one lost second does not show as 0.
WINDOW = 5.0

# What can be asked for in the address: seconds in all, and seconds of each step.
RANGES = {"5m": (300, 5), "15m": (900, 10), "1h": (3600, 30), "24h": (86_400, 600), "7d": (604_800, 3600)}
RANGE_WORDS = {"5m": "5 min", "15m": "15 min", "1h": "1 h", "24h": "24 h", "7d": "7 d"}
DEFAULT_RANGE = "15m"


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, in bits and packets."""

    dropped_bits: float = 0.0
    passed_bits: float = 0.0
    dropped_packets: float = 0.0
    passed_packets: float = 0.0

    @property
    def bits(self) -> float:
        return self.dropped_bits + self.passed_bits

    @property
    def packets(self) -> float:
        return self.dropped_packets + self.passed_packets

    def __add__(self, other: Rates) -> Rates:
        return Rates(
            self.dropped_bits + other.dropped_bits,
            self.passed_bits + other.passed_bits,
            self.dropped_packets + other.dropped_packets,
            self.passed_packets + other.passed_packets,
        )


@dataclass(frozen=True, slots=True)
class Series:
    """`values[i]` is the mean over one step of `step` seconds; the last one ends at `end` (Unix time)."""

    end: int
    step: int
    values: tuple[Rates | None, ...]

    @property
    def start(self) -> int:
        return self.end - self.step * len(self.values)

    def ends(self) -> list[int]:
        return [self.start + self.step * (i + 1) for i in range(len(self.values))]

    @property
    def peak(self) -> Rates | None:
        known = [rates for rates in self.values if rates is not None]
        return max(known, key=lambda rates: rates.bits) if known else None


class _Step(Func):
    """Number of the step that a moment falls into; the moment at the end of a step belongs to it."""

    output_field = IntegerField()

    def __init__(self, expression: str, *, start: int, step: int, **extra: Any) -> None:
        super().__init__(expression, **extra)
        self._offset, self._step = int(start) + 1, int(step)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        seconds = "CAST(strftime('%%s', %(expressions)s) AS INTEGER)"
        return self.as_sql(compiler, connection, template=f"(({seconds} - {self._offset}) / {self._step})", **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        seconds = "CAST(FLOOR(EXTRACT(EPOCH FROM %(expressions)s)) AS BIGINT)"
        return self.as_sql(compiler, connection, template=f"(({seconds} - {self._offset}) / {self._step})", **context)


def current(mitigations: Collection[Mitigation], now: datetime) -> dict[int, Rates | None]:
    """The present rates by mitigation id; None where the last reading is missing or older than STALE."""
    read_at = {m.pk: m.counted_at for m in mitigations if m.counted_at and (now - m.counted_at).total_seconds() < STALE}
    samples = defaultdict(list)
    oldest = now - timedelta(seconds=2 * STALE)
    for sample in Sample.objects.filter(mitigation_id__in=read_at, at__gt=oldest):
        samples[sample.mitigation_id].append(sample)
    return {m.pk: _present(samples[m.pk], read_at[m.pk]) if m.pk in read_at else None for m in mitigations}


def _present(samples: list[Sample], read_at: datetime) -> Rates:
    window = max([WINDOW, *(sample.seconds for sample in samples)])
    recent = [sample for sample in samples if (read_at - sample.at).total_seconds() < window]
    return Rates(
        8 * sum(s.dropped_octets for s in recent) / window,
        8 * sum(s.passed_octets for s in recent) / window,
        sum(s.dropped_packets for s in recent) / window,
        sum(s.passed_packets for s in recent) / window,
    )


def peaks(ids: Collection[int]) -> dict[int, float]:
    """Highest bits per second of any one sample, by mitigation id."""
    seconds = Greatest(F("seconds"), 1.0, output_field=FloatField())
    rate = ExpressionWrapper(
        Cast(F("dropped_octets") + F("passed_octets"), FloatField()) * 8.0 / seconds, output_field=FloatField()
    )
    rows = Sample.objects.filter(mitigation_id__in=ids).values("mitigation_id").annotate(peak=Max(rate))
    return {row["mitigation_id"]: row["peak"] for row in rows}


def span(name: str) -> tuple[int, int]:
    """Seconds in all and per step of a range in the address; the default where it is unknown."""
    return RANGES.get(name, RANGES[DEFAULT_RANGE])


def by_mitigation(mitigations: Collection[Mitigation], *, seconds: int, step: int, now: datetime) -> dict[int, Series]:
    """One series each, over the same time."""
    end, start, step, steps = _frame(mitigations, seconds, step, now)
    sums = _sums([m.pk for m in mitigations], start, end, step, "mitigation_id")
    result = {}
    for mitigation in mitigations:
        counted = _counted_steps([mitigation], start, step, steps)
        values = [sums.get((mitigation.pk, i), Rates()) if i in counted else None for i in range(steps)]
        result[mitigation.pk] = Series(end, step, tuple(values))
    return result


def total(mitigations: Collection[Mitigation], *, seconds: int, step: int, now: datetime) -> Series:
    """The sum over all of them; None in a step in which none was counted."""
    end, start, step, steps = _frame(mitigations, seconds, step, now)
    sums = _sums([m.pk for m in mitigations], start, end, step)
    counted = _counted_steps(mitigations, start, step, steps)
    values = [sums.get((i,), Rates()) if i in counted else None for i in range(steps)]
    return Series(end, step, tuple(values))


def _frame(mitigations: Iterable[Mitigation], seconds: int, step: int, now: datetime) -> tuple[int, int, int, int]:
    """End, start, step and their number. It ends at the last reading, so that the last step is a whole one."""
    read = max((m.counted_at for m in mitigations if m.counted_at), default=now)
    end = int((read if 0 <= (now - read).total_seconds() < STALE else now).timestamp())
    steps = seconds // step
    return end, end - step * steps, step, steps


def _sums(ids: Sequence[int], start: int, end: int, step: int, *group: str) -> dict[tuple[int, ...], Rates]:
    rows = (
        Sample.objects.filter(mitigation_id__in=ids, at__gt=_moment(start), at__lt=_moment(end + 1))
        .annotate(number=_Step("at", start=start, step=step))
        .values(*group, "number")
        .annotate(
            d_octets=Sum("dropped_octets"),
            p_octets=Sum("passed_octets"),
            d_packets=Sum("dropped_packets"),
            p_packets=Sum("passed_packets"),
        )
        .order_by()
    )
    return {
        (*(row[name] for name in group), row["number"]): Rates(
            8 * row["d_octets"] / step, 8 * row["p_octets"] / step, row["d_packets"] / step, row["p_packets"] / step
        )
        for row in rows
    }


def _counted_steps(mitigations: Iterable[Mitigation], start: int, step: int, steps: int) -> set[int]:
    """Steps in which counters of at least one were read. A sample of zeros is left out: absence alone says nothing."""
    counted: set[int] = set()
    for mitigation in mitigations:
        since = mitigation.mitigation_start or mitigation.requested_at
        if mitigation.counted_at is None:
            continue
        first = int((since.timestamp() - start) // step)
        last = int((mitigation.counted_at.timestamp() - start - 0.001) // step)
        counted.update(range(max(0, first), min(steps - 1, last) + 1))
    return counted


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
