"""What needs a person, what runs, what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Case, IntegerField, Min, Q, QuerySet, When
from django.db.models.functions import Coalesce

from mitigation.dashboard import charts, evidence, formats, needs, rows, traffic
from mitigation.dashboard.charts import Chart
from mitigation.dashboard.formats import Figure
from mitigation.dashboard.pages import first_minutes
from mitigation.dashboard.pages.base import Context, Page, Rows
from mitigation.dashboard.rows import MitigationRow
from mitigation.models import EnforcementPoint, Mitigation, Session, Target
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
    shown = _order(rows.build(_running(now), now))
    range_ = charts.chosen(query)
    seconds, step = traffic.RANGES[range_]
    readings = evidence.readings_since(now - timedelta(seconds=seconds), now)
    chart = Chart("now", traffic.total(readings, seconds=seconds, step=step, now=now), range_, now, _marks(now))
    last = _last_attacks(now)
    return {
        "layout": "running",
        "headline": _headline(last, now),
        "needs": needs.find(now, {row.pk: row.rates for row in shown}),
        "coming": _coming(shown),
        "chart": chart,
        "rows": shown,
        "running": sum(not row.is_over for row in shown),
        "live_count": Mitigation.objects.live().count(),
        "last_attacks": last,
    }


def _running(now: datetime) -> list[Mitigation]:
    urgency = Case(
        When(ended_at__isnull=False, then=9),
        When(~Q(problem="") | Q(status=int(Status.EXCEEDED)), then=0),
        When(hitting_at__isnull=False, then=1),
        default=2,
        output_field=IntegerField(),
    )
    return list(
        Mitigation.objects.filter(Q(ended_at=None) | Q(ended_at__gt=now - timedelta(seconds=KEPT)))
        .select_related("client", "domain")
        .alias(urgency=urgency)
        .order_by("urgency", "-requested_at")[:SHOWN]
    )


def _attacked() -> QuerySet[Mitigation]:
    """What clients say is under attack: active, and neither ending nor said to be over."""
    return Mitigation.objects.live().filter(status__in=_UNDER_ATTACK)


def _attacked_since() -> datetime | None:
    since: datetime | None = _attacked().aggregate(since=Min(Coalesce("mitigation_start", "requested_at")))["since"]
    return since


def _coming(found: list[MitigationRow]) -> list[MitigationRow]:
    """Those that end next."""
    ending = [row for row in found if row.countdown.until and row.mitigation.is_live and not row.is_over]
    return sorted(ending, key=lambda row: row.countdown.until or 0)[:COMING]


def _order(found: list[MitigationRow]) -> list[MitigationRow]:
    """By state, then newest first. Not by rate: rows that change places each second cannot be pressed."""
    return sorted(found, key=lambda row: (row.state.rank, -row.mitigation.requested_at.timestamp(), row.pk))


def _marks(now: datetime) -> tuple[tuple[int, str], ...]:
    since = _attacked_since()
    return ((int(since.timestamp()), "first request"),) if since else ()


def _headline(last: list[MitigationRow], now: datetime) -> Headline:
    since = _attacked_since()
    if since is None:
        return _quiet(last, now)
    said = f"Under attack since {formats.moment(since, now)}"
    lasting = Figure(formats.left((now - since).total_seconds()))
    lasts = Fact("Lasting", lasting, since=formats.milliseconds(since))
    readings = evidence.readings_since(since, now)
    rates = traffic.present_total(readings, now)
    peak = traffic.highest.of(("all", since), _peak(readings, since, now), rates.bits if rates else None)
    if peak is None:
        return Headline(True, said, _targets(), "asked for help; no traffic is counted", (lasts,))
    facts = (
        Fact("Now", formats.bit_rate(rates.bits if rates else None)),
        Fact("Packets", formats.packet_rate(rates.packets if rates else None)),
        Fact("Dropped", _share(rates), "dropped"),
        Fact("Allowed", formats.bit_rate(rates.passed_bits if rates else None), "allowed"),
        Fact("Attacked", _targets()),
        lasts,
    )
    return Headline(True, said, formats.bit_rate(peak), "peak", facts)


def _peak(readings: list[traffic.Reading], since: datetime, now: datetime) -> float | None:
    """Means of ten seconds, of minutes when it lasts for hours."""
    seconds = max(60, int((now - since).total_seconds()) + 5)
    step = 10 if seconds < 3600 else traffic.SPREAD_BELOW
    highest = traffic.total(readings, seconds=seconds + step, step=step, now=now).peak
    return highest.bits if highest else None


def _share(rates: traffic.Rates | None) -> Figure:
    if rates is None:
        return Figure(formats.NO_DATA)
    return formats.share(rates.dropped_bits, rates.bits) if rates.bits else Figure("0", "%")


def _targets() -> Figure:
    """Prefixes; a request by name alone counts as one."""
    number = Target.objects.filter(mitigation__in=_attacked()).count() + _attacked().filter(targets=None).count()
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
