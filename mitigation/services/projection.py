"""From mitigations to the rules that should stand at a point: read, render, check again, project. Writes nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from mitigation.exceptions import OutsidePolicy
from mitigation.models import Domain, Mitigation, TargetName
from mitigation.protocol import targets
from mitigation.protocol.scope import Network, Scope, covered_by
from mitigation.rules.boxes import MAX_BOXES
from mitigation.rules.canonical import Rule as CanonicalRule
from mitigation.rules.parameters import AMPLIFICATION_PORTS, MOST_PORTS, BadParameter
from mitigation.rules.playbooks import Plan, render
from mitigation.rules.projection import project
from mitigation.rules.scope import Scope as RuleScope
from mitigation.services import approvals, holds, ladder, policies, scopes, shadow

DEADLINE_SLACK = timedelta(seconds=300)  # a dead server does not end protection early
HORIZON = timedelta(seconds=3600)  # how far ahead an indefinite mitigation's rules are promised


@dataclass(frozen=True, slots=True)
class Wanted:
    """One disjoint rule: who needs it, and until when the equipment must hold it by itself."""

    rule: CanonicalRule
    owners: frozenset[int]
    deadline: datetime


@dataclass(slots=True)
class Projection:
    """What should stand at a point, by rule key, and what each mitigation's playbook said.

    `shadow` are the mitigations that are in shadow mode, `shown` the rules that would stand for them alone.

    `surge` where too much started at once, and nothing of that may stand.

    `waiting` says, by mitigation, which of its names has no address yet: until then it is in progress, no more.
    """

    wanted: dict[str, Wanted] = field(default_factory=dict)
    shown: dict[str, Wanted] = field(default_factory=dict)
    shadow: frozenset[int] = frozenset()
    plans: dict[int, Plan] = field(default_factory=dict)
    waiting: dict[int, str] = field(default_factory=dict)
    surge: holds.Surge | None = None


def project_mitigations(*, now: datetime, most_rules: int = 0) -> Projection:
    """All that is to be enforced now. A row alone is not trusted: prefixes and never-block lists are checked again.

    `most_rules` of what started within the last minute trip the breaker; 0: it never trips.
    """
    mitigations = list(Mitigation.objects.enforced().select_related("domain"))
    allowed = scopes.allowed({mitigation.domain_id for mitigation in mitigations})
    names = _names()
    held = holds.Holds()
    plans: dict[int, Plan] = {}
    waiting: dict[int, str] = {}
    for mitigation in mitigations:
        if mitigation.approved_at is None:
            plans[mitigation.pk], waiting[mitigation.pk] = Plan(), approvals.waits_for(mitigation)
            continue
        scope = Scope.from_json(mitigation.protected_scope)
        prefixes = allowed[mitigation.domain_id].prefixes
        resolved = Resolved(
            mitigation.domain, scope, names.get(mitigation.pk, []), prefixes, evidence=mitigation.evidence
        )
        why = held.why(mitigation)
        plans[mitigation.pk] = Plan(refused=why) if why else resolved.plan_up_to(mitigation.playbook)
        if resolved.waiting:
            waiting[mitigation.pk] = resolved.waiting
    deadlines = {mitigation.pk: _deadline(mitigation, now) for mitigation in mitigations}
    in_shadow = frozenset(mitigation.pk for mitigation in mitigations if mitigation.domain.shadow)
    rules = {pk: shadow.with_counters(plan.rules) if pk in in_shadow else plan.rules for pk, plan in plans.items()}
    wanted: dict[str, Wanted] = {}
    shown: dict[str, Wanted] = {}
    for one in project({pk: found for pk, found in rules.items() if found}):
        only_shown = one.rule.touches and one.owners <= in_shadow
        deadline = max(deadlines[owner] for owner in one.owners)
        (shown if only_shown else wanted)[one.rule.key] = Wanted(one.rule, one.owners, deadline)
    starting = [mitigation for mitigation in mitigations if mitigation.pk not in in_shadow]
    surge = holds.surge(starting, plans, most_rules=most_rules, now=now)
    return Projection(wanted, shown, in_shadow, plans, waiting, surge)


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


def _deadline(mitigation: Mitigation, now: datetime) -> datetime:
    until = mitigation.ends_at or mitigation.expires_at
    return (until if until is not None else now + HORIZON) + DEADLINE_SLACK
