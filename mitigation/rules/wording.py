"""Rules in words, for operators: which packets, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from mitigation.rules.boxes import ANY_PORT, ANY_PROTOCOL, NO_PORT, Box, networks

if TYPE_CHECKING:
    from mitigation.rules.canonical import Parameters

PROTOCOL_NAMES = {
    1: "ICMP",
    2: "IGMP",
    6: "TCP",
    17: "UDP",
    33: "DCCP",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    132: "SCTP",
}


def sentence(kind_name: str, box: Box, parameters: Parameters) -> str:
    return _SENTENCES[kind_name](box, parameters)


def destination(box: Box) -> str:
    """`198.51.100.7`, `2001:db8::/32` or `198.51.100.1 to 198.51.100.6`."""
    prefixes = networks(box)
    if len(prefixes) == 1:
        only = prefixes[0]
        return str(only.network_address) if only.prefixlen == only.max_prefixlen else str(only)
    if box.family == 4:
        return f"{IPv4Address(box.first_address)} to {IPv4Address(box.last_address)}"
    return f"{IPv6Address(box.first_address)} to {IPv6Address(box.last_address)}"


def protocols(box: Box) -> str:
    first, last = box.protocols
    if box.protocols == ANY_PROTOCOL:
        return "all protocols"
    if first == last:
        return PROTOCOL_NAMES.get(first, f"protocol {first}")
    return f"protocols {first} to {last}"


def where(box: Box) -> str:
    """The destination, with the ports when they are narrowed."""
    return f"{destination(box)}{_ports(box)}"


def numbers(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)


def _ports(box: Box) -> str:
    first, last = box.ports
    if last == ANY_PORT[1] and first <= 0:
        return ""
    if last == NO_PORT:
        return " (packets without ports)"
    if first == NO_PORT:
        return f" ports 0 to {last} (and packets without ports)"
    return f" port {first}" if first == last else f" ports {first} to {last}"


def _limit(parameters: Parameters) -> str:
    return f"to {parameters.rate} a second (bursts of {parameters.burst}) from each source"


def _whole_limit(parameters: Parameters) -> str:
    limits = (f"{one.rate} {one.unit} a second (bursts of {one.burst})" for one in parameters.buckets)
    return f"to {' and '.join(limits)} with all else of its scope"


_SENTENCES: dict[str, Callable[[Box, Parameters], str]] = {
    "DISCARD": lambda box, _: f"drop {protocols(box)} to {where(box)}",
    "AMPLIFICATION": lambda box, p: f"drop UDP from amplification ports {numbers(p.source_ports)} to {where(box)}",
    "FRAGMENTS": lambda box, _: f"drop UDP fragments after the first to {destination(box)}",
    "TCP_FLAGS": lambda box, _: f"drop TCP with impossible flags to {where(box)}",
    "BOGONS": lambda box, p: (
        f"drop {protocols(box)} from {len(p.source_prefixes)} prefixes that cannot be sources (bogons) to {where(box)}"
    ),
    "SYN_LIMIT": lambda box, p: f"limit new TCP connections to {where(box)} {_limit(p)}",
    "UDP_LIMIT": lambda box, p: f"limit UDP packets to {where(box)} {_limit(p)}",
    "ICMP_LIMIT": lambda box, p: f"limit {protocols(box)} packets to {destination(box)} {_limit(p)}",
    "RATE_LIMIT": lambda box, p: f"limit {protocols(box)} to {where(box)} {_whole_limit(p)}",
    "REDIRECT": lambda box, p: f"redirect {protocols(box)} to {where(box)} by mark {p.mark:#x}/{p.mask:#x}",
    "PASSED": lambda box, _: f"count {protocols(box)} that got through to {where(box)}",
}
