"""What a client may ask to have protected, and the rows that say where."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from django.db.models import Q

from mitigation.exceptions import MalformedRequest
from mitigation.models import Alias, DomainName, DomainPrefix, Mitigation, Target, TargetName
from mitigation.protocol import targets
from mitigation.protocol.scope import MitigationRequest, Network, Scope, covered_by, range_keys


class _Names:
    """Of several domains: read with one query, and only where a scope names a host."""

    def __init__(self, domain_ids: Iterable[int]) -> None:
        self._domain_ids = list(domain_ids)

    @cached_property
    def of(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {pk: [] for pk in self._domain_ids}
        rows = DomainName.objects.filter(domain_id__in=self._domain_ids).values_list("domain_id", "fqdn")
        for domain_id, fqdn in rows:
            found[domain_id].append(fqdn)
        return found


@dataclass(slots=True)
class Allowed:
    """A domain's prefixes and names."""

    domain_id: int
    all_names: _Names
    prefixes: list[Network] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return self.all_names.of[self.domain_id]

    def check(self, scope: Scope) -> None:
        """Raises MalformedRequest, naming the first target that is not the domain's (RFC 9132, section 4.4.1.1).

        What names resolve to is checked at each resolution: nothing here waits for DNS.
        """
        for network in targets.networks(scope):
            if not covered_by(network, self.prefixes):
                raise MalformedRequest(f"target-prefix {network} is outside the prefixes of this client's domain")
        for host in targets.hosts(scope):
            if not targets.lies_in(host, self.names):
                raise MalformedRequest(f"{host} is outside the names of this client's domain")


def allowed(domain_ids: Iterable[int]) -> dict[int, Allowed]:
    """By domain, with a query or two."""
    ids = set(domain_ids)
    names = _Names(ids)
    found = {pk: Allowed(pk, names) for pk in ids}
    for domain_id, prefix in DomainPrefix.objects.filter(domain_id__in=found).values_list("domain_id", "prefix"):
        found[domain_id].prefixes.append(ipaddress.ip_network(prefix))
    return found


class Aliases:
    """What the aliases named in a batch stand for, read with one query."""

    def __init__(self, wanted: Iterable[tuple[int, MitigationRequest]], *, now: datetime) -> None:
        named = [(client_id, name) for client_id, request in wanted for name in request.scope.alias_name]
        living = Q(expires_at=None) | Q(expires_at__gt=now)
        rows = Alias.objects.filter(living, client_id__in={pk for pk, _ in named}, name__in={name for _, name in named})
        self._targets = (
            {(row.client_id, row.cdid, row.cuid, row.name): Scope.from_json(row.target) for row in rows}
            if named
            else {}
        )

    def expand(self, client_id: int, request: MitigationRequest) -> Scope:
        """The scope with the targets of its aliases. Raises MalformedRequest for one that this client did not make."""
        if not request.scope.alias_name:
            return request.scope
        found = []
        for name in request.scope.alias_name:
            target = self._targets.get((client_id, request.cdid, request.cuid, name))
            if target is None:
                raise MalformedRequest(f"there is no alias named {name[:60]} of this client")
            found.append(target)
        return request.scope.joined(*found)


def target_rows(mitigation: Mitigation, scope: Scope) -> list[Target]:
    return [target(mitigation, network) for network in targets.networks(scope)]


def name_rows(mitigation: Mitigation, scope: Scope, *, now: datetime) -> list[TargetName]:
    """Hosts are due at once; aliases never, they stand here for overlaps."""
    hosts = [TargetName(mitigation=mitigation, name=host, due_at=now) for host in targets.hosts(scope)]
    alias = TargetName.Kind.ALIAS
    return hosts + [TargetName(mitigation=mitigation, kind=alias, name=name) for name in scope.alias_name]


def target(mitigation: Mitigation, network: Network, *, name: str = "") -> Target:
    first, last = range_keys(network)
    return Target(mitigation=mitigation, family=network.version, first=first, last=last, name=name)
