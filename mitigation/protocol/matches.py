"""What an access control entry matches: each field of RFC 8783, section 4.2, and RFC 8519's packet fields.

A field that is None was not given and matches everything. What can be in no packet (an IHL above 15, a fragment offset
above 8191, first and last fragment at once) is refused, since a filter that never hits protects nobody.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal

from mitigation.protocol.trees import BAD, INVALID, Prefix, Reader, TreeFault

Family = Literal[4, 6]

OPERATOR_BITS = ("not", "match", "any")
FRAGMENT_BITS = {"df": 1, "isf": 2, "ff": 4, "lf": 8}  # position to value, as FlowSpec has them
IPV4_FLAGS = {"reserved": 0x8000, "fragment": 0x4000, "more": 0x2000}  # in the word that also holds the offset
TCP_FLAGS = {"cwr": 128, "ece": 64, "urg": 32, "ack": 16, "psh": 8, "rst": 4, "syn": 2, "fin": 1}
PORT_OPERATORS = ("lte", "gte", "eq", "neq")

LARGEST_BITMASK = 0xFFF  # the data offset is never compared, so only 12 of 16 bits mean anything
MOST_OF_ICMP = 1_024  # octets of rest-of-header that are taken; YANG sets no bound

# Of an IPv6 packet `protocol` is the upper-layer protocol, which none of these ever is (RFC 8200, section 4.1).
_EXTENSION_HEADERS = (0, 43, 44, 51, 60)
_NEVER = "dots-never-matches"


@dataclass(frozen=True, slots=True)
class BitOperator:
    """`words` as they were given, in order of position; none stands for the default, `match`."""

    words: tuple[str, ...] = ()

    @property
    def is_negated(self) -> bool:
        return "not" in self.words

    @property
    def is_any(self) -> bool:
        return "any" in self.words

    def accepts(self, data: int, value: int) -> bool:
        """(data & value) == value, or != 0 with `any`; the other way round with `not`."""
        found = data & value != 0 if self.is_any else data & value == value
        return found is not self.is_negated

    def __str__(self) -> str:
        return " ".join(self.words) or "match"


@dataclass(frozen=True, slots=True)
class Fragment:
    operator: BitOperator
    type: tuple[str, ...]

    @property
    def value(self) -> int:
        return sum(FRAGMENT_BITS[bit] for bit in self.type)

    def __str__(self) -> str:
        return f"{self.operator} {'+'.join(self.type) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class FlagsBitmask:
    operator: BitOperator
    bitmask: int

    def __str__(self) -> str:
        return f"{self.operator} {self.bitmask:#05x}"


@dataclass(frozen=True, slots=True)
class PortMatch:
    """A range with both bounds, or a port (both bounds) with an operator; none given means `eq`."""

    lower: int
    upper: int
    operator: str = ""
    is_range: bool = False

    def accepts(self, port: int) -> bool:
        match "range" if self.is_range else self.operator:
            case "lte":
                return port <= self.upper
            case "gte":
                return port >= self.lower
            case "neq":
                return port != self.lower
            case _:
                return self.lower <= port <= self.upper

    def __str__(self) -> str:
        if self.is_range:
            return f"{self.lower}-{self.upper}"
        return {"lte": "<= ", "gte": ">= ", "neq": "not "}.get(self.operator, "") + str(self.lower)


@dataclass(frozen=True, slots=True)
class IpMatch:
    """`length` is the total length in IPv4 and the payload length in IPv6, both in octets."""

    family: Family
    destination: Prefix | None = None
    source: Prefix | None = None
    dscp: int | None = None
    ecn: int | None = None
    length: int | None = None
    ttl: int | None = None
    protocol: int | None = None
    fragment: Fragment | None = None
    ihl: int | None = None  # in 32-bit words
    flags: tuple[str, ...] | None = None
    offset: int | None = None  # in units of 8 octets
    identification: int | None = None
    flow_label: int | None = None


@dataclass(frozen=True, slots=True)
class TcpMatch:
    source_ports: PortMatch | None = None
    destination_ports: PortMatch | None = None
    flags_bitmask: FlagsBitmask | None = None
    flags: tuple[str, ...] | None = None
    sequence_number: int | None = None
    acknowledgement_number: int | None = None
    data_offset: int | None = None  # in 32-bit words
    reserved: int | None = None
    window_size: int | None = None
    urgent_pointer: int | None = None
    options: bytes | None = None  # all of them, padding included


@dataclass(frozen=True, slots=True)
class UdpMatch:
    source_ports: PortMatch | None = None
    destination_ports: PortMatch | None = None
    length: int | None = None  # of header and data, octets


@dataclass(frozen=True, slots=True)
class IcmpMatch:
    """`rest_of_header` is what the message goes on with after its checksum."""

    type: int | None = None
    code: int | None = None
    rest_of_header: bytes | None = None


Transport = TcpMatch | UdpMatch | IcmpMatch


@dataclass(frozen=True, slots=True)
class Matches:
    """Nothing at all matches every packet; a part without fields matches every packet of its kind."""

    ip: IpMatch | None = None
    transport: Transport | None = None


def name_of(transport: Transport) -> str:
    return type(transport).__name__.removesuffix("Match").lower()


def protocol_of(transport: Transport, family: Family) -> int:
    if isinstance(transport, IcmpMatch):
        return 1 if family == 4 else 58
    return 6 if isinstance(transport, TcpMatch) else 17


# -- reading ----------------------------------------------------------------------------------------------------------


def parse_matches(tree: Reader) -> Matches:
    """Raises TreeFault."""
    _one_of(tree, ("ipv4", "ipv6"))
    _one_of(tree, ("tcp", "udp", "icmp"))
    ip: IpMatch | None = None
    if (ipv4 := tree.container("ipv4")) is not None:
        ip = _ipv4(ipv4)
    elif (ipv6 := tree.container("ipv6")) is not None:
        ip = _ipv6(ipv6)
    transport: Transport | None = None
    if (tcp := tree.container("tcp")) is not None:
        transport = _tcp(tcp)
    elif (udp := tree.container("udp")) is not None:
        transport = _udp(udp)
    elif (icmp := tree.container("icmp")) is not None:
        transport = _icmp(icmp)
    if ip is not None and transport is not None and ip.protocol is not None:
        _agree(tree, ip, ip.protocol, transport)
    tree.end()
    return Matches(ip, transport)


def _one_of(tree: Reader, names: tuple[str, ...]) -> None:
    present = [name for name in names if tree.has(name)]
    if len(present) > 1:
        raise tree.fault(BAD, "", f"{' and '.join(present)} cannot both be matched: there is one of them in a packet")


def _agree(tree: Reader, ip: IpMatch, protocol: int, transport: Transport) -> None:
    if protocol != protocol_of(transport, ip.family):
        name = name_of(transport)
        path = (*tree.path, f"ipv{ip.family}", "protocol")
        raise TreeFault(INVALID, path, f"protocol {protocol} is not that of {name}")


def _ipv4(tree: Reader) -> IpMatch:
    if tree.has("fragment") and tree.has("flags"):
        raise tree.fault(
            INVALID, "flags", "fragment and flags cannot both be matched", app_tag="dots-fragment-and-flags"
        )
    ihl = tree.integer("ihl", 5, 60)
    if ihl is not None and ihl > 15:
        raise tree.fault(INVALID, "ihl", "ihl is counted in 32-bit words and never above 15", app_tag=_NEVER)
    offset = tree.integer("offset", 20, 65_535)
    if offset is not None and offset > 8_191:
        raise tree.fault(INVALID, "offset", "offset is counted in 8 octets and never above 8191", app_tag=_NEVER)
    found = IpMatch(
        4,
        destination=tree.prefix("destination-ipv4-network", 4),
        source=tree.prefix("source-ipv4-network", 4),
        dscp=tree.integer("dscp", 0, 63),
        ecn=tree.integer("ecn", 0, 3),
        length=tree.integer("length", 0, 65_535),
        ttl=tree.integer("ttl", 0, 255),
        protocol=tree.integer("protocol", 0, 255),
        fragment=_fragment(tree, 4),
        ihl=ihl,
        flags=tree.bits("flags", tuple(IPV4_FLAGS)),
        offset=offset,
        identification=tree.integer("identification", 0, 65_535),
    )
    tree.end()
    return found


def _ipv6(tree: Reader) -> IpMatch:
    protocol = tree.integer("protocol", 0, 255)
    if protocol in _EXTENSION_HEADERS:
        advice = "; match fragment instead" if protocol == 44 else ""
        raise tree.fault(
            INVALID,
            "protocol",
            f"protocol {protocol} is an extension header and never the upper-layer protocol{advice}",
            app_tag=_NEVER,
        )
    found = IpMatch(
        6,
        destination=tree.prefix("destination-ipv6-network", 6),
        source=tree.prefix("source-ipv6-network", 6),
        dscp=tree.integer("dscp", 0, 63),
        ecn=tree.integer("ecn", 0, 3),
        length=tree.integer("length", 0, 65_535),
        ttl=tree.integer("ttl", 0, 255),
        protocol=protocol,
        fragment=_fragment(tree, 6),
        flow_label=tree.integer("flow-label", 0, 1_048_575),
    )
    tree.end()
    return found


def _fragment(parent: Reader, family: Family) -> Fragment | None:
    tree = parent.container("fragment")
    if tree is None:
        return None
    operator = _operator(tree)
    bits = tree.bits("type", tuple(FRAGMENT_BITS), mandatory=True)
    assert bits is not None
    if family == 6 and "df" in bits:
        raise tree.fault(INVALID, "type", "IPv6 has no bit df", app_tag="dots-df-not-in-ipv6")
    if {"ff", "lf"} <= set(bits) and not operator.is_any and not operator.is_negated:
        raise tree.fault(INVALID, "type", "no fragment is both the first and the last", app_tag=_NEVER)
    tree.end()
    return Fragment(operator, bits)


def _operator(tree: Reader) -> BitOperator:
    words = tree.bits("operator", OPERATOR_BITS)
    if words is None:
        return BitOperator()
    if ("match" in words) == ("any" in words):
        raise tree.fault(INVALID, "operator", "either match or any, and not both", app_tag="dots-operator-invalid")
    return BitOperator(words)


def _tcp(tree: Reader) -> TcpMatch:
    if tree.has("flags") and tree.has("flags-bitmask"):
        raise tree.fault(
            INVALID, "flags", "flags and flags-bitmask cannot both be matched", app_tag="dots-flags-and-bitmask"
        )
    reserved = tree.integer("reserved", 0, 255)
    if reserved is not None and reserved > 15:
        raise tree.fault(INVALID, "reserved", "reserved has four bits and is never above 15", app_tag=_NEVER)
    options = tree.binary("options", 1, 40)
    if options is not None and len(options) % 4:
        raise tree.fault(
            INVALID, "options", "options fill whole 32-bit words: give them with their padding", app_tag=_NEVER
        )
    found = TcpMatch(
        source_ports=_ports(tree, "source-port-range-or-operator"),
        destination_ports=_ports(tree, "destination-port-range-or-operator"),
        flags_bitmask=_flags_bitmask(tree),
        flags=tree.bits("flags", tuple(TCP_FLAGS)),
        sequence_number=tree.integer("sequence-number", 0, 2**32 - 1),
        acknowledgement_number=tree.integer("acknowledgement-number", 0, 2**32 - 1),
        data_offset=tree.integer("data-offset", 5, 15),
        reserved=reserved,
        window_size=tree.integer("window-size", 0, 65_535),
        urgent_pointer=tree.integer("urgent-pointer", 0, 65_535),
        options=options,
    )
    tree.end()
    return found


def _flags_bitmask(parent: Reader) -> FlagsBitmask | None:
    tree = parent.container("flags-bitmask")
    if tree is None:
        return None
    operator = _operator(tree)
    bitmask = tree.integer("bitmask", 0, LARGEST_BITMASK, mandatory=True)
    assert bitmask is not None
    tree.end()
    return FlagsBitmask(operator, bitmask)


def _udp(tree: Reader) -> UdpMatch:
    found = UdpMatch(
        source_ports=_ports(tree, "source-port-range-or-operator"),
        destination_ports=_ports(tree, "destination-port-range-or-operator"),
        length=tree.integer("length", 0, 65_535),
    )
    tree.end()
    return found


def _icmp(tree: Reader) -> IcmpMatch:
    found = IcmpMatch(
        type=tree.integer("type", 0, 255),
        code=tree.integer("code", 0, 255),
        rest_of_header=tree.binary("rest-of-header", 0, MOST_OF_ICMP),
    )
    tree.end()
    return found


def _ports(parent: Reader, name: str) -> PortMatch | None:
    tree = parent.container(name)
    if tree is None:
        return None
    in_range = tree.has("lower-port") or tree.has("upper-port")
    by_operator = tree.has("operator") or tree.has("port")
    if in_range and by_operator:
        raise tree.fault(BAD, "", "either a range of ports or one port with an operator")
    found = _port_range(tree) if in_range else _one_port(tree) if by_operator else None
    tree.end()
    return found


def _port_range(tree: Reader) -> PortMatch:
    lower = tree.integer("lower-port", 0, 65_535, mandatory=True)
    upper = tree.integer("upper-port", 0, 65_535, mandatory=True)
    assert lower is not None
    assert upper is not None
    if lower > upper:
        raise tree.fault(INVALID, "lower-port", "lower-port is above upper-port", app_tag="must-violation")
    return PortMatch(lower, upper, is_range=True)


def _one_port(tree: Reader) -> PortMatch:
    operator = tree.enumeration("operator", PORT_OPERATORS) or ""
    port = tree.integer("port", 0, 65_535, mandatory=True)
    assert port is not None
    return PortMatch(port, port, operator)


# -- writing ----------------------------------------------------------------------------------------------------------

_NAMES = {
    "destination_ports": "destination-port-range-or-operator",
    "source_ports": "source-port-range-or-operator",
}


def matches_json(matches: Matches, *, with_defaults: bool = False) -> dict[str, Any]:
    """What a GET shows; `with_defaults` also the default operators that were not given."""
    found: dict[str, Any] = {}
    if matches.ip is not None:
        found[f"ipv{matches.ip.family}"] = _container(matches.ip, with_defaults=with_defaults)
    if matches.transport is not None:
        found[name_of(matches.transport)] = _container(matches.transport, with_defaults=with_defaults)
    return found


def given(part: IpMatch | Transport) -> Iterator[tuple[str, Any]]:
    """The fields of a part that were given, under their RFC names."""
    family = part.family if isinstance(part, IpMatch) else 0
    for one in fields(part):
        value = getattr(part, one.name)
        if one.name == "family" or value is None:
            continue
        if one.name in ("destination", "source"):
            yield f"{one.name}-ipv{family}-network", value
        else:
            yield _NAMES.get(one.name, one.name.replace("_", "-")), value


def _container(part: IpMatch | Transport, *, with_defaults: bool) -> dict[str, Any]:
    return {name: _json(value, with_defaults=with_defaults) for name, value in given(part)}


def _json(value: Any, *, with_defaults: bool) -> Any:
    match value:
        case IPv4Network() | IPv6Network():
            return str(value)
        case tuple():
            return " ".join(value)
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Fragment():
            return _operator_json(value.operator, with_defaults=with_defaults) | {"type": " ".join(value.type)}
        case FlagsBitmask():
            return _operator_json(value.operator, with_defaults=with_defaults) | {"bitmask": value.bitmask}
        case PortMatch(is_range=True):
            return {"lower-port": value.lower, "upper-port": value.upper}
        case PortMatch():
            operator = value.operator or ("eq" if with_defaults else "")
            return ({"operator": operator} if operator else {}) | {"port": value.lower}
        case _:
            return value


def _operator_json(operator: BitOperator, *, with_defaults: bool) -> dict[str, str]:
    words = operator.words or (("match",) if with_defaults else ())
    return {"operator": " ".join(words)} if words else {}
