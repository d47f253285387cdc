"""Which packets an access control entry matches, decided on octets without any equipment (RFC 8783, section 4.2).

A field that a packet does not have, or that a fragment after the first does not carry, matches nothing, also not the
opposite of a value.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from mitigation.protocol.matches import (
    IPV4_FLAGS,
    TCP_FLAGS,
    Family,
    IcmpMatch,
    IpMatch,
    Matches,
    TcpMatch,
    Transport,
    UdpMatch,
    protocol_of,
)

DF, IS_FRAGMENT, FIRST, LAST = 1, 2, 4, 8  # the values of matches.FRAGMENT_BITS

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NONE, _OPTIONS = 0, 43, 44, 51, 59, 60
_SKIPPED = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS})


@dataclass(frozen=True, slots=True)
class FilterPacket:
    """An IP packet as a filter sees it.

    `protocol` is that of the upper layer, or None where it cannot be told; `transport` the octets from its header on,
    none in a fragment after the first. `flags` are the upper three bits of IPv4's word that also holds the offset.
    """

    family: Family
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    length: int  # as in the header: in total for IPv4, without the header for IPv6
    ttl: int
    dscp: int
    ecn: int
    protocol: int | None
    transport: bytes
    has_fragment_header: bool = False  # IPv6
    offset: int = 0  # in units of 8 octets
    more: bool = False
    ihl: int = 0
    flags: int = 0
    identification: int = 0
    flow_label: int = 0

    @property
    def fragment(self) -> int:
        """Bits as in a filter's fragment type; an atomic fragment of IPv6 is a fragment and neither first nor last."""
        is_fragment = self.has_fragment_header if self.family == 6 else self.more or self.offset > 0
        found = DF if self.flags & IPV4_FLAGS["fragment"] else 0
        found |= IS_FRAGMENT if is_fragment else 0
        found |= FIRST if self.more and not self.offset else 0
        return found | (LAST if self.offset and not self.more else 0)


def read_packet(octets: bytes) -> FilterPacket:
    """Raises ValueError for what is no IP packet."""
    try:
        return _read_ipv4(octets) if octets[0] >> 4 == 4 else _read_ipv6(octets)
    except (IndexError, struct.error) as error:
        raise ValueError("not an IP packet") from error


def _read_ipv4(octets: bytes) -> FilterPacket:
    first, tos, length, identification, word, ttl, protocol = struct.unpack_from("!BBHHHBB", octets)
    offset, ihl = word & 0x1FFF, first & 15
    return FilterPacket(
        4,
        ip_address(octets[12:16]),
        ip_address(octets[16:20]),
        length=length,
        ttl=ttl,
        dscp=tos >> 2,
        ecn=tos & 3,
        protocol=protocol,
        transport=b"" if offset else octets[ihl * 4 : length],
        offset=offset,
        more=bool(word & 0x2000),
        ihl=ihl,
        flags=word & 0xE000,
        identification=identification,
    )


def _read_ipv6(octets: bytes) -> FilterPacket:
    first, length, following, ttl = struct.unpack_from("!IHBB", octets)
    at, offset, more, has_fragment_header = 40, 0, False, False
    protocol: int | None = following
    while protocol in _SKIPPED:
        if at + 2 > len(octets) or (offset and protocol in _SKIPPED):
            protocol = None
            break
        following, size = octets[at], octets[at + 1]
        if protocol == _FRAGMENT:
            word = struct.unpack_from("!H", octets, at + 2)[0]
            has_fragment_header, offset, more = True, word >> 3, bool(word & 1)
            size = 0
        at += (size + 2) * 4 if protocol == _AUTHENTICATION else (size + 1) * 8
        protocol = following
    return FilterPacket(
        6,
        ip_address(octets[8:24]),
        ip_address(octets[24:40]),
        length=length,
        ttl=ttl,
        dscp=first >> 22 & 63,
        ecn=first >> 20 & 3,
        protocol=protocol,
        transport=b"" if offset else octets[at : 40 + length],
        has_fragment_header=has_fragment_header,
        offset=offset,
        more=more,
        flow_label=first & 0xFFFFF,
    )


def matches(wanted: Matches, packet: FilterPacket) -> bool:
    if wanted.ip is not None and not _ip(wanted.ip, packet):
        return False
    if wanted.transport is None:
        return True
    return packet.protocol == protocol_of(wanted.transport, packet.family) and _transport(wanted.transport, packet)


def _ip(wanted: IpMatch, packet: FilterPacket) -> bool:
    if wanted.family != packet.family:
        return False
    if wanted.destination is not None and packet.destination not in wanted.destination:
        return False
    if wanted.source is not None and packet.source not in wanted.source:
        return False
    if wanted.flags is not None and packet.flags != sum(IPV4_FLAGS[flag] for flag in wanted.flags):
        return False
    fragment = wanted.fragment
    if fragment is not None and not fragment.operator.accepts(packet.fragment, fragment.value):
        return False
    return all(
        asked is None or asked == found
        for asked, found in (
            (wanted.dscp, packet.dscp),
            (wanted.ecn, packet.ecn),
            (wanted.length, packet.length),
            (wanted.ttl, packet.ttl),
            (wanted.protocol, packet.protocol),
            (wanted.ihl, packet.ihl),
            (wanted.offset, packet.offset),
            (wanted.identification, packet.identification),
            (wanted.flow_label, packet.flow_label),
        )
    )


def _transport(wanted: Transport, packet: FilterPacket) -> bool:
    match wanted:
        case TcpMatch():
            return wanted == TcpMatch() or _tcp(wanted, packet.transport)
        case UdpMatch():
            return wanted == UdpMatch() or _udp(wanted, packet.transport)
        case IcmpMatch():
            return wanted == IcmpMatch() or _icmp(wanted, packet.transport)


def _tcp(wanted: TcpMatch, header: bytes) -> bool:
    if not _ports(wanted, header):
        return False
    bitmask, options = wanted.flags_bitmask, wanted.options
    word = _number(header, 12, 2)
    if word is None:
        return (wanted.data_offset, wanted.reserved, wanted.flags, bitmask, options) == (None,) * 5 and _equal(
            header, wanted
        )
    return (
        wanted.data_offset in (None, word >> 12)
        and wanted.reserved in (None, word >> 8 & 15)
        and (wanted.flags is None or word & 0xFF == sum(TCP_FLAGS[flag] for flag in wanted.flags))
        and (bitmask is None or bitmask.operator.accepts(word & 0xFFF, bitmask.bitmask))
        and (options is None or (word >> 12 == 5 + len(options) // 4 and header[20:].startswith(options)))
        and _equal(header, wanted)
    )


def _equal(header: bytes, wanted: TcpMatch) -> bool:
    return all(
        asked is None or asked == _number(header, at, size)
        for asked, at, size in (
            (wanted.sequence_number, 4, 4),
            (wanted.acknowledgement_number, 8, 4),
            (wanted.window_size, 14, 2),
            (wanted.urgent_pointer, 18, 2),
        )
    )


def _udp(wanted: UdpMatch, header: bytes) -> bool:
    return _ports(wanted, header) and (wanted.length is None or wanted.length == _number(header, 4, 2))


def _icmp(wanted: IcmpMatch, header: bytes) -> bool:
    rest = wanted.rest_of_header
    return (
        (wanted.type is None or wanted.type == _number(header, 0, 1))
        and (wanted.code is None or wanted.code == _number(header, 1, 1))
        and (not rest or header[4:].startswith(rest))
    )


def _ports(wanted: TcpMatch | UdpMatch, header: bytes) -> bool:
    for ports, at in ((wanted.source_ports, 0), (wanted.destination_ports, 2)):
        port = _number(header, at, 2)
        if ports is not None and (port is None or not ports.accepts(port)):
            return False
    return True


def _number(octets: bytes, at: int, size: int) -> int | None:
    """None where the header ends before it."""
    return int.from_bytes(octets[at : at + size], "big") if len(octets) >= at + size else None
