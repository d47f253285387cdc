"""Clients' filters as nftables text; pure.

The first hook of ours, at -460, so before defragmentation (-400) and before every stage that drops for mitigations:

    filter_*  a map from destination to `jump acls_*`, the chain of a domain; its elements carry the deadline
    acls_*    jumps to the segments of its lists, in order: an edit takes effect when these are swapped
    acl_*     a segment: some hundred rules of one list, in order, first match wins; named by a hash of
              its content, so an edit makes new ones beside the old and never changes one that packets may be in
    rate_*    what an entry with a rate limit does; a chain of its own, so that several rules share
              one bucket, and the bucket outlives an edit of other entries
    ace_*     a named counter per entry, used by each rule of it; it outlives every edit too

A packet that a filter accepts carries one bit of its mark past the stages that drop, and loses it in `unmark`, before
routing. `accept` alone would end this hook only. Whoever sets that bit before us is not believed: it is cleared first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mitigation.drivers.base import Problem
from mitigation.drivers.nft_guards import guards
from mitigation.drivers.nft_ruleset import Chain
from mitigation.protocol.acls import IDENTITIES
from mitigation.protocol.matches import (
    IPV4_FLAGS,
    TCP_FLAGS,
    Family,
    FlagsBitmask,
    IcmpMatch,
    IpMatch,
    PortMatch,
    TcpMatch,
    Transport,
    UdpMatch,
    protocol_of,
)
from mitigation.rules.filter_packets import DF, FIRST, IS_FRAGMENT, LAST
from mitigation.rules.filters import FilterList, FilterRule, FilterSet

SEGMENT = 250  # rules; 10,000 rules load in 0.5 s, so many in 15 ms
LEAST_BURST = 1_500  # octets: one packet of an Ethernet
FASTEST = 10**10  # octets a second; the kernel counts its tokens in 64 bits of nanoseconds
MOST_REST = 64  # octets of rest-of-header that are compared
_RAW_OCTETS = 16  # one comparison of the kernel


@dataclass(frozen=True)
class FilterChains:
    """One domain's filters in the kernel: chains in the order in which they are made, `top` last: it is swapped."""

    below: tuple[Chain, ...]
    top: Chain
    counters: frozenset[str]

    @property
    def all(self) -> tuple[Chain, ...]:
        return (*self.below, self.top)


class FilterTexts:
    """`version` ends the names of all chains, as elsewhere in the table; counters outlive versions."""

    def __init__(self, version: str, mark: int) -> None:
        self.version = version
        self.mark = mark
        self._rendered = lru_cache(maxsize=1 << 17)(self._render)  # rules are compared by identity
        self._segmented = lru_cache(maxsize=1 << 13)(self._segments)
        self._stretch = lru_cache(maxsize=1 << 13)(self._segment)  # an entry more changes one of a long list

    def chains(self, filters: FilterSet) -> FilterChains:
        below: list[Chain] = []
        jumps: list[str] = []
        for one in filters.lists:
            limits, segments = self._segmented(one)
            below += [*limits, *segments]
            jumps += [f"jump {segment.name}" for segment in segments]
        top = Chain(self.top_name(filters.key), tuple(jumps))
        return FilterChains(tuple(below), top, frozenset(counter_name(rule) for rule in filters.rules))

    def top_name(self, key: str) -> str:
        return f"acls_{key}_{self.version}"

    def _segments(self, filters: FilterList) -> tuple[list[Chain], list[Chain]]:
        limits = [chain for rule in filters.rules if (chain := self._limit(rule)) is not None]
        stretches = (filters.rules[at : at + SEGMENT] for at in range(0, len(filters.rules), SEGMENT))
        return limits, [chain for some in stretches if (chain := self._stretch(some)) is not None]

    def _segment(self, rules: tuple[FilterRule, ...]) -> Chain | None:
        texts = (*guards(rules), *(text for rule in rules for text in self._rendered(rule)))
        return Chain(f"acl_{_hash(chr(10).join(texts))}_{self.version}", texts) if texts else None

    def _render(self, rule: FilterRule) -> tuple[str, ...]:
        action = f"counter name {counter_name(rule)} {self._verdict(rule)}"
        return tuple(f"{condition} {action}".strip() for condition in conditions(rule))

    def _verdict(self, rule: FilterRule) -> str:
        if rule.drops:
            return "drop"
        return self._accept if rule.rate is None else f"goto {self._limit_name(rule)}"

    @property
    def _accept(self) -> str:
        return f"meta mark set meta mark | {self.mark:#x} accept"

    def _limit_name(self, rule: FilterRule) -> str:
        return f"rate_{rule.key}_{rule.rate}_{self.version}"

    def _limit(self, rule: FilterRule) -> Chain | None:
        if rule.drops or rule.rate is None:
            return None
        over = f"limit rate over {rule.rate} bytes/second burst {burst(rule.rate)} bytes drop"
        return Chain(self._limit_name(rule), (over, self._accept))


def burst(rate: int) -> int:
    """Octets that may come at once beside one second's worth: a tenth of a second, at least a packet."""
    return max(LEAST_BURST, rate // 10)


def counter_name(rule: FilterRule) -> str:
    return f"ace_{rule.key}"


def why_not(rule: FilterRule) -> str | None:
    """A sentence when nftables cannot do exactly this."""
    if rule.rate is not None and rule.rate > FASTEST:
        return f"no rate above {FASTEST:,} octets a second can be limited here"
    transport = rule.matches.transport
    if isinstance(transport, IcmpMatch) and len(transport.rest_of_header or b"") > MOST_REST:
        return f"only {MOST_REST} octets of rest-of-header are compared here"
    return None


def check(rules: Sequence[FilterRule], *, most: int) -> list[Problem]:
    problems = [Problem(rule.key, sentence) for rule in rules if (sentence := why_not(rule))]
    return problems + [Problem(rule.key, f"only {most} filter rules fit on this equipment") for rule in rules[most:]]


# -- what is matched --------------------------------------------------------------------------------------------------


def conditions(rule: FilterRule) -> Iterator[str]:
    """One text per nft rule: several for an "or" that nft has no word for, none where nothing matches.

    What a rule reads of a transport header is looked for only where there is one: kernels take the octets of later
    fragments for it.
    """
    transport = rule.matches.transport
    reads_header = transport is not None and transport != type(transport)()
    for family in rule.families:
        fields = _transport(transport, family)
        if fields is not None:
            for fragment in _fragments(rule.matches.ip, family, reads_header=reads_header):
                words = [f"meta nfproto ipv{family}", *_header(rule.matches.ip, family), fragment, *fields]
                yield " ".join(filter(None, words))


def _header(ip: IpMatch | None, family: Family) -> Iterator[str]:
    if ip is None:
        return
    name = "ip" if family == 4 else "ip6"
    for word, prefix in ((f"{name} daddr", ip.destination), (f"{name} saddr", ip.source)):
        if prefix is not None and prefix.prefixlen:
            yield f"{word} {prefix}"
    numbers = {
        f"{name} dscp": ip.dscp,
        f"{name} ecn": ip.ecn,
        f"{name} length": ip.length,
        "ip ttl" if family == 4 else "ip6 hoplimit": ip.ttl,
        "ip protocol" if family == 4 else "meta l4proto": ip.protocol,
        "ip hdrlength": ip.ihl,
        "ip frag-off & 0xe000 ==": None if ip.flags is None else sum(IPV4_FLAGS[flag] for flag in ip.flags),
        "ip frag-off & 0x1fff ==": ip.offset,
        "ip id": ip.identification,
        "ip6 flowlabel": ip.flow_label,
    }
    for word, value in numbers.items():
        if value is not None:
            yield f"{word} {value}"


@dataclass(frozen=True)
class _Kind:
    """A kind of packet: its bits as a filter's fragment type has them, and how nft knows it."""

    bits: int
    text: str

    @property
    def is_later(self) -> bool:
        """A fragment after the first."""
        return bool(self.bits & IS_FRAGMENT) and not self.bits & FIRST and not self.text.endswith(_ATOMIC)


_ATOMIC = "frag more-fragments 0 frag frag-off 0"
_FIRST = "frag more-fragments 1 frag frag-off 0"
# IPv4: as values of the word with the flags "do not fragment" and "more" and the offset.
_IPV4_KINDS = (
    _Kind(0, "0"),
    _Kind(IS_FRAGMENT | FIRST, "0x2000"),
    _Kind(IS_FRAGMENT, "0x2001-0x3fff"),
    _Kind(IS_FRAGMENT | LAST, "0x1-0x1fff"),
    _Kind(DF, "0x4000"),
    _Kind(DF | IS_FRAGMENT | FIRST, "0x6000"),
    _Kind(DF | IS_FRAGMENT, "0x6001-0x7fff"),
    _Kind(DF | IS_FRAGMENT | LAST, "0x4001-0x5fff"),
)
# IPv6: an atomic fragment is one, and neither the first nor the last.
_IPV6_KINDS = (
    _Kind(0, "exthdr frag missing"),
    _Kind(IS_FRAGMENT, _ATOMIC),
    _Kind(IS_FRAGMENT | FIRST, _FIRST),
    _Kind(IS_FRAGMENT, "frag more-fragments 1 frag frag-off != 0"),
    _Kind(IS_FRAGMENT | LAST, "frag more-fragments 0 frag frag-off != 0"),
)


def _fragments(ip: IpMatch | None, family: Family, *, reads_header: bool) -> list[str]:
    """Alternatives, none if nothing is accepted; an empty text always holds."""
    kinds = _IPV4_KINDS if family == 4 else _IPV6_KINDS
    accepted = [kind for kind in kinds if not (reads_header and kind.is_later)]
    if ip is not None and ip.fragment is not None:
        wanted = ip.fragment
        accepted = [kind for kind in accepted if wanted.operator.accepts(kind.bits, wanted.value)]
    if len(accepted) == len(kinds):
        return [""]
    texts = [kind.text for kind in accepted]
    if family == 4:
        return [f"ip frag-off & 0x7fff {{ {', '.join(texts)} }}"] if texts else []
    if accepted == list(_IPV6_KINDS[1:]):
        return ["exthdr frag exists"]
    if {_ATOMIC, _FIRST} <= set(texts):  # one rule in the place of two, for each that reads ports
        texts = ["frag frag-off 0", *(text for text in texts if text not in (_ATOMIC, _FIRST))]
    return texts


def _transport(transport: Transport | None, family: Family) -> list[str] | None:
    """None when no packet can match."""
    if transport is None:
        return []
    words = [f"meta l4proto {protocol_of(transport, family)}"]
    match transport:
        case TcpMatch():
            if transport.flags_bitmask is not None and _never(transport.flags_bitmask):
                return None
            words += _tcp(transport)
        case UdpMatch():
            words += _ports("udp", transport)
            words += _numbers({"udp length": transport.length})
        case IcmpMatch():
            name = "icmp" if family == 4 else "icmpv6"
            words += _numbers({f"{name} type": transport.type, f"{name} code": transport.code})
            words += _raw(32, transport.rest_of_header or b"")
    return words


def _tcp(transport: TcpMatch) -> Iterator[str]:
    yield from _ports("tcp", transport)
    if transport.flags_bitmask is not None:
        yield _bitmask(transport.flags_bitmask)
    if transport.flags is not None:
        yield f"tcp flags == {sum(TCP_FLAGS[flag] for flag in transport.flags):#x}"
    if transport.reserved is not None:
        yield f"@th,96,16 & 0x0f00 == {transport.reserved << 8:#x}"
    yield from _numbers(
        {
            "tcp sequence": transport.sequence_number,
            "tcp ackseq": transport.acknowledgement_number,
            "tcp doff": transport.data_offset,
            "tcp window": transport.window_size,
            "tcp urgptr": transport.urgent_pointer,
        }
    )
    if transport.options is not None:  # the whole of them: their length, then each word
        yield f"tcp doff {5 + len(transport.options) // 4}"
        yield from _raw(160, transport.options)


def _never(wanted: FlagsBitmask) -> bool:
    return wanted.bitmask == 0 and not wanted.operator.accepts(0, 0)


def _bitmask(wanted: FlagsBitmask) -> str:
    """Only the twelve bits, never the data offset beside them; without bits it only wants a header that can be read."""
    if not wanted.bitmask:
        return "tcp window 0-65535"
    value = f"{wanted.bitmask:#x}" if not wanted.operator.is_any else "0"
    # "any" finds something set, "match" everything set.
    comparison = "==" if wanted.operator.is_any == wanted.operator.is_negated else "!="
    return f"@th,96,16 & {wanted.bitmask:#x} {comparison} {value}"


def _ports(name: str, transport: TcpMatch | UdpMatch) -> Iterator[str]:
    for field, ports in (("sport", transport.source_ports), ("dport", transport.destination_ports)):
        if ports is not None:
            yield f"{name} {field} {_port_words(ports)}"


def _port_words(ports: PortMatch) -> str:
    match ports.operator:
        case "neq":
            return f"!= {ports.lower}"
        case "lte":
            return f"0-{ports.upper}"
        case "gte":
            return f"{ports.lower}-65535"
        case _:
            return f"{ports.lower}-{ports.upper}"


def _numbers(values: dict[str, int | None]) -> Iterator[str]:
    return (f"{word} {value}" for word, value in values.items() if value is not None)


def _raw(bits: int, octets: bytes) -> Iterator[str]:
    """Octets of the transport header from this bit on."""
    for at in range(0, len(octets), _RAW_OCTETS):
        some = octets[at : at + _RAW_OCTETS]
        yield f"@th,{bits + at * 8},{len(some) * 8} 0x{some.hex()}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# -- what is promised -------------------------------------------------------------------------------------------------

_IPV4 = (
    "dscp", "ecn", "length", "ttl", "protocol", "ihl", "flags", "offset", "identification", "source-prefix",
    "destination-prefix", "fragment",
)  # fmt: skip
_IPV6 = (
    "dscp", "ecn", "length", "hoplimit", "protocol", "destination-prefix", "source-prefix", "flow-label", "fragment",
)  # fmt: skip
_TCP = (
    "sequence-number", "acknowledgement-number", "data-offset", "reserved", "flags", "window-size", "urgent-pointer",
    "options", "flags-bitmask", "source-port", "destination-port", "port-range",
)  # fmt: skip
_UDP = ("length", "source-port", "destination-port", "port-range")
_ICMP = ("type", "code", "rest-of-header")


def capabilities() -> dict[str, Any]:
    """The tree of RFC 8783, section 7.1: all of it, since all of it is rendered above."""
    return {
        "address-family": ["ipv4", "ipv6"],
        "forwarding-actions": [f"{IDENTITIES}:drop", f"{IDENTITIES}:accept"],
        "rate-limit": True,
        "transport-protocols": [1, 6, 17, 58],
        "ipv4": dict.fromkeys(_IPV4, True),
        "ipv6": dict.fromkeys(_IPV6, True),
        "tcp": dict.fromkeys(_TCP, True),
        "udp": dict.fromkeys(_UDP, True),
        "icmp": dict.fromkeys(_ICMP, True),
    }
