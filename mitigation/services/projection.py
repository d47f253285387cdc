"""From mitigations to the rules that should stand at a point: read, render, check again, project. Writes nothing.

A look at everything reads what is needed of all mitigations, for a row that changed must never be missed, whoever
changed it and however; what is costly is done for those only that differ from the last look. Between two of those a
look reads the mitigations only that the change counter names, and everything where anything else differs that
concerns them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from mitigation.exceptions import OutsidePolicy
from mitigation.models import Domain, Mitigation, TargetName
from mitigation.protocol import targets
from mitigation.protocol.scope import Network, Scope, covered_by
from mitigation.protocol.status import Status
from mitigation.rules.boxes import MAX_BOXES
from mitigation.rules.parameters import AMPLIFICATION_PORTS, MOST_PORTS, BadParameter
from mitigation.rules.playbooks import Plan, render
from mitigation.rules.projection import Kept, Projected
from mitigation.rules.scope import Scope as RuleScope
from mitigation.services import approvals, holds, ladder, news, policies, scopes, shadow
from mitigation.services.rows import aware, raw

DEADLINE_SLACK = timedelta(seconds=300)  # a dead server does not end protection early
HORIZON = timedelta(seconds=3600)  # how far ahead an indefinite mitigation's rules are promised

Wanted = Projected[int]  # one disjoint rule, and the mitigations that need it

# Columns of a mitigation that say which rules it wants, beside its domain, its names and what is held back.
INPUTS = (
    "domain_id",
    "playbook",
    "evidence",
    "scope",
    "expanded_scope",
    "requested_at",
    "mitigation_start",
    "approved_at",
    "approvals",
)
TIMES = ("expires_at", "ends_at")  # until when
# The enforcer has nothing to say of these, unless something else happens to them.
_SETTLED = (Status.MITIGATED, Status.STOPPED, Status.TERMINATING)
ASKED_AT_ONCE = 5_000  # parameters of one query


@dataclass(slots=True)
class Projection:
    """What should stand at a point, by rule key, and what each mitigation's playbook said.

    `shadow` are the mitigations that are in shadow mode, `shown` the rules that would stand for them alone.

    `surge` where too much started at once, and nothing of that may stand.

    `waiting` says, by mitigation, which of its names has no address yet: until then it is in progress, no more.

    `until` is the end of each mitigation, None for one without. `moved` are the keys of rules and `changed` the
    mitigations that may differ from what the look before this one found.
    """

    wanted: dict[str, Wanted] = field(default_factory=dict)
    shown: dict[str, Wanted] = field(default_factory=dict)
    shadow: set[int] = field(default_factory=set)
    plans: dict[int, Plan] = field(default_factory=dict)
    waiting: dict[int, str] = field(default_factory=dict)
    until: dict[int, datetime | None] = field(default_factory=dict)
    surge: holds.Surge | None = None
    moved: set[str] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)

    def deadline(self, one: Wanted, now: datetime) -> datetime:
        """Until when the equipment must hold it by itself."""
        ends = (self.until[owner] for owner in one.owners)
        return max(now + HORIZON if end is None else end for end in ends) + DEADLINE_SLACK


def project_mitigations(*, now: datetime, most_rules: int = 0, most_share: int = 0) -> Projection:
    """All that is to be enforced now. A row alone is not trusted: prefixes and never-block lists are checked again.

    More than `most_rules`, or `most_share` percent of all domains' addresses, of what started within the last minute
    trip the breaker; 0: it never trips by that.
    """
    return Projector().look(now=now, most_rules=most_rules, most_share=most_share)


@dataclass(slots=True)
class _Seen:
    """One mitigation as it was at the last look: what its plan was made of, and the plan before anything held it."""

    inputs: Sequence[Any]
    names: Sequence[Any]
    began: datetime
    plan: Plan
    waiting: str
    approved: bool


class Projector:
    """Looks at the rows, again and again. What it returns is one and the same object, brought up to date."""

    def __init__(self) -> None:
        self.projection = Projection()
        self._kept: Kept[int] = Kept()
        self._seen: dict[int, _Seen] = {}
        self._statuses: dict[int, int] = {}
        self._in_progress: set[int] = set()
        self._number: int | None = None  # of the change counter, when rows were last read
        self._domains: dict[int, Sequence[Any]] = {}
        self._held: holds.Holds | None = None

    def look(self, *, now: datetime, most_rules: int = 0, most_share: int = 0, everything: bool = True) -> Projection:
        """As `project_mitigations`. `moved` and `changed` gather until `take_changes`.

        Not at `everything`: what changed without saying so is seen by the next look that is.
        """
        before, self._number = self._number, None  # an end in the middle makes the next look one at everything
        number = news.latest()
        names, held = _names(), holds.Holds()
        only = None if everything or before is None else self._said_between(before, number, names)
        rows = self._rows(only)
        known = self._domains if only is not None else {}
        domains = {
            one.pk: one for one in Domain.objects.filter(pk__in={row[1] for row in rows.values()} | known.keys())
        }
        allowed = scopes.allowed(domains)
        surroundings = {pk: _all_of(domain, allowed[pk].prefixes) for pk, domain in domains.items()}
        is_other = self._held is None or held.thrown != self._held.thrown
        if only is not None and (is_other or any(surroundings.get(pk) != values for pk, values in known.items())):
            return self.look(now=now, most_rules=most_rules, most_share=most_share)

        projection = self.projection
        gone = (self._seen.keys() if only is None else self._seen.keys() & only) - rows.keys()
        for pk in gone:
            projection.until.pop(pk, None)
        projection.until |= {pk: _end(row) for pk, row in rows.items()}
        elsewhere = {pk for pk, values in surroundings.items() if self._domains.get(pk) != values}
        stale = [pk for pk, row in rows.items() if row[1] in elsewhere or self._is_stale(pk, row, names)]
        fresh = self._render(stale, rows, domains, allowed, names)
        for pk in gone:
            del self._seen[pk]
        self._seen |= fresh
        self._domains = surroundings
        looked_at = self._seen if is_other else fresh
        self._held = held

        changes: dict[int, Iterable[Any]] = dict.fromkeys(gone, ())
        for pk, seen in looked_at.items():
            is_shown = domains[rows[pk][1]].shadow
            if self._take(pk, seen, held, is_shown=is_shown):
                rules = projection.plans[pk].rules
                changes[pk] = shadow.with_counters(rules) if is_shown else rules
        for pk in gone:
            self._forget(pk)
        self._sort(self._kept.change(changes))
        projection.changed |= changes.keys() | fresh.keys() | self._to_be_told(rows, gone)
        starts = (
            (seen.began, projection.plans[pk])
            for pk, seen in self._seen.items()
            if seen.began > now - holds.SPAN and pk not in projection.shadow
        )
        projection.surge = holds.surge(starts, most_rules=most_rules, most_share=most_share, now=now)
        self._number = number
        return projection

    def _said_between(self, after: int, up_to: int, names: Mapping[int, list[TargetName]]) -> set[int] | None:
        """Mitigations that may differ from the last look; None for all."""
        said = news.mitigations_between(after, up_to)
        if said is None:
            return None
        named = {pk for pk, seen in self._seen.items() if seen.names or pk in names}
        return said | {pk for pk in named if self._seen[pk].names != _said(names.get(pk, ()))}

    def _rows(self, only: AbstractSet[int] | None) -> dict[int, Sequence[Any]]:
        query = Mitigation.objects.enforced().values_list("pk", *INPUTS, "status", *TIMES)
        if only is None:
            return {row[0]: row for row in raw(query)}
        asked = sorted(only)
        parts = (asked[at : at + ASKED_AT_ONCE] for at in range(0, len(asked), ASKED_AT_ONCE))
        return {row[0]: row for some in parts for row in raw(query.filter(pk__in=some))}

    def take_changes(self) -> tuple[set[str], set[int]]:
        """Keys that moved and mitigations that changed since this was asked last, those gone included."""
        projection = self.projection
        taken = projection.moved, projection.changed
        projection.moved, projection.changed = set(), set()
        return taken

    def keys_of(self, mitigation_id: int) -> AbstractSet[str]:
        return self._kept.keys_of(mitigation_id)

    def _is_stale(self, pk: int, row: Sequence[Any], names: Mapping[int, list[TargetName]]) -> bool:
        seen = self._seen.get(pk)
        return seen is None or seen.inputs != row[1:-3] or seen.names != _said(names.get(pk, ()))

    def _render(
        self,
        stale: Sequence[int],
        rows: Mapping[int, Sequence[Any]],
        domains: Mapping[int, Domain],
        allowed: Mapping[int, scopes.Allowed],
        names: Mapping[int, list[TargetName]],
    ) -> dict[int, _Seen]:
        fresh: dict[int, _Seen] = {}
        for at in range(0, len(stale), ASKED_AT_ONCE):
            for mitigation in Mitigation.objects.filter(pk__in=stale[at : at + ASKED_AT_ONCE]):
                mitigation.domain = domains[mitigation.domain_id]
                row, hosts = rows[mitigation.pk], names.get(mitigation.pk, [])
                plan, waiting = _plan(mitigation, hosts, allowed[mitigation.domain_id].prefixes)
                fresh[mitigation.pk] = _Seen(
                    inputs=row[1:-3],
                    names=_said(hosts),
                    began=holds.began(mitigation),
                    plan=plan,
                    waiting=waiting,
                    approved=mitigation.approved_at is not None,
                )
        return fresh

    def _take(self, pk: int, seen: _Seen, held: holds.Holds, *, is_shown: bool) -> bool:
        """Bring what is said of one mitigation up to date; whether its rules may differ."""
        projection = self.projection
        why = held.why(seen.began) if seen.approved else ""
        plan = Plan(refused=why) if why else seen.plan
        before = projection.plans.get(pk), pk in projection.shadow, projection.waiting.get(pk)
        projection.plans[pk] = plan
        (projection.shadow.add if is_shown else projection.shadow.discard)(pk)
        if seen.waiting:
            projection.waiting[pk] = seen.waiting
        else:
            projection.waiting.pop(pk, None)
        return before != (plan, is_shown, projection.waiting.get(pk))

    def _forget(self, pk: int) -> None:
        self.projection.plans.pop(pk, None)
        self.projection.shadow.discard(pk)
        self.projection.waiting.pop(pk, None)

    def _sort(self, moved: set[str]) -> None:
        """Into what is wanted and what is only shown."""
        projection = self.projection
        for key in moved:
            projection.wanted.pop(key, None)
            projection.shown.pop(key, None)
            one = self._kept.found.get(key)
            if one is not None:
                only_shown = one.rule.touches and one.owners <= projection.shadow
                (projection.shown if only_shown else projection.wanted)[key] = one
        projection.moved |= moved

    def _to_be_told(self, rows: Mapping[int, Sequence[Any]], gone: Iterable[int]) -> set[int]:
        """Mitigations in a status that evidence may move.

        In progress counts each time: since the last look it may have been mitigated, withdrawn and asked for again.
        """
        before = self._statuses
        for pk in gone:
            before.pop(pk, None)
            self._in_progress.discard(pk)
        statuses = {pk: row[-3] for pk, row in rows.items()}
        moved = {pk for pk, status in statuses.items() if status != before.get(pk) and status not in _SETTLED}
        before |= statuses
        self._in_progress.difference_update(statuses)
        self._in_progress.update(pk for pk, status in statuses.items() if status == Status.IN_PROGRESS)
        return moved | self._in_progress


def _end(row: Sequence[Any]) -> datetime | None:
    until = row[-1] or row[-2]
    return until and aware(until)


def _all_of(domain: Domain, prefixes: Sequence[Network]) -> Sequence[Any]:
    """Everything of a domain: whatever of it changes, its mitigations are looked at again."""
    return [*(getattr(domain, field.attname) for field in Domain._meta.concrete_fields), *prefixes]


def _said(names: Iterable[TargetName]) -> Sequence[Any]:
    return [(row.name, row.addresses, row.problem) for row in names]


def _plan(mitigation: Mitigation, names: list[TargetName], prefixes: list[Network]) -> tuple[Plan, str]:
    """What its playbook says, and what it waits for."""
    if mitigation.approved_at is None:
        return Plan(), approvals.waits_for(mitigation)
    scope = Scope.from_json(mitigation.protected_scope)
    resolved = Resolved(mitigation.domain, scope, names, prefixes, evidence=mitigation.evidence)
    return resolved.plan_up_to(mitigation.playbook), resolved.waiting


def _names() -> dict[int, list[TargetName]]:
    """By mitigation; rows are of live ones only."""
    found: dict[int, list[TargetName]] = {}
    for row in TargetName.objects.filter(kind=TargetName.Kind.HOST).order_by("pk"):
        found.setdefault(row.mitigation_id, []).append(row)
    return found


class Resolved:
    """A scope with addresses in the place of names, as parts that each are one rule scope.

    Prefixes and FQDNs share the request's ports and protocols. A URI brings its own (RFC 9132, section 4.4.1.1).
    """

    def __init__(
        self,
        domain: Domain,
        scope: Scope,
        names: Iterable[TargetName],
        allowed: Iterable[Network],
        *,
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        self._domain = domain
        self._reported_ports = list((evidence or {}).get("source_ports", ()))
        self._scope = scope
        self._allowed = list(allowed)
        self.notes: list[str] = []
        self.waiting = ""
        self._addresses = {row.name: self._usable(row) for row in names}

    def plan_up_to(self, playbook: str) -> Plan:
        """The rules of this rung of the domain's ladder and of those below it; a rung that is refused is left out."""
        plans = {rung: self.plan(rung) for rung in ladder.up_to(self._domain, playbook)}
        possible = [plan for plan in plans.values() if not plan.refused]
        if len(plans) == 1 or not possible:
            return plans[playbook]
        left_out = [f"{rung} is left out: {plan.refused}" for rung, plan in plans.items() if plan.refused]
        rules = dict.fromkeys(rule for plan in possible for rule in plan.rules)
        notes = dict.fromkeys(note for plan in possible for note in plan.notes)
        return Plan(tuple(rules), (*notes, *left_out))

    def plan(self, playbook: str) -> Plan:
        """What the playbook makes of it by the domain's policy; refused where it reaches what may not be touched."""
        for prefix in targets.networks(self._scope):
            if not covered_by(prefix, self._allowed):
                return Plan(refused=f"{prefix} is no longer inside the domain's prefixes")
        try:
            policies.check(self._domain, self._scope, playbook)
        except OutsidePolicy as error:
            return Plan(refused=str(error))
        try:
            plans = [render(playbook, part, self._parameters()) for part in self._parts()]
        except BadParameter as error:  # of this domain alone: the others' rules are rendered all the same
            return Plan(refused=str(error))
        refused = next((plan.refused for plan in plans if plan.refused), None)
        if refused:
            return Plan(refused=refused)
        rules = tuple(rule for plan in plans for rule in plan.rules)
        if len(plans) > 1 and sum(not rule.drops for rule in rules) > MAX_BOXES:
            return Plan(refused=f"the scope needs more than {MAX_BOXES} combinations of prefix, protocol and port")
        notes = (note for plan in plans for note in plan.notes)
        return Plan(rules, tuple(dict.fromkeys((*self.notes, *notes))))

    def _parameters(self) -> Mapping[str, Any]:
        """The domain's, and the source ports that were reported among those of amplification."""
        given: Mapping[str, Any] = self._domain.playbook_parameters
        if not self._reported_ports:
            return given
        known = given.get("amplification_ports", AMPLIFICATION_PORTS)
        return {**given, "amplification_ports": list(dict.fromkeys([*self._reported_ports, *known]))[:MOST_PORTS]}

    def _usable(self, row: TargetName) -> tuple[Network, ...]:
        """What may be protected of what the name stands for; the rest is left out, and said."""
        found = tuple(
            network
            for network in map(ipaddress.ip_network, row.addresses)
            if covered_by(network, self._allowed) and not policies.never_blocks(self._domain, network)
        )
        if row.problem:
            self.notes.append(f"{row.name}: {row.problem}")
        elif len(found) < len(row.addresses):
            self.notes.append(f"{row.name}: some addresses may no longer be protected and are left out")
        if not found and not self.waiting:
            self.waiting = f"{row.name}: {row.problem or 'no address yet'}"
        return found

    def _parts(self) -> list[RuleScope]:
        name = self._scope.digest()
        fqdns = (network for name in self._scope.target_fqdn for network in self._addresses.get(name, ()))
        first = RuleScope(
            prefixes=tuple(dict.fromkeys((*self._scope.target_prefix, *fqdns))),
            port_ranges=tuple((ports.lower, ports.upper) for ports in self._scope.target_port_range),
            protocols=self._scope.target_protocol,
            part_of=name,
        )
        by_service: dict[tuple[int, tuple[int, ...]], dict[Network, None]] = {}
        for location in map(targets.parse_target_uri, self._scope.target_uri):
            hosts = self._addresses.get(location.host, ()) if isinstance(location.host, str) else (location.host,)
            service = (location.port, location.protocols_over(udp=self._domain.https_over_udp))
            by_service.setdefault(service, {}).update(dict.fromkeys(hosts))
        uris = [
            RuleScope(prefixes=tuple(networks), port_ranges=((port, port),), protocols=protocols, part_of=name)
            for (port, protocols), networks in by_service.items()
        ]
        return [part for part in (first, *uris) if part.prefixes]
