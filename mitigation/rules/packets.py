"""Which packets a rule hits, decided without any equipment: for tests, and to replay captured traffic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address

from mitigation.rules.boxes import NO_PORT, PORT_PROTOCOLS, Box
from mitigation.rules.canonical import Kind, Rule

TCP, UDP = 6, 17


class TcpFlag(IntFlag):
    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32


# (mask, value): flags & mask == value never happens in a TCP that speaks (RFC 9293, section 3.10): nothing set at all,
# opening and closing at once, two ways of closing at once, closing without acknowledging anything.
IMPOSSIBLE_TCP_FLAGS: tuple[tuple[TcpFlag, TcpFlag], ...] = (
    (TcpFlag(63), TcpFlag(0)),
    (TcpFlag.SYN | TcpFlag.FIN, TcpFlag.SYN | TcpFlag.FIN),
    (TcpFlag.SYN | TcpFlag.RST, TcpFlag.SYN | TcpFlag.RST),
    (TcpFlag.FIN | TcpFlag.RST, TcpFlag.FIN | TcpFlag.RST),
    (TcpFlag.FIN | TcpFlag.ACK, TcpFlag.FIN),
)
OPENING_MASK = TcpFlag.FIN | TcpFlag.SYN | TcpFlag.RST | TcpFlag.ACK
OPENING = TcpFlag.SYN

# Neighbour discovery (RFC 4861, section 4): never limited, a host without neighbours is gone.
NEIGHBOUR_DISCOVERY = tuple(range(133, 138))


@dataclass(frozen=True)
class Packet:
    """Ports, flags and ICMP type are None where the packet does not carry them; `fragment_offset` in units of 8 octets.

    `is_answer` says that connection tracking knows the packet as the answer to something the protected side sent.
    """

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    tcp_flags: TcpFlag | None = None
    icmp_type: int | None = None
    fragment_offset: int = 0
    is_answer: bool = False

    @property
    def is_later_fragment(self) -> bool:
        return self.fragment_offset > 0

    @property
    def readable_port(self) -> int:
        """The destination port on the box axis: NO_PORT for other protocols and for later fragments."""
        if self.is_later_fragment or self.protocol not in PORT_PROTOCOLS or self.destination_port is None:
            return NO_PORT
        return self.destination_port


def in_box(box: Box, packet: Packet) -> bool:
    destination = packet.destination
    return box.contains(destination.version, int(destination), packet.protocol, packet.readable_port)


def matches(rule: Rule, packet: Packet) -> bool:
    """True when the rule drops, counts against its limit, marks (REDIRECT) or counts (PASSED) this packet."""
    return in_box(rule.box, packet) and _CONDITIONS[rule.kind](rule, packet)


def is_impossible(flags: TcpFlag) -> bool:
    return any(flags & mask == value for mask, value in IMPOSSIBLE_TCP_FLAGS)


def _is_amplified(rule: Rule, packet: Packet) -> bool:
    has_ports = packet.protocol == UDP and packet.readable_port != NO_PORT
    return has_ports and packet.source_port in rule.parameters.source_ports


def _is_bogon(rule: Rule, packet: Packet) -> bool:
    return any(packet.source in prefix for prefix in rule.parameters.source_prefixes)


def _has_impossible_flags(rule: Rule, packet: Packet) -> bool:
    return packet.protocol == TCP and packet.tcp_flags is not None and is_impossible(packet.tcp_flags)


def _opens(rule: Rule, packet: Packet) -> bool:
    return packet.protocol == TCP and packet.tcp_flags is not None and packet.tcp_flags & OPENING_MASK == OPENING


def _is_limited_icmp(rule: Rule, packet: Packet) -> bool:
    if packet.is_answer:
        return False
    return packet.protocol == 1 or (packet.protocol == 58 and packet.icmp_type not in NEIGHBOUR_DISCOVERY)


_CONDITIONS: dict[Kind, Callable[[Rule, Packet], bool]] = {
    Kind.DISCARD: lambda rule, packet: True,
    Kind.RATE_LIMIT: lambda rule, packet: True,
    Kind.REDIRECT: lambda rule, packet: True,
    Kind.PASSED: lambda rule, packet: True,
    Kind.AMPLIFICATION: _is_amplified,
    Kind.FRAGMENTS: lambda rule, packet: packet.protocol == UDP and packet.is_later_fragment,
    Kind.TCP_FLAGS: _has_impossible_flags,
    Kind.BOGONS: _is_bogon,
    Kind.SYN_LIMIT: _opens,
    Kind.UDP_LIMIT: lambda rule, packet: packet.protocol == UDP and not packet.is_answer,
    Kind.ICMP_LIMIT: _is_limited_icmp,
}
