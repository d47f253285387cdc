"""The nftables driver: a table of our own on a Linux scrubber, router or host in path."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from mitigation.drivers import nft_filters
from mitigation.drivers.base import (
    Capabilities,
    Counter,
    Desired,
    DesiredFilters,
    Driver,
    Health,
    HealthState,
    Installed,
    Problem,
)
from mitigation.drivers.nft_filter_table import NftFilters
from mitigation.drivers.nft_gate import Granule
from mitigation.drivers.nft_lock import TableLock
from mitigation.drivers.nft_netlink import Netlink
from mitigation.drivers.nft_process import Nft, NftFailed, why_unusable
from mitigation.drivers.nft_readback import Structure
from mitigation.drivers.nft_ruleset import MARK, Ruleset, Way, number_of_parts, parts
from mitigation.drivers.nft_table import Gate, Inventory, NftTable, as_counters, torn_keys
from mitigation.exceptions import DriverError
from mitigation.rules.canonical import LIMITS, Kind, Rule, parse_key
from mitigation.rules.decomposition import overlapping
from mitigation.rules.filters import FilterRule

log = logging.getLogger(__name__)

# The kernel looks for an element to delete from the start of its set: 2 us for each that stays before it. Elements that
# go in the set's own order are found at once, and only reading tells the order.
READ_FIRST = 20


class NftablesDriver(Driver):
    """Settings: `runtime_dir` for the lock file; `table`; `stateful` False where only one direction is seen.

    `mark` is the one bit of the packet mark that lets through what a client's filter accepts; others may not use it.
    `meter_size` bounds the sources remembered for each limit; when it is full, new sources pass unlimited. `netns`
    names another network namespace, for tests. The table is locked at first use and until `close`. Deadlines further
    away than 45 days are brought nearer.
    """

    def __init__(
        self,
        *,
        runtime_dir: Path | str,
        table: str = "dots",
        netns: str | None = None,
        stateful: bool = True,
        meter_size: int = 65_536,
        max_rules: int = 20_000,
        mark: int = MARK,
        timeout: float = 4.0,
    ) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", table):
            raise DriverError(f"{table!r} is no name for a table: small letters, digits and _", retryable=False)
        self.table = table
        self.stateful = stateful
        self.max_rules = max_rules
        self._read_at: tuple[int | None, int] = (None, 0)  # the kernel's generation, and changes of our own until then
        self._netlink = Netlink(netns=netns)
        self._nft = Nft(netns=netns, timeout=timeout, generation=self._netlink.generation)
        self._ruleset = Ruleset(table, stateful=stateful, meter_size=meter_size, mark=mark)
        self._table = NftTable(self._nft, self._netlink, self._ruleset)
        self._filters = NftFilters(self._table, nft_filters.FilterTexts(self._ruleset.version, mark))
        self._lock = TableLock(Path(runtime_dir), table)

    # What it can do

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="nftables",
            enforces=True,
            counts=True,
            stateful=self.stateful,
            kinds=self._ruleset.kinds,
            max_rules=self.max_rules,
        )

    def check(self, rules: Sequence[Rule]) -> list[Problem]:
        problems = [Problem(rule.key, sentence) for rule in rules if (sentence := self._why_not(rule))]
        for kind in Kind:
            crossing = overlapping(rule.box for rule in rules if rule.kind is kind)
            keys = {rule.box: rule.key for rule in rules if rule.kind is kind}
            problems += [Problem(keys[box], "overlaps with another rule of its kind") for box in crossing]
        problems += [
            Problem(rule.key, f"only {self.max_rules} rules fit on this equipment") for rule in rules[self.max_rules :]
        ]
        return problems

    def _why_not(self, rule: Rule) -> str | None:
        parameters = rule.parameters
        if rule.kind not in self._ruleset.kinds:
            return "this box sees one direction only and keeps no state"
        if not parts(rule.kind, rule.box):
            return f"no packet of this box can meet a rule of kind {rule.kind.value}"
        if rule.kind in LIMITS and (parameters.rate < 1 or parameters.burst < 1):
            return "a limit needs a rate and a burst of at least 1"
        if rule.kind is Kind.RATE_LIMIT and min((min(b.rate, b.burst) for b in parameters.buckets), default=0) < 1:
            return "a limit on a whole scope needs a rate and a burst of at least 1"
        if rule.kind is Kind.REDIRECT and (not parameters.mark or parameters.mark & ~parameters.mask):
            return "a redirection needs a mark inside its mask"
        if rule.kind is Kind.AMPLIFICATION and not parameters.source_ports:
            return "a rule for amplification ports needs ports"
        if rule.kind is Kind.BOGONS and {p.version for p in parameters.source_prefixes} != {rule.box.family}:
            return "a rule for bogons needs prefixes, all of the family of its destinations"
        return None

    # How it is

    def health(self) -> Health:
        if sentence := why_unusable():
            return Health(HealthState.DOWN, sentence)
        try:
            self._own()
            structure = self._table.structure()
        except DriverError as error:
            return Health(HealthState.DOWN, str(error))
        return self._judge(structure)

    def _judge(self, structure: Structure) -> Health:
        where = f"table inet {self.table}"
        if not structure.names:
            return Health(HealthState.HEALTHY, f"{where} will be made with the first rule")
        if not structure.versions:
            return Health(HealthState.DOWN, f"{where} exists and is not ours: rename it, or set DOTS_NFT_TABLE")
        if not structure.is_whole(self._ruleset):
            if self._ruleset.version not in structure.versions:
                return Health(HealthState.DEGRADED, f"{where} is of another version; the next change replaces it")
            return Health(HealthState.DEGRADED, f"{where} was changed by someone else; the next change repairs it")
        if structure.foreign:
            names = ", ".join(structure.foreign[:3])
            return Health(HealthState.DEGRADED, f"{where} works, and holds things that are not ours: {names}")
        return Health(HealthState.HEALTHY, f"{where} is as this server left it")

    def installed(self) -> dict[str, Installed]:
        """Empty when the constant part is missing, damaged or of another version: then nothing is sure to work."""
        self._own()
        read_at = (self._netlink.generation(), self._nft.changes)
        structure = self._table.structure()
        if not structure.is_whole(self._ruleset):
            self._read_at = read_at
            return {}
        inventory = self._table.inventory(self._ruleset.places, self.give_way)
        gate = self._table.gate()
        self._read_at = read_at  # not before everything was read
        self._table.torn = torn_keys(inventory)
        self._table.note_idle(structure, gate, inventory)
        return self._in_force(structure, inventory, gate)

    def installed_among(self, keys: Collection[str]) -> dict[str, Installed] | None:
        self._own()
        structure = self._table.quick_structure()
        if not structure.is_whole(self._ruleset):
            return None
        in_force = self._in_force(structure, self._table.inventory_of(keys), self._table.gate(keys))
        found = {key: one for key, one in in_force.items() if key in keys}  # a wider box may hold the same addresses
        return found if self._netlink.generation() is not None and self.is_as_read() else None

    def _in_force(self, structure: Structure, inventory: Inventory, gate: Gate) -> dict[str, Installed]:
        """A rule counts when each of its parts is looked up, counted and sent to a chain that is as it was made.

        It is looked up where its stage asks the gate, and the gate lets its packets through.
        """
        counted = {(place, one.key) for place, entries in inventory.counted.items() for one in entries}
        whole = {name for name in structure.chains if structure.holds_some(name)}
        ways = structure.ways(self._ruleset)
        open_for: dict[tuple[str, tuple[Granule, ...]], int] = {}
        seen: dict[str, list[int]] = {}
        for place, entries in inventory.scoped.items():
            for one in entries:
                if one.key and (place, one.key) in counted and one.target in whole:
                    way = one.stage, one.granules
                    if way not in open_for:
                        open_for[way] = _seconds_open(*way, ways, gate)
                    if open_for[way]:
                        seen.setdefault(one.key, []).append(min(one.expires, open_for[way]))
        found = {}
        for key, deadlines in seen.items():
            if len(deadlines) == number_of_parts(key):
                found[key] = Installed(key, min(deadlines))
        return found

    def is_as_read(self) -> bool:
        """Other tables of this network namespace count as well: the kernel has one number for all."""
        then, changes = self._read_at
        now = self._netlink.generation()
        return then is None or now is None or now == (then + self._nft.changes - changes) % 2**32

    def counters(self) -> list[Counter]:
        self._own()
        counters: list[Counter] = []
        for place in self._ruleset.places:
            if self.give_way is not None:
                self.give_way()
            counters += as_counters(self._table.counted(place))
        return self._summed_with_parting(counters)

    def parting_counters(self) -> list[Counter]:
        return self._summed_with_parting([])

    def _summed_with_parting(self, counters: list[Counter]) -> list[Counter]:
        counters = _summed([*self._table.parting, *counters])
        self._table.parting.clear()
        return counters

    # Clients' filters

    @classmethod
    def filter_capabilities(cls) -> dict[str, Any]:
        return nft_filters.capabilities()

    def check_filters(self, rules: Sequence[FilterRule]) -> list[Problem]:
        return nft_filters.check(rules, most=self.max_rules)

    def filters_in_force(self, desired: Sequence[DesiredFilters]) -> dict[str, int]:
        self._own()
        return self._filters.in_force(desired)

    def apply_filters(self, desired: Sequence[DesiredFilters]) -> None:
        self._own()
        for one in desired:
            for rule in one.filters.rules:
                if sentence := nft_filters.why_not(rule):
                    raise DriverError(f"{rule.text}: {sentence}", retryable=False)
        self._filters.apply(desired)

    def filter_counters(self) -> list[Counter]:
        self._own()
        return self._filters.counters()

    def parting_filter_counters(self) -> list[Counter]:
        return self._filters.last_counters()

    # What it does

    def apply(self, add: Sequence[Desired], remove: Collection[str]) -> None:
        self._own()
        wanted = self._expressible(add)
        leaving = [key for key in dict.fromkeys(remove) if key not in wanted]
        before = self._table.prepare(wanted.values())
        needs_reading = len(leaving) > READ_FIRST or not self._table.torn.isdisjoint(wanted)
        if needs_reading or not self._try_unread(wanted.values(), leaving):
            self._table.repair(wanted.values(), set(leaving), everywhere=False)
        self._table.drop_versions(before.versions - {self._ruleset.version})
        if any(parse_key(key).kind is Kind.RATE_LIMIT for key in leaving):
            self._table.drop_idle_limits()

    def resync(self, desired: Sequence[Desired]) -> None:
        self._own()
        wanted = self._expressible(desired)
        before = self._table.prepare(wanted.values())
        self._table.repair(wanted.values(), (), everywhere=True)
        self._table.drop_versions(before.versions - {self._ruleset.version})
        self._table.drop_unused_profiles(wanted.values())

    def remove_all(self, *, by_force: bool = False) -> None:
        if not by_force:
            self._own()
        structure = self._table.structure()
        if structure.versions:
            self._filters.forget()
        if structure.versions == {self._ruleset.version} and not structure.foreign:
            self._table.drop_table()
        else:
            self._table.drop_versions(structure.versions)
            self._filters.drop_counters()

    def tidy(self) -> None:
        self._own()
        self._table.close_gate()

    def close(self) -> None:
        self._lock.release()
        self._netlink.close()

    def _try_unread(self, add: Collection[Desired], remove: Collection[str]) -> bool:
        """Changes without reading first, which is right unless someone else was at work or a deadline passed."""
        try:
            self._table.change(add, remove)
        except NftFailed as failure:
            if not failure.is_conflict:
                raise
            log.info("table inet %s is not as expected, reading it back: %s", self.table, failure)
            return False
        return True

    def _own(self) -> None:
        self._lock.acquire(self._nft.namespace_inode())

    def _expressible(self, desired: Sequence[Desired]) -> dict[str, Desired]:
        for one in desired:
            if sentence := self._why_not(one.rule):
                raise DriverError(f"{one.rule.text}: {sentence}", retryable=False)
        return {one.rule.key: one for one in desired}


def _seconds_open(stage: str, needed: Iterable[Granule], ways: Collection[Way], gate: Gate) -> int:
    """For how long packets to all of these get into this stage; 0 when they do not."""
    return min(gate.get(granule, 0) if (stage, granule.level) in ways else 0 for granule in needed)


def _summed(counters: list[Counter]) -> list[Counter]:
    """The parts of one rule together."""
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for one in counters:
        packets, octets = totals.get((one.key, one.epoch), (0, 0))
        totals[one.key, one.epoch] = (packets + one.packets, octets + one.octets)
    return [Counter(key, epoch, *total) for (key, epoch), total in totals.items()]
