"""What a request would do before it is made, and what one that stands does: rules, reach, neighbours, verdict.

Nothing is written. The dashboard and the commands show the same plan that the enforcer renders.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mitigation.exceptions import DotsError, NotFound
from mitigation.models import Domain, EnforcementPoint, Mitigation, TargetName
from mitigation.protocol import targets
from mitigation.protocol.scope import Scope
from mitigation.rules.canonical import Rule
from mitigation.rules.playbooks import Plan
from mitigation.services import scopes
from mitigation.services.overlaps import Neighbours, Shared, asker_of, reach_now, reach_of
from mitigation.services.projection import Resolved

NOBODY = (0, "", "")  # asks for what nobody has asked for


@dataclass(frozen=True, slots=True)
class Outlook:
    """`rules` of one request alone, before others take part of them. `refused` says why there are none.

    `addresses` counts what its prefixes hold. `waiting` names what has no address yet. `overlaps` are live requests of
    the same domain that share a target. `enforced` is False where every point is a dry run.
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


def of_mitigation(mitigation_id: int) -> Outlook:
    """Of a request that stands. Raises NotFound."""
    row = Mitigation.objects.select_related("domain").filter(pk=mitigation_id).first()
    if row is None:
        raise NotFound(f"there is no mitigation {mitigation_id}")
    scope = Scope.from_json(row.protected_scope)
    neighbours = Neighbours([reach_now(row)], [row.domain_id], known=[row])
    near = neighbours.overlapping(asker_of(row), reach_now(row), besides=row)
    names = list(row.names.filter(kind=TargetName.Kind.HOST))
    return _outlook(row.domain, scope, row.playbook, names, [*near.own, *near.others])


def of_request(domain_name: str, scope: Scope, *, playbook: str = "", now: datetime) -> Outlook:
    """Of a request that a client of this domain would make. Raises NotFound for a domain that does not exist."""
    domain = Domain.objects.filter(name=domain_name).first()
    if domain is None:
        raise NotFound(f"there is no domain named {domain_name}; `manage.py domain list` shows those there are")
    names = [TargetName(name=host, due_at=now) for host in targets.hosts(scope)]
    neighbours = Neighbours([reach_of(scope)], [domain.pk])
    near = neighbours.overlapping(NOBODY, reach_of(scope))
    return _outlook(domain, scope, playbook or domain.playbook, names, [*near.own, *near.others])


def _outlook(domain: Domain, scope: Scope, playbook: str, names: list[TargetName], overlaps: list[Shared]) -> Outlook:
    allowed = scopes.allowed([domain.pk])[domain.pk]
    resolved = Resolved(domain, scope, names, allowed.prefixes)
    try:
        allowed.check(scope)
        plan = resolved.plan(playbook)
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
    )
