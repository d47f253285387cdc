"""Clients' lists of filters as rows show them: where each stands, what it met, and why it does not stand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, Sum
from django.urls import reverse

from mitigation.dashboard import evidence, formats, rows, sparklines, traffic
from mitigation.dashboard.formats import Figure
from mitigation.dashboard.rows import Countdown
from mitigation.dashboard.states import State
from mitigation.dashboard.traffic import Reading
from mitigation.models import Acl, EnforcedAce, EnforcementPoint, Hold, Mitigation, RefusedAcl
from mitigation.protocol.filters import ActivationType
from mitigation.services.filter_projection import Owner, mitigated_until, why_held
from mitigation.services.filters import lifetime

# Entries are read back from the equipment this long after a change, in seconds; later it is a broken promise.
EXPECTED_WITHIN = 10.0
ACTIVATION = {
    ActivationType.IMMEDIATE: "immediate",
    ActivationType.ACTIVATE_WHEN_MITIGATING: "when mitigating",
    ActivationType.DEACTIVATE: "deactivated",
}


@dataclass(slots=True)
class PointShare:
    """One point's share of one list. Counts are entries."""

    point: EnforcementPoint
    entries: int = 0
    installed: int = 0
    rendered: int = 0

    @property
    def says(self) -> str:
        if self.point.health == EnforcementPoint.Health.DOWN:
            return "down"
        if self.installed or self.rendered:
            words = "installed" if self.installed else "rendered, put nowhere"
            return f"{formats.count(self.installed or self.rendered)} {words}"
        return "not there"


@dataclass(slots=True)
class Facts:
    """What the points say of one list."""

    points: list[PointShare] = field(default_factory=list)
    refusals: list[RefusedAcl] = field(default_factory=list)
    packets: int = 0
    octets: int = 0
    is_counted: bool = False
    since: datetime | None = None
    read_at: datetime | None = None

    @property
    def where(self) -> str:
        return ", ".join(share.point.name for share in self.points if share.installed or share.rendered)


@dataclass(frozen=True, slots=True)
class FilterRow:
    acl: Acl
    facts: Facts
    state: State
    activation: str
    packets: Figure
    octets: Figure
    left: Countdown
    spark: sparklines.Sparkline | None
    reading: Reading | None

    @property
    def key(self) -> str:
        return f"acl-{self.acl.pk}"

    @property
    def url(self) -> str:
        return reverse("filter", args=[self.acl.pk])

    @property
    def urls(self) -> dict[str, str]:
        """By what can be decided about it."""
        return {verb: reverse(f"filter-{verb}", args=[self.acl.pk]) for verb in ("hold", "release", "allow", "refuse")}

    @property
    def entries(self) -> str:
        return formats.count(self.acl.ace_count)

    @property
    def is_held(self) -> bool:
        return self.acl.held_at is not None

    @property
    def waits(self) -> bool:
        """For an operator to allow it beside another client's that it contradicts."""
        return self.acl.awaits_operator

    @property
    def is_off(self) -> bool:
        return self.state.shape == "ended"

    @property
    def version(self) -> str:
        """Another one when somebody else was quicker to hold or release it, or its client to change it."""
        moments = (self.acl.held_at, self.acl.changed_at)
        return "-".join((*(str(formats.milliseconds(at)) if at else "" for at in moments), "w" * self.waits))


def build(acls: Collection[Acl], now: datetime) -> list[FilterRow]:
    """Rows in the order given; each list with its client and domain already loaded."""
    around = _Surroundings({acl.client_id for acl in acls}, now)
    facts = _gather(acls)
    readings = {acl.pk: found for acl in acls if (found := _reading(acl, facts[acl.pk], now)) is not None}
    series = traffic.by_owner(
        readings.values(), seconds=rows.SPARK_SECONDS, step=rows.SPARK_STEP, now=now, source=traffic.FILTERS
    )
    return [
        FilterRow(
            acl=acl,
            facts=(known := facts[acl.pk]),
            state=_state(acl, known, around, now),
            activation=ACTIVATION[ActivationType(acl.activation_type)],
            packets=formats.packets(known.packets) if known.is_counted else _uncounted(known),
            octets=formats.octets(known.octets) if known.is_counted else _uncounted(known),
            left=_left(acl, around, now),
            spark=sparklines.draw(series.get(acl.pk)),
            reading=readings.get(acl.pk),
        )
        for acl in acls
    ]


def _uncounted(facts: Facts) -> Figure:
    there = [share.point for share in facts.points if share.installed]
    return Figure(formats.NO_COUNTERS if there and not any(point.counts for point in there) else formats.NO_DATA)


def _left(acl: Acl, around: _Surroundings, now: datetime) -> Countdown:
    if acl.expires_at <= now:
        return Countdown(None, None, "with its mitigation")  # it does not run out while one runs
    if acl.expires_at.year - now.year > 100:
        return Countdown(None, None, "no end")
    return rows.until(acl.expires_at, round(lifetime(acl.client.domain).total_seconds()), now)


def _gather(acls: Collection[Acl]) -> dict[int, Facts]:
    """Every point that should have them is named for each, so that a missing one shows."""
    points = {point.pk: point for point in EnforcementPoint.objects.filter(enabled=True).order_by("name")}
    shares = {acl.pk: {pk: PointShare(point) for pk, point in points.items()} for acl in acls}
    found = {acl.pk: Facts() for acl in acls}
    for row in _enforced(found):
        facts, share = found[row["acl_id"]], shares[row["acl_id"]].get(row["point_id"])
        if share is not None:
            share.entries, share.installed, share.rendered = row["entries"], row["installed"], row["rendered"]
        facts.packets += row["met_packets"]
        facts.octets += row["met_octets"]
        facts.is_counted |= row["counted"] > 0
        facts.since = min(filter(None, (facts.since, row["begun"])), default=None)
        facts.read_at = max(filter(None, (facts.read_at, row["read"])), default=None)
    for refusal in RefusedAcl.objects.filter(acl__in=list(found), point__enabled=True).select_related("point"):
        found[refusal.acl_id].refusals.append(refusal)
    for pk, facts in found.items():
        facts.points = list(shares[pk].values())
    return found


def _enforced(ids: Collection[int]) -> Any:
    state = EnforcedAce.State
    return (
        EnforcedAce.objects.filter(acl__in=list(ids))
        .values("acl_id", "point_id")
        .annotate(
            entries=Count("pk"),
            installed=Count("pk", filter=Q(state=state.INSTALLED)),
            rendered=Count("pk", filter=Q(state=state.RENDERED)),
            counted=Count("pk", filter=~Q(epoch="")),
            met_packets=Sum("packets"),
            met_octets=Sum("octets"),
            begun=Min("installed_at"),
            read=Max("read_at"),
        )
        .order_by()
    )


def _reading(acl: Acl, facts: Facts, now: datetime) -> Reading | None:
    if not facts.is_counted or facts.read_at is None:
        return None
    live = any(share.installed and evidence.answers(share.point, now) for share in facts.points)
    return Reading(acl.pk, min(facts.since or facts.read_at, facts.read_at), now if live else facts.read_at)


# -- where it stands --------------------------------------------------------------------------------------------------


class _Surroundings:
    """What decides whether lists of these clients should stand."""

    def __init__(self, clients: Collection[int], now: datetime) -> None:
        self.thrown = {hold.kind: hold for hold in Hold.objects.all()}
        self.until = mitigated_until(clients, self.thrown, now=now)
        enforced = Mitigation.objects.enforced().filter(client_id__in=clients)
        self.attacked: set[Owner] = set(enforced.values_list("client_id", "cdid", "cuid"))
        waiting = enforced.filter(approved_at=None, approve_by__isnull=False)
        self.waiting: set[Owner] = set(waiting.values_list("client_id", "cdid", "cuid"))


def _state(acl: Acl, facts: Facts, around: _Surroundings, now: datetime) -> State:
    activation = ActivationType(acl.activation_type)
    if acl.held_at is not None:
        at = formats.moment(acl.held_at, now)
        return State("Held", "stop", "warn", f"By {acl.held_by}, {at}: {acl.held_reason}", rank=3)
    if acl.awaits_operator:
        detail = "Another client's filter does the opposite with the same traffic; an operator has yet to allow it."
        return State("Needs approval", "question", "warn", detail, rank=1)
    if activation is ActivationType.DEACTIVATE:
        return State("Off", "ended", detail="Its client keeps it ready and has it do nothing.", rank=9)
    if not acl.ace_count:
        return State("Empty", "ended", detail="It has no entry, so it does nothing.", rank=9)
    if activation is ActivationType.ACTIVATE_WHEN_MITIGATING:
        waits = _waits(acl, around)
        if waits is not None:
            return waits
    if facts.refusals:
        reasons = dict.fromkeys(refusal.reason for refusal in facts.refusals)
        return State("Not enforced", "broken", "bad", f"Refused: {'; '.join(reasons)}", rank=0)
    if why := why_held(acl.changed_at or acl.created_at, around.thrown):
        return State("Held", "stop", "warn", f"{why[:1].upper()}{why[1:]}", rank=3)
    return _enforcement(acl, facts, now)


def _waits(acl: Acl, around: _Surroundings) -> State | None:
    owner = (acl.client_id, acl.cdid, acl.cuid)
    if owner in around.until:
        return None
    if owner in around.waiting:
        return State(
            "Needs approval", "question", "warn", "It stands when its client's mitigation is approved.", rank=1
        )
    if owner in around.attacked:
        return State("Held", "stop", "warn", "Its client's mitigation is held back.", rank=3)
    return State("Waiting", "clock", detail="It stands while a mitigation of its client does.", rank=7)


def _enforcement(acl: Acl, facts: Facts, now: datetime) -> State:
    enforcing = [share for share in facts.points if share.point.enforces]
    if not enforcing:
        return State("Dry run", "dry", "warn", "No point here touches traffic.", rank=4)
    if acl.client.domain.shadow:
        return State("Shadow", "dry", "warn", "Its domain is in shadow mode: shown, and installed nowhere.", rank=4)
    down = [share.point.name for share in enforcing if share.point.health == EnforcementPoint.Health.DOWN]
    if down:
        return State("Point down", "lost", "bad", f"Nobody can say whether it stands at {', '.join(down)}.", rank=1)
    if any(share.installed < acl.ace_count for share in enforcing):
        if (now - (acl.changed_at or acl.created_at)).total_seconds() <= EXPECTED_WITHIN:
            return State("Approved", "approved", detail="Its entries are on their way.", rank=3)
        return State("Not enforced", "broken", "bad", "No point has confirmed all of its entries.", rank=0)
    if facts.packets:
        return State("Hitting", "hitting", "good", rank=2)
    return State("Installed", "installed", rank=3)
