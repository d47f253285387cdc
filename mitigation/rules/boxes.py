"""Boxes: what a scope means in packets, as ranges of destination address, protocol and destination port.

The port axis has one value more than there are ports. NO_PORT stands for packets in which no destination port can be
read: protocols without ports, and fragments other than the first, whatever their protocol. So a box without a
port range reaches those packets, a box with one does not, and taking boxes apart never loses a fragment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, summarize_address_range
from typing import Literal

from mitigation.exceptions import DotsError
from mitigation.rules.scope import LAST_PORT, LAST_PROTOCOL, Network, Scope

Family = Literal[4, 6]
Range = tuple[int, int]

NO_PORT = -1
ANY_PORT: Range = (NO_PORT, LAST_PORT)
EVERY_PORT: Range = (0, LAST_PORT)
ANY_PROTOCOL: Range = (0, LAST_PROTOCOL)
PORT_PROTOCOLS = (6, 17, 33, 132)  # TCP, UDP, DCCP, SCTP
LAST_ADDRESS: dict[Family, int] = {4: 2**32 - 1, 6: 2**128 - 1}
MAX_BOXES = 256


class TooManyBoxes(DotsError):
    """The scope takes more boxes than one request may have."""

    def __init__(self, needed: int, allowed: int) -> None:
        super().__init__(f"the scope needs {needed} combinations of prefix, protocol and port; {allowed} are allowed")
        self.needed = needed
        self.allowed = allowed


@dataclass(frozen=True, order=True)
class Box:
    """All bounds are included. Addresses are integers of their family; `first_port` may be NO_PORT."""

    family: Family
    first_address: int
    last_address: int
    first_protocol: int = 0
    last_protocol: int = LAST_PROTOCOL
    first_port: int = NO_PORT
    last_port: int = LAST_PORT

    def __post_init__(self) -> None:
        if not (
            0 <= self.first_address <= self.last_address <= LAST_ADDRESS[self.family]
            and 0 <= self.first_protocol <= self.last_protocol <= LAST_PROTOCOL
            and NO_PORT <= self.first_port <= self.last_port <= LAST_PORT
        ):
            raise ValueError(f"not a box: {self}")

    @property
    def addresses(self) -> Range:
        return self.first_address, self.last_address

    @property
    def protocols(self) -> Range:
        return self.first_protocol, self.last_protocol

    @property
    def ports(self) -> Range:
        return self.first_port, self.last_port

    @property
    def size(self) -> int:
        """How many points the box has; used to compare volumes, not packets."""
        spans = (self.addresses, self.protocols, self.ports)
        product = 1
        for first, last in spans:
            product *= last - first + 1
        return product

    def intersection(self, other: Box) -> Box | None:
        if self.family != other.family:
            return None
        addresses = _overlap(self.addresses, other.addresses)
        protocols = _overlap(self.protocols, other.protocols)
        ports = _overlap(self.ports, other.ports)
        if addresses is None or protocols is None or ports is None:
            return None
        return Box(self.family, *addresses, *protocols, *ports)

    def narrowed(self, *, protocols: Range = ANY_PROTOCOL, ports: Range = ANY_PORT) -> Box | None:
        """The part of the box with these protocols and ports, or None."""
        return self.intersection(Box(self.family, 0, LAST_ADDRESS[self.family], *protocols, *ports))

    def is_subset(self, other: Box) -> bool:
        return self.intersection(other) == self

    def contains(self, family: int, address: int, protocol: int, port: int) -> bool:
        """`port` is NO_PORT where the packet carries none."""
        return (
            family == self.family
            and self.first_address <= address <= self.last_address
            and self.first_protocol <= protocol <= self.last_protocol
            and self.first_port <= port <= self.last_port
        )


def scope_boxes(scope: Scope, *, limit: int = MAX_BOXES) -> list[Box]:
    """The boxes that together are the scope, disjoint and in order. Raises TooManyBoxes.

    Ports apply to protocols that have ports; the other protocols asked for are taken whole. Ports without any
    protocol mean every protocol that has ports. A scope without prefixes means any destination of both families.
    """
    prefixes = merged_prefixes(scope.prefixes)
    profiles = _protocols_and_ports(scope)
    needed = len(prefixes) * len(profiles)
    if needed > limit:
        raise TooManyBoxes(needed, limit)
    return [Box(family, *span, *protocols, *ports) for family, span in prefixes for protocols, ports in profiles]


def merged_prefixes(prefixes: Iterable[Network]) -> list[tuple[Family, Range]]:
    """Prefixes as disjoint address ranges, IPv4 first; no prefix at all stands for all addresses."""
    prefixes = list(prefixes)
    if not prefixes:
        return [(family, (0, LAST_ADDRESS[family])) for family in LAST_ADDRESS]
    spans: list[tuple[Family, Range]] = []
    for network in collapse_addresses(p for p in prefixes if p.version == 4):
        spans.append((4, (int(network[0]), int(network[-1]))))
    for network6 in collapse_addresses(p for p in prefixes if p.version == 6):
        spans.append((6, (int(network6[0]), int(network6[-1]))))
    return spans


def merged_ranges(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in as few ranges as possible, in order."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def networks(box: Box) -> tuple[Network, ...]:
    """The destination addresses of the box as prefixes; a single one when the range is aligned."""
    return _summarized(box.family, *box.addresses)


def addresses_in_words(box: Box) -> str:
    """`198.51.100.0/24`, or `198.51.100.1-198.51.100.6` where that is no prefix."""
    return _in_words(box.family, *box.addresses)


@lru_cache(maxsize=1 << 16)  # the rules of a mitigation share their destinations
def _summarized(family: Family, first: int, last: int) -> tuple[Network, ...]:
    if family == 4:
        return tuple(summarize_address_range(IPv4Address(first), IPv4Address(last)))
    return tuple(summarize_address_range(IPv6Address(first), IPv6Address(last)))


@lru_cache(maxsize=1 << 16)
def _in_words(family: Family, first: int, last: int) -> str:
    prefixes = _summarized(family, first, last)
    if len(prefixes) == 1:
        return str(prefixes[0])
    address = IPv4Address if family == 4 else IPv6Address
    return f"{address(first)}-{address(last)}"


def _protocols_and_ports(scope: Scope) -> list[tuple[Range, Range]]:
    ports = [ANY_PORT if span == EVERY_PORT else span for span in merged_ranges(scope.port_ranges)]
    if not ports:
        asked = merged_ranges((p, p) for p in scope.protocols) or [ANY_PROTOCOL]
        return [(span, ANY_PORT) for span in asked]
    with_ports = [p for p in PORT_PROTOCOLS if p in scope.protocols or not scope.protocols]
    without_ports = merged_ranges((p, p) for p in scope.protocols if p not in PORT_PROTOCOLS)
    return [((p, p), span) for p in with_ports for span in ports] + [(span, ANY_PORT) for span in without_ports]


def _overlap(one: Range, other: Range) -> Range | None:
    first, last = max(one[0], other[0]), min(one[1], other[1])
    return (first, last) if first <= last else None
