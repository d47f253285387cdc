"""Which live requests share an address with another (RFC 9132, section 4.4.1.3)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from mitigation.models import Client, Mitigation, Target
from mitigation.protocol.conflicts import ConflictCause, ConflictInformation, ConflictStatus
from mitigation.protocol.scope import MitigationRequest, Network, Scope, ancestor_keys, range_keys


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Live requests that share an address: of the same client and cuid, and the addresses shared with anybody."""

    own: list[Mitigation]
    foreign: bool
    common: tuple[Network, ...]

    def with_others(self) -> ConflictInformation | None:
        """What a request that stays active although others of its domain overlap is told (section 4.4.1.3)."""
        if not self.foreign:
            return None
        return ConflictInformation(
            cause=ConflictCause.OVERLAPPING_TARGETS,
            status=ConflictStatus.REQUEST_ACTIVE,
            scope=Scope(target_prefix=self.common),
        )


class Neighbours:
    """Live targets near those of a batch: found with one query a family, then kept current as the batch goes on."""

    def __init__(self, requests: Iterable[MitigationRequest], domain_ids: Iterable[int]) -> None:
        prefixes = {prefix for request in requests for prefix in request.scope.target_prefix}
        self._ranges: list[tuple[Network, Mitigation]] = []
        for target in _touching(prefixes, domain_ids):
            self._ranges.append((network_of(target), target.mitigation))

    def overlapping(self, client: Client, request: MitigationRequest) -> Overlaps:
        own: dict[int, Mitigation] = {}
        common: dict[Network, None] = {}
        foreign = False
        for network, mitigation in self._ranges:
            for prefix in request.scope.target_prefix:
                if network.version != prefix.version or not network.overlaps(prefix):
                    continue
                common[max(network, prefix, key=lambda one: one.prefixlen)] = None
                if (mitigation.client_id, mitigation.cuid) == (client.pk, request.cuid):
                    own[id(mitigation)] = mitigation
                else:
                    foreign = True
        return Overlaps(list(own.values()), foreign, tuple(common))

    def add(self, mitigation: Mitigation, scope: Scope) -> None:
        self._ranges += [(prefix, mitigation) for prefix in scope.target_prefix]

    def remove(self, mitigation: Mitigation) -> None:
        self._ranges = [(network, other) for network, other in self._ranges if other is not mitigation]


def _touching(prefixes: set[Network], domain_ids: Iterable[int]) -> list[Target]:
    """Targets that contain one of the prefixes or lie inside one; both look-ups use the index."""
    found: dict[int, Target] = {}
    live = Target.objects.select_related("mitigation__client").filter(mitigation__domain_id__in=list(domain_ids))
    for family in (4, 6):
        asked = [prefix for prefix in prefixes if prefix.version == family]
        if not asked:
            continue
        above = sorted({key for prefix in asked for key in ancestor_keys(prefix)})
        for start in range(0, len(above), 10_000):
            for target in live.filter(family=family, first__in=above[start : start + 10_000]):
                found[target.pk] = target
        for prefix in asked:
            if prefix.prefixlen < prefix.max_prefixlen:
                first, last = range_keys(prefix)
                for target in live.filter(family=family, first__gte=first, first__lte=last):
                    found[target.pk] = target
    shared: dict[int, Mitigation] = {}
    for target in found.values():  # one object a mitigation, so that a status set on it is set everywhere
        target.mitigation = shared.setdefault(target.mitigation_id, target.mitigation)
    return [target for target in found.values() if overlaps_any(network_of(target), prefixes)]


def network_of(target: Target) -> Network:
    first, last = int.from_bytes(target.first, "big"), int.from_bytes(target.last, "big")
    width = 32 if target.family == 4 else 128
    length = width - (last - first).bit_length()
    if target.family == 4:
        return ipaddress.IPv4Network((first, length))
    return ipaddress.IPv6Network((first, length))


def overlaps_any(network: Network, prefixes: set[Network]) -> bool:
    return any(network.version == prefix.version and network.overlaps(prefix) for prefix in prefixes)
