"""All mitigations, active and ended; the filter stands in the address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.db.models import Q, TextField
from django.db.models.functions import Cast

from mitigation.dashboard import rows
from mitigation.dashboard.pages.base import Context, Page, Rows
from mitigation.models import Mitigation
from mitigation.models.mitigations import MitigationQuerySet

PER_PAGE = 50
SHOW = {"active": "Active", "ended": "Ended", "all": "All"}


@dataclass(frozen=True, slots=True)
class Filter:
    name: str
    word: str
    number: int
    url: str
    is_current: bool


def build(now: datetime, query: Mapping[str, str]) -> Context:
    show = query.get("show", "")
    show = show if show in SHOW else "active"
    words = query.get("q", "").strip()[:200]
    matching = _matching(words)
    chosen = _shown(matching, show).select_related("client", "domain")
    page = Paginator(chosen, PER_PAGE).get_page(query.get("page"))
    return {
        "filters": [_filter(name, matching, show, words) for name in SHOW],
        "show": show,
        "words": words,
        "page": page,
        "rows": rows.build(list(page.object_list), now),
        "previous_url": _url(show, words, page.previous_page_number()) if page.has_previous() else "",
        "next_url": _url(show, words, page.next_page_number()) if page.has_next() else "",
    }


def _matching(words: str) -> MitigationQuerySet:
    found = Mitigation.objects.all()
    if not words:
        return found
    anywhere = Q(text__icontains=words) | Q(domain__name__icontains=words) | Q(client__name__icontains=words)
    if words.isascii() and words.isdigit() and len(words) <= 10:
        anywhere |= Q(mid=int(words))
    return found.annotate(text=Cast("scope", TextField())).filter(anywhere)


def _shown(found: MitigationQuerySet, show: str) -> MitigationQuerySet:
    match show:
        case "active":
            return found.live().order_by("-requested_at", "-pk")
        case "ended":
            return found.exclude(ended_at=None).order_by("-ended_at", "-pk")
    return found.order_by("-requested_at", "-pk")


def _filter(name: str, found: MitigationQuerySet, show: str, words: str) -> Filter:
    return Filter(name, SHOW[name], _shown(found, name).count(), _url(name, words), name == show)


def _url(show: str, words: str, page: int = 1) -> str:
    values = {"show": show, **({"q": words} if words else {}), **({"page": page} if page > 1 else {})}
    return f"?{urlencode(values)}"


MITIGATIONS = Page(
    "mitigations",
    "mitigations.html",
    build,
    regions={"filters": "partials/mitigation_filters.html", "paging": "partials/paging.html"},
    lists={"mitigations": Rows("partials/mitigation_row.html", "rows")},
)
