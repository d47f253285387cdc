"""From clients' access control lists to the filters that should stand now. Writes nothing.

An immediate list stands always, one to activate when mitigating while its client has an enforced mitigation, a
deactivated one never (RFC 8783, section 7.2). A list stands whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mitigation.drivers.base import DesiredFilters, Driver
from mitigation.models import Acl, Domain, Hold, Mitigation
from mitigation.protocol.acls import AclType, parse_ace
from mitigation.protocol.filters import ActivationType
from mitigation.protocol.matches import Family
from mitigation.protocol.scope import Network
from mitigation.protocol.trees import TreeFault
from mitigation.rules import filters as rules
from mitigation.rules.filters import FilterList, FilterRule, FilterSet, OutsideDomain
from mitigation.services import policies, scopes
from mitigation.services.projection import DEADLINE_SLACK, HORIZON

Owner = tuple[int, str, str]  # client, cdid, cuid
Row = dict[str, Any]

# All but the entries, which may be thousands: these are read only when something here differs from the last look.
_STAMP = ("client_id", "cdid", "cuid", "name", "acl_type", "changed_at", "created_at", "ace_count")
_HELD = ("held_at", "held_by", "held_reason", "awaits_operator")
_FIELDS = ("pk", *_STAMP, "client__domain_id", "activation_type", "expires_at", *_HELD)
_ORDER = ("client_id", "cdid", "cuid", "position", "pk")


@dataclass(frozen=True, slots=True)
class WantedFilters:
    filters: FilterSet
    deadline: datetime

    def desired(self, now: datetime) -> DesiredFilters:
        return DesiredFilters(self.filters, max(1, round((self.deadline - now).total_seconds())))


@dataclass(slots=True)
class FilterProjection:
    """What should stand, and what does not and why, by id of the list. `next_change` is when the first one expires."""

    wanted: list[WantedFilters] = field(default_factory=list)
    lists: dict[int, FilterList] = field(default_factory=dict)
    shadow: dict[int, FilterList] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)  # of those refused: people hold them back, and nothing is wrong
    next_change: datetime | None = None

    def is_as(self, other: FilterProjection | None) -> bool:
        """The same filters for the same destinations, whatever their deadlines."""
        return other is not None and [_said(one.filters) for one in self.wanted] == [
            _said(one.filters) for one in other.wanted
        ]


def _said(filters: FilterSet) -> tuple[str, tuple[Network, ...], tuple[int, ...]]:
    return filters.key, filters.destinations, tuple(map(id, filters.lists))


@dataclass(slots=True)
class _Parsed:
    """A list of these entries for these prefixes: rules, or why there are none."""

    stamp: tuple[Any, ...]
    prefixes: tuple[Network, ...]
    family: Family | None = None
    entries: dict[str, tuple[Row, FilterRule]] = field(default_factory=dict)
    filters: FilterList | None = None
    problem: str = ""


class FilterProjector:
    """Remembers what it parsed: one entry more beside 10,000 then costs milliseconds, not half a second."""

    def __init__(self) -> None:
        self._parsed: dict[int, _Parsed] = {}

    def look(self, driver: Driver, *, now: datetime) -> FilterProjection:
        current = list(Acl.objects.current(now).order_by(*_ORDER).values(*_FIELDS))
        found, thrown = FilterProjection(), {hold.kind: hold for hold in Hold.objects.all()}
        until = mitigated_until({row["client_id"] for row in current}, thrown, now=now)
        standing = []
        for row in current:
            if not _is_active(row, until):
                continue
            if why := _held_itself(row) or why_held(row["changed_at"] or row["created_at"], thrown):
                found.refused[row["pk"]] = why
                found.held.add(row["pk"])
            else:
                standing.append(row)
        domains = Domain.objects.in_bulk({row["client__domain_id"] for row in standing})
        prefixes = {pk: tuple(one.prefixes) for pk, one in scopes.allowed(domains).items()}
        self._parse(standing, prefixes)
        for pk in self._parsed.keys() - {row["pk"] for row in current}:
            del self._parsed[pk]
        impossible = {one.key: one.sentence for one in driver.check_filters(self._rules(standing))}
        for pk, domain in sorted(domains.items()):
            rows = [row for row in standing if row["client__domain_id"] == pk]
            self._gather(domain, prefixes[pk], rows, until, impossible, found)
        found.next_change = min((row["expires_at"] for row in standing if row["expires_at"] > now), default=None)
        return found

    def _gather(
        self,
        domain: Domain,
        prefixes: Sequence[Network],
        rows: Iterable[Row],
        until: Mapping[Owner, datetime],
        impossible: Mapping[str, str],
        found: FilterProjection,
    ) -> None:
        """One domain's lists: by client, and as each client has ordered them."""
        lists: list[FilterList] = []
        deadlines: list[datetime] = []
        for row in rows:
            parsed = self._parsed[row["pk"]]
            if parsed.filters is None:
                found.refused[row["pk"]] = parsed.problem
            elif why := next((impossible[one.key] for one in parsed.filters.rules if one.key in impossible), ""):
                found.refused[row["pk"]] = why
            elif domain.shadow:
                found.shadow[row["pk"]] = parsed.filters
            else:
                found.lists[row["pk"]] = parsed.filters
                lists.append(parsed.filters)
                deadlines.append(_deadline(row, until))
        where = rules.destinations(prefixes, policies.never_block(domain))
        if lists and where:
            filters = FilterSet(f"d{domain.pk}", where, tuple(lists))
            found.wanted.append(WantedFilters(filters, max(deadlines) + DEADLINE_SLACK))

    def _rules(self, rows: Iterable[Row]) -> list[FilterRule]:
        lists = (self._parsed[row["pk"]].filters for row in rows)
        return [rule for one in lists if one is not None for rule in one.rules]

    def _parse(self, rows: Iterable[Row], prefixes: Mapping[int, tuple[Network, ...]]) -> None:
        stale = {}
        for row in rows:
            fresh = _Parsed(tuple(row[name] for name in _STAMP), prefixes[row["client__domain_id"]])
            known = self._parsed.get(row["pk"])
            if known is None or (known.stamp, known.prefixes) != (fresh.stamp, fresh.prefixes):
                stale[row["pk"]] = (row, fresh)
        for pk, aces in Acl.objects.filter(pk__in=stale).values_list("pk", "aces"):
            row, fresh = stale[pk]
            _fill(fresh, row, aces, self._parsed.get(pk))
            self._parsed[pk] = fresh


def _fill(fresh: _Parsed, row: Row, aces: Sequence[Row], before: _Parsed | None) -> None:
    """Entries that are as before are the same rules, and the equipment need not hear of them again."""
    owner = "/".join(map(str, (row["pk"], *_owner(row))))  # a list made anew counts anew
    fresh.family = _family(row["acl_type"], aces)
    kept = before.entries if before is not None and before.family == fresh.family else {}
    try:
        for ace in aces:
            name = ace["name"]
            known = kept.get(name)
            if known is None or known[0] != ace:
                known = (ace, rules.filter_rule(owner, row["name"], parse_ace(ace), fresh.family))
            fresh.entries[name] = known
        ordered = tuple(rule for _, rule in fresh.entries.values())
        rules.check_destinations(ordered, fresh.prefixes)
    except (TreeFault, OutsideDomain) as error:
        fresh.problem = str(error)
        return
    fresh.filters = FilterList(row["name"], ordered)


def _family(acl_type: str, aces: Iterable[Row]) -> Family | None:
    """As `Acl.family` of protocol.acls has it, without parsing."""
    if acl_type:
        return AclType(acl_type).family
    for ace in aces:
        matches = ace.get("matches", {})
        if "ipv4" in matches or "ipv6" in matches:
            return 4 if "ipv4" in matches else 6
    return None


def _owner(row: Row) -> Owner:
    return row["client_id"], row["cdid"], row["cuid"]


def _is_active(row: Row, until: Mapping[Owner, datetime]) -> bool:
    match row["activation_type"]:
        case ActivationType.IMMEDIATE:
            return True
        case ActivationType.ACTIVATE_WHEN_MITIGATING:
            return _owner(row) in until
    return False


def _deadline(row: Row, until: Mapping[Owner, datetime]) -> datetime:
    """When the equipment may let go of it by itself."""
    mitigated: datetime | None = until.get(_owner(row))
    expires: datetime = row["expires_at"]
    if row["activation_type"] != ActivationType.IMMEDIATE:
        return mitigated or expires
    return max(expires, mitigated or expires)  # while a mitigation runs it does not expire


def mitigated_until(clients: Iterable[int], thrown: Mapping[str, Hold], *, now: datetime) -> dict[Owner, datetime]:
    """Owners with a mitigation that is enforced: active, approved and held back by nothing."""
    rows = Mitigation.objects.enforced().filter(client_id__in=clients, approved_at__isnull=False)
    fields = ("client_id", "cdid", "cuid", "mitigation_start", "requested_at", "approved_at", "ends_at", "expires_at")
    until: dict[Owner, datetime] = {}
    for client_id, cdid, cuid, started, requested, approved, ends, expires in rows.values_list(*fields):
        if not why_held(max(started or requested, approved), thrown):
            owner, end = (client_id, cdid, cuid), ends or expires or now + HORIZON
            until[owner] = max(until.get(owner, end), end)
    return until


def _held_itself(row: Row) -> str:
    if row["awaits_operator"]:
        return "another client's filter does the opposite; an operator has yet to allow it"
    return f"held by {row['held_by']}: {row['held_reason']}" if row["held_at"] is not None else ""


def why_held(since: datetime, thrown: Mapping[str, Hold]) -> str:
    """Why nothing that began or changed at `since` may stand; empty when it may."""
    for kind, words in (
        (Hold.Kind.PANIC, "all enforcement is switched off"),
        (Hold.Kind.FREEZE, "change freeze"),
        (Hold.Kind.BREAKER, "the breaker is open"),
    ):
        hold = thrown.get(kind)
        if hold is not None and (kind == Hold.Kind.PANIC or since > hold.since):
            return f"{words}: {hold.reason}"
    return ""
