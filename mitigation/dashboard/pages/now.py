"""What needs a person, what runs, what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from mitigation.dashboard import charts, evidence, formats, needs, rows, traffic
from mitigation.dashboard.charts import Chart
from mitigation.dashboard.formats import Figure
from mitigation.dashboard.pages import first_minutes
from mitigation.dashboard.pages.base import Context, Page, Rows
from mitigation.dashboard.rows import MitigationRow
from mitigation.models import EnforcementPoint, Mitigation, Session
from mitigation.protocol.status import Status

SHOWN = 50
# An ended mitigation keeps its place this long, in seconds: who acted on it sees what became of it.
KEPT = 60
LAST_ATTACKS = 5
COMING = 4

_UNDER_ATTACK = (int(Status.IN_PROGRESS), int(Status.MITIGATED), int(Status.EXCEEDED))


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    figure: Figure
    swatch: str = ""  # dropped or allowed
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Headline:
    is_attack: bool
    said: str
    big: Figure
    words: str
    facts: tuple[Fact, ...]
    since: int | None = None  # counts up beside `big` when quiet


def build(now: datetime, query: Mapping[str, str]) -> Context:
    if not Mitigation.objects.exists():
        return {"layout": "first", "rows": [], "needs": needs.find(now), **first_minutes.context()}
    shown = _order(rows.build(list(_running(now)), now))
    range_ = charts.chosen(query)
    seconds, step = traffic.RANGES[range_]
    series = traffic.total(_readings(now - timedelta(seconds=seconds), now), seconds=seconds, step=step, now=now)
    chart = Chart("now", series, range_, now, _marks(shown))
    last = _last_attacks(now)
    return {
        "layout": "running",
        "headline": _headline(shown, last, now),
        "needs": needs.find(now, {row.pk: row.rates for row in shown}),
        "coming": _coming(shown),
        "chart": chart,
        "rows": shown,
        "running": sum(not row.is_over for row in shown),
        "live_count": Mitigation.objects.live().count(),
        "last_attacks": last,
    }


def _running(now: datetime) -> list[Mitigation]:
    return list(
        Mitigation.objects.filter(Q(ended_at=None) | Q(ended_at__gt=now - timedelta(seconds=KEPT)))
        .select_related("client", "domain")
        .order_by("ended_at", "-requested_at")[:SHOWN]
    )


def _readings(start: datetime, now: datetime) -> list[traffic.Reading]:
    """Of all whose counters were read since `start`, ended ones too."""
    read = list(Mitigation.objects.filter(Q(counted_at__gt=start) | Q(counted_at__isnull=False, ended_at=None)))
    facts = evidence.gather(read)
    return [found for m in read if (found := evidence.reading(m, facts[m.pk], now)) is not None]


def _coming(found: list[MitigationRow]) -> list[MitigationRow]:
    """Those that end next."""
    ending = [row for row in found if row.countdown.until and row.mitigation.is_live and not row.is_over]
    return sorted(ending, key=lambda row: row.countdown.until or 0)[:COMING]


def _order(found: list[MitigationRow]) -> list[MitigationRow]:
    """By state, then newest first. Not by rate: rows that change places each second cannot be pressed."""
    return sorted(found, key=lambda row: (row.state.rank, -row.mitigation.requested_at.timestamp(), row.pk))


def _marks(found: list[MitigationRow]) -> tuple[tuple[int, str], ...]:
    attacked = [_start(row.mitigation) for row in found if row.mitigation.status in _UNDER_ATTACK]
    return ((int(min(attacked).timestamp()), "first request"),) if attacked else ()


def _start(mitigation: Mitigation) -> datetime:
    return mitigation.mitigation_start or mitigation.requested_at


def _headline(found: list[MitigationRow], last: list[MitigationRow], now: datetime) -> Headline:
    attacked = [row for row in found if row.mitigation.is_live and row.mitigation.status in _UNDER_ATTACK]
    if not attacked:
        return _quiet(last, now)
    since = min(_start(row.mitigation) for row in attacked)
    rates = sum((row.rates for row in attacked if row.rates), traffic.Rates())
    known = any(row.rates for row in attacked)
    seconds = max(60, int((now - since).total_seconds()) + 5)
    step = 10 if seconds < 3600 else traffic.SPREAD_BELOW
    readings = [row.reading for row in attacked if row.reading]
    over_time = traffic.total(readings, seconds=seconds + step, step=step, now=now)
    highest = max(over_time.peak.bits if over_time.peak else 0.0, rates.bits)
    since_ms = formats.milliseconds(since)
    lasting = Fact("Lasting", Figure(formats.left((now - since).total_seconds())), since=since_ms)
    if not known and over_time.peak is None:
        words = "asked for help; no traffic is counted"
        return Headline(True, f"Under attack since {formats.moment(since, now)}", _targets(attacked), words, (lasting,))
    return Headline(
        is_attack=True,
        said=f"Under attack since {formats.moment(since, now)}",
        big=formats.bit_rate(highest),
        words="peak",
        facts=(
            Fact("Now", formats.bit_rate(rates.bits if known else None)),
            Fact("Packets", formats.packet_rate(rates.packets if known else None)),
            Fact("Dropped", formats.share(rates.dropped_bits, rates.bits) if rates.bits else _none(known), "dropped"),
            Fact("Allowed", formats.bit_rate(rates.passed_bits if known else None), "allowed"),
            Fact("Attacked", _targets(attacked)),
            lasting,
        ),
    )


def _none(known: bool) -> Figure:
    return Figure("0", "%") if known else Figure(formats.NO_DATA)


def _targets(attacked: list[MitigationRow]) -> Figure:
    number = sum(1 + row.more_targets for row in attacked)
    return Figure(formats.count(number), "target" if number == 1 else "targets")


def _quiet(last: list[MitigationRow], now: datetime) -> Headline:
    sessions = Session.objects.live().count()
    points = EnforcementPoint.objects.filter(enabled=True)
    ready = points.filter(health=EnforcementPoint.Health.READY).count()
    month = Mitigation.objects.filter(requested_at__gt=now - timedelta(days=30)).count()
    facts = (
        Fact("Sessions", Figure(formats.count(sessions), "connected")),
        Fact("Points", Figure(formats.count(ready), f"of {points.count()} ready")),
        Fact("Last 30 d", Figure(formats.count(month), "requests")),
    )
    ended = max((row.mitigation.ended_at for row in last if row.mitigation.ended_at), default=None)
    if ended is None:
        return Headline(False, "Quiet", Figure("Nothing"), "is under attack", facts)
    big = Figure(formats.left((now - ended).total_seconds()))
    return Headline(False, "Quiet", big, "since the last attack", facts, since=formats.milliseconds(ended))


def _last_attacks(now: datetime) -> list[MitigationRow]:
    ended = Mitigation.objects.exclude(ended_at=None).select_related("client", "domain").order_by("-ended_at")
    return rows.build(list(ended[:LAST_ATTACKS]), now)


NOW = Page(
    "now",
    "now.html",
    build,
    regions={
        "headline": "partials/headline.html",
        "needs": "partials/needs.html",
        "chart-now": "partials/chart.html",
        "now-count": "partials/now_count.html",
        "last-attacks": "partials/last_attacks.html",
    },
    first_regions={"first": "partials/first_minutes.html"},
    lists={"mitigations": Rows("partials/mitigation_row.html", "rows")},
)
