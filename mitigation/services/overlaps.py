"""Which live requests share a target with another: an address, a name or an alias (RFC 9132, section 4.4.1.3)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mitigation.models import Mitigation, Target, TargetName
from mitigation.protocol import targets
from mitigation.protocol.scope import Network, Scope, ancestor_keys, overlaps_any, range_keys

_CHUNK = 10_000  # values in one IN list
_IPV6 = 1 << 128

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
            _range(network, self._one(mitigation)) for network, mitigation in _touching(prefixes, domain_ids)
        ]
        wanted = {name for reach in reaches for name in reach.names}
        self._names = [((row.kind, row.name), self._one(row.mitigation)) for row in _named(wanted, domain_ids)]

    def overlapping(self, asker: Asker, reach: Reach, *, besides: Mitigation | None = None) -> Overlaps:
        """`besides` is the request itself, where it is a row already."""
        found: dict[int, Shared] = {}
        for prefix in reach.networks:
            begin, end = _span(prefix)
            for first, last, network, mitigation in self._ranges:
                if first <= end and begin <= last:
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
        self._ranges += [_range(network, mitigation) for network in reach.networks]
        self._names += [(name, mitigation) for name in reach.names]

    def remove(self, mitigation: Mitigation) -> None:
        self._ranges = [one for one in self._ranges if one[3] is not mitigation]
        self._names = [(name, other) for name, other in self._names if other is not mitigation]

    def _one(self, mitigation: Mitigation) -> Mitigation:
        return self._rows.setdefault(mitigation.pk, mitigation)


_Range = tuple[int, int, Network, Mitigation]  # first and last address: a batch compares each of its own with all


def _range(network: Network, mitigation: Mitigation) -> _Range:
    return *_span(network), network, mitigation


def _span(network: Network) -> tuple[int, int]:
    """First and last address, in one order for both families: IPv4 comes before all of IPv6."""
    first = int(network.network_address) + (_IPV6 if network.version == 6 else 0)
    return first, first + network.num_addresses - 1


def share_a_target(one: Mitigation, other: Mitigation) -> bool:
    """Of two live rows, with what their names stand for now."""
    ours, theirs = reach_now(one), reach_now(other)
    return bool(ours.names & theirs.names) or any(overlaps_any(network, theirs.networks) for network in ours.networks)


def _touching(prefixes: set[Network], domain_ids: list[int]) -> Iterator[tuple[Network, Mitigation]]:
    """Targets that contain one of the prefixes or lie inside one; both look-ups use the index."""
    live = Target.objects.select_related("mitigation__client").filter(mitigation__domain_id__in=domain_ids)
    for family in (4, 6):
        asked = [prefix for prefix in prefixes if prefix.version == family]
        if not asked:
            continue
        found: dict[int, tuple[Network, Mitigation]] = {}
        above = _Above(asked)
        for start in range(0, len(above.keys), _CHUNK):
            for target in live.filter(family=family, first__in=above.keys[start : start + _CHUNK]):
                if (network := network_of(target)) in above:
                    found[target.pk] = network, target.mitigation
        for prefix in asked:
            if prefix.prefixlen < prefix.max_prefixlen:
                first, last = range_keys(prefix)
                for target in live.filter(family=family, first__gte=first, first__lte=last):
                    found[target.pk] = network_of(target), target.mitigation
        yield from found.values()


class _Above:
    """All networks that contain one of the prefixes of one family, themselves included."""

    def __init__(self, prefixes: Sequence[Network]) -> None:
        self._prefixes = prefixes
        self._by_length: dict[int, set[int]] = {}
        self.keys = sorted({key for prefix in prefixes for key in ancestor_keys(prefix)})

    def __contains__(self, network: Network) -> bool:
        length, host = network.prefixlen, network.max_prefixlen - network.prefixlen
        if length not in self._by_length:
            longer = (prefix for prefix in self._prefixes if prefix.prefixlen >= length)
            self._by_length[length] = {int(prefix.network_address) >> host for prefix in longer}
        return int(network.network_address) >> host in self._by_length[length]


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
