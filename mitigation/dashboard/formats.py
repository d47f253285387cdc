"""Numbers and times as the pages write them. Scripts say rates and clocks in the same words; a test compares them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple

NO_DATA = "no data"
NO_COUNTERS = "no counters"

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Figure(NamedTuple):
    """A value and its unit, apart because templates show the unit in a lighter ink. Without a value: words alone."""

    value: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.unit}".rstrip()


def bit_rate(bits_per_second: float | None) -> Figure:
    return _scaled(bits_per_second, "bit/s")


def packet_rate(packets_per_second: float | None) -> Figure:
    return _scaled(packets_per_second, "pps")


def octets(count: float | None) -> Figure:
    return _scaled(count, "B")


def packets(count: float | None) -> Figure:
    """A total: whole below 100,000, with a prefix from there on."""
    if count is None:
        return Figure(NO_DATA)
    if count < 100_000:
        return Figure(f"{round(count):,}", "packets")
    figure = _scaled(count, "")
    return Figure(f"{figure.value} {figure.unit}".rstrip(), "packets")


def _scaled(value: float | None, unit: str) -> Figure:
    """Three significant figures under a decimal prefix; whole numbers below 1000, and never 0 for what is more."""
    if value is None:
        return Figure(NO_DATA)
    if value <= 0:
        return Figure("0", unit)
    if value < 1:
        return Figure("< 1", unit)
    power = min(int(math.log10(value) // 3), len(_PREFIXES) - 1)
    text = _three_figures(value / 1000**power, whole=power == 0)
    if text == "1000" and power < len(_PREFIXES) - 1:
        power, text = power + 1, "1.00"
    return Figure(text, _PREFIXES[power] + unit)


def _three_figures(scaled: float, *, whole: bool) -> str:
    if whole:
        return f"{scaled:.0f}"
    for decimals, limit in ((2, 9.995), (1, 99.95)):
        if scaled < limit:
            return f"{scaled:.{decimals}f}"
    return f"{scaled:.0f}"


def share(part: float | None, whole: float | None) -> Figure:
    """One decimal, and never rounded to 100 or to 0 where it is not."""
    if part is None or not whole:
        return Figure(NO_DATA)
    if part <= 0:
        return Figure("0", "%")
    if part >= whole:
        return Figure("100", "%")
    percent = 100 * part / whole
    if percent >= 99.95:
        return Figure("> 99.9", "%")
    if percent < 0.05:
        return Figure("< 0.1", "%")
    return Figure(f"{percent:.1f}", "%")


def count(number: int) -> str:
    return f"{number:,}"


def plural(number: int, one: str, many: str = "") -> str:
    """ "1 rule", "7 rules"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%H:%M:%S}"


def clock_ms(at: datetime) -> str:
    """For proof and messages alone."""
    at = at.astimezone(UTC)
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"


def moment(at: datetime, now: datetime) -> str:
    """`03:12:44` today, `18 Nov, 23:02` on another day, `28 Nov 2026` in another year."""
    at, now = at.astimezone(UTC), now.astimezone(UTC)
    if at.date() == now.date():
        return clock(at)
    if at.year == now.year:
        return f"{at.day} {_MONTHS[at.month - 1]}, {at:%H:%M}"
    return day(at)


def day(at: datetime) -> str:
    """For an expiry: `28 Nov 2026`."""
    at = at.astimezone(UTC)
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}"


def left(seconds: float) -> str:
    """What remains, or how long it lasted: `04:12`, `1:12:09`, `6 d 4 h`."""
    total = max(0, int(seconds))
    hours, minutes = total // 3600, total // 60 % 60
    if total >= 86_400:
        return f"{total // 86_400} d {hours % 24} h"
    if hours:
        return f"{hours}:{minutes:02d}:{total % 60:02d}"
    return f"{minutes:02d}:{total % 60:02d}"


def ago(seconds: float) -> str:
    """`4 s ago`, `00:41 ago`, `5 h 12 min ago`, `3 d 4 h ago`."""
    total = max(0, int(seconds))
    if total < 30:
        return f"{total} s ago"
    if total < 3600:
        return f"{left(total)} ago"
    if total < 86_400:
        return f"{total // 3600} h {total // 60 % 60} min ago"
    return f"{left(total)} ago"


def after(seconds: float) -> str:
    """After the request: `+0.118 s`, `+1.92 s`, `+01:12`."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"+{seconds:.3f} s"
    if seconds < 9.995:
        return f"+{seconds:.2f} s"
    if seconds < 59.95:
        return f"+{seconds:.1f} s"
    return f"+{left(seconds)}"


def fingerprint(digest: str) -> str:
    """First two and last two octets: `3F:A2:…:7C:10`."""
    octets_ = [digest[i : i + 2].upper() for i in range(0, len(digest), 2)]
    if len(octets_) <= 4:
        return ":".join(octets_)
    return ":".join((*octets_[:2], "…", *octets_[-2:]))


def milliseconds(at: datetime) -> int:
    """Unix time in milliseconds, as scripts count it."""
    return int(at.timestamp() * 1000)
