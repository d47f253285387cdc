"""What the enforcement points say about a mitigation's rules, gathered for many mitigations in one query."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min, Q, Sum

from mitigation.dashboard.traffic import Reading
from mitigation.models import EnforcementPoint, Mitigation, Rule, RuleOwner
from mitigation.rules.canonical import Kind


@dataclass(slots=True)
class PointEvidence:
    """One point's share of one mitigation. Counts are rules."""

    name: str
    driver: str
    enforces: bool
    counts: bool
    is_up: bool
    seen_at: datetime | None = None  # when its equipment last answered
    wanted: int = 0
    installed: int = 0
    failed: int = 0
    hit_packets: int = 0  # dropped or redirected
    read_at: datetime | None = None
    deadline: datetime | None = None

    @property
    def rules(self) -> int:
        return self.wanted + self.installed + self.failed

    @property
    def has_all(self) -> bool:
        return self.enforces and self.rules > 0 and self.installed == self.rules

    @property
    def is_hit(self) -> bool:
        return self.counts and self.hit_packets > 0


@dataclass(slots=True)
class Evidence:
    """`may_enforce`: whether any enabled point of this server touches traffic at all.

    `in_shadow`: by its domain's policy this mitigation does not.
    """

    may_enforce: bool
    in_shadow: bool = False
    points: list[PointEvidence] = field(default_factory=list)

    @property
    def rules(self) -> int:
        return sum(point.rules for point in self.points)

    @property
    def is_dry(self) -> bool:
        if self.in_shadow:
            return True
        if self.points:
            return not any(point.enforces for point in self.points)
        return not self.may_enforce

    @property
    def why_dry(self) -> str:
        if self.in_shadow:
            return "Shadow mode: only rules that count are installed"
        return "Dry run: no rule is installed anywhere"

    @property
    def counts(self) -> bool:
        return any(point.counts for point in self.points)

    @property
    def installed_at(self) -> int:
        return sum(point.has_all for point in self.points)

    @property
    def hit_at(self) -> int:
        return sum(point.is_hit for point in self.points)

    @property
    def counting(self) -> int:
        return sum(point.counts for point in self.points)

    @property
    def where(self) -> str:
        return ", ".join(point.name for point in self.points)

    @property
    def looked_at(self) -> datetime | None:
        """When any of its points was last looked at."""
        moments = [at for point in self.points for at in (point.read_at, point.seen_at) if at]
        return max(moments, default=None)


# An enforcer looks at its point at least every 30 s and reads counters each second, but writes only what has moved. As
# long as its point answered in this time, in seconds, "nothing moved" is known and not merely not heard of.
ALIVE = 75.0


def reading(mitigation: Mitigation, evidence: Evidence, now: datetime) -> Reading | None:
    """From when to when its counters were read; None where they never were."""
    if mitigation.counted_at is None:
        return None
    since = mitigation.installed_at or mitigation.mitigation_start or mitigation.requested_at
    alive = any(point.counts and point.is_up and _is_recent(point.seen_at, now) for point in evidence.points)
    until = now if alive and mitigation.ended_at is None else mitigation.counted_at
    return Reading(mitigation.pk, min(since, mitigation.counted_at), until)


def readings_since(start: datetime, now: datetime) -> list[Reading]:
    """Of all mitigations whose counters were read since `start`, ended ones too; any live point vouches for all."""
    points = EnforcementPoint.objects.filter(enabled=True, counts=True).exclude(health=EnforcementPoint.Health.DOWN)
    alive = points.filter(health_at__gt=now - timedelta(seconds=ALIVE)).exists()
    read = Mitigation.objects.filter(Q(counted_at__gt=start) | Q(counted_at__isnull=False, ended_at=None))
    times = read.values_list("pk", "installed_at", "mitigation_start", "requested_at", "counted_at", "ended_at")
    return [
        Reading(pk, min(installed or begun or asked, counted), now if alive and ended is None else counted)
        for pk, installed, begun, asked, counted, ended in times
        if counted is not None
    ]


def _is_recent(at: datetime | None, now: datetime) -> bool:
    return at is not None and (now - at).total_seconds() < ALIVE


def answers(point: EnforcementPoint, now: datetime) -> bool:
    """Whether what did not move at this point is known not to have moved."""
    return point.counts and point.health != EnforcementPoint.Health.DOWN and _is_recent(point.health_at, now)


def may_enforce() -> bool:
    """False: dry run. No enabled point of this server touches traffic."""
    return EnforcementPoint.objects.filter(enabled=True, enforces=True).exists()


def gather(mitigations: Collection[Mitigation]) -> dict[int, Evidence]:
    """Each mitigation with its domain already loaded."""
    enforcing = may_enforce()
    found = {mitigation.pk: Evidence(enforcing, mitigation.domain.shadow) for mitigation in mitigations}
    points: dict[tuple[int, int], PointEvidence] = {}
    for row in _rows(found):
        key = (row["mitigation_id"], row["rule__point_id"])
        if key not in points:
            points[key] = PointEvidence(
                name=row["rule__point__name"],
                driver=row["rule__point__driver"],
                enforces=row["rule__point__enforces"],
                counts=row["rule__point__counts"],
                is_up=row["rule__point__health"] != EnforcementPoint.Health.DOWN,
                seen_at=row["rule__point__health_at"],
            )
            found[row["mitigation_id"]].points.append(points[key])
        _add(points[key], row)
    return found


def _rows(ids: Collection[int]) -> list[dict[str, Any]]:
    point = [f"rule__point__{name}" for name in ("name", "driver", "enforces", "counts", "health", "health_at")]
    return list(
        RuleOwner.objects.filter(mitigation_id__in=list(ids))
        .values("mitigation_id", "rule__point_id", *point, "rule__state")
        .annotate(
            number=Count("rule_id"),
            hit=Sum("rule__packets", filter=Q(rule__drops=True) | Q(rule__kind=Kind.REDIRECT.value)),
            read=Max("rule__read_at"),
            deadline=Min("rule__deadline"),
        )
        .order_by("rule__point__name")
    )


def _add(point: PointEvidence, row: dict[str, Any]) -> None:
    match row["rule__state"]:
        case Rule.State.INSTALLED:
            point.installed += row["number"]
        case Rule.State.FAILED:
            point.failed += row["number"]
        case _:
            point.wanted += row["number"]
    point.hit_packets += row["hit"] or 0
    point.read_at = max(filter(None, (point.read_at, row["read"])), default=None)
    point.deadline = min(filter(None, (point.deadline, row["deadline"])), default=None)
