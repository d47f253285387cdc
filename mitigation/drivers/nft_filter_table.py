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
from mitigation.drivers.nft_ruleset import Chain
from mitigation.drivers.nft_table import LONGEST_SECONDS, NftTable
from mitigation.rules.filters import FAMILIES
from mitigation.rules.scope import Network

log = logging.getLogger(__name__)

RENEW_BELOW = 60  # seconds: an element is renewed when its deadline is off by more
COUNTER = "ace_"
_WORDS = ("acls_", "acl_", "rate_")


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
        found = [*self.parting, *map(_as_counter, self._counters())]
        self.parting.clear()
        return found

    def _counters(self) -> list[NamedCounter]:
        listed = self._table.netlink.counters(self._table.ruleset.table)
        return [one for one in listed if one.name.startswith(COUNTER)]

    def _comments(self) -> dict[str, list[str]]:
        return self._table.netlink.rule_comments(self._table.ruleset.table)

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
        chains = {one.filters.key: self._texts.chains(one.filters) for one in desired}
        there = self._make(chains.values(), comments)
        self._switch(desired, chains, comments)
        self._clear_away(chains.values(), there)

    def note(self) -> None:
        """Keeps the last totals of all there are, before the table goes."""
        self.parting.extend(map(_as_counter, self._counters()))

    def drop_counters(self) -> None:
        """All of them, after the chains that used them."""
        self._drop_counters({one.name for one in self._counters()})

    def _make(self, wanted: Iterable[FilterChains], comments: Mapping[str, list[str]]) -> set[str]:
        """Everything that no packet is led to yet, and again what somebody has changed; the counters there were."""
        ruleset = self._table.ruleset
        there, existing = {one.name for one in self._counters()}, self._table.netlink.chains(ruleset.table)
        epoch = secrets.token_hex(4)
        lines: list[str] = []
        for one in wanted:
            lines += [
                f'add counter inet {ruleset.table} {name} {{ comment "{epoch}" }}\n'
                for name in sorted(one.counters - there)
            ]
            lines += [ruleset.create_chain(chain) for chain in one.below if not _holds(comments, existing, chain)]
            if one.top.name not in existing:
                lines.append(ruleset.create_chain(Chain(one.top.name, ())))
        if lines:
            self._table.nft.change("".join(lines))
        return there

    def _switch(
        self, desired: Sequence[DesiredFilters], chains: Mapping[str, FilterChains], comments: Mapping[str, list[str]]
    ) -> None:
        ruleset = self._table.ruleset
        text = "".join(
            ruleset.create_chain(one.top)
            for one in chains.values()
            if comments.get(one.top.name, []) != list(one.top.comments)
        )
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
        ours = {name for name in existing if name.startswith(_WORDS) and name.endswith(f"_{ruleset.version}")}
        if ours - needed:
            self._table.nft.change(ruleset.drop(ours - needed, (), ()))
        self._drop_counters(counters.difference(*(one.counters for one in wanted)))

    def _drop_counters(self, names: set[str]) -> None:
        if names:
            self.parting.extend(_as_counter(one) for one in self._counters() if one.name in names)
            table = self._table.ruleset.table
            self._table.nft.change("".join(f"delete counter inet {table} {name}\n" for name in sorted(names)))


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
