"""Our nftables table as text.

The constant part is made once. Every stage first asks whether the destination is in any scope at all: `gate_*` are sets
of those (nft_gate.py), and which of them it asks is all that ever changes in its chain. For every kind of rule and
family there are *places*: one for packets that carry a readable destination port and one for those that do not (other
protocols, later fragments). A place is

    scope_*   a map from (destination, protocol[, port]) to `jump do_*`: its elements carry the deadline, no counter
    do_*      a chain with the kind's own conditions, one per set of parameters, made when first needed
    meter_*   for limits: the token buckets of each source
    limit_*   the one bucket of a whole scope, asked by all its places, so that the sum over them holds
    hit_*     a chain whose last match is count_*, then drop
    count_*   a set of the same boxes whose elements count: only what is really dropped gets that far

so renewing a deadline never touches a counter, and a counter can be read after its rule has stopped dropping.

Stateless drops hook at -450, before connection tracking puts fragments together (-400) and makes entries (-200). Limits
that spare answers to the protected side need connection tracking, so they hook at -140, and only a stateful driver
has them: the mere mention of `ct` switches tracking on for the whole network namespace. What all of these let pass is
held to the rate of its scope, marked for another way, and counted at -130.

All names end in the version of the constant part, so that a new version is loaded beside the old one and takes over
without a gap. Each rule carries a hash of its own text as comment: what is read back is compared by it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Address

from mitigation.drivers.nft_gate import LEVELS, Granule, Level
from mitigation.rules.boxes import NO_PORT, PORT_PROTOCOLS, Box, Family, Range, addresses_in_words
from mitigation.rules.canonical import LIMITS, Bucket, Kind, Parameters, parse_key
from mitigation.rules.packets import IMPOSSIBLE_TCP_FLAGS, NEIGHBOUR_DISCOVERY, OPENING, OPENING_MASK

FAMILIES: tuple[Family, ...] = (4, 6)
STAGES: dict[str, int] = {"drops": -450, "limits": -140, "passed": -130}
# Clients' filters come before all of these, and take their mark off again after them (nft_filters.py).
FILTER_HOOKS: dict[str, int] = {"filters": -460, "unmark": -129}
FILTERS = ("acls_", "acl_", "rate_")  # how the names of chains begin that hold them
MARK = 0x2000_0000  # the bit of the packet mark that is ours, unless a setting says otherwise
CHUNK = 1000  # elements per command, so that an error message stays readable

_WORDS = "drops|limits|passed|filters|unmark|gate|filter|acls|acl|rate|scope|do|meter|limit|hit|count|probe"
_OURS = re.compile(rf"^(?:{_WORDS})(?:_[a-z0-9]+)*_([0-9a-f]{{8}})$")
_ADDRESS_TYPE: dict[Family, str] = {4: "ipv4_addr", 6: "ipv6_addr"}
_PROTOCOL: dict[Family, str] = {4: "ip", 6: "ip6"}
_LATER_FRAGMENT: dict[Family, str] = {4: "ip frag-off & 0x1fff != 0", 6: "frag frag-off != 0"}
# Every address of a /64 is at one attacker's disposal, so IPv6 sources are limited by their /64.
_SOURCE: dict[Family, str] = {4: "ip saddr", 6: "ip6 saddr & ffff:ffff:ffff:ffff::"}
_WITH_PORTS = "meta l4proto { " + ", ".join(str(protocol) for protocol in PORT_PROTOCOLS) + " }"


@dataclass(frozen=True)
class Hook:
    """Where a kind is looked up: `guard` keeps other traffic away from the map."""

    stage: str
    with_ports: str | None
    portless: str | None


Way = tuple[str, Level]  # into a stage, for destinations in this set of the gate

_TCP, _UDP = "meta l4proto 6", "meta l4proto 17"
HOOKS: dict[Kind, Hook] = {
    Kind.DISCARD: Hook("drops", with_ports="", portless=""),
    Kind.FRAGMENTS: Hook("drops", with_ports=None, portless=_UDP),
    Kind.AMPLIFICATION: Hook("drops", with_ports=_UDP, portless=None),
    Kind.TCP_FLAGS: Hook("drops", with_ports=_TCP, portless=None),
    Kind.BOGONS: Hook("drops", with_ports="", portless=""),
    Kind.SYN_LIMIT: Hook("drops", with_ports=_TCP, portless=None),
    Kind.UDP_LIMIT: Hook("limits", with_ports=_UDP, portless=None),
    Kind.ICMP_LIMIT: Hook("limits", with_ports=None, portless="meta l4proto { 1, 58 }"),
    Kind.RATE_LIMIT: Hook("passed", with_ports="", portless=""),
    Kind.REDIRECT: Hook("passed", with_ports="", portless=""),
    Kind.PASSED: Hook("passed", with_ports="", portless=""),
}


@dataclass(frozen=True)
class Place:
    kind: Kind
    with_ports: bool
    family: Family

    @property
    def name(self) -> str:
        return f"{self.kind.value}_{'ports' if self.with_ports else 'portless'}{self.family}"

    @property
    def key(self) -> str:
        """What is looked up in this place's map and set."""
        fields = [f"{_PROTOCOL[self.family]} daddr", "meta l4proto"]
        return " . ".join(fields + ["th dport"] if self.with_ports else fields)

    @property
    def key_type(self) -> str:
        fields = [_ADDRESS_TYPE[self.family], "inet_proto"]
        return " . ".join(fields + ["inet_service"] if self.with_ports else fields)

    @property
    def guard(self) -> str | None:
        hook = HOOKS[self.kind]
        return hook.with_ports if self.with_ports else hook.portless


@dataclass(frozen=True)
class Part:
    """One element: a box seen from one place, as nft writes it, and its two ends as the kernel keeps them."""

    place: Place
    value: str
    first: bytes
    last: bytes


@dataclass(frozen=True)
class Chain:
    name: str
    rules: tuple[str, ...]
    hook: str = ""

    @cached_property
    def comments(self) -> tuple[str, ...]:
        """Hash, position and number of rules: shows what is missing without knowing what was meant."""
        return tuple(f"{text_hash(rule)} {at}/{len(self.rules)}" for at, rule in enumerate(self.rules, 1))


@dataclass(frozen=True)
class Profile:
    """What one set of parameters needs in one place. `limits` are names and texts, and other places have them too."""

    chain: Chain
    meter: str = ""
    meter_text: str = ""
    limits: tuple[tuple[str, str], ...] = ()


@lru_cache(maxsize=1 << 18)  # asked again and again while a rule comes, and with every reading
def parts(kind: Kind, box: Box) -> tuple[Part, ...]:
    """The elements of a rule: none, one or two. Two together cover the box and do not overlap."""
    found = []
    hook = HOOKS[kind]
    addresses, protocols = addresses_in_words(box), _range(box.protocols)
    if hook.portless is not None and box.first_port == NO_PORT:
        ends = (_packed(box.family, *end) for end in zip(box.addresses, box.protocols, strict=True))
        found.append(Part(Place(kind, False, box.family), f"{addresses} . {protocols}", *ends))
    has_port_protocol = any(box.first_protocol <= protocol <= box.last_protocol for protocol in PORT_PROTOCOLS)
    if hook.with_ports is not None and box.last_port > NO_PORT and has_port_protocol:
        ports = (max(box.first_port, 0), box.last_port)
        ends = (_packed(box.family, *end) for end in zip(box.addresses, box.protocols, ports, strict=True))
        found.append(Part(Place(kind, True, box.family), f"{addresses} . {protocols} . {_range(ports)}", *ends))
    return tuple(found)


@lru_cache(maxsize=1 << 18)  # every reading meets the same keys again
def number_of_parts(key: str) -> int:
    """How many elements the rule with this key has; 0 for what is none of our keys."""
    try:
        parsed = parse_key(key)
    except ValueError:
        return 0
    return len(parts(parsed.kind, parsed.box))


def unpacked(place: Place, first: bytes, last: bytes) -> str:
    """An element as nft writes it, of its two ends as the kernel keeps them."""
    address = IPv4Address if place.family == 4 else IPv6Address
    size = 4 if place.family == 4 else 16
    ends = [
        (str(address(end[:size])), str(end[size]), str(int.from_bytes(end[size + 4 : size + 6], "big")))
        for end in (first, last)
    ]
    fields = [one if one == other else f"{one}-{other}" for one, other in zip(*ends, strict=True)]
    return " . ".join(fields if place.with_ports else fields[:2])


def addresses_of(place: Place, first: bytes, last: bytes) -> Range:
    """The destinations of an element, of its two ends as the kernel keeps them."""
    size = 4 if place.family == 4 else 16
    return int.from_bytes(first[:size], "big"), int.from_bytes(last[:size], "big")


class Ruleset:
    """Names and texts of one table; a pure value."""

    def __init__(self, table: str, *, stateful: bool, meter_size: int, mark: int = MARK) -> None:
        self.table = table
        self.meter_size = meter_size
        self.mark = mark
        self.stages = {stage: prio for stage, prio in STAGES.items() if stateful or stage != "limits"}
        self.hooks = self.stages | FILTER_HOOKS
        self.kinds = frozenset(kind for kind, hook in HOOKS.items() if hook.stage in self.stages)
        self.version = ""
        self.version = text_hash(
            f"{meter_size} {self.create({(stage, level) for stage in self.stages for level in LEVELS})}"
        )

    @cached_property
    def places(self) -> list[Place]:
        """In the order in which a packet meets them."""
        return [
            place
            for kind in HOOKS
            if kind in self.kinds
            for with_ports in (True, False)
            for family in FAMILIES
            if (place := Place(kind, with_ports, family)).guard is not None
        ]

    def named(self, word: str, place: Place | Level | None = None, digest: str = "") -> str:
        return _name(word, place, digest, self.version)

    @property
    def maps(self) -> dict[str, str]:
        filters = {
            self.named(f"filter_{family}"): f"{{ type {_ADDRESS_TYPE[family]} : verdict; flags interval,timeout; }}"
            for family in FAMILIES
        }
        return filters | {
            self.named("scope", place): f"{{ type {place.key_type} : verdict; flags interval,timeout; }}"
            for place in self.places
        }

    @property
    def sets(self) -> dict[str, str]:
        counting = {
            self.named("count", place): f"{{ type {place.key_type}; flags interval,timeout; counter; }}"
            for place in self.places
        }
        gates = {
            self.named("gate", level): f"{{ type {_ADDRESS_TYPE[level.family]}; flags timeout; }}" for level in LEVELS
        }
        return counting | gates | {self.named("probe"): "{ type ipv4_addr; flags timeout; }"}

    @property
    def chains(self) -> list[Chain]:
        """The constant ones, each after those it jumps to; `entry` jumps to them."""
        found = [Chain(self.named("hit", place), (self._last_match(place),)) for place in self.places]
        for stage in self.stages:
            found.extend(self._stage(stage))
        return [*found, *self.filter_hooks]

    def entry(self, stage: str, ways: Collection[Way]) -> Chain:
        """Through the gate into the stage, by these ways of it; what is in no scope leaves here."""
        hook = f"{{ type filter hook prerouting priority {self.stages[stage]}; policy accept; }}"
        rules = tuple(self.way_in((stage, level)) for level in LEVELS if (stage, level) in ways)
        return Chain(self.named(stage), rules, hook)

    def way_in(self, way: Way) -> str:
        stage, level = way
        granule = f"{_PROTOCOL[level.family]} daddr{level.mask}"
        return f"{granule} @{self.named('gate', level)} goto {self.named(f'{stage}_{level.family}')}"

    @property
    def filter_hooks(self) -> list[Chain]:
        """To the filters of each destination, and where what they accept loses its mark. Nobody else's mark counts."""
        marked = f"meta mark & {self.mark:#x} == {self.mark:#x}"
        clear = f"{marked} meta mark set meta mark & {0xFFFF_FFFF ^ self.mark:#x}"
        look_up = (f"{_PROTOCOL[family]} daddr vmap @{self.named(f'filter_{family}')}" for family in FAMILIES)
        rules = {"filters": (clear, *look_up), "unmark": (clear,)}
        return [
            Chain(
                self.named(name), rules[name], f"{{ type filter hook prerouting priority {priority}; policy accept; }}"
            )
            for name, priority in FILTER_HOOKS.items()
        ]

    def create(self, ways: Collection[Way]) -> str:
        """Makes or repairs the constant part, and the ways into it; elements that are there stay."""
        lines = [f"add table inet {self.table}"]
        lines += [f"add map inet {self.table} {name} {text}" for name, text in self.maps.items()]
        lines += [f"add set inet {self.table} {name} {text}" for name, text in self.sets.items()]
        for chain in [*self.chains, *(self.entry(stage, ways) for stage in self.stages)]:
            lines += self._chain_lines(chain)
        return "\n".join(lines) + "\n"

    def profile(self, place: Place, parameters: Parameters) -> Profile:
        chain_name = self.named("do", place, parameters.digest)
        meter = self.named("meter", place, parameters.digest) if place.kind in LIMITS else ""
        limits = tuple((self.named("limit", digest=one.digest), _limit_text(one)) for one in parameters.buckets)
        conditions = [f'limit name "{name}"' for name, _ in limits] or _conditions(place, parameters, meter)
        hit = self.named("hit", place)
        spared = [f"iifname {{ {', '.join(map(_quoted, parameters.interfaces))} }} return"] * bool(
            parameters.interfaces
        )
        chain = Chain(chain_name, (*spared, *(f"{condition} goto {hit}".strip() for condition in conditions)))
        if not meter:
            return Profile(chain, limits=limits)
        source = _ADDRESS_TYPE[place.family]
        seconds = max(60, parameters.burst // parameters.rate + 1)  # a bucket is full again before it is forgotten
        return Profile(
            chain,
            meter,
            f"{{ type {source} . {source}; size {self.meter_size}; flags dynamic,timeout; timeout {seconds}s; }}",
        )

    def create_profile(self, profile: Profile) -> str:
        lines = [f"add set inet {self.table} {profile.meter} {profile.meter_text}"] if profile.meter else []
        lines += [f"add limit inet {self.table} {name} {text}" for name, text in profile.limits]  # one there stays
        return "".join(f"{line}\n" for line in lines) + self.create_chain(profile.chain)

    def create_chain(self, chain: Chain) -> str:
        """Makes the chain, or puts its rules in the place of those it has."""
        return "\n".join(self._chain_lines(chain)) + "\n"

    def elements(self, verb: str, name: str, elements: list[str]) -> str:
        """`add` or `delete`, in as many commands as needed."""
        return "".join(
            f"{verb} element inet {self.table} {name} {{ {', '.join(elements[at : at + CHUNK])} }}\n"
            for at in range(0, len(elements), CHUNK)
        )

    def scope_element(self, place: Place, value: str, key: str, digest: str, timeout: str) -> str:
        """`digest` of its parameters."""
        return f'{value} timeout {timeout} comment "{key}" : jump {self.named("do", place, digest)}'

    def count_element(self, value: str, key: str, epoch: str, timeout: str = "") -> str:
        deadline = f" timeout {timeout}" if timeout else ""
        return f'{value}{deadline} comment "{key} {epoch}"'

    def granules(self, verb: str, granules: Iterable[Granule], timeout: str = "") -> str:
        """Of all gates: `add` or `delete`."""
        deadline = f" timeout {timeout}" if timeout else ""
        by_level: dict[Level, list[str]] = {}
        for granule in granules:
            by_level.setdefault(granule.level, []).append(f"{granule.value}{deadline}")
        return "".join(self.elements(verb, self.named("gate", level), values) for level, values in by_level.items())

    def drop(self, chains: Iterable[str], maps: Iterable[str], sets: Iterable[str], limits: Iterable[str] = ()) -> str:
        """Takes these objects away, in the order in which nothing is still referred to."""
        chains = sorted(chains)
        lines = [f"flush chain inet {self.table} {name}" for name in chains]
        lines += [f"delete map inet {self.table} {name}" for name in sorted(maps)]
        lines += [f"delete chain inet {self.table} {name}" for name in chains]
        lines += [f"delete set inet {self.table} {name}" for name in sorted(sets)]
        lines += [f"delete limit inet {self.table} {name}" for name in sorted(limits)]
        return "\n".join(lines) + "\n"

    def _chain_lines(self, chain: Chain) -> Iterator[str]:
        yield f"add chain inet {self.table} {chain.name} {chain.hook}".rstrip()
        yield f"flush chain inet {self.table} {chain.name}"
        for rule, comment in zip(chain.rules, chain.comments, strict=True):
            yield f'add rule inet {self.table} {chain.name} {rule} comment "{comment}"'

    def _last_match(self, place: Place) -> str:
        # What is redirected is not counted as passed: `accept` ends this hook, and no other (ENF-ACT-012).
        verdict = {Kind.PASSED: "", Kind.REDIRECT: " accept"}.get(place.kind, " drop")
        return f"{place.key} @{self.named('count', place)}{verdict}"

    def _stage(self, stage: str) -> Iterator[Chain]:
        for family in FAMILIES:
            with_ports, portless = self.named(f"{stage}_ports{family}"), self.named(f"{stage}_portless{family}")
            yield Chain(with_ports, tuple(self._lookups(stage, family, with_ports=True)))
            yield Chain(portless, tuple(self._lookups(stage, family, with_ports=False)))
            dispatch = (
                *self._spared(stage),
                f"{_LATER_FRAGMENT[family]} goto {portless}",
                f"{_WITH_PORTS} th dport 0-65535 goto {with_ports}",
                f"goto {portless}",  # also a header too short to hold ports
            )
            yield Chain(self.named(f"{stage}_{family}"), dispatch)

    def _spared(self, stage: str) -> Iterator[str]:
        if stage != "passed":
            yield f"meta mark & {self.mark:#x} == {self.mark:#x} return"  # a filter accepted it
        if stage == "limits":
            # Only the direction tells an answer from a flood: a service that answers makes the flood "established".
            yield "ct direction reply return"
            yield "ct state related return"

    def _lookups(self, stage: str, family: Family, *, with_ports: bool) -> Iterator[str]:
        for place in self.places:
            if (HOOKS[place.kind].stage, place.family, place.with_ports) == (stage, family, with_ports):
                look_up = f"{place.guard} {place.key} vmap @{self.named('scope', place)}".strip()
                # What a filter accepts passes, and is counted as passed, in the stage that does both.
                spared = stage == "passed" and place.kind is not Kind.PASSED
                yield f"meta mark & {self.mark:#x} == 0 {look_up}" if spared else look_up


def version_of(name: str) -> str | None:
    """The version in a name of ours, or None for a name that is not ours."""
    found = _OURS.match(name)
    return found[1] if found else None


def _conditions(place: Place, parameters: Parameters, meter: str) -> list[str]:
    family = place.family
    limit = ""
    if meter:
        limit = (
            f"update @{meter} {{ {_SOURCE[family]} . {_PROTOCOL[family]} daddr "
            f"limit rate over {parameters.rate}/second burst {parameters.burst} packets }}"
        )
    match place.kind:
        case Kind.AMPLIFICATION:
            return [f"udp sport {{ {', '.join(map(str, parameters.source_ports))} }}"]
        case Kind.FRAGMENTS:
            return [_LATER_FRAGMENT[family]]
        case Kind.TCP_FLAGS:
            return [f"tcp flags & {mask:#x} == {value:#x}" for mask, value in IMPOSSIBLE_TCP_FLAGS]
        case Kind.BOGONS:
            return [f"{_PROTOCOL[family]} saddr {{ {', '.join(map(str, parameters.source_prefixes))} }}"]
        case Kind.SYN_LIMIT:
            return [f"tcp flags & {OPENING_MASK:#x} == {OPENING:#x} {limit}"]
        case Kind.UDP_LIMIT:
            return [limit]
        case Kind.ICMP_LIMIT if family == 6:
            return [f"icmpv6 type != {{ {', '.join(map(str, NEIGHBOUR_DISCOVERY))} }} {limit}"]
        case Kind.ICMP_LIMIT:
            return [limit]
        case Kind.REDIRECT:
            return [f"meta mark set meta mark & {~parameters.mask & 0xFFFFFFFF:#010x} | {parameters.mark:#010x}"]
        case _:
            return [""]


def _packed(family: Family, address: int, protocol: int, port: int | None = None) -> bytes:
    """Each field is filled up to four octets."""
    packed = address.to_bytes(4 if family == 4 else 16, "big") + bytes((protocol, 0, 0, 0))
    return packed if port is None else packed + port.to_bytes(2, "big") + bytes(2)


@lru_cache(maxsize=1 << 12)
def _name(word: str, place: Place | Level | None, digest: str, version: str) -> str:
    return "_".join(filter(None, (word, place.name if place else "", digest, version)))


def _quoted(word: str) -> str:
    return f'"{word}"'


def _limit_text(bucket: Bucket) -> str:
    if bucket.octets:
        return f"{{ rate over {bucket.rate} bytes/second burst {bucket.burst} bytes ; }}"
    return f"{{ rate over {bucket.rate}/second burst {bucket.burst} packets ; }}"


def _range(span: Range) -> str:
    return f"{span[0]}" if span[0] == span[1] else f"{span[0]}-{span[1]}"


def text_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
