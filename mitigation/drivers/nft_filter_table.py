"""Clients' filters in the kernel: made, switched, read back, counted.

An edit makes its new segments first; then one transaction swaps the jumps to them and the elements that lead there;
then what nobody is led to any more is taken away. No packet sees a half-loaded set. A counter has a name, so it goes on
counting whatever chain refers to it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from mitigation.drivers.base import Counter, DesiredFilters
from mitigation.drivers.nft_filters import FilterChains, FilterTexts
from mitigation.drivers.nft_netlink import Element, NamedCounter
from mitigation.drivers.nft_ruleset import FILTERS, Chain
from mitigation.drivers.nft_table import LONGEST_SECONDS, NftTable
from mitigation.rules.filters import FAMILIES
from mitigation.rules.scope import Network

log = logging.getLogger(__name__)

RENEW_BELOW = 60  # seconds: an element is renewed when its deadline is off by more
COUNTER = "ace_"


@dataclass(frozen=True)
class _Led:
    """Where one destination's packets are to go."""

    network: Network
    top: str
    seconds: int

    @property
    def comment(self) -> str:
        return str(self.network)


class NftFilters:
    """Raises DriverError from every method that asks the kernel."""

    def __init__(self, table: NftTable, texts: FilterTexts) -> None:
        self._table = table
        self._texts = texts
        self.parting: list[Counter] = []
        self._known: dict[str, list[str]] = {}  # comments of chains, as they were read
        self._read_at: tuple[int | None, int] = (None, 0)  # the kernel's generation, and changes of our own until then
        self._touched: set[str] = set()  # chains of ours that were changed since
        self._counter_names: set[str] | None = None  # as of the same reading, with what we made and took away since

    # Reading

    def in_force(self, desired: Sequence[DesiredFilters]) -> dict[str, int]:
        """By key, in how many seconds the kernel lets go of it: what stands just so, whole and in order."""
        comments = self._comments()
        if not self._is_constant_part_whole(comments):
            return {}
        found: dict[str, int] = {}
        elements = {one.comment: one for family in FAMILIES for one in self._elements(family)}
        for one in desired:
            chains = self._texts.chains(one.filters)
            led = [elements.get(where.comment) for where in _led(one, chains)]
            leads = [element for element in led if element is not None and element.target == chains.top.name]
            if len(leads) == len(led) and all(
                comments.get(chain.name, []) == list(chain.comments) for chain in chains.all
            ):
                found[one.filters.key] = min((element.expires for element in leads), default=LONGEST_SECONDS)
        return found

    def counters(self) -> list[Counter]:
        """Keys are those of the rules, without what precedes them in the kernel."""
        return [*self.last_counters(), *map(_as_counter, self._counters())]

    def last_counters(self) -> list[Counter]:
        """Of what was taken away since this or `counters` was asked."""
        found = list(self.parting)
        self.parting.clear()
        return found

    def _counters(self) -> list[NamedCounter]:
        listed = self._table.netlink.counters(self._table.ruleset.table)
        return [one for one in listed if one.name.startswith(COUNTER)]

    def _comments(self) -> dict[str, list[str]]:
        """Read again are only chains of our own that we changed, as long as nobody else changed anything."""
        netlink, table = self._table.netlink, self._table.ruleset.table
        now = netlink.generation()
        then, changes = self._read_at
        if then is None or now is None or now != (then + self._table.nft.changes - changes) % 2**32:
            self._read_at = (now, self._table.nft.changes)
            self._known = netlink.rule_comments(table)
            self._counter_names = None
        else:
            for chain in self._touched:
                self._known[chain] = netlink.rule_comments(table, chain).get(chain, [])
        self._touched.clear()
        return self._known

    def _elements(self, family: int) -> list[Element]:
        """Only where ranges begin: the kernel keeps their ends as elements that lead nowhere."""
        listed = self._table.netlink.elements(self._table.ruleset.table, self._map(family))
        return [one for one in listed if one.target]

    def _map(self, family: int) -> str:
        return self._table.ruleset.named(f"filter_{family}")

    def _is_constant_part_whole(self, comments: Mapping[str, list[str]]) -> bool:
        return all(comments.get(chain.name, []) == list(chain.comments) for chain in self._table.ruleset.filter_hooks)

    # Changing

    def apply(self, desired: Sequence[DesiredFilters]) -> None:
        """Hold exactly these, whatever stood there before."""
        comments = self._comments()
        if not self._is_constant_part_whole(comments):
            self._table.prepare(())
            self._touched.update(chain.name for chain in self._table.ruleset.filter_hooks)
        chains = {one.filters.key: self._texts.chains(one.filters) for one in desired}
        there = self._make(chains.values(), comments)
        self._switch(desired, chains, comments)
        self._clear_away(chains.values(), there)

    def forget(self) -> None:
        """The table goes, or much of it: last totals are kept, and nothing that was read holds any more."""
        self.parting.extend(map(_as_counter, self._counters()))
        self._read_at, self._counter_names = (None, 0), None

    def drop_counters(self) -> None:
        """All of them, after `forget` and after the chains that used them."""
        self._drop_counters({one.name for one in self._counters()})

    def _make(self, wanted: Iterable[FilterChains], comments: Mapping[str, list[str]]) -> set[str]:
        """Everything that no packet is led to yet, and again what somebody has changed; the counters there were."""
        ruleset = self._table.ruleset
        if self._counter_names is None:  # ten thousand take a while to read
            self._counter_names = {one.name for one in self._counters()}
        there, existing = set(self._counter_names), self._table.netlink.chains(ruleset.table).keys()
        epoch = secrets.token_hex(4)
        lines: list[str] = []
        made: set[str] = set()
        for one in wanted:
            made |= one.counters - there
            lines += [
                f'add counter inet {ruleset.table} {name} {{ comment "{epoch}" }}\n'
                for name in sorted(one.counters - there)
            ]
            missing = [chain for chain in one.below if not _holds(comments, existing, chain)]
            if one.top.name not in existing:
                missing.append(Chain(one.top.name, ()))
            lines += map(ruleset.create_chain, missing)
            self._touched.update(chain.name for chain in missing)
        if lines:
            self._table.nft.change("".join(lines))
            self._counter_names |= made
        return there

    def _switch(
        self, desired: Sequence[DesiredFilters], chains: Mapping[str, FilterChains], comments: Mapping[str, list[str]]
    ) -> None:
        ruleset = self._table.ruleset
        tops = [one.top for one in chains.values() if comments.get(one.top.name, []) != list(one.top.comments)]
        self._touched.update(top.name for top in tops)
        text = "".join(map(ruleset.create_chain, tops))
        led = [where for one in desired for where in _led(one, chains[one.filters.key])]
        for family in FAMILIES:
            text += self._lead(family, [where for where in led if where.network.version == family])
        if text:
            self._table.nft.change(text)

    def _lead(self, family: int, led: Sequence[_Led]) -> str:
        """Elements that come, go or live on; all anew where somebody else was at work."""
        ruleset, name = self._table.ruleset, self._map(family)
        wanted = {where.comment: where for where in led}
        there = {element.comment: element for element in self._elements(family)}
        if any(
            element.first != _packed(comment) or (comment in wanted and element.target != wanted[comment].top)
            for comment, element in there.items()
        ):
            log.warning("table inet %s: %s was changed by someone else", ruleset.table, name)
            return f"flush map inet {ruleset.table} {name}\n" + ruleset.elements("add", name, list(map(_element, led)))
        going = [comment for comment in there if comment not in wanted]
        renewed = [
            where.comment
            for where in led
            if where.comment in there and abs(there[where.comment].expires - where.seconds) > RENEW_BELOW
        ]
        coming = [_element(where) for where in led if where.comment not in there or where.comment in renewed]
        if not self._table.renews_in_place():
            going += renewed
        return ruleset.elements("delete", name, going) + ruleset.elements("add", name, coming)

    def _clear_away(self, wanted: Collection[FilterChains], counters: set[str]) -> None:
        """What no packet is led to any more. A counter is read when nothing can move it."""
        ruleset = self._table.ruleset
        needed = {chain.name for one in wanted for chain in one.all}
        existing = self._table.netlink.chains(ruleset.table)
        ours = {name for name in existing if name.startswith(FILTERS) and name.endswith(f"_{ruleset.version}")}
        if ours - needed:
            self._touched.update(ours - needed)
            self._table.nft.change(ruleset.drop(ours - needed, (), ()))
        gone = counters.difference(*(one.counters for one in wanted))
        if gone:
            self.parting.extend(_as_counter(one) for one in self._counters() if one.name in gone)
        self._drop_counters(gone)

    def _drop_counters(self, names: set[str]) -> None:
        if names:
            table = self._table.ruleset.table
            self._table.nft.change("".join(f"delete counter inet {table} {name}\n" for name in sorted(names)))
            if self._counter_names is not None:
                self._counter_names -= names


def _led(one: DesiredFilters, chains: FilterChains) -> list[_Led]:
    seconds = min(one.expires_in_seconds, LONGEST_SECONDS)
    return [_Led(network, chains.top.name, seconds) for network in one.filters.destinations]


def _element(where: _Led) -> str:
    return f'{where.network} timeout {where.seconds}s comment "{where.comment}" : jump {where.top}'


def _packed(comment: str) -> bytes:
    """Where the range of an element of ours begins; nothing begins there for what is none of ours."""
    try:
        return ip_network(comment).network_address.packed
    except ValueError:
        return b""


def _holds(comments: Mapping[str, list[str]], existing: Collection[str], chain: Chain) -> bool:
    return chain.name in existing and comments.get(chain.name, []) == list(chain.comments)


def _as_counter(one: NamedCounter) -> Counter:
    return Counter(one.name.removeprefix(COUNTER), one.comment, one.packets, one.octets)
