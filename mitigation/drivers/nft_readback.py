"""What is really in the kernel, read into values of ours: by netlink."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mitigation.drivers.nft_gate import LEVELS, Granule, granules
from mitigation.drivers.nft_netlink import BaseChain, Element, Netlink
from mitigation.drivers.nft_ruleset import (
    FILTERS,
    HOOKS,
    Chain,
    Place,
    Ruleset,
    Way,
    addresses_of,
    number_of_parts,
    text_hash,
    unpacked,
    version_of,
)


@dataclass
class Structure:
    """One table without its elements."""

    exists: bool = False
    chains: dict[str, BaseChain | None] = field(default_factory=dict)
    comments: dict[str, list[str | None]] = field(default_factory=dict)  # of the rules of each chain, in order
    maps: set[str] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)
    limits: set[str] = field(default_factory=set)
    limits_of: dict[str, set[str]] = field(default_factory=dict)  # those that each chain asks
    _whole: dict[str, bool] = field(default_factory=dict)  # by version, once it was asked: nothing of it changes

    @property
    def names(self) -> set[str]:
        return self.chains.keys() | self.maps | self.sets | self.limits

    @property
    def versions(self) -> set[str]:
        return {version for name in self.names if (version := version_of(name))}

    @property
    def foreign(self) -> list[str]:
        """Objects in the table that this software never makes."""
        return sorted(name for name in self.names if version_of(name) is None)

    def holds(self, chain: Chain) -> bool:
        return chain.name in self.chains and self.comments.get(chain.name, []) == list(chain.comments)

    def holds_some(self, name: str) -> bool:
        """The chain is as it was made, whatever it was made of."""
        comments = [(comment or "").rpartition(" ")[2] for comment in self.comments.get(name, [])]
        return bool(comments) and comments == [f"{at}/{len(comments)}" for at in range(1, len(comments) + 1)]

    def is_whole(self, ruleset: Ruleset) -> bool:
        """The constant part is there as made: nothing missing, nothing added to our chains, hooks unchanged."""
        if ruleset.version not in self._whole:
            self._whole[ruleset.version] = self._compared_with(ruleset)
        return self._whole[ruleset.version]

    def _compared_with(self, ruleset: Ruleset) -> bool:
        has_sets = ruleset.maps.keys() <= self.maps and ruleset.sets.keys() <= self.sets
        ways = self.ways(ruleset)
        chains = [*ruleset.chains, *(ruleset.entry(stage, ways) for stage in ruleset.stages)]
        return has_sets and all(self.holds(chain) and self._hooked(chain, ruleset) for chain in chains)

    def ways(self, ruleset: Ruleset) -> set[Way]:
        """Which sets of the gate each stage asks."""
        found: set[Way] = set()
        for stage in ruleset.stages:
            hashes = {(comment or "").partition(" ")[0] for comment in self.comments.get(ruleset.named(stage), ())}
            ways = ((stage, level) for level in LEVELS)
            found.update(way for way in ways if text_hash(ruleset.way_in(way)) in hashes)
        return found

    def _hooked(self, chain: Chain, ruleset: Ruleset) -> bool:
        hooks: dict[str, BaseChain] = {
            ruleset.named(stage): ("filter", "prerouting", priority, "accept")
            for stage, priority in ruleset.hooks.items()
        }
        return self.chains[chain.name] == hooks.get(chain.name)


def read_structure(netlink: Netlink, table: str) -> Structure:
    """Raises DriverError."""
    found = read_quickly(netlink, table)
    found.limits_of = {name: netlink.limits_asked(table, name) for name in found.chains if name.startswith("do_")}
    return found


def read_quickly(netlink: Netlink, table: str) -> Structure:
    """The same without what each chain asks. Rules of clients' filters are left out: there may be 10,000 of them."""
    found = Structure(chains=netlink.chains(table))
    for name in found.chains:
        is_filter = name.startswith(FILTERS)
        comments = [] if is_filter else netlink.rule_comments(table, name).get(name, [])
        found.comments[name] = [comment or None for comment in comments]
    for name, is_map in netlink.sets(table).items():
        (found.maps if is_map else found.sets).add(name)
    found.limits = netlink.limits(table)
    found.exists = bool(found.names)
    return found


class Scoped(NamedTuple):
    """An element that sends packets to the chain `target`. `key` is None when its comment is none of ours."""

    key: str | None
    place: Place
    first: bytes
    last: bytes
    expires: int
    target: str

    @property
    def granules(self) -> tuple[Granule, ...]:
        """What the gate must hold, or packets never get as far as this."""
        return granules(self.place.family, *addresses_of(self.place, self.first, self.last))

    @property
    def stage(self) -> str:
        return HOOKS[self.place.kind].stage

    @property
    def value(self) -> str:
        """As nft writes it."""
        return unpacked(self.place, self.first, self.last)


class Counted(NamedTuple):
    key: str | None
    epoch: str
    place: Place
    first: bytes
    last: bytes
    packets: int
    octets: int

    @property
    def value(self) -> str:
        return unpacked(self.place, self.first, self.last)


def read_scoped(place: Place, elements: Iterable[Element]) -> list[Scoped]:
    return [
        Scoped(_known_key(comment), place, first, last, expires, target)
        for comment, first, last, expires, target, _, _ in elements
    ]


def read_counted(place: Place, elements: Iterable[Element]) -> list[Counted]:
    found = []
    for comment, first, last, _, _, packets, octets in elements:
        key, _, epoch = comment.rpartition(" ")
        found.append(Counted(_known_key(key), epoch, place, first, last, packets, octets))
    return found


def _known_key(comment: str) -> str | None:
    return comment if comment and number_of_parts(comment) else None
