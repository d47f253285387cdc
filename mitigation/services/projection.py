"""From mitigations to the rules that should stand at a point: read, render, check again, project. Writes nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mitigation.models import DomainPrefix, Mitigation
from mitigation.protocol.scope import Network, Scope, covered_by
from mitigation.rules.canonical import Rule as CanonicalRule
from mitigation.rules.playbooks import Plan, render
from mitigation.rules.projection import project
from mitigation.rules.scope import Scope as RuleScope

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
    """What should stand at a point, by rule key, and what each mitigation's playbook said."""

    wanted: dict[str, Wanted] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)


def project_mitigations(*, now: datetime) -> Projection:
    """All that is to be enforced now. A row alone is not trusted: prefixes and never-block lists are checked again."""
    mitigations = list(Mitigation.objects.enforced().select_related("domain"))
    allowed = _allowed({mitigation.domain_id for mitigation in mitigations})
    plans = {mitigation.pk: _plan(mitigation, allowed[mitigation.domain_id]) for mitigation in mitigations}
    deadlines = {mitigation.pk: _deadline(mitigation, now) for mitigation in mitigations}
    projected = project({pk: plan.rules for pk, plan in plans.items() if plan.rules})
    wanted = {
        one.rule.key: Wanted(one.rule, one.owners, max(deadlines[owner] for owner in one.owners)) for one in projected
    }
    return Projection(wanted, plans)


def _plan(mitigation: Mitigation, allowed: Iterable[Network]) -> Plan:
    scope = Scope.from_json(mitigation.scope)
    for prefix in scope.target_prefix:
        if not covered_by(prefix, allowed):
            return Plan(refused=f"{prefix} is no longer inside the domain's prefixes")
    never = [ipaddress.ip_network(text) for text in mitigation.domain.never_block]
    blocked = [prefix for prefix in scope.target_prefix if any(_overlap(prefix, one) for one in never)]
    if blocked:
        return Plan(refused=f"{blocked[0]} touches the domain's never-block list")
    return render(mitigation.playbook, _rule_scope(scope), mitigation.domain.playbook_parameters)


def _rule_scope(scope: Scope) -> RuleScope:
    return RuleScope(
        prefixes=scope.target_prefix,
        port_ranges=tuple((ports.lower, ports.upper) for ports in scope.target_port_range),
        protocols=scope.target_protocol,
    )


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _allowed(domain_ids: set[int]) -> dict[int, list[Network]]:
    found: dict[int, list[Network]] = {pk: [] for pk in domain_ids}
    for domain_id, prefix in DomainPrefix.objects.filter(domain_id__in=domain_ids).values_list("domain_id", "prefix"):
        found[domain_id].append(ipaddress.ip_network(prefix))
    return found


def _deadline(mitigation: Mitigation, now: datetime) -> datetime:
    until = mitigation.ends_at or mitigation.expires_at
    return (until if until is not None else now + HORIZON) + DEADLINE_SLACK
