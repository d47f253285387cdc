"""A traffic chart: numbers for the script that draws it, and the same numbers for the table beside it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mitigation.dashboard import formats, traffic
from mitigation.dashboard.formats import Figure
from mitigation.dashboard.traffic import RANGE_WORDS, Rates, Series


@dataclass(frozen=True, slots=True)
class TableRow:
    """`bits` and `packets` by kind of traffic, in the order of `Chart.kinds`."""

    when: str
    bits: dict[str, Figure]
    packets: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Kind:
    """Of traffic. `name` as in Rates, `letter` as the script has it."""

    name: str
    letter: str
    word: str
    swatch: str = ""

    @property
    def icon(self) -> str:
        return f"icons/swatch-{self.swatch}.svg"


_KINDS = (
    Kind("dropped", "d", "Dropped", "dropped"),
    Kind("limited", "l", "of it by limits", "limited"),
    Kind("redirected", "r", "Redirected", "redirected"),
    Kind("passed", "a", "Allowed", "allowed"),
)


def _of(rates: Rates | None, kind: Kind, unit: str) -> float | None:
    return None if rates is None else getattr(rates, f"{kind.name}_{unit}")


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    word: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    series: Series
    range: str
    now: datetime
    marks: tuple[tuple[int, str], ...] = ()  # Unix time and words
    nothing: str = "Traffic is counted while a mitigation is installed."  # why there may be no data
    alone: str = "Allowed alone, own scale: what still reaches the protected"
    keep: str = ""  # what else stands in the address, with an & behind it
    ranges: tuple[str, ...] = tuple(RANGE_WORDS)

    @property
    def data(self) -> str:
        """JSON for `static/charts.js`: octets of nobody's counter are null."""
        values = self.series.values
        return json.dumps(
            {
                "end": self.series.end,
                "step": self.series.step,
                **{
                    unit: {
                        kind.letter: [None if v is None else round(getattr(v, f"{kind.name}_{unit}")) for v in values]
                        for kind in self.kinds
                    }
                    for unit in ("bits", "packets")
                },
                "marks": [mark for mark in self.marks if mark[0] > self.series.start],
            },
            separators=(",", ":"),
        )

    @property
    def kinds(self) -> list[Kind]:
        """What is dropped and allowed always, and what else there is."""
        known = [rates for rates in self.series.values if rates is not None]
        return [
            kind
            for kind in _KINDS
            if kind.letter in "da" or any(getattr(rates, f"{kind.name}_packets") for rates in known)
        ]

    @property
    def choices(self) -> list[Choice]:
        return [Choice(name, RANGE_WORDS[name], name == self.range) for name in self.ranges]

    @property
    def last(self) -> TableRow:
        return self._row(self.series.end, self.series.values[-1])

    @property
    def last_figures(self) -> list[tuple[Kind, Figure]]:
        return [(kind, self.last.bits[kind.letter]) for kind in self.kinds]

    @property
    def table(self) -> list[TableRow]:
        """Newest first."""
        pairs = zip(self.series.ends(), self.series.values, strict=True)
        return [self._row(at, rates) for at, rates in reversed(list(pairs))]

    @property
    def has_data(self) -> bool:
        return any(rates is not None for rates in self.series.values)

    @property
    def words(self) -> str:
        return RANGE_WORDS[self.range]

    @property
    def step_words(self) -> str:
        step = self.series.step
        return f"{step} s" if step < 60 else f"{step // 60} min" if step < 3600 else f"{step // 3600} h"

    def _row(self, at: int, rates: Rates | None) -> TableRow:
        return TableRow(
            formats.moment(datetime.fromtimestamp(at, tz=UTC), self.now),
            {kind.letter: formats.bit_rate(_of(rates, kind, "bits")) for kind in self.kinds},
            {kind.letter: formats.packet_rate(_of(rates, kind, "packets")) for kind in self.kinds},
        )


def chosen(query: Mapping[str, str], ranges: Collection[str] = traffic.RANGES) -> str:
    """The range in the address, or the default."""
    name = query.get("range", "")
    return name if name in ranges else traffic.DEFAULT_RANGE
