"""Which live requests share a target with another: an address, a name or an alias (RFC 9132, section 4.4.1.3)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from mitigation.models import Mitigation, Target, TargetName
from mitigation.protocol import targets
from mitigation.protocol.scope import Network, Scope, ancestor_keys, range_keys

_CHUNK = 10_000  # values in one IN list

Name = tuple[str, str]  # kind and name
Asker = tuple[int, str, str]  # client, cdid, cuid: one DOTS client as section 4.4.1.3 means it


@dataclass(frozen=True, slots=True)
class Reach:
    """All that a request touches: addresses, and names whatever they resolve to."""

    networks: frozenset[Network]
    names: frozenset[Name]


def reach_of(scope: Scope) -> Reach:
    """Of a request as it is asked for, aliases expanded, names not yet resolved."""
    hosts = {(TargetName.Kind.HOST.value, host) for host in targets.hosts(scope)}
    aliases = {(TargetName.Kind.ALIAS.value, alias) for alias in scope.alias_name}
    return Reach(frozenset(targets.networks(scope)), frozenset(hosts | aliases))


def reach_now(mitigation: Mitigation) -> Reach:
    """Of a live row, with what its names stand for now."""
    networks = frozenset(network_of(target) for target in mitigation.targets.all())
    return Reach(networks, frozenset((row.kind, row.name) for row in mitigation.names.all()))


def asker_of(mitigation: Mitigation) -> Asker:
    return mitigation.client_id, mitigation.cdid, mitigation.cuid


@dataclass(slots=True)
class Shared:
    """One request that overlaps, and what it has in common."""

    mitigation: Mitigation
    networks: dict[Network, None] = field(default_factory=dict)
    names: dict[Name, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Live requests that share a target: of the same client, cdid and cuid, and of others."""

    own: list[Shared]
    others: list[Shared]


def common_scope(shared: Iterable[Shared]) -> Scope:
    """What conflict-scope tells: targets of the asker's own request, and nothing of the others (section 4.4.1.3)."""
    shared = list(shared)
    names = dict.fromkeys(name for one in shared for name in one.names)
    return Scope(
        target_prefix=tuple(dict.fromkeys(network for one in shared for network in one.networks)),
        target_fqdn=tuple(name for kind, name in names if kind == TargetName.Kind.HOST),
        alias_name=tuple(name for kind, name in names if kind == TargetName.Kind.ALIAS),
    )


class Neighbours:
    """Live requests near those given: found with a few queries, then kept current as a batch goes on.

    `known` are rows that the caller has read already: the same row is the same object everywhere, so that what is set
    on it is neither lost nor written twice.
    """

    def __init__(
        self, reaches: Iterable[Reach], domain_ids: Iterable[int], *, known: Iterable[Mitigation] = ()
    ) -> None:
        reaches, domain_ids = list(reaches), list(domain_ids)
        self._rows = {mitigation.pk: mitigation for mitigation in known}
        prefixes = {network for reach in reaches for network in reach.networks}
        self._ranges = [
            (network_of(target), self._one(target.mitigation)) for target in _touching(prefixes, domain_ids)
        ]
        wanted = {name for reach in reaches for name in reach.names}
        self._names = [((row.kind, row.name), self._one(row.mitigation)) for row in _named(wanted, domain_ids)]

    def overlapping(self, asker: Asker, reach: Reach, *, besides: Mitigation | None = None) -> Overlaps:
        """`besides` is the request itself, where it is a row already."""
        found: dict[int, Shared] = {}
        for network, mitigation in self._ranges:
            for prefix in reach.networks:
                if network.version == prefix.version and network.overlaps(prefix):
                    shared = found.setdefault(id(mitigation), Shared(mitigation))
                    shared.networks[max(network, prefix, key=lambda one: one.prefixlen)] = None
        for name, mitigation in self._names:
            if name in reach.names:
                found.setdefault(id(mitigation), Shared(mitigation)).names[name] = None
        found.pop(id(besides), None)
        own: list[Shared] = []
        others: list[Shared] = []
        for shared in found.values():
            (own if asker_of(shared.mitigation) == asker else others).append(shared)
        return Overlaps(own, others)

    def add(self, mitigation: Mitigation, reach: Reach) -> None:
        self._ranges += [(network, mitigation) for network in reach.networks]
        self._names += [(name, mitigation) for name in reach.names]

    def remove(self, mitigation: Mitigation) -> None:
        self._ranges = [(network, other) for network, other in self._ranges if other is not mitigation]
        self._names = [(name, other) for name, other in self._names if other is not mitigation]

    def _one(self, mitigation: Mitigation) -> Mitigation:
        return self._rows.setdefault(mitigation.pk, mitigation)


def share_a_target(one: Mitigation, other: Mitigation) -> bool:
    """Of two live rows, with what their names stand for now."""
    ours, theirs = reach_now(one), reach_now(other)
    return bool(ours.names & theirs.names) or any(overlaps_any(network, theirs.networks) for network in ours.networks)


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


def overlaps_any(network: Network, prefixes: Collection[Network]) -> bool:
    return any(network.version == prefix.version and network.overlaps(prefix) for prefix in prefixes)
