"""One mitigation: its proof, its traffic, what can be done about it, what happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.http import Http404

from mitigation.dashboard import charts, formats, rows, timeline, traffic
from mitigation.dashboard.charts import Chart
from mitigation.dashboard.formats import Figure
from mitigation.dashboard.pages.base import Context, Page
from mitigation.dashboard.rows import Countdown, MitigationRow
from mitigation.models import Mitigation, Rule
from mitigation.protocol.status import Status
from mitigation.rules.canonical import Kind
from mitigation.services import shadow


def build(now: datetime, query: Mapping[str, str], *, pk: int) -> Context:
    mitigation = Mitigation.objects.select_related("client", "domain").filter(pk=pk).first()
    if mitigation is None:
        raise Http404(f"There is no mitigation {pk}.")
    (row,) = rows.build([mitigation], now)
    range_ = charts.chosen(query)
    seconds, step = traffic.RANGES[range_]
    series = traffic.total([row.reading] if row.reading else [], seconds=seconds, step=step, now=now)
    looked = row.evidence.looked_at
    return {
        "row": row,
        "mitigation": mitigation,
        "chart": Chart("mitigation", series, range_, now, _marks(mitigation)),
        "totals": [total for total in _totals(row) if total.figure.unit] and _totals(row),
        "clock": _clock(row, now),
        "points": _points(mitigation, now),
        "events": timeline.build(mitigation, row.evidence, now),
        "request_text": _request(mitigation),
        "granted": _granted(mitigation),
        "refreshed": formats.moment(mitigation.refreshed_at, now),
        "first_drop": _first_drop(mitigation),
        "rules_words": _rules_words(row),
        "looked_at": formats.milliseconds(looked) if looked else None,
        "looked_text": formats.ago((now - looked).total_seconds()) if looked else "",
        "stop_effect": _stop_effect(row),
        "estimate": estimated.sentence if (estimated := shadow.estimate(mitigation)) else "",
        "told": f"{mitigation.status}, {_status_words(mitigation)}",
        "other_prefixes": mitigation.scope.get("target-prefix", ())[1:],
    }


def _marks(mitigation: Mitigation) -> tuple[tuple[int, str], ...]:
    moments = ((mitigation.requested_at, "requested"), (mitigation.ended_at, "ended"))
    return tuple((int(at.timestamp()), words) for at, words in moments if at is not None)


def _granted(mitigation: Mitigation) -> str:
    return (
        "without end" if mitigation.lifetime < 0 else f"{mitigation.lifetime} s ({formats.left(mitigation.lifetime)})"
    )


def _first_drop(mitigation: Mitigation) -> str:
    if mitigation.hitting_at is None:
        return ""
    return formats.after((mitigation.hitting_at - mitigation.requested_at).total_seconds()).removeprefix("+")


def _rules_words(row: MitigationRow) -> str:
    known = row.evidence
    return f"{known.rules} at {formats.plural(len(known.points), 'point')}" if known.rules else "none"


def _stop_effect(row: MitigationRow) -> str:
    if row.evidence.is_dry:
        return f"{row.evidence.why_dry}, so no traffic changes. Asks first."
    if row.rates and row.rates.dropped_bits:
        more = formats.bit_rate(row.rates.dropped_bits)
        return f"Its rules leave at once: about {more} reaches {row.target} again, if the attack goes on. Asks first."
    return "Its rules leave at once and its client is told. Asks first."


@dataclass(frozen=True, slots=True)
class Total:
    label: str
    figure: Figure
    swatch: str = ""

    @property
    def icon(self) -> str:
        return f"icons/swatch-{self.swatch}.svg"


def _totals(row: MitigationRow) -> list[Total]:
    rates, mitigation = row.rates, row.mitigation
    redirected = [Total("Redirected", formats.octets(mitigation.redirected_octets), "redirected")]
    return [
        Total("Peak", row.peak),
        Total("Now", row.now),
        Total("Packets", formats.packet_rate(rates.packets) if rates else row.now),
        Total("Dropped", row.dropped_share, "dropped"),
        Total("Since start", formats.octets(mitigation.dropped_octets), "dropped"),
        Total("Allowed", formats.bit_rate(rates.passed_bits) if rates else row.now, "allowed"),
        *(redirected if mitigation.redirected_packets else []),
    ]


@dataclass(frozen=True, slots=True)
class Clock:
    """`words` stands beside the countdown: what happens when it reaches zero."""

    countdown: Countdown
    words: str
    effect: str


def _clock(row: MitigationRow, now: datetime) -> Clock:
    mitigation = row.mitigation
    if mitigation.ended_at is not None:
        return Clock(row.countdown, "ended", mitigation.status_reason)
    if mitigation.status == Status.WITHDRAWN and mitigation.ends_at is not None:
        until = f"until {formats.moment(mitigation.ends_at, now)} its client is told"
        return Clock(replace(row.countdown, is_soon=False), until, "The server withdrew it: its rules leave at once.")
    if mitigation.needs_approval and mitigation.approve_by is not None:
        at = formats.moment(mitigation.approve_by, now)
        return Clock(row.countdown, f"left to approve it, until {at}", "Then the server withdraws it.")
    if mitigation.ends_at is not None:
        at = formats.moment(mitigation.ends_at, now)
        return Clock(row.countdown, f"until its rules leave, {at}", "The client may ask for it again until then.")
    if mitigation.expires_at is not None:
        at = formats.moment(mitigation.expires_at, now)
        return Clock(row.countdown, f"left, ends {at}", "The client may refresh it before that; then it lasts longer.")
    return Clock(row.countdown, "", "Granted without end: it lasts until somebody stops it.")


@dataclass(frozen=True, slots=True)
class RuleRow:
    text: str
    action: str
    packets: Figure
    octets: Figure
    deadline: Countdown
    state: str
    key: str
    is_idle: bool


@dataclass(slots=True)
class PointRules:
    name: str
    driver: str
    says: str
    mark: str
    rows: list[RuleRow] = field(default_factory=list)


def _points(mitigation: Mitigation, now: datetime) -> list[PointRules]:
    found: dict[int, PointRules] = {}
    for rule in Rule.objects.filter(mitigations=mitigation).select_related("point").order_by("point__name", "pk"):
        if rule.point_id not in found:
            found[rule.point_id] = PointRules(rule.point.name, rule.point.driver, "", "")
        found[rule.point_id].rows.append(_rule_row(rule, now))
    for point in found.values():
        point.says, point.mark = _says(point.rows)
        point.rows.sort(key=lambda row: row.is_idle)  # what is hit stands first; the rest keeps its order
    return list(found.values())


def _rule_row(rule: Rule, now: datetime) -> RuleRow:
    counts = rule.point.counts
    return RuleRow(
        text=rule.text,
        action="drop" if rule.drops else "redirect" if rule.kind == Kind.REDIRECT else "count",
        packets=formats.packets(rule.packets) if counts else Figure(formats.NO_COUNTERS),
        octets=formats.octets(rule.octets) if counts else Figure(formats.NO_COUNTERS),
        deadline=_deadline(rule, now),
        state=Rule.State(rule.state).label.lower() if rule.point.enforces else "rendered",
        key=f"rule-{rule.pk}",
        is_idle=rule.packets == 0,
    )


def _deadline(rule: Rule, now: datetime) -> Countdown:
    if rule.deadline is None:
        return Countdown(None, None, "none")
    return Countdown(formats.milliseconds(rule.deadline), None, formats.left((rule.deadline - now).total_seconds()))


def _says(found: list[RuleRow]) -> tuple[str, str]:
    states = {row.state for row in found}
    if states == {"installed"}:
        return "installed", "icons/proof-done.svg"
    if states == {"rendered"}:
        return "dry run: put nowhere", "icons/proof-todo.svg"
    if states == {"rendered", "installed"}:
        return "shadow mode: only what counts is installed", "icons/proof-todo.svg"
    if "failed" in states:
        return "failed", "icons/proof-fail.svg"
    installed = sum(row.state == "installed" for row in found)
    return f"{installed} of {len(found)} installed", "icons/proof-part.svg" if installed else "icons/proof-todo.svg"


def _request(mitigation: Mitigation) -> str:
    """The scope in the order it came, in the JSON names of RFC 9132."""
    scope: dict[str, Any] = {**mitigation.scope, "lifetime": mitigation.lifetime}
    if not mitigation.trigger_mitigation:
        scope["trigger-mitigation"] = False
    return json.dumps({"ietf-dots-signal-channel:mitigation-scope": {"scope": [scope]}}, indent=2)


def _status_words(mitigation: Mitigation) -> str:
    return {
        Status.IN_PROGRESS: "attack mitigation is in progress",
        Status.MITIGATED: "attack is successfully mitigated",
        Status.STOPPED: "attack has stopped",
        Status.EXCEEDED: "attack has exceeded the capability",
        Status.TERMINATING: "withdrawn, but still active",
        Status.TERMINATED: "terminated",
        Status.WITHDRAWN: "withdrawn by the server",
        Status.SIGNAL_LOSS: "will be triggered when the session is lost",
    }[Status(mitigation.status)]


MITIGATION = Page(
    "mitigation",
    "mitigation.html",
    build,
    regions={
        "title": "partials/mitigation_title.html",
        "proof": "partials/proof.html",
        "chart-mitigation": "partials/chart.html",
        "clock": "partials/clockbox.html",
        "rules": "partials/rules.html",
        "timeline": "partials/timeline.html",
        "asked": "partials/asked.html",
    },
    rail="mitigations",
)
