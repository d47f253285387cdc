"""What a request would do before it is made, and what one that stands does: rules, reach, neighbours, verdict.

Nothing is written. The dashboard and the commands show the same plan that the enforcer renders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from mitigation.exceptions import DotsError, NotFound, Unavailable
from mitigation.models import Domain, EnforcementPoint, Mitigation, TargetName
from mitigation.protocol import targets
from mitigation.protocol.scope import Scope
from mitigation.rules.canonical import Rule
from mitigation.rules.playbooks import Plan
from mitigation.services import approvals, domains, policies, scopes
from mitigation.services.overlaps import Neighbours, Shared, asker_of, reach_now, reach_of
from mitigation.services.projection import Resolved

NOBODY = (0, "", "")  # asks for what nobody has asked for


@dataclass(frozen=True, slots=True)
class Outlook:
    """`rules` of one request alone, before others take part of them. `refused` says why there are none.

    `addresses` counts what its prefixes hold. `waiting` names what has no address yet. `overlaps` are live requests of
    the same domain that share a target. `enforced` is False where every point is a dry run. `approval` says who must
    still let it be enforced, `shadow` that its rules would only be shown; `quotas` how much of each is used.
    """

    domain: Domain
    playbook: str
    scope: Scope
    rules: tuple[Rule, ...]
    notes: tuple[str, ...]
    refused: str
    waiting: str
    addresses: int
    overlaps: tuple[Shared, ...]
    enforced: bool
    approval: str
    quotas: tuple[Quota, ...]

    @property
    def shadow(self) -> bool:
        return self.domain.shadow


@dataclass(frozen=True, slots=True)
class Quota:
    """`used` of `maximum`, which is 0 for no limit."""

    what: str
    used: int
    maximum: int


def of_mitigation(mitigation_id: int, *, now: datetime) -> Outlook:
    """Of a request that stands. Raises NotFound."""
    row = Mitigation.objects.select_related("domain").filter(pk=mitigation_id).first()
    if row is None:
        raise NotFound(f"there is no mitigation {mitigation_id}")
    scope = Scope.from_json(row.protected_scope)
    neighbours = Neighbours([reach_now(row)], [row.domain_id], known=[row])
    near = neighbours.overlapping(asker_of(row), reach_now(row), besides=row)
    names = list(row.names.filter(kind=TargetName.Kind.HOST))
    approval = approvals.waits_for(row) if row.approved_at is None else ""
    quotas = policies.Quotas(now)
    resolved = Resolved(row.domain, scope, names, _allowed(row.domain).prefixes, evidence=row.evidence)
    plan = partial(resolved.plan_up_to, row.playbook)
    return _outlook(row.domain, scope, row.playbook, resolved, plan, [*near.own, *near.others], approval, quotas)


def of_request(domain_name: str, scope: Scope, *, playbook: str = "", now: datetime) -> Outlook:
    """Of a request that a client of this domain would make. Raises NotFound for a domain that does not exist."""
    domain = domains.find_domain(domain_name)
    names = [TargetName(name=host, due_at=now) for host in targets.hosts(scope)]
    neighbours = Neighbours([reach_of(scope)], [domain.pk])
    near = neighbours.overlapping(NOBODY, reach_of(scope))
    quotas = policies.Quotas(now)
    resolved = Resolved(domain, scope, names, _allowed(domain).prefixes)
    plan = partial(resolved.plan, playbook) if playbook else partial(resolved.plan_up_to, domain.playbook)
    found = _outlook(
        domain,
        scope,
        playbook or domain.playbook,
        resolved,
        plan,
        [*near.own, *near.others],
        approvals.asked_by(domain),
        quotas,
    )
    try:
        quotas.take(domain)
    except Unavailable as refusal:
        return found if found.refused else replace(found, refused=str(refusal), rules=(), notes=())
    return found


def _allowed(domain: Domain) -> scopes.Allowed:
    return scopes.allowed([domain.pk])[domain.pk]


def _outlook(
    domain: Domain,
    scope: Scope,
    playbook: str,
    resolved: Resolved,
    render: Callable[[], Plan],
    overlaps: list[Shared],
    approval: str,
    quotas: policies.Quotas,
) -> Outlook:
    try:
        _allowed(domain).check(scope)
        plan = render()
    except DotsError as error:
        plan = Plan(refused=str(error))
    return Outlook(
        domain=domain,
        playbook=playbook,
        scope=scope,
        rules=plan.rules,
        notes=plan.notes,
        refused=plan.refused or "",
        waiting=resolved.waiting,
        addresses=sum(network.num_addresses for network in targets.networks(scope)),
        overlaps=tuple(overlaps),
        enforced=EnforcementPoint.objects.filter(enabled=True, enforces=True).exists(),
        approval=approval,
        quotas=(
            Quota("mitigations", quotas.live(domain), domain.maximum_mitigations),
            Quota("mitigations a minute", len(quotas.recent(domain)), domain.maximum_per_minute),
        ),
    )
