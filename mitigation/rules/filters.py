"""From clients' access control lists to ordered filter rules of a domain (RFC 8783, section 4.1).

The first entry that matches decides. Rules are reached by packets to the domain's own destinations only, whatever
the entries say, so an entry without a destination means all of these and none can ever mean more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from ipaddress import collapse_addresses

from mitigation.protocol.acls import Ace, Acl, Forwarding
from mitigation.protocol.matches import Family, Matches, name_of
from mitigation.protocol.matches import given as given_fields
from mitigation.protocol.scope import covered_by
from mitigation.rules.filter_packets import FilterPacket
from mitigation.rules.filter_packets import matches as entry_matches
from mitigation.rules.scope import Network

FAMILIES: tuple[Family, ...] = (4, 6)


@dataclass(frozen=True, eq=False)  # compared by identity: that is fast, and equipment compares what it renders
class FilterRule:
    """One entry. `owner` tells whose list it is; (owner, acl, ace) names what it counts."""

    owner: str
    acl: str
    ace: str
    families: tuple[Family, ...]
    matches: Matches
    forwarding: Forwarding
    rate_limit: Decimal | None = None  # octets per second

    @cached_property
    def key(self) -> str:
        """Sixteen characters of 0-9 and a-f, the same for the same entry of the same list, whatever is in it."""
        return counter_key(self.owner, self.acl, self.ace)

    @property
    def rate(self) -> int | None:
        """Whole octets per second, rounded down; 0 drops everything, None limits nothing."""
        return None if self.rate_limit is None else int(self.rate_limit)

    @property
    def drops(self) -> bool:
        """All that it matches."""
        return self.forwarding is Forwarding.DROP or self.rate == 0

    @cached_property
    def text(self) -> str:
        """One line for an operator."""
        words = [f"{name} {value}" for name, value in self.conditions]
        if self.transport:
            words.insert(0, self.transport)
        return " ".join([self.action, *(words or ["everything"])])

    def accepts(self, packet: FilterPacket) -> bool:
        """Whether the entry matches; whatever is then done with the packet."""
        return packet.family in self.families and entry_matches(self.matches, packet)

    @property
    def action(self) -> str:
        """What becomes of what it matches, in words."""
        if self.drops:
            return "drop"
        return "accept" if self.rate is None else f"accept up to {self.rate:,} octets a second of"

    @property
    def transport(self) -> str:
        """TCP, UDP, ICMP, or empty where it does not matter."""
        return "" if self.matches.transport is None else name_of(self.matches.transport).upper()

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """Each field that is given, by its name in RFC 8783, and its value as text."""
        parts = (self.matches.ip, self.matches.transport)
        return [(name, _shown(value)) for part in parts if part is not None for name, value in given_fields(part)]


@dataclass(frozen=True, eq=False)
class FilterList:
    """The rules of one access control list, in order."""

    name: str
    rules: tuple[FilterRule, ...]


@dataclass(frozen=True, eq=False)
class FilterSet:
    """All filters for one domain's destinations, which no other set has; lists in order, rules in order.

    `key`, of small letters and digits, names the domain.
    """

    key: str
    destinations: tuple[Network, ...]
    lists: tuple[FilterList, ...]

    @property
    def rules(self) -> Iterable[FilterRule]:
        return (rule for one in self.lists for rule in one.rules)

    def decide(self, packet: FilterPacket) -> FilterRule | None:
        """The rule whose packet it is; None when no filter has an opinion."""
        if not any(packet.destination in network for network in self.destinations):
            return None
        return next((rule for rule in self.rules if rule.accepts(packet)), None)


class OutsideDomain(ValueError):
    """An entry's destination is not, or no longer, within the domain: its whole list does not stand."""


def counter_key(owner: str, acl: str, ace: str) -> str:
    return hashlib.blake2b(repr((owner, acl, ace)).encode(), digest_size=8).hexdigest()


def filter_rule(owner: str, acl: str, ace: Ace, family: Family | None) -> FilterRule:
    """`family` is that of its list, for an entry that names none."""
    if ace.matches.ip is not None:
        family = ace.matches.ip.family
    families = FAMILIES if family is None else (family,)
    return FilterRule(owner, acl, ace.name, families, ace.matches, ace.action.forwarding, ace.action.rate_limit)


def filter_list(owner: str, acl: Acl, prefixes: Sequence[Network]) -> FilterList:
    """Raises OutsideDomain. `prefixes` are the domain's."""
    found = tuple(filter_rule(owner, acl.name, ace, acl.family) for ace in acl.aces)
    check_destinations(found, prefixes)
    return FilterList(acl.name, found)


def check_destinations(rules: Iterable[FilterRule], prefixes: Sequence[Network]) -> None:
    """Raises OutsideDomain for a destination that is not, or only in part, inside one of these."""
    inside: set[Network] = set()  # most entries of a list have the same one
    for rule in rules:
        destination = rule.matches.ip.destination if rule.matches.ip is not None else None
        if destination is None or destination in inside:
            continue
        if not covered_by(destination, prefixes):
            raise OutsideDomain(f"{rule.acl}/{rule.ace}: {destination} is outside the domain's prefixes")
        inside.add(destination)


def destinations(prefixes: Iterable[Network], untouched: Iterable[Network]) -> tuple[Network, ...]:
    """The domain's prefixes less what is never to be filtered, as few networks as possible, IPv4 first."""
    found = list(prefixes)
    for hole in untouched:
        found = [part for network in found for part in _without(network, hole)]
    ordered: list[Network] = []
    for version in (4, 6):
        ordered += collapse_addresses(one for one in found if one.version == version)  # type: ignore[type-var]
    return tuple(ordered)


def _without(network: Network, hole: Network) -> Iterable[Network]:
    if network.version != hole.version or not network.overlaps(hole):
        return [network]
    if network.subnet_of(hole):  # type: ignore[arg-type]
        return []
    return network.address_exclude(hole)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(value) or "none"
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
