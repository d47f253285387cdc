"""First look-ups of a segment of filter rules, as nftables text; pure.

A packet that no rule of a segment can match leaves it after a few look-ups instead of one comparison for each rule.
What all rules of a segment name can be asked of all of them at once: the family, the source or destination, the
protocol, a port. A packet whose field cannot be read stays, as it has to: it is for the rules to say what they want.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import collapse_addresses

from mitigation.protocol.matches import PortMatch, TcpMatch, UdpMatch, protocol_of
from mitigation.rules.filters import FilterRule
from mitigation.rules.scope import Network

LEAST_GUARDED = 8  # rules of a segment that a few more look-ups may spare
HIGHEST_PORT = 65_535


def guards(rules: Sequence[FilterRule]) -> list[str]:
    """Rules that send away what none of these can match; none for a few."""
    if len(rules) < LEAST_GUARDED:
        return []
    return [*_families(rules), *_protocols(rules), *_ports(rules), *_addresses(rules)]


def _families(rules: Sequence[FilterRule]) -> list[str]:
    families = {family for rule in rules for family in rule.families}
    return [f"meta nfproto != ipv{family} return" for family in families] if len(families) == 1 else []


def _protocols(rules: Sequence[FilterRule]) -> list[str]:
    named = [(one, rule.families) for rule in rules if (one := rule.matches.transport) is not None]
    if len(named) < len(rules):
        return []
    numbers = {protocol_of(one, family) for one, families in named for family in families}
    return [f"meta l4proto != {{ {', '.join(map(str, sorted(numbers)))} }} return"]


def _ports(rules: Sequence[FilterRule]) -> list[str]:
    """Rules that name a port match no later fragment, so that what stands in the place of its ports does not matter."""
    transports = [rule.matches.transport for rule in rules]
    named = [one for one in transports if isinstance(one, TcpMatch | UdpMatch)]
    if len(named) < len(rules):
        return []
    fields = {"dport": [one.destination_ports for one in named], "sport": [one.source_ports for one in named]}
    return [
        f"th {name} != {{ {', '.join(f'{first}-{last}' for first, last in together)} }} return"
        for name, ports in fields.items()
        if (together := _together(ports)) is not None
    ]


def _together(ports: Iterable[PortMatch | None]) -> list[tuple[int, int]] | None:
    """Ranges that do not touch, of all ports that any of these accepts; None where one may accept any."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(span for one in ports for span in _spans(one)):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return None if ranges == [(0, HIGHEST_PORT)] else ranges


def _spans(ports: PortMatch | None) -> list[tuple[int, int]]:
    if ports is None:
        return [(0, HIGHEST_PORT)]
    match "range" if ports.is_range else ports.operator:
        case "lte":
            return [(0, ports.upper)]
        case "gte":
            return [(ports.lower, HIGHEST_PORT)]
        case "neq":
            both = [(0, ports.lower - 1), (ports.lower + 1, HIGHEST_PORT)]
            return [(first, last) for first, last in both if first <= last]
        case _:
            return [(ports.lower, ports.upper)]


def _addresses(rules: Sequence[FilterRule]) -> list[str]:
    ips = [rule.matches.ip for rule in rules]
    fields = {
        "saddr": [one.source if one is not None else None for one in ips],
        "daddr": [one.destination if one is not None else None for one in ips],
    }
    return [text for name, prefixes in fields.items() for text in _address(name, prefixes)]


def _address(name: str, prefixes: Sequence[Network | None]) -> list[str]:
    named = [one for one in prefixes if one is not None and one.prefixlen]
    versions = {one.version for one in named}
    if len(named) < len(prefixes) or len(versions) > 1:
        return []
    header = "ip" if versions == {4} else "ip6"
    # All of one version, which the types do not tell.
    together = ", ".join(map(str, collapse_addresses(named)))  # type: ignore[type-var]
    return [f"{header} {name} != {{ {together} }} return"]
