"""Random scopes, boxes and packets, drawn from few numbers so that they meet at their borders."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from mitigation.rules.boxes import NO_PORT, PORT_PROTOCOLS, Box
from mitigation.rules.packets import Packet, TcpFlag
from mitigation.rules.scope import Scope

BASE4 = int(IPv4Address("198.51.100.0"))
BASE6 = int(IPv6Address("2001:db8:100::"))
PORTS = (0, 1, 19, 52, 53, 54, 80, 123, 443, 65534, 65535)
PROTOCOLS = (0, 1, 6, 7, 16, 17, 18, 33, 47, 58, 132, 255)


@st.composite
def prefixes4(draw):
    length = draw(st.integers(28, 32))
    return IPv4Network((BASE4 + draw(st.integers(0, 31)), length), strict=False)


@st.composite
def prefixes6(draw):
    length = draw(st.integers(124, 128))
    return IPv6Network((BASE6 + draw(st.integers(0, 31)), length), strict=False)


@st.composite
def ranges(draw, values):
    first, last = sorted((draw(st.sampled_from(values)), draw(st.sampled_from(values))))
    return first, last


@st.composite
def scopes(draw):
    return Scope(
        prefixes=tuple(draw(st.lists(prefixes4() | prefixes6(), min_size=1, max_size=4))),
        port_ranges=tuple(draw(st.lists(ranges(PORTS), max_size=3))),
        protocols=tuple(draw(st.lists(st.sampled_from(PROTOCOLS), max_size=4))),
    )


@st.composite
def boxes(draw):
    family, base = draw(st.sampled_from(((4, BASE4), (6, BASE6))))
    first, last = draw(ranges(range(12)))
    return Box(
        family, base + first, base + last, *draw(ranges((0, 6, 17, 255))), *draw(ranges((NO_PORT, 0, 53, 80, 65535)))
    )


@st.composite
def packets(draw):
    is_ipv4 = draw(st.booleans())
    if is_ipv4:
        destination = IPv4Address(BASE4 + draw(st.integers(-1, 33)))
        source = draw(st.sampled_from(("203.0.113.9", "10.1.2.3", "192.168.0.1", "9.255.255.255"))).strip()
        source = IPv4Address(source)
    else:
        destination = IPv6Address(BASE6 + draw(st.integers(-1, 33)))
        source = IPv6Address(draw(st.sampled_from(("2001:db8:bad::1", "fc00::1", "fe80::1", "::1"))))
    protocol = draw(st.sampled_from(PROTOCOLS))
    fragment_offset = draw(st.sampled_from((0, 0, 0, 185)))
    has_header = fragment_offset == 0
    has_ports = has_header and protocol in PORT_PROTOCOLS
    return Packet(
        source=source,
        destination=destination,
        protocol=protocol,
        source_port=draw(st.sampled_from(PORTS)) if has_ports else None,
        destination_port=draw(st.sampled_from(PORTS)) if has_ports else None,
        tcp_flags=TcpFlag(draw(st.integers(0, 63))) if has_header and protocol == 6 else None,
        icmp_type=draw(st.sampled_from((8, 128, 135))) if has_header and protocol in (1, 58) else None,
        fragment_offset=fragment_offset,
        is_answer=draw(st.booleans()),
    )


def in_scope(scope: Scope, packet: Packet) -> bool:
    """RFC 9132, section 4.4.1.1, said a second time and without boxes. All ports asked for is as good as none asked."""
    if not any(packet.destination in prefix for prefix in scope.prefixes):
        return False
    if scope.protocols and packet.protocol not in scope.protocols:
        return False
    if not scope.port_ranges:
        return True
    if packet.protocol not in PORT_PROTOCOLS:
        return bool(scope.protocols)
    asked = {port for lower, upper in scope.port_ranges for port in (lower, upper)}
    if packet.destination_port is None:
        return 0 in asked and 65535 in asked and _covers_every_port(scope)
    return any(lower <= packet.destination_port <= upper for lower, upper in scope.port_ranges)


def _covers_every_port(scope: Scope) -> bool:
    end = -1
    for lower, upper in sorted(scope.port_ranges):
        if lower > end + 1:
            return False
        end = max(end, upper)
    return end == 65535
