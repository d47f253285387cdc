"""A row's small picture of traffic, as SVG paths: dropped stacked on allowed, gaps as dotted boxes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from mitigation.dashboard.traffic import Series

WIDTH, HEIGHT, HEADROOM = 150.0, 33.0, 3.0


@dataclass(frozen=True, slots=True)
class Sparkline:
    """`d` attributes; several runs where there are gaps. `gaps` are (x, width)."""

    dropped: str = ""
    line: str = ""
    allowed: str = ""
    redirected: str = ""  # between the two
    gaps: tuple[tuple[str, str], ...] = ()


def draw(series: Series | None) -> Sparkline | None:
    """None where nothing was counted at all: there is nothing to draw."""
    peak = series.peak if series else None
    if series is None or peak is None:
        return None
    scale = (HEIGHT - HEADROOM) / peak.bits if peak.bits else 0.0
    pitch = WIDTH / max(1, len(series.values) - 1)
    dropped, line, allowed, redirected, gaps = [], [], [], [], []
    numbered = list(enumerate(series.values))
    for known, group in groupby(numbered, key=lambda pair: pair[1] is not None):
        run = list(group)
        first, last = run[0][0], run[-1][0]
        if not known:
            # A box reaches the neighbours' points; the time before the first reading is simply empty.
            if first > 0:
                gaps.append((_n(max(0, first - 1) * pitch), _n((min(last + 1, len(numbered) - 1) - first + 1) * pitch)))
            continue
        known_rates = [rates for _, rates in run if rates is not None]
        low = _edge([rates.passed_bits for rates in known_rates], first, pitch, scale)
        middle = _edge([rates.passed_bits + rates.redirected_bits for rates in known_rates], first, pitch, scale)
        high = _edge([rates.bits for rates in known_rates], first, pitch, scale)
        allowed.append(f"M{low[0][0]} {_n(HEIGHT)}L{_points(low)}L{low[-1][0]} {_n(HEIGHT)}z")
        if any(rates.redirected_bits for rates in known_rates):
            redirected.append(f"M{_points(middle)}L{_points(low[::-1])}z")
        if any(rates.dropped_bits for rates in known_rates):
            dropped.append(f"M{_points(high)}L{_points(middle[::-1])}z")
            line.append(f"M{_points(high)}")
    return Sparkline("".join(dropped), "".join(line), "".join(allowed), "".join(redirected), tuple(gaps))


def _edge(bits: list[float], first: int, pitch: float, scale: float) -> list[tuple[str, str]]:
    return [(_n(i * pitch), _n(HEIGHT - value * scale)) for i, value in enumerate(bits, start=first)]


def _points(points: list[tuple[str, str]]) -> str:
    return "L".join(f"{x} {y}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.1f}"
