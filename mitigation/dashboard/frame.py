"""What stands around every page: the rail with its counts, the tabs of a phone, the dry-run banner."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.urls import reverse

from mitigation.dashboard import evidence, needs
from mitigation.models import Acl, Domain, EnforcementPoint, Hold, Mitigation, Session

REGIONS = {"rail": "partials/rail.html", "tabs": "partials/tabs.html", "banner": "partials/banner.html"}


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    word: str
    icon: str
    number: int | None = None
    alert: str = ""  # bad or warn: somebody is needed
    is_tab: bool = True  # on a phone; there is room for five, and the others stand under More

    @property
    def url(self) -> str:
        return reverse(self.name)


def build(now: datetime) -> dict[str, Any]:
    waiting = needs.find(now)
    return {
        "thrown": list(Hold.objects.order_by("since")),
        "dry_run": not evidence.may_enforce(),
        "rail": [
            Entry("now", "Now", "icons/pulse.svg", waiting.total or None, alert=waiting.tone),
            Entry("mitigations", "Mitigations", "icons/shield.svg", Mitigation.objects.live().count()),
            Entry("sessions", "Sessions", "icons/plug.svg", Session.objects.live().count()),
            Entry("domains", "Domains", "icons/building.svg", Domain.objects.count()),
            Entry("filters", "Filters", "icons/funnel.svg", Acl.objects.count(), is_tab=False),
            Entry("points", "Points", "icons/router.svg", EnforcementPoint.objects.filter(enabled=True).count()),
        ],
    }
