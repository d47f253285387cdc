"""Clients' filters (RFC 8783): all lists in their order, and one with its entries, counters and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from urllib.parse import urlencode

from django.core.paginator import Page as Paged
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import Http404

from mitigation.dashboard import charts, filter_history, filter_lines, filter_rows, formats, rows, traffic
from mitigation.dashboard.charts import Chart
from mitigation.dashboard.filter_lines import Line
from mitigation.dashboard.filter_rows import FilterRow
from mitigation.dashboard.formats import Figure
from mitigation.dashboard.pages.base import Context, Page
from mitigation.dashboard.pages.mitigation import Total
from mitigation.models import Acl, Client, Mitigation
from mitigation.protocol.filters import ActivationType
from mitigation.services import filter_enforcement

LISTS_PER_PAGE = 50
LINES_PER_PAGE = 100
LONGEST_WORDS = 200
_NOTHING = "Entries are counted while they are installed."
_ALONE = "Allowed alone, own scale: what its entries accept"
RANGES = ("5m", "15m", "1h", "24h")  # samples of filters are kept for a day
SHOW = {"all": "All", "wanted": "Wanted", "off": "Off", "refused": "Refused"}


@dataclass(frozen=True, slots=True)
class Choice:
    word: str
    number: int
    url: str
    is_current: bool


@dataclass(slots=True)
class Owned:
    """The lists of one client under one cuid, in their order."""

    client: Client
    cuid: str
    rows: list[FilterRow] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"owner-{self.client.pk}-{self.cuid}"


# -- all lists --------------------------------------------------------------------------------------------------------


def build(now: datetime, query: Mapping[str, str]) -> Context:
    show = query.get("show", "")
    show = show if show in SHOW else "all"
    words = query.get("q", "").strip()[:LONGEST_WORDS]
    matching = _matching(Acl.objects.current(now), words)
    page = Paginator(_ordered(_shown(matching, show)), LISTS_PER_PAGE).get_page(query.get("page"))
    found = filter_rows.build(list(page.object_list), now)
    return {
        "filters": [
            Choice(SHOW[name], _shown(matching, name).count(), _url(show=name, q=words), name == show) for name in SHOW
        ],
        "show": show,
        "words": words,
        "address": filter_lines.network_of(words) is not None,
        "owners": _by_owner(found),
        "suffix": f"?{urlencode({'q': words})}" if filter_lines.network_of(words) is not None else "",
        **_paging(page, show=show, q=words),
    }


def _matching(acls: QuerySet[Acl], words: str) -> QuerySet[Acl]:
    """By address: lists with an entry that names it. By words: each of them in its names or in its entries."""
    network = filter_lines.network_of(words)
    if network is not None:
        held = [acl.pk for acl in acls.defer("aces") if filter_lines.found(acl, words)]
        return acls.filter(pk__in=held)
    for word in words.split():
        named = Q(name__icontains=word) | Q(cuid__icontains=word) | Q(client__name__icontains=word)
        named |= Q(client__domain__name__icontains=word) | Q(text__icontains=word)
        acls = acls.annotate(text=Cast("aces", TextField())).filter(named)
    return acls


def _shown(acls: QuerySet[Acl], show: str) -> QuerySet[Acl]:
    off = Q(activation_type=ActivationType.DEACTIVATE) | Q(held_at__isnull=False)
    match show:
        case "wanted":
            return acls.exclude(off)
        case "off":
            return acls.filter(off)
        case "refused":
            return acls.filter(refusals__isnull=False).distinct()
    return acls


def _ordered(acls: QuerySet[Acl]) -> QuerySet[Acl]:
    order = ("client__domain__name", "client__name", "cdid", "cuid", "position", "pk")
    return acls.defer("aces").select_related("client__domain").order_by(*order)


def _by_owner(found: list[FilterRow]) -> list[Owned]:
    def owner(row: FilterRow) -> tuple[int, str, str]:
        return row.acl.client_id, row.acl.cdid, row.acl.cuid

    groups = [list(group) for _, group in groupby(found, key=owner)]
    return [Owned(group[0].acl.client, group[0].acl.cuid, group) for group in groups]


def _url(**values: object) -> str:
    return f"?{urlencode({name: value for name, value in values.items() if value})}"


def _paging(page: Paged, **values: object) -> Context:
    return {
        "page": page,
        "order_words": "as their clients have ordered them",
        "previous_url": _url(**values, page=page.previous_page_number()) if page.has_previous() else "",
        "next_url": _url(**values, page=page.next_page_number()) if page.has_next() else "",
    }


# -- one list ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EntryRow:
    line: Line
    packets: Figure
    octets: Figure
    share: str  # of the list's packets: units of a bar that is 100 long
    share_words: str
    is_idle: bool

    @property
    def key(self) -> str:
        return f"ace-{self.line.number}"


def build_one(now: datetime, query: Mapping[str, str], *, pk: int) -> Context:
    acl = Acl.objects.current(now).defer("aces").select_related("client__domain").filter(pk=pk).first()
    if acl is None:
        raise Http404(f"There is no filter {pk}. Its client may have deleted it, or it has run out.")
    (row,) = filter_rows.build([acl], now)
    words = query.get("q", "").strip()[:LONGEST_WORDS]
    range_ = charts.chosen(query, RANGES)
    seconds, step = traffic.RANGES[range_]
    series = traffic.total(
        [row.reading] if row.reading else [], seconds=seconds, step=step, now=now, source=traffic.FILTERS
    )
    page = Paginator(filter_lines.found(acl, words), LINES_PER_PAGE).get_page(query.get("page"))
    return {
        "row": row,
        "acl": acl,
        "words": words,
        "chart": Chart("filter", series, range_, now, (), _NOTHING, _ALONE, _keep(words), RANGES),
        "totals": _totals(row) if row.facts.is_counted else [],
        "entries": _entries(row, list(page.object_list)),
        "position": _position(acl, now),
        "changed": formats.moment(acl.changed_at or acl.created_at, now),
        "refreshed": formats.moment(acl.refreshed_at, now),
        "meets": _lets_in(acl),
        "events": filter_history.build(acl, now),
        **_paging(page, q=words, range=range_ if "range" in query else ""),
        "order_words": "the first that matches decides",
    }


def _keep(words: str) -> str:
    return f"{urlencode({'q': words})}&" if words else ""


def _totals(row: FilterRow) -> list[Total]:
    return [Total("Packets since it stands", row.packets), Total("Octets since it stands", row.octets)]


def _entries(row: FilterRow, lines: list[Line]) -> list[EntryRow]:
    names = [line.name for line in lines]
    counted = filter_enforcement.statistics([row.acl.pk], names).get(row.acl.pk, {})
    return [_entry(line, counted.get(line.name), row) for line in lines]


def _entry(line: Line, counts: tuple[int, int] | None, row: FilterRow) -> EntryRow:
    if counts is None:
        return EntryRow(
            line, row.packets if row.packets.unit == "" else Figure(formats.NO_DATA), Figure(""), "", "", True
        )
    packets, octets = counts
    whole = row.facts.packets
    return EntryRow(
        line=line,
        packets=formats.packets(packets),
        octets=formats.octets(octets),
        share=f"{100 * packets / whole:.1f}" if whole else "0",
        share_words=str(formats.share(packets, whole)) if whole else "",
        is_idle=packets == 0,
    )


def _position(acl: Acl, now: datetime) -> str:
    siblings = Acl.objects.current(now).filter(client=acl.client_id, cdid=acl.cdid, cuid=acl.cuid)
    before = siblings.filter(Q(position__lt=acl.position) | Q(position=acl.position, pk__lt=acl.pk)).count()
    return f"{before + 1} of {siblings.count()}"


@dataclass(frozen=True, slots=True)
class LetIn:
    """A mitigation whose attackers this list accepts."""

    mitigation: Mitigation
    target: str


def _lets_in(acl: Acl) -> list[LetIn]:
    same = {"client": acl.client_id, "cdid": acl.cdid, "cuid": acl.cuid}
    some = Mitigation.objects.live().filter(**same).exclude(accept_lists=[])
    return [LetIn(one, rows.target_of(one.scope)[0]) for one in some if acl.name in one.accept_lists]


FILTERS = Page(
    "filters",
    "filters.html",
    build,
    regions={
        "filters": "partials/mitigation_filters.html",
        "filter-lists": "partials/filter_lists.html",
        "paging": "partials/paging.html",
    },
)
FILTER = Page(
    "filter",
    "filter.html",
    build_one,
    regions={
        "title": "partials/filter_title.html",
        "chart-filter": "partials/chart.html",
        "entries": "partials/filter_entries.html",
        "where": "partials/filter_where.html",
        "timeline": "partials/timeline.html",
    },
    rail="filters",
)
