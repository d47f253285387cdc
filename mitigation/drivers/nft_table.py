"""Our table in the kernel: made, changed in transactions, read back, repaired.

The order of a change keeps packets from slipping through and counters exact. What is new comes in one transaction,
together with what it replaces, and with what lets packets through the gate to it; then the rest stops dropping; then
its counters, which can no longer move, are read for the last time and taken away. Only counters of replaced boxes are
read a moment before their end, because two overlapping elements cannot be in one set.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter as Counts
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from mitigation.drivers.base import Counter, Desired
from mitigation.drivers.nft_gate import LEVELS, Granule, Level, granules
from mitigation.drivers.nft_netlink import Element, Netlink
from mitigation.drivers.nft_process import Nft, NftFailed
from mitigation.drivers.nft_readback import (
    Counted,
    Scoped,
    Structure,
    read_counted,
    read_quickly,
    read_scoped,
    read_structure,
)
from mitigation.drivers.nft_ruleset import HOOKS, Part, Place, Ruleset, Way, number_of_parts, parts, version_of
from mitigation.exceptions import DriverError
from mitigation.rules.boxes import Box
from mitigation.rules.canonical import Kind, parse_key
from mitigation.rules.decomposition import decompose

log = logging.getLogger(__name__)

DELETE_AT_ONCE = 100  # at worst 1 s from a set of 10,000: many transactions, none of them long
ADD_AT_ONCE = 4_000  # rules; a second on an idle machine, so that an nft that hangs is known for it soon
FEW = 10
FEW_LIMITED = 4_000  # elements, of some 1,000 scopes: seconds at worst
ASKED_ALONE = 500  # elements; listing a set of 10,000 takes as long
EXPIRY_SECONDS = 0.02  # the kernel's clock ticks every 1 to 10 ms
LONGEST_SECONDS = 45 * 86_400  # nft keeps timeouts in 32 bits of milliseconds
REMAINS_SECONDS = 3600  # a counter can be read for an hour after its rule has expired, then the kernel forgets it


Gate = dict[Granule, int]  # in how many seconds the kernel lets go of each


@dataclass(frozen=True)
class Leaving:
    """An element to take away; without a key it is one we cannot name and whose counter nobody knows."""

    place: Place
    value: str
    key: str | None


@dataclass
class Change:
    add: Collection[Desired]
    scoped: list[Leaving] = field(default_factory=list)
    counted: list[Leaving] = field(default_factory=list)


@dataclass
class Inventory:
    scoped: dict[Place, list[Scoped]]
    counted: dict[Place, list[Counted]]


class NftTable:
    """Raises DriverError from every method that asks the kernel."""

    def __init__(self, nft: Nft, netlink: Netlink, ruleset: Ruleset) -> None:
        self.nft = nft
        self.netlink = netlink
        self.ruleset = ruleset
        self.parting: list[Counter] = []
        self.torn: set[str] = set()  # keys that lost some of their counting elements, as of the last full reading
        # What no rule needed when all were last read, and none that came since.
        self.idle: set[Granule] = set()
        self.idle_ways: set[Way] = set()
        self._renews_in_place: bool | None = None
        self._structure: Structure | None = None
        self._structure_at: tuple[int | None, int, int] = (None, 0, 0)  # generation, changes of ours, and remakes

    # Reading

    def structure(self) -> Structure:
        self.nft.answer()
        return read_structure(self.netlink, self.ruleset.table)

    def quick_structure(self) -> Structure:
        """As `read_quickly`. It is as it was read last, while the kernel counts no transaction but ours of elements."""
        now, (then, changes, remakes) = self.netlink.generation(), self._structure_at
        is_same = None not in (now, then) and now == ((then or 0) + self.nft.changes - changes) % 2**32
        if self._structure is None or not is_same or remakes != self.nft.remakes:
            self._structure_at = now, self.nft.changes, self.nft.remakes
            self._structure = read_quickly(self.netlink, self.ruleset.table)
        return self._structure

    def scoped(self, place: Place) -> list[Scoped]:
        return read_scoped(place, self.netlink.elements(self.ruleset.table, self.ruleset.named("scope", place)))

    def counted(self, place: Place) -> list[Counted]:
        return read_counted(place, self.netlink.elements(self.ruleset.table, self.ruleset.named("count", place)))

    def inventory(self, places: Iterable[Place], between: Callable[[], None] | None = None) -> Inventory:
        scoped, counted = {}, {}
        for place in places:
            if between is not None:
                between()
            scoped[place], counted[place] = self.scoped(place), self.counted(place)
        return Inventory(scoped, counted)

    def inventory_of(self, keys: Iterable[str]) -> Inventory:
        """Only what stands where the elements of these rules belong."""
        firsts: dict[Place, list[bytes]] = {}
        for key in keys:
            for part in parts_of(key):
                firsts.setdefault(part.place, []).append(part.first)
        scoped = {place: read_scoped(place, self._those_at("scope", place, values)) for place, values in firsts.items()}
        return Inventory(scoped, {place: self._counted_at(place, values) for place, values in firsts.items()})

    def gate(self, keys: Iterable[str] | None = None) -> Gate:
        """All of it, or only the granules that the rules with these keys need."""
        if keys is None:
            listed = {level: self.netlink.elements(self.ruleset.table, self._gate(level)) for level in LEVELS}
        else:
            firsts: dict[Level, list[bytes]] = {}
            for level, first in dict.fromkeys(one for key in keys for one in granules_of(key)):
                firsts.setdefault(level, []).append(first)
            listed = {level: self._those_at("gate", level, values) for level, values in firsts.items()}
        return {
            Granule(level, one.first): one.expires or LONGEST_SECONDS
            for level, found in listed.items()
            for one in found
        }

    def _gate(self, level: Level) -> str:
        return self.ruleset.named("gate", level)

    def note_idle(self, structure: Structure, gate: Iterable[Granule], inventory: Inventory) -> None:
        """Of a reading of everything: what no element needs, whatever its comment says."""
        elements = {(one.stage, one.granules) for scoped in inventory.scoped.values() for one in scoped}
        needed = {(stage, granule) for stage, some in elements for granule in some}
        self.idle = set(gate) - {granule for _, granule in needed}
        self.idle_ways = structure.ways(self.ruleset) - {(stage, granule.level) for stage, granule in needed}

    def _counted_at(self, place: Place, firsts: Collection[bytes]) -> list[Counted]:
        return read_counted(place, self._those_at("count", place, firsts))

    def _those_at(self, word: str, place: Place | Level, firsts: Iterable[bytes]) -> list[Element]:
        return self.netlink.those_at(self.ruleset.table, self.ruleset.named(word, place), list(firsts))

    # Changing

    def prepare(self, add: Collection[Desired]) -> Structure:
        """Makes or repairs whatever the elements rely on; returns what was there before."""
        structure = self.quick_structure()
        if structure.foreign and not structure.versions:
            raise DriverError(
                f"table inet {self.ruleset.table} exists and is not ours: rename it, or set DOTS_NFT_TABLE",
                retryable=False,
            )
        ways = self._ways(add)
        self.idle_ways -= ways
        open_ways = structure.ways(self.ruleset)
        if not structure.is_whole(self.ruleset):
            text = self.ruleset.create(open_ways | ways)
        else:
            text = self._open(open_ways | ways, {stage for stage, _ in ways - open_ways})
        for place, parameters in dict.fromkeys(
            (part.place, one.rule.parameters) for one in add for part in parts(one.rule.kind, one.rule.box)
        ):
            profile = self.ruleset.profile(place, parameters)
            if not structure.holds(profile.chain):
                text += self.ruleset.create_profile(profile)
        if text:
            log.info("table inet %s: making what is missing, version %s", self.ruleset.table, self.ruleset.version)
            self.nft.change(text)
        self.renews_in_place()
        return structure

    def _open(self, ways: Collection[Way], stages: Iterable[str]) -> str:
        return "".join(self.ruleset.create_chain(self.ruleset.entry(stage, ways)) for stage in stages)

    def renews_in_place(self) -> bool:
        """Whether adding an element again moves its deadline; the table has to be there."""
        if self._renews_in_place is None:
            self._renews_in_place = self._try_renewing()
        return self._renews_in_place

    def change(self, add: Collection[Desired], remove: Iterable[str]) -> None:
        """As if everything were as we left it; NftFailed with `is_conflict` when it is not."""
        leaving = [Leaving(part.place, part.value, key) for key in remove for part in parts_of(key)]
        self._execute(Change(add, leaving, list(leaving)), is_read=False)

    def repair(self, add: Collection[Desired], remove: Collection[str], *, everywhere: bool) -> None:
        """The same after reading back, so that it fits what is there; `everywhere` takes away all that is not added.

        What is left of torn rules goes first: all parts of a rule have to count in one epoch.
        """
        wanted = {one.rule.key: one for one in add}
        touched = {part.place for key in [*wanted, *remove] for part in parts_of(key)}
        inventory = self.inventory(self.ruleset.places if everywhere else touched)
        torn = wanted.keys() & torn_keys(inventory)
        remove = {*remove, *torn}
        change = Change(add)
        for place, scoped in inventory.scoped.items():
            present = {one.key for one in scoped}
            for one in scoped:
                if self._must_leave(one, place, wanted, remove, everywhere=everywhere):
                    change.scoped.append(Leaving(place, one.value, one.key))
            for entry in inventory.counted[place]:
                is_remains = entry.key not in wanted and entry.key not in present
                if is_remains or entry.key in remove or (everywhere and entry.key not in wanted):
                    change.counted.append(Leaving(place, entry.value, entry.key))
        self._execute(change, is_read=True)
        self.torn -= wanted.keys()

    def drop_versions(self, versions: set[str]) -> None:
        """Takes away what other versions of this software left, counters noted."""
        if not versions:
            return
        structure = self.structure()
        chains, maps, sets, limits = (
            {name for name in names if version_of(name) in versions}
            for names in (structure.chains, structure.maps, structure.sets, structure.limits)
        )
        for name in sets:
            if name.startswith("count_"):
                self._note_elements(name)
        self.nft.change(self.ruleset.drop(chains, maps, sets, limits))

    def drop_unused_profiles(self, add: Collection[Desired]) -> None:
        used = {
            self.ruleset.profile(part.place, one.rule.parameters).chain.name
            for one in add
            for part in parts(one.rule.kind, one.rule.box)
        }
        structure = self.structure()
        self._drop_profiles(
            structure, {name for name in structure.chains if name.startswith("do_") and name not in used}
        )

    def close_gate(self) -> None:
        """To packets that it lets through to nobody's rule, which costs them time and nothing else."""
        idle, idle_ways, self.idle, self.idle_ways = self.idle, self.idle_ways, set(), set()
        text = self.ruleset.granules("delete", idle)
        if idle_ways:
            ways = self.quick_structure().ways(self.ruleset) - idle_ways
            text += self._open(ways, {stage for stage, _ in idle_ways})
        if not text:
            return
        try:
            self.nft.change(text)
        except NftFailed as failure:
            log.info("destinations without a rule stay in the gate until they are next read: %s", failure)

    def drop_idle_limits(self) -> None:
        """Each scope that is held to a rate has a limit of its own: they would grow in number without end."""
        places = [place for place in self.ruleset.places if place.kind is Kind.RATE_LIMIT]
        begins = tuple(f"do_{place.name}_" for place in places)
        structure = self.structure()
        used = {one.target for place in places for one in self.scoped(place)}
        self._drop_profiles(
            structure, {name for name in structure.chains if name.startswith(begins) and name not in used}
        )

    def _drop_profiles(self, structure: Structure, chains: set[str]) -> None:
        meters = {name for name in structure.sets if name.startswith("meter_") and "do" + name[5:] in chains}
        asked = {name for chain, names in structure.limits_of.items() if chain not in chains for name in names}
        limits = {name for name in structure.limits if version_of(name) == self.ruleset.version} - asked
        if not chains and not limits:
            return
        try:
            self.nft.change(self.ruleset.drop(chains, (), meters, limits))
        except NftFailed as failure:
            log.info("chains without use stay until the next resync: %s", failure)

    def drop_table(self) -> None:
        for place in self.ruleset.places:
            self._note(self.counted(place))
        self.nft.change(f"delete table inet {self.ruleset.table}\n")

    # How

    def _must_leave(
        self, one: Scoped, place: Place, wanted: dict[str, Desired], remove: Collection[str], *, everywhere: bool
    ) -> bool:
        if one.key is None or one.key in remove:
            return True
        if one.key not in wanted:
            return everywhere
        return one.target != self.ruleset.profile(place, wanted[one.key].rule.parameters).chain.name

    def _execute(self, change: Change, *, is_read: bool) -> None:
        replaced = _replaced(change)
        now_scoped, later_scoped = _split(change.scoped, replaced)
        now_counted, later_counted = _split(change.counted, replaced)
        self._note_places(now_counted)
        text = self._delete("scope", now_scoped) + self._delete("count", now_counted)
        # What replaces comes with what it replaces, at once; the rest may come in parts.
        at_once = ADD_AT_ONCE if not text else len(change.add)
        add = list(change.add)
        for part in [add[at : at + at_once] for at in range(0, len(add), at_once)] or [[]]:
            if text := text + self._add(part):
                self.nft.change(text)
                text = ""
        self._take_away("scope", later_scoped, is_read=is_read)
        self._note_places(later_counted)
        self._take_away("count", later_counted, is_read=is_read)

    def _take_away(self, word: str, leaving: list[Leaving], *, is_read: bool) -> None:
        """Many elements are made to expire: a sixtieth of the time, but it would make those that are not there."""
        limited = [one for one in leaving if one.place.kind is Kind.RATE_LIMIT]
        others = [one for one in leaving if one.place.kind is not Kind.RATE_LIMIT]
        # One that expired holds on to its chain, and that to its limit, until the kernel next tidies up its set.
        for some, few in ((others, FEW), (limited, FEW_LIMITED)):
            if is_read and self._renews_in_place and len(some) > few:
                self.nft.change(self._expire(word, some))
                time.sleep(EXPIRY_SECONDS)
                continue
            for at in range(0, len(some), DELETE_AT_ONCE):
                self.nft.change(self._delete(word, some[at : at + DELETE_AT_ONCE]))

    def _expire(self, word: str, leaving: Iterable[Leaving]) -> str:
        by_place: dict[Place, list[str]] = {}
        for one in leaving:
            key = one.key or ""
            is_scope = word == "scope"
            element = (
                self.ruleset.scope_element(one.place, one.value, key, parse_key(key).digest, "1ms")
                if is_scope
                else self.ruleset.count_element(one.value, key, "0", "1ms")
            )
            by_place.setdefault(one.place, []).append(element)
        return "".join(
            self.ruleset.elements("add", self.ruleset.named(word, place), elements)
            for place, elements in by_place.items()
        )

    def _add(self, add: Collection[Desired]) -> str:
        epoch = secrets.token_hex(4)
        needed = self._granules(add)
        self.idle -= needed
        scoped: dict[Place, list[str]] = {}
        counted: dict[Place, list[str]] = {}
        for one in add:
            key, digest = one.rule.key, one.rule.parameters.digest
            for part in parts(one.rule.kind, one.rule.box):
                seconds = min(one.expires_in_seconds, LONGEST_SECONDS)
                remains = f"{seconds + REMAINS_SECONDS}s" if self._renews_in_place else ""
                scope = self.ruleset.scope_element(part.place, part.value, key, digest, f"{seconds}s")
                count = self.ruleset.count_element(part.value, key, epoch, remains)
                scoped.setdefault(part.place, []).append(scope)
                counted.setdefault(part.place, []).append(count)
        text = self._let_through(needed)
        text += "".join(
            self.ruleset.elements("add", self.ruleset.named("count", place), elements)
            for place, elements in counted.items()
        )
        for place, elements in scoped.items():
            name = self.ruleset.named("scope", place)
            if not self._renews_in_place:
                # Adding first makes the deletion right whether the element was there or not.
                text += self.ruleset.elements("add", name, elements)
                text += self.ruleset.elements("delete", name, [element.split(" timeout ")[0] for element in elements])
            text += self.ruleset.elements("add", name, elements)
        return text

    def _let_through(self, needed: set[Granule]) -> str:
        """Granules live as long as any rule may, so none comes to an end before one that needs it."""
        if self._renews_in_place:
            return self.ruleset.granules("add", needed, f"{LONGEST_SECONDS}s")
        add, delete = (self.ruleset.granules(verb, needed) for verb in ("add", "delete"))
        return add + delete + add  # as below

    def _granules(self, add: Iterable[Desired]) -> set[Granule]:
        """What lets packets through the gate to all of these."""
        return {granule for _, some in self._needed(add) for granule in some}

    def _ways(self, add: Iterable[Desired]) -> set[Way]:
        return {(stage, granule.level) for stage, some in self._needed(add) for granule in some}

    def _needed(self, add: Iterable[Desired]) -> set[tuple[str, tuple[Granule, ...]]]:
        """Stages and granules."""
        spans = {(HOOKS[one.rule.kind].stage, one.rule.box.family, one.rule.box.addresses) for one in add}
        return {(stage, granules(family, *addresses)) for stage, family, addresses in spans}

    def _delete(self, word: str, leaving: Iterable[Leaving]) -> str:
        by_place: dict[Place, list[str]] = {}
        for one in leaving:
            by_place.setdefault(one.place, []).append(one.value)
        return "".join(
            self.ruleset.elements("delete", self.ruleset.named(word, place), values)
            for place, values in by_place.items()
        )

    def _note_places(self, leaving: Collection[Leaving]) -> None:
        by_place: dict[Place, list[Leaving]] = {}
        for one in leaving:
            by_place.setdefault(one.place, []).append(one)
        for place, some in by_place.items():
            keys = {one.key for one in some if one.key}
            firsts = {part.first for key in keys for part in parts_of(key) if part.place == place}
            counted = self._counted_at(place, firsts) if len(firsts) <= ASKED_ALONE else self.counted(place)
            self._note(one for one in counted if one.key in keys)

    def _note(self, counted: Iterable[Counted]) -> None:
        self.parting.extend(as_counters(counted))

    def _note_elements(self, name: str) -> None:
        """Of a set of another version, whose places are not known."""
        for element in self.netlink.elements(self.ruleset.table, name):
            key, _, epoch = element.comment.rpartition(" ")
            if number_of_parts(key):
                self.parting.append(Counter(key, epoch, element.packets, element.octets))

    def _try_renewing(self) -> bool:
        """Kernels before 6.12 take the command and do nothing."""
        probe = self.ruleset.named("probe")
        for seconds in (60, 600):
            self.nft.change(self.ruleset.elements("add", probe, [f"192.0.2.1 timeout {seconds}s"]))
        elements = self.netlink.elements(self.ruleset.table, probe)
        self.nft.change(f"flush set inet {self.ruleset.table} {probe}\n")
        return any(element.expires > 60 for element in elements)


def torn_keys(inventory: Inventory) -> set[str]:
    """Keys of which some counting elements are missing, but not all."""
    present = Counts(one.key for entries in inventory.counted.values() for one in entries if one.key)
    return {key for key, count in present.items() if count != number_of_parts(key)}


def as_counters(counted: Iterable[Counted]) -> list[Counter]:
    return [Counter(one.key, one.epoch, one.packets, one.octets) for one in counted if one.key]


def granules_of(key: str) -> tuple[Granule, ...]:
    box = parse_key(key).box
    return granules(box.family, *box.addresses)


def parts_of(key: str) -> tuple[Part, ...]:
    try:
        parsed = parse_key(key)
    except ValueError as error:
        raise DriverError(str(error), retryable=False) from None
    return parts(parsed.kind, parsed.box)


def _replaced(change: Change) -> set[str]:
    """Keys that leave and overlap with what comes: both have to happen in one transaction."""
    leaving = {one.key for one in [*change.scoped, *change.counted] if one.key}
    if not change.add or not leaving:
        return set()
    replaced = set()
    kinds = {one.rule.kind for one in change.add}
    for kind in kinds:
        coming = [one.rule.box for one in change.add if one.rule.kind is kind]
        wanted: dict[str | None, list[Box]] = {None: coming}
        wanted |= {key: [parsed.box] for key in leaving if (parsed := parse_key(key)).kind is kind}
        for _, owners in decompose(wanted):
            if None in owners:
                replaced |= {key for key in owners if key}
    return replaced


def _split(leaving: Iterable[Leaving], replaced: set[str]) -> tuple[list[Leaving], list[Leaving]]:
    now: list[Leaving] = []
    later: list[Leaving] = []
    for one in leaving:
        (now if one.key is None or one.key in replaced else later).append(one)
    return now, later
