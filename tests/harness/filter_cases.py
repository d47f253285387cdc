"""Each match kind of RFC 8783 with packets on both sides of its border, hand-picked, for IPv4 and IPv6."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.harness.ip_packets import HOST, SOURCE, icmp_message, ip, tcp_header, udp_header

TCP, UDP = 6, 17
ICMP = {4: 1, 6: 58}
BEFORE = {4: "198.51.100.3", 6: "2001:db8:100::3"}
AFTER = {4: "198.51.100.8", 6: "2001:db8:100::8"}
NETWORK = {4: "198.51.100.4/30", 6: "2001:db8:100::4/126"}
MAXIMUM_SEGMENT = bytes((2, 4, 5, 0xB4))
NOTHING_TWICE = bytes((1, 1, 1, 1))


@dataclass(frozen=True)
class Case:
    """What an entry matches, the packets it hits and those beside its border; `rows` it shows."""

    name: str
    family: int
    matches: dict[str, Any]
    hits: tuple[bytes, ...]
    misses: tuple[bytes, ...]


def cases() -> list[Case]:
    found: list[Case] = []
    for family in (4, 6):
        for name, matches, hits, misses in (*_header(family), *_transport(family), *_fragments(family)):
            found.append(Case(f"{name}-{family}", family, matches, tuple(hits), tuple(misses)))
    for name, matches, hits, misses in (*_only_ipv4(), *_only_ipv6()):
        family = 4 if "ipv4" in matches else 6
        found.append(Case(name, family, matches, tuple(hits), tuple(misses)))
    return found


Row = tuple[str, dict[str, Any], list[bytes], list[bytes]]


def _udp(family: int, **more: Any) -> bytes:
    header = {name: more.pop(name) for name in ("source_port", "destination_port", "payload") if name in more}
    return ip(family, UDP, udp_header(**header), **more)


def _tcp(family: int, **more: Any) -> bytes:
    return ip(family, TCP, tcp_header(**more))


def _icmp(family: int, **more: Any) -> bytes:
    return ip(family, ICMP[family], icmp_message(**more))


def _header(family: int) -> Iterator[Row]:
    name = f"ipv{family}"
    other = 10 - family
    anything = [_udp(family), _tcp(family), _icmp(family), ip(family, 47, bytes(8)), _udp(family, offset=30)]
    yield "family", {name: {}}, anything, [_udp(other), _tcp(other)]
    yield (
        "destination",
        {name: {f"destination-{name}-network": NETWORK[family]}},
        [_udp(family), _tcp(family)],
        [_udp(family, destination=BEFORE[family]), _udp(family, destination=AFTER[family]), _udp(other)],
    )
    yield (
        "source",
        {name: {f"source-{name}-network": {4: "203.0.113.8/29", 6: "2001:db8:bad:a000::8/125"}[family]}},
        [_udp(family), _udp(family, source={4: "203.0.113.15", 6: "2001:db8:bad:a000::f"}[family])],
        [
            _udp(family, source={4: "203.0.113.7", 6: "2001:db8:bad:a000::7"}[family]),
            _udp(family, source={4: "203.0.113.16", 6: "2001:db8:bad:a000::10"}[family]),
        ],
    )
    yield (
        "any-source",
        {name: {f"source-{name}-network": {4: "0.0.0.0/0", 6: "::/0"}[family]}},
        anything,
        [_udp(other)],
    )
    yield (
        "dscp",
        {name: {"dscp": 46}},
        [_udp(family, dscp=46, ecn=ecn) for ecn in range(4)],
        [_udp(family, dscp=dscp) for dscp in (0, 45, 47, 14)],
    )
    yield (
        "ecn",
        {name: {"ecn": 1}},
        [_udp(family, ecn=1), _udp(family, ecn=1, dscp=63)],
        [_udp(family, ecn=ecn, dscp=dscp) for ecn in (0, 2, 3) for dscp in (0, 4)],
    )
    size = {4: 1400, 6: 1360}[family]  # IPv4 counts its header, IPv6 does not
    payload = {4: size - 28, 6: size - 8}[family]
    yield (
        "length",
        {name: {"length": size}},
        [_udp(family, payload=bytes(payload))],
        [_udp(family, payload=bytes(payload + by)) for by in (-1, 1, -40, -20)],
    )
    yield "ttl", {name: {"ttl": 64}}, [_udp(family)], [_udp(family, ttl=63), _udp(family, ttl=65)]
    yield "ttl-1", {name: {"ttl": 1}}, [_udp(family, ttl=1)], [_udp(family, ttl=2), _udp(family, ttl=255)]
    yield "protocol", {name: {"protocol": 47}}, [ip(family, 47, bytes(8))], [_udp(family), ip(family, 46, bytes(8))]
    yield "protocol-udp", {name: {"protocol": 17}}, [_udp(family), _udp(family, offset=30)], [_tcp(family)]


def _transport(family: int) -> Iterator[Row]:
    name = f"ipv{family}"
    later = [_udp(family, offset=30), _udp(family, offset=30, more=True)]
    yield "udp", {name: {}, "udp": {}}, [_udp(family), *later], [_tcp(family), _icmp(family), ip(family, 16, bytes(8))]
    yield "tcp", {name: {}, "tcp": {}}, [_tcp(family, flags=flags) for flags in (0, 2, 255)], [_udp(family), *later]
    yield (
        "icmp",
        {name: {}, "icmp": {}},
        [_icmp(family), _icmp(family, type=3)],
        [
            _udp(family),
            ip(family, ICMP[10 - family], icmp_message()),
        ],
    )
    yield from _ports(family)
    yield (
        "udp-length",
        {name: {}, "udp": {"length": 48}},
        [
            _udp(family, payload=bytes(40)),
            *([_udp(4, payload=bytes(40), options=bytes((1,) * 8))] if family == 4 else []),
        ],
        [_udp(family, payload=bytes(39)), _udp(family, payload=bytes(41)), _tcp(family), *later],
    )
    for words in ("match", "any", "not match", "not any"):
        yield from (_bitmask(family, words, bitmask) for bitmask in (2, 18, 255, 4095, 256, 0x102, 0))
    yield (
        "tcp-flags",
        {name: {}, "tcp": {"flags": "syn"}},
        [_tcp(family), _tcp(family, reserved=1)],
        [_tcp(family, flags=flags) for flags in (0, 18, 3, 0x42, 0x82, 16)],
    )
    yield (
        "tcp-no-flags",
        {name: {}, "tcp": {"flags": ""}},
        [_tcp(family, flags=0)],
        [_tcp(family), _tcp(family, flags=128)],
    )
    for leaf, field, value, beside in (
        ("sequence-number", "sequence", 0x01020304, (0x01020303, 0x04030201)),
        ("acknowledgement-number", "acknowledgement", 0xFFFFFFFF, (0xFFFFFFFE, 0)),
        ("reserved", "reserved", 5, (4, 6, 0)),
        ("window-size", "window", 1024, (1023, 1025, 4)),
        ("urgent-pointer", "urgent", 0, (1, 256)),
    ):
        yield (
            f"tcp-{leaf}",
            {name: {}, "tcp": {leaf: value}},
            [_tcp(family, **{field: value})],
            [
                *(_tcp(family, **{field: other}) for other in beside),
                *later,
            ],
        )
    yield (
        "tcp-data-offset",
        {name: {}, "tcp": {"data-offset": 6}},
        [_tcp(family, options=MAXIMUM_SEGMENT)],
        [
            _tcp(family),
            _tcp(family, options=MAXIMUM_SEGMENT + NOTHING_TWICE),
        ],
    )
    yield (
        "tcp-options",
        {name: {}, "tcp": {"options": "AgQFtA=="}},
        [_tcp(family, options=MAXIMUM_SEGMENT)],
        [
            _tcp(family, payload=MAXIMUM_SEGMENT),
            _tcp(family, options=NOTHING_TWICE),
            _tcp(family, options=MAXIMUM_SEGMENT + NOTHING_TWICE),
        ],
    )
    long = bytes(range(40))
    yield (
        "tcp-long-options",
        {name: {}, "tcp": {"options": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJw=="}},
        [_tcp(family, options=long), _tcp(family, options=long, payload=b"data")],
        [
            _tcp(family, options=long[:39] + b"\0"),
            _tcp(family, options=long[:36]),
            _tcp(family, options=b"\1" + long[1:]),
        ],
    )
    yield (
        "icmp-type",
        {name: {}, "icmp": {"type": 8}},
        [_icmp(family), _icmp(family, code=1)],
        [
            _icmp(family, type=7),
            _icmp(family, type=9),
            _icmp(family, type=128),
            _icmp(family, type=0, code=8),
        ],
    )
    yield (
        "icmp-code",
        {name: {}, "icmp": {"type": 3, "code": 4}},
        [_icmp(family, type=3, code=4)],
        [
            _icmp(family, type=3, code=3),
            _icmp(family, type=4, code=4),
            _icmp(family, type=4, code=3),
        ],
    )
    rest = bytes((1, 2, 3, 4, 5, 6, 7))
    yield (
        "icmp-rest",
        {name: {}, "icmp": {"rest-of-header": "AQIDBA=="}},
        [_icmp(family, rest=rest)],
        [
            _icmp(family),
            _icmp(family, rest=bytes((1, 2, 3, 5))),
            _icmp(family, rest=bytes((0, 1, 2, 3, 4))),
        ],
    )
    yield (
        "icmp-odd-rest",
        {name: {}, "icmp": {"rest-of-header": "AQIDBAU="}},
        [_icmp(family, rest=rest)],
        [
            _icmp(family, rest=rest[:4]),
            _icmp(family, rest=rest[:4] + b"\0"),
        ],
    )


def _bitmask(family: int, words: str, bitmask: int) -> Row:
    """Of every flags octet that matters and the four bits above it."""
    hits, misses = [], []
    for flags in (0, 1, 2, 16, 18, 255, 0x100, 0x102, 0x800, 0xFFF, 0xFFD):
        data, packet = flags, _tcp(family, flags=flags & 255, reserved=flags >> 8)
        found = (data & bitmask) != 0 if "any" in words else (data & bitmask) == bitmask
        (hits if found != ("not" in words) else misses).append(packet)
    if bitmask == 4095 and words == "not any":  # the null scan, whatever the data offset is
        hits.append(_tcp(family, flags=0, options=MAXIMUM_SEGMENT))
    tree = {"flags-bitmask": {"operator": words, "bitmask": bitmask}}
    misses += [_udp(family), ip(family, TCP, tcp_header(flags=bitmask & 255), offset=30)]
    return f"bitmask-{words.replace(' ', '-')}-{bitmask}", {f"ipv{family}": {}, "tcp": tree}, hits, misses


def _ports(family: int) -> Iterator[Row]:
    shapes: tuple[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]], ...] = (
        ("eq", {"operator": "eq", "port": 53}, (53,), (52, 54, 13568)),
        ("default", {"port": 53}, (53,), (52, 54)),
        ("neq", {"operator": "neq", "port": 53}, (52, 54, 0, 65535), (53,)),
        ("lte", {"operator": "lte", "port": 53}, (0, 52, 53), (54, 65535)),
        ("gte", {"operator": "gte", "port": 53}, (53, 54, 65535), (0, 52)),
        ("range", {"lower-port": 8000, "upper-port": 8099}, (8000, 8050, 8099), (7999, 8100)),
        ("all-lte", {"operator": "lte", "port": 65535}, (0, 1, 65535), ()),
        ("all-gte", {"operator": "gte", "port": 0}, (0, 1, 65535), ()),
    )
    for transport, protocol, other in (("tcp", TCP, UDP), ("udp", UDP, TCP)):
        for field, header in (("source_port", "source"), ("destination_port", "destination")):
            for shape, tree, hits, misses in shapes:
                make = tcp_header if protocol == TCP else udp_header
                wrong = udp_header if protocol == TCP else tcp_header
                opposite = "destination_port" if field == "source_port" else "source_port"
                port = hits[0]
                yield (
                    f"{transport}-{header}-{shape}",
                    {f"ipv{family}": {}, transport: {f"{header}-port-range-or-operator": tree}},
                    [ip(family, protocol, make(**{field: one})) for one in hits],
                    [
                        *(ip(family, protocol, make(**{field: one, opposite: port})) for one in misses),
                        ip(family, other, wrong(**{field: port})),
                        ip(family, protocol, make(**{field: port}), offset=30),  # no header in a later fragment
                    ],
                )


def _fragments(family: int) -> Iterator[Row]:
    name = f"ipv{family}"
    body = udp_header(payload=bytes(32))
    kinds = {
        "whole": ip(family, UDP, body),
        "first": ip(family, UDP, body, more=True),
        "middle": ip(family, UDP, body, more=True, offset=5),
        "last": ip(family, UDP, body, offset=10),
    }
    if family == 6:
        kinds["atomic"] = ip(6, UDP, body, fragment_header=True)
        kinds["hop-by-hop"] = ip(6, UDP, body, hop_by_hop=True)
        kinds["hop-by-hop-first"] = ip(6, UDP, body, hop_by_hop=True, more=True)
    else:
        kinds["whole-df"] = ip(4, UDP, body, flags=0x4000)
        kinds["last-df"] = ip(4, UDP, body, flags=0x4000, offset=10)
    bits = {
        "whole": 0, "first": 2 | 4, "middle": 2, "last": 2 | 8, "atomic": 2, "hop-by-hop": 0, "hop-by-hop-first": 2 | 4,
        "whole-df": 1, "last-df": 1 | 2 | 8,
    }  # fmt: skip
    values = {"df": 1, "isf": 2, "ff": 4, "lf": 8}
    types = ["isf", "ff", "lf", "isf ff", "isf lf", "ff lf", "isf ff lf", ""]
    if family == 4:
        types += ["df", "df isf", "df lf"]
    for words in ("match", "any", "not match", "not any"):
        for type_ in types:
            value = sum(values[word] for word in type_.split())
            if words == "match" and value & 12 == 12:
                continue  # refused: no packet is that
            hits, misses = [], []
            for kind, packet in kinds.items():
                found = (bits[kind] & value) != 0 if "any" in words else (bits[kind] & value) == value
                (hits if found != ("not" in words) else misses).append(packet)
            yield (
                f"fragment-{words}-{type_}".replace(" ", "-"),
                {name: {"fragment": {"operator": words, "type": type_}}},
                hits,
                misses,
            )


def _only_ipv4() -> Iterator[Row]:
    more = bytes((1,) * 8)  # two words of "no operation"
    yield "ihl", {"ipv4": {"ihl": 7}}, [_udp(4, options=more)], [_udp(4), _udp(4, options=more[:4])]
    yield "ihl-5", {"ipv4": {"ihl": 5}}, [_udp(4)], [_udp(4, options=more)]
    yield (
        "flags-df",
        {"ipv4": {"flags": "fragment"}},
        [_udp(4, flags=0x4000), _udp(4, flags=0x4000, offset=30)],
        [
            _udp(4),
            _udp(4, flags=0x4000, more=True),
            _udp(4, flags=0xC000),
        ],
    )
    yield (
        "flags-none",
        {"ipv4": {"flags": ""}},
        [_udp(4), _udp(4, offset=30)],
        [_udp(4, flags=0x4000), _udp(4, more=True)],
    )
    yield "flags-more", {"ipv4": {"flags": "more"}}, [_udp(4, more=True)], [_udp(4), _udp(4, more=True, flags=0x8000)]
    yield "flags-reserved", {"ipv4": {"flags": "reserved"}}, [_udp(4, flags=0x8000)], [_udp(4), _udp(4, flags=0xC000)]
    yield (
        "offset",
        {"ipv4": {"offset": 25}},
        [_udp(4, offset=25), _udp(4, offset=25, more=True, flags=0x4000)],
        [
            _udp(4, offset=24),
            _udp(4, offset=26),
            _udp(4),
        ],
    )
    yield (
        "identification",
        {"ipv4": {"identification": 258}},
        [_udp(4, identification=258)],
        [_udp(4, identification=one) for one in (257, 259, 513, 2, 1)],
    )
    yield (
        "mixed",
        {
            "ipv4": {
                "protocol": 17,
                "source-ipv4-network": f"{SOURCE[4]}/32",
                "fragment": {"operator": "not any", "type": "isf"},
            },
            "udp": {"source-port-range-or-operator": {"port": 123}, "length": 48},
        },
        [_udp(4, source_port=123, payload=bytes(40))],
        [
            _udp(4, source_port=123, payload=bytes(40), more=True),
            _udp(4, source_port=123, payload=bytes(40), source="203.0.113.10"),
            _udp(4, source_port=123, payload=bytes(39)),
            _udp(4, source_port=122, payload=bytes(40)),
        ],
    )


def _only_ipv6() -> Iterator[Row]:
    yield (
        "flow-label",
        {"ipv6": {"flow-label": 0x12345}},
        [_udp(6, flow_label=0x12345)],
        [_udp(6, flow_label=one) for one in (0, 0x12344, 0x12346, 0x54321)],
    )
    yield "flow-label-last", {"ipv6": {"flow-label": 1_048_575}}, [_udp(6, flow_label=0xFFFFF)], [_udp(6)]
    yield (
        "behind-hop-by-hop",
        {"ipv6": {"protocol": 17}},
        [_udp(6, hop_by_hop=True)],
        [ip(6, 47, bytes(8), hop_by_hop=True)],
    )
    yield (
        "ports-behind-hop-by-hop",
        {"ipv6": {}, "udp": {"destination-port-range-or-operator": {"port": 53}}},
        [_udp(6, hop_by_hop=True, destination_port=53), _udp(6, fragment_header=True, destination_port=53)],
        [_udp(6, hop_by_hop=True, destination_port=54)],
    )


def to_the_domain() -> dict[int, str]:
    return {4: f"{HOST[4]}/24", 6: f"{HOST[6]}/48"}
