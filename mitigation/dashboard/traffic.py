"""Rates of traffic over time, from counters that somebody read. What nobody counted is None, never 0."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import ExpressionWrapper, F, FloatField, Func, IntegerField, Max, Sum
from django.db.models.functions import Cast, Greatest

from mitigation.models import AclSample, Sample

# The present rate is the mean of this many seconds.
WINDOW = 5.0
# Counters are read about once a second. A last sample this young, in seconds, is the end of what is known: the second
# that runs is not there yet, and is not a second without traffic.
UNREAD = 2.5
# Above this step, in seconds, samples are summed by the database as they are; below it they are spread over the time
# that each was taken in, since they are up to ten seconds long.
SPREAD_BELOW = 300

# What can be asked for in the address: seconds in all, and seconds of each step.
RANGES = {"5m": (300, 5), "15m": (900, 10), "1h": (3600, 30), "24h": (86_400, 600), "7d": (604_800, 3600)}
RANGE_WORDS = {"5m": "5 min", "15m": "15 min", "1h": "1 h", "24h": "24 h", "7d": "7 d"}
DEFAULT_RANGE = "15m"


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, in bits and packets. What is limited is a part of what is dropped."""

    dropped_bits: float = 0.0
    passed_bits: float = 0.0
    dropped_packets: float = 0.0
    passed_packets: float = 0.0
    redirected_bits: float = 0.0
    redirected_packets: float = 0.0
    limited_bits: float = 0.0
    limited_packets: float = 0.0

    @property
    def bits(self) -> float:
        """All that arrives."""
        return self.dropped_bits + self.passed_bits + self.redirected_bits

    @property
    def packets(self) -> float:
        return self.dropped_packets + self.passed_packets + self.redirected_packets


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


@dataclass(frozen=True, slots=True)
class Source:
    """Where samples are: the table, and its column for whose they are."""

    model: type[Sample] | type[AclSample]
    key: str

    @property
    def counts(self) -> tuple[str, ...]:
        return self.model.COUNTS

    def samples(self, ids: Collection[int], start: datetime, end: datetime) -> Any:
        at = {f"{self.key}__in": list(ids), "at__gt": start, "at__lte": end + timedelta(seconds=1)}
        return self.model._default_manager.filter(**at)


MITIGATIONS = Source(Sample, "mitigation_id")
FILTERS = Source(AclSample, "acl_id")


@dataclass(frozen=True, slots=True)
class Reading:
    """Between which moments the counters of one mitigation, or of one list of filters, were read."""

    pk: int
    since: datetime
    until: datetime


# (Unix time of the end, seconds, then the counts of its source)
_Piece = tuple[float, ...]


class _Step(Func):
    """Number of the step that a moment falls into; the moment at the end of a step belongs to it."""

    output_field = IntegerField()

    def __init__(self, expression: str, *, start: int, step: int, **extra: Any) -> None:
        super().__init__(expression, **extra)
        self._offset, self._step = int(start) + 1, int(step)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        seconds = "CAST(strftime('%%%%s', %(expressions)s) AS INTEGER)"
        return self.as_sql(compiler, connection, template=f"(({seconds} - {self._offset}) / {self._step})", **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        seconds = "CAST(FLOOR(EXTRACT(EPOCH FROM %(expressions)s)) AS BIGINT)"
        return self.as_sql(compiler, connection, template=f"(({seconds} - {self._offset}) / {self._step})", **context)


class Highest:
    """Remembers what was shown as the highest: samples grow and merge, and their means sink, but a peak stays one."""

    def __init__(self, size: int = 10_000) -> None:
        self._seen: OrderedDict[Hashable, float] = OrderedDict()
        self._size = size

    def of(self, key: Hashable, *candidates: float | None) -> float | None:
        known = [value for value in (self._seen.pop(key, None), *candidates) if value is not None]
        if not known:
            return None
        self._seen[key] = max(known)
        while len(self._seen) > self._size:
            self._seen.popitem(last=False)
        return self._seen[key]


highest = Highest()


def peaks(ids: Collection[int]) -> dict[int, float]:
    """Highest bits per second of any one sample, by mitigation id."""
    seconds = Greatest(F("seconds"), WINDOW, output_field=FloatField())
    rate = ExpressionWrapper(
        Cast(F("dropped_octets") + F("passed_octets") + F("redirected_octets"), FloatField()) * 8.0 / seconds,
        output_field=FloatField(),
    )
    rows = Sample.objects.filter(mitigation_id__in=ids).values("mitigation_id").annotate(peak=Max(rate))
    return {row["mitigation_id"]: row["peak"] for row in rows}


def span(name: str) -> tuple[int, int]:
    """Seconds in all and per step of a range in the address; the default where it is unknown."""
    return RANGES.get(name, RANGES[DEFAULT_RANGE])


def present(readings: Collection[Reading], now: datetime) -> dict[int, Rates]:
    """The present rates by mitigation id, of those whose counters are being read; the others are absent."""
    current = {reading.pk: reading for reading in readings if (now - reading.until).total_seconds() < WINDOW}
    samples = _samples(MITIGATIONS, current, now - timedelta(seconds=8 * WINDOW), now)
    rates = {}
    for pk, reading in current.items():
        end = _end(samples[pk], reading.until)
        rates[pk] = _Grid(MITIGATIONS, end - WINDOW, WINDOW, 1).add(samples[pk]).rates(0)
    return rates


def present_total(readings: Collection[Reading], now: datetime) -> Rates | None:
    """The present rates of all together; None when nobody's counters are being read."""
    until = max((reading.until for reading in readings), default=None)
    if until is None or (now - until).total_seconds() >= WINDOW:
        return None
    samples = _merged(MITIGATIONS, [reading.pk for reading in readings], now - timedelta(seconds=8 * WINDOW), now)
    return _Grid(MITIGATIONS, _end(samples, until) - WINDOW, WINDOW, 1).add(samples).rates(0)


def by_owner(
    readings: Collection[Reading], *, seconds: int, step: int, now: datetime, source: Source = MITIGATIONS
) -> dict[int, Series]:
    """One series each, over the same time."""
    steps = seconds // step
    samples = _samples(
        source, {reading.pk: reading for reading in readings}, now - timedelta(seconds=seconds + step), now
    )
    end = _common_end(samples.values(), readings, now)
    result = {}
    for reading in readings:
        grid = _Grid(source, end - step * steps, step, steps).add(samples[reading.pk])
        result[reading.pk] = _series(grid, _counted_steps([reading], end - step * steps, step, steps), end)
    return result


def total(
    readings: Collection[Reading], *, seconds: int, step: int, now: datetime, source: Source = MITIGATIONS
) -> Series:
    """The sum over all of them; None in a step in which none was counted."""
    steps = seconds // step
    ids = [reading.pk for reading in readings]
    if step >= SPREAD_BELOW:
        return _coarse(source, ids, readings, step, steps, now)
    samples = _merged(source, ids, now - timedelta(seconds=seconds + step), now)
    end = _common_end([samples], readings, now)
    grid = _Grid(source, end - step * steps, step, steps).add(samples)
    return _series(grid, _counted_steps(readings, end - step * steps, step, steps), end)


def _series(grid: _Grid, counted: set[int], end: float) -> Series:
    values = tuple(grid.rates(i) if i in counted else None for i in range(grid.steps))
    return Series(int(end), int(grid.step), values)


def _samples(source: Source, wanted: Collection[int], start: datetime, end: datetime) -> dict[int, list[_Piece]]:
    found: dict[int, list[_Piece]] = defaultdict(list)
    rows = source.samples(wanted, start, end).order_by("at")
    for pk, at, *numbers in rows.values_list(source.key, "at", "seconds", *source.counts):
        found[pk].append((at.timestamp(), *numbers))
    return found


def _merged(source: Source, ids: Collection[int], start: datetime, end: datetime) -> list[_Piece]:
    """One point counts all of its rules in the same moment: their samples are added up by the database."""
    rows = source.samples(ids, start, end)
    sums = {f"sum_{name}": Sum(name) for name in source.counts}
    grouped = rows.values("at", "seconds").annotate(**sums).order_by("at").values_list("at", "seconds", *sums)
    return [(at.timestamp(), *numbers) for at, *numbers in grouped]


def _end(samples: Sequence[_Piece], until: datetime) -> float:
    last, known = (samples[-1][0] if samples else 0.0), until.timestamp()
    return last if 0 <= known - last < UNREAD else known


def _common_end(samples: Iterable[Sequence[_Piece]], readings: Iterable[Reading], now: datetime) -> float:
    last = [pieces[-1][0] for pieces in samples if pieces]
    at = now.timestamp()
    return float(int(max(last))) if last and 0 <= at - max(last) < UNREAD else float(int(at))


class _Grid:
    """Steps of equal length from `start` (Unix time); pieces are spread over the steps that they lie in."""

    def __init__(self, source: Source, start: float, step: float, steps: int) -> None:
        self.start, self.step, self.steps = start, step, steps
        self._counts = source.counts
        self._sums = [[0.0] * len(self._counts) for _ in range(steps)]

    def add(self, pieces: Iterable[_Piece]) -> _Grid:
        for at, seconds, *numbers in pieces:
            self._add(at - seconds, at, numbers)
        return self

    def _add(self, begin: float, end: float, numbers: Sequence[float]) -> None:
        first = max(0, int((begin - self.start) // self.step))
        last = min(self.steps - 1, int((end - self.start) // self.step))
        length = max(end - begin, 0.001)
        for i in range(first, last + 1):
            left = self.start + i * self.step
            part = (min(end, left + self.step) - max(begin, left)) / length
            if part > 0:
                self._sums[i] = [known + part * more for known, more in zip(self._sums[i], numbers, strict=True)]

    def rates(self, i: int) -> Rates:
        rates = {}
        for name, value in zip(self._counts, self._sums[i], strict=True):
            kind, unit = name.split("_")
            rates[f"{kind}_bits" if unit == "octets" else name] = value / self.step * (8 if unit == "octets" else 1)
        return Rates(**rates)


def _coarse(
    source: Source, ids: list[int], readings: Collection[Reading], step: int, steps: int, now: datetime
) -> Series:
    end = int(now.timestamp())
    start = end - step * steps
    sums = {f"sum_{name}": Sum(name) for name in source.counts}
    rows = (
        source.samples(ids, _moment(start), _moment(end))
        .annotate(number=_Step("at", start=start, step=step))
        .values("number")
        .annotate(**sums)
        .order_by()
        .values_list("number", *sums)
    )
    pieces = [(start + (number + 1) * step, float(step), *numbers) for number, *numbers in rows]
    grid = _Grid(source, start, step, steps).add(pieces)
    return _series(grid, _counted_steps(readings, start, step, steps), end)


def _counted_steps(readings: Iterable[Reading], start: float, step: float, steps: int) -> set[int]:
    """Steps in which counters of at least one were read. A sample of zeros is left out: absence alone says nothing."""
    counted: set[int] = set()
    for reading in readings:
        first = int((reading.since.timestamp() - start) // step)
        last = int((reading.until.timestamp() - start - 0.001) // step)
        counted.update(range(max(0, first), min(steps - 1, last) + 1))
    return counted


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
