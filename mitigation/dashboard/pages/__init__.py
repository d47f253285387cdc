"""What can be looked at, by the name of its URL."""

from __future__ import annotations

from mitigation.dashboard.pages.base import Context, Page, Rows
from mitigation.dashboard.pages.domains import DOMAIN, DOMAINS
from mitigation.dashboard.pages.filters import FILTER, FILTERS
from mitigation.dashboard.pages.mitigation import MITIGATION
from mitigation.dashboard.pages.mitigations import MITIGATIONS
from mitigation.dashboard.pages.now import NOW
from mitigation.dashboard.pages.points import POINTS
from mitigation.dashboard.pages.sessions import SESSIONS

PAGES = {page.name: page for page in (NOW, MITIGATIONS, MITIGATION, SESSIONS, DOMAINS, DOMAIN, FILTERS, FILTER, POINTS)}

__all__ = ["PAGES", "Context", "Page", "Rows"]
