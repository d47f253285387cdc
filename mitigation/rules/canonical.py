"""Rules as values: one kind of action on one box, with a key that is the same whenever match and action are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from mitigation.rules import wording
from mitigation.rules.boxes import ANY_PORT, ANY_PROTOCOL, NO_PORT, Box, Family, Range, addresses_in_words
from mitigation.rules.scope import Network


class Kind(StrEnum):
    """What is done. The values are words in keys: short, and never given a second meaning."""

    DISCARD = "discard"
    AMPLIFICATION = "amp"
    FRAGMENTS = "frag"
    TCP_FLAGS = "flags"
    BOGONS = "bogon"
    SYN_LIMIT = "syn"
    UDP_LIMIT = "udp"
    ICMP_LIMIT = "icmp"
    RATE_LIMIT = "rate"
    REDIRECT = "mark"
    PASSED = "pass"


LIMITS = frozenset({Kind.SYN_LIMIT, Kind.UDP_LIMIT, Kind.ICMP_LIMIT})  # a bucket for each source
DROPLESS = frozenset({Kind.REDIRECT, Kind.PASSED})


@dataclass(frozen=True, order=True)
class Bucket:
    """One limit over all packets of all rules that name it: `rate` a second and `burst`, in packets or in octets.

    Equal buckets are one bucket, so `name` tells apart what is limited by itself: a digest of the scope.
    """

    octets: bool
    rate: int
    burst: int
    name: str

    @property
    def unit(self) -> str:
        return "octets" if self.octets else "packets"

    @cached_property
    def digest(self) -> str:
        """Eight characters that differ between different buckets."""
        return _digest((self.octets, self.rate, self.burst, self.name))


@dataclass(frozen=True)
class Parameters:
    """`rate` in packets per second and `burst` in packets hold for one source towards one destination address.

    A packet is dropped when any of `buckets` is empty; they are asked in their order. `mark` is set in those bits of a
    packet's mark that are set in `mask`. Neither is done to what comes in by one of `interfaces`.
    """

    rate: int = 0
    burst: int = 0
    source_ports: tuple[int, ...] = ()
    source_prefixes: tuple[Network, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    mark: int = 0
    mask: int = 0
    interfaces: tuple[str, ...] = ()

    @cached_property
    def _hash(self) -> int:
        everything = (
            self.rate,
            self.burst,
            self.source_ports,
            self.source_prefixes,
            self.buckets,
            self.mark,
            self.mask,
        )
        return hash((everything, self.interfaces))

    def __hash__(self) -> int:
        """Worked out once: prefixes take long."""
        return self._hash

    @cached_property
    def digest(self) -> str:
        """Empty for no parameters, else eight characters that differ between different parameters."""
        if self == Parameters():
            return ""
        words = (self.rate, self.burst, self.source_ports, [str(prefix) for prefix in self.source_prefixes])
        more = ([bucket.digest for bucket in self.buckets], self.mark, self.mask, self.interfaces)
        return _digest(words + more if any(more) else words)


@dataclass(frozen=True)
class Rule:
    kind: Kind
    box: Box
    parameters: Parameters = Parameters()

    @cached_property
    def key(self) -> str:
        """At most 119 characters of letters, digits, spaces and `. : / , -`; holds the box in words."""
        return format_key(self.kind, self.box, self.parameters.digest)

    @property
    def drops(self) -> bool:
        return self.kind not in DROPLESS

    @property
    def touches(self) -> bool:
        """Whether packets fare any different for it; else it only counts them."""
        return self.kind is not Kind.PASSED

    @property
    def text(self) -> str:
        """One line for an operator."""
        return wording.sentence(self.kind.name, self.box, self.parameters)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; integers above 2**53 as strings, so that any JSON field may hold them."""
        box = {name: str(value) if "address" in name else value for name, value in asdict(self.box).items()}
        parameters = {
            "rate": self.parameters.rate,
            "burst": self.parameters.burst,
            "source_ports": list(self.parameters.source_ports),
            "source_prefixes": [str(prefix) for prefix in self.parameters.source_prefixes],
            "buckets": [asdict(bucket) for bucket in self.parameters.buckets],
            "mark": self.parameters.mark,
            "mask": self.parameters.mask,
            "interfaces": list(self.parameters.interfaces),
        }
        return {"kind": self.kind.value, "box": box, "parameters": parameters}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str) -> Rule:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for anything else."""
        stored: Mapping[str, Any] = json.loads(value) if isinstance(value, str) else value
        box = {name: int(number) for name, number in stored["box"].items()}
        parameters = stored["parameters"]
        return cls(
            kind=Kind(stored["kind"]),
            box=Box(**box),  # type: ignore[arg-type]  # Box checks the family itself
            parameters=Parameters(
                rate=int(parameters["rate"]),
                burst=int(parameters["burst"]),
                source_ports=tuple(int(port) for port in parameters["source_ports"]),
                source_prefixes=tuple(ip_network(prefix) for prefix in parameters["source_prefixes"]),
                buckets=tuple(Bucket(**bucket) for bucket in parameters["buckets"]),
                mark=int(parameters["mark"]),
                mask=int(parameters["mask"]),
                interfaces=tuple(parameters["interfaces"]),
            ),
        )


@dataclass(frozen=True)
class Key:
    """A key taken apart: everything but the parameters, of which only the digest is left."""

    kind: Kind
    box: Box
    digest: str


def format_key(kind: Kind, box: Box, digest: str) -> str:
    words = [kind.value, addresses_in_words(box), _protocols(box.protocols), _ports(box.ports)]
    return " ".join(words + [digest] if digest else words)


def is_key(word: str) -> bool:
    """Whether `parse_key` takes it."""
    try:
        parse_key(word)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1 << 18)  # every reading of the equipment meets the same keys again
def parse_key(key: str) -> Key:
    """The inverse of `format_key`. Raises ValueError for anything else."""
    words = key.split(" ")
    if len(words) not in (4, 5):
        raise ValueError(f"not a rule key: {key!r}")
    family, addresses = _parse_addresses(words[1])
    protocols = ANY_PROTOCOL if words[2] == "any" else _parse_range(words[2])
    box = Box(family, *addresses, *protocols, *_parse_ports(words[3]))
    return Key(Kind(words[0]), box, words[4] if len(words) == 5 else "")


def _digest(words: object) -> str:
    return hashlib.blake2b(repr(words).encode(), digest_size=4).hexdigest()


@lru_cache(maxsize=65_536)
def _parse_addresses(word: str) -> tuple[Family, Range]:
    family: Family = 6 if ":" in word else 4
    if "-" not in word:
        network = ip_network(word)
        return family, (int(network[0]), int(network[-1]))
    address = IPv6Address if family == 6 else IPv4Address
    first, last = word.split("-")
    return family, (int(address(first)), int(address(last)))


def _protocols(protocols: Range) -> str:
    return "any" if protocols == ANY_PROTOCOL else _range(protocols)


def _ports(ports: Range) -> str:
    """`any`, `none` (only what carries no port), a range, or `none,` and a range."""
    if ports == ANY_PORT:
        return "any"
    if ports == (NO_PORT, NO_PORT):
        return "none"
    if ports[0] == NO_PORT:
        return "none," + _range((0, ports[1]))
    return _range(ports)


def _parse_ports(word: str) -> Range:
    if word == "any":
        return ANY_PORT
    if word == "none":
        return NO_PORT, NO_PORT
    if word.startswith("none,"):
        return NO_PORT, _parse_range(word.removeprefix("none,"))[1]
    return _parse_range(word)


def _range(span: Range) -> str:
    return f"{span[0]}" if span[0] == span[1] else f"{span[0]}-{span[1]}"


def _parse_range(word: str) -> Range:
    first, _, last = word.partition("-")
    return int(first), int(last or first)
