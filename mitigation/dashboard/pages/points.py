"""Where rules go: each point with its state and load, and the switches over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q

from mitigation.dashboard import formats
from mitigation.dashboard.pages.base import Context, Page
from mitigation.dashboard.states import State
from mitigation.dashboard.switches import switches
from mitigation.models import EnforcementPoint, RefusedAcl, Rule

QUIET = 75.0  # seconds: an enforcer looks at its point at least every 30


@dataclass(frozen=True, slots=True)
class PointRow:
    point: EnforcementPoint
    state: State
    kind: str
    rules: int
    installed: int
    refused: int  # lists of filters that it cannot enforce
    looked: int | None
    looked_text: str

    @property
    def waits(self) -> int:
        return self.rules - self.installed


def build(now: datetime, query: Mapping[str, str]) -> Context:
    rules = Rule.objects.values("point_id").annotate(
        all=Count("pk"), installed=Count("pk", filter=Q(state=Rule.State.INSTALLED))
    )
    counted = {one["point_id"]: (one["all"], one["installed"]) for one in rules}
    refused = dict(RefusedAcl.objects.values_list("point").annotate(number=Count("pk")))
    points = [
        _row(point, *counted.get(point.pk, (0, 0)), refused.get(point.pk, 0), now)
        for point in EnforcementPoint.objects.filter(enabled=True).order_by("name")
    ]
    return {
        "points": points,
        "ready": sum(row.state.tone != "bad" for row in points),
        "in_place": sum(row.installed for row in points),
        "switches": switches(now),
    }


def _row(point: EnforcementPoint, rules: int, installed: int, refused: int, now: datetime) -> PointRow:
    looked = max(filter(None, (point.health_at, point.reconciled_at)), default=None)
    return PointRow(
        point=point,
        state=_state(point, looked, now),
        kind=point.driver if point.enforces else f"{point.driver}, touches nothing",
        rules=rules,
        installed=installed,
        refused=refused,
        looked=formats.milliseconds(looked) if looked else None,
        looked_text=formats.ago((now - looked).total_seconds()) if looked else "never",
    )


def _state(point: EnforcementPoint, looked: datetime | None, now: datetime) -> State:
    if point.health == EnforcementPoint.Health.DOWN:
        return State("Down", "lost", "bad", point.health_sentence or "It does not answer.", rank=0)
    if looked is None or (now - looked).total_seconds() > QUIET:
        return State("Not looked at", "clock", "warn", "Its enforcer has not been heard of.", rank=1)
    if not point.enforces:
        return State("Dry run", "dry", detail="No traffic is touched.", rank=3)
    return State("Ready", "check", "good", point.health_sentence, rank=2)


POINTS = Page(
    "points",
    "points.html",
    build,
    regions={
        "points-count": "partials/points_count.html",
        "points": "partials/points.html",
        "switches": "partials/switches.html",
    },
)
