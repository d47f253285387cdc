"""Which live requests share a target with another: an address, a name or an alias (RFC 9132, section 4.4.1.3)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from mitigation.models import Client, Mitigation, Target, TargetName
from mitigation.protocol import targets
from mitigation.protocol.conflicts import ConflictCause, ConflictInformation, ConflictStatus
from mitigation.protocol.scope import Network, Scope, ancestor_keys, range_keys

_CHUNK = 10_000  # values in one IN list

Name = tuple[str, str]  # kind and name


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Live requests that share a target: of the same client and cuid, and of others; and what is shared with any."""

    own: list[Mitigation]
    others: list[Mitigation]
    common: Scope

    def with_others(self) -> ConflictInformation | None:
        """What a request that stays active although others of its domain overlap is told (section 4.4.1.3)."""
        if not self.others:
            return None
        return ConflictInformation(
            cause=ConflictCause.OVERLAPPING_TARGETS, status=ConflictStatus.REQUEST_ACTIVE, scope=self.common
        )


def names_of(scope: Scope) -> set[Name]:
    """What two scopes share when they name the same, whatever it resolves to."""
    hosts = {(TargetName.Kind.HOST.value, host) for host in targets.hosts(scope)}
    return hosts | {(TargetName.Kind.ALIAS.value, alias) for alias in scope.alias_name}


class Neighbours:
    """Live targets near those of a batch: found with a few queries, then kept current as the batch goes on.

    `known` are rows that the caller has read already: the same row is the same object everywhere, so that what is set
    on it is neither lost nor written twice.
    """

    def __init__(self, scopes: Iterable[Scope], domain_ids: Iterable[int], *, known: Iterable[Mitigation] = ()) -> None:
        scopes, domain_ids = list(scopes), list(domain_ids)
        self._rows = {mitigation.pk: mitigation for mitigation in known}
        prefixes = {prefix for scope in scopes for prefix in targets.networks(scope)}
        self._ranges = [
            (network_of(target), self._one(target.mitigation)) for target in _touching(prefixes, domain_ids)
        ]
        wanted = {name for scope in scopes for name in names_of(scope)}
        self._names = [((row.kind, row.name), self._one(row.mitigation)) for row in _named(wanted, domain_ids)]

    def overlapping(self, client: Client, cuid: str, scope: Scope) -> Overlaps:
        found: dict[int, Mitigation] = {}
        networks: dict[Network, None] = {}
        names: dict[Name, None] = {}
        for network, mitigation in self._ranges:
            for prefix in targets.networks(scope):
                if network.version == prefix.version and network.overlaps(prefix):
                    networks[max(network, prefix, key=lambda one: one.prefixlen)] = None
                    found[id(mitigation)] = mitigation
        wanted = names_of(scope)
        for name, mitigation in self._names:
            if name in wanted:
                names[name] = None
                found[id(mitigation)] = mitigation
        own = [one for one in found.values() if (one.client_id, one.cuid) == (client.pk, cuid)]
        others = [one for one in found.values() if (one.client_id, one.cuid) != (client.pk, cuid)]
        return Overlaps(own, others, _common(networks, names))

    def add(self, mitigation: Mitigation, scope: Scope) -> None:
        self._ranges += [(network, mitigation) for network in targets.networks(scope)]
        self._names += [(name, mitigation) for name in names_of(scope)]

    def remove(self, mitigation: Mitigation) -> None:
        self._ranges = [(network, other) for network, other in self._ranges if other is not mitigation]
        self._names = [(name, other) for name, other in self._names if other is not mitigation]

    def _one(self, mitigation: Mitigation) -> Mitigation:
        return self._rows.setdefault(mitigation.pk, mitigation)


def _common(networks: Iterable[Network], names: Iterable[Name]) -> Scope:
    names = list(names)
    return Scope(
        target_prefix=tuple(networks),
        target_fqdn=tuple(name for kind, name in names if kind == TargetName.Kind.HOST),
        alias_name=tuple(name for kind, name in names if kind == TargetName.Kind.ALIAS),
    )


def share_a_target(one: Mitigation, other: Mitigation) -> bool:
    """Of two live rows, with what their names stand for now."""
    theirs = {network_of(target) for target in other.targets.all()}
    if any(overlaps_any(network_of(target), theirs) for target in one.targets.all()):
        return True
    names = {(row.kind, row.name) for row in other.names.all()}
    return any((row.kind, row.name) in names for row in one.names.all())


def _touching(prefixes: set[Network], domain_ids: list[int]) -> list[Target]:
    """Targets that contain one of the prefixes or lie inside one; both look-ups use the index."""
    found: dict[int, Target] = {}
    live = Target.objects.select_related("mitigation__client").filter(mitigation__domain_id__in=domain_ids)
    for family in (4, 6):
        asked = [prefix for prefix in prefixes if prefix.version == family]
        if not asked:
            continue
        above = sorted({key for prefix in asked for key in ancestor_keys(prefix)})
        for start in range(0, len(above), _CHUNK):
            for target in live.filter(family=family, first__in=above[start : start + _CHUNK]):
                found[target.pk] = target
        for prefix in asked:
            if prefix.prefixlen < prefix.max_prefixlen:
                first, last = range_keys(prefix)
                for target in live.filter(family=family, first__gte=first, first__lte=last):
                    found[target.pk] = target
    return [target for target in found.values() if overlaps_any(network_of(target), prefixes)]


def _named(wanted: set[Name], domain_ids: list[int]) -> Iterable[TargetName]:
    if not wanted:
        return
    live = TargetName.objects.select_related("mitigation__client").filter(mitigation__domain_id__in=domain_ids)
    names = sorted({name for _, name in wanted})
    for start in range(0, len(names), _CHUNK):
        for row in live.filter(name__in=names[start : start + _CHUNK]):
            if (row.kind, row.name) in wanted:
                yield row


def network_of(target: Target) -> Network:
    first, last = int.from_bytes(target.first, "big"), int.from_bytes(target.last, "big")
    width = 32 if target.family == 4 else 128
    length = width - (last - first).bit_length()
    if target.family == 4:
        return ipaddress.IPv4Network((first, length))
    return ipaddress.IPv6Network((first, length))


def overlaps_any(network: Network, prefixes: set[Network]) -> bool:
    return any(network.version == prefix.version and network.overlaps(prefix) for prefix in prefixes)
