"""From what each mitigation wants to what equipment holds: disjoint rules, each with everybody who needs it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Generic, TypeVar

from mitigation.rules.boxes import Box, merged_ranges
from mitigation.rules.canonical import LIMITS, Kind, Parameters, Rule
from mitigation.rules.decomposition import decompose

Owner = TypeVar("Owner", bound=Hashable)


@dataclass(frozen=True)
class Projected(Generic[Owner]):
    """What `rule` drops or counts, counts for each of the owners."""

    rule: Rule
    owners: frozenset[Owner]


def project(wanted: Mapping[Owner, Iterable[Rule]]) -> list[Projected[Owner]]:
    """Disjoint rules of each kind, equal in effect to all the wanted ones together.

    Where two owners want different parameters for the same packets, both wishes hold there: all source ports and
    prefixes of either, the lower limit of a source, and each one's own limit on its whole scope. The stricter of these
    comes first: what it drops does not count against the other. Of two marks the lower is set: a packet goes one way.
    """
    by_kind: dict[Kind, dict[tuple[Owner, Parameters], list[Box]]] = {}
    for owner, rules in wanted.items():
        for rule in rules:
            by_kind.setdefault(rule.kind, {}).setdefault((owner, rule.parameters), []).append(rule.box)
    return [
        Projected(
            Rule(kind, box, _merged(kind, {parameters for _, parameters in wishes})),
            frozenset(owner for owner, _ in wishes),
        )
        for kind in Kind
        if kind in by_kind
        for box, wishes in decompose(by_kind[kind])
    ]


def _merged(kind: Kind, wishes: set[Parameters]) -> Parameters:
    if len(wishes) == 1:
        return next(iter(wishes))
    if kind is Kind.RATE_LIMIT:
        return Parameters(
            buckets=tuple(sorted({bucket for w in wishes for bucket in w.buckets})),
            interfaces=tuple(sorted(set.intersection(*(set(w.interfaces) for w in wishes)))),
        )
    if kind is Kind.REDIRECT:
        return min(wishes, key=lambda w: (w.mark, w.mask, w.interfaces))
    if kind in LIMITS:
        return Parameters(rate=min(w.rate for w in wishes), burst=min(w.burst for w in wishes))
    prefixes = {prefix for w in wishes for prefix in w.source_prefixes}
    return Parameters(
        source_ports=tuple(sorted({port for w in wishes for port in w.source_ports})),
        source_prefixes=tuple(sorted(prefixes, key=lambda p: (p.version, int(p.network_address), p.prefixlen))),
    )


# Addresses as numbers on one line, IPv6 beyond IPv4: both ends of a range.
_Span = tuple[int, int]
_IPV6 = 1 << 129


class Kept(Generic[Owner]):
    """A projection that is kept. What changes is projected anew with what it shares addresses with, and nothing else.

    `found` is by key, the same at any time as `project` makes of all rules together.
    """

    def __init__(self) -> None:
        self.found: dict[str, Projected[Owner]] = {}
        self._rules: dict[Owner, tuple[Rule, ...]] = {}
        self._spans: dict[Owner, tuple[_Span, ...]] = {}
        self._places = _Places[Owner]()
        self._keys: dict[Owner, set[str]] = {}

    def keys_of(self, owner: Owner) -> AbstractSet[str]:
        return self._keys.get(owner, frozenset())

    def change(self, changes: Mapping[Owner, Iterable[Rule]]) -> set[str]:
        """`changes`: all rules of each owner that changed, none of one that went.

        Returns the keys of all that came, went, or may have other owners than before.
        """
        if not changes:
            return set()
        before = [span for owner in changes for span in self._spans.get(owner, ())]
        for owner, rules in changes.items():
            self._rules.pop(owner, None)
            self._places.remove(owner, self._spans.pop(owner, ()))
            if kept := tuple(rules):
                self._rules[owner] = kept
                self._spans[owner] = _spans(kept)
                self._places.add(owner, self._spans[owner])
        now = [span for owner in changes for span in self._spans.get(owner, ())]
        near = self._sharing([*before, *now]) | changes.keys()
        gone = {key for owner in near for key in self._keys.pop(owner, ())}
        for key in gone:
            self.found.pop(key, None)
        come = {one.rule.key: one for one in project({o: self._rules[o] for o in near if o in self._rules})}
        self.found |= come
        for key, one in come.items():
            for owner in one.owners:
                self._keys.setdefault(owner, set()).add(key)
        return gone | come.keys()

    def _sharing(self, spans: list[_Span]) -> set[Owner]:
        """Who wants anything at these addresses, and at the addresses of those, and so on."""
        near: set[Owner] = set()
        while spans:
            found = {owner for span in merged_ranges(spans) for owner in self._places.at(span)} - near
            near |= found
            spans = [span for owner in found for span in self._spans[owner]]
        return near


class _Places(Generic[Owner]):
    """Who wants anything where. Spans of about the same width are kept in order, so those near a place are found."""

    def __init__(self) -> None:
        self._owners: dict[_Span, set[Owner]] = {}
        self._by_width: dict[int, list[_Span]] = {}  # by number of binary digits

    def add(self, owner: Owner, spans: Iterable[_Span]) -> None:
        for span in spans:
            owners = self._owners.setdefault(span, set())
            if not owners:
                insort(self._by_width.setdefault(_width(span), []), span)
            owners.add(owner)

    def remove(self, owner: Owner, spans: Iterable[_Span]) -> None:
        for span in spans:
            owners = self._owners[span]
            owners.discard(owner)
            if not owners:
                del self._owners[span]
                ordered = self._by_width[_width(span)]
                del ordered[bisect_left(ordered, span)]

    def at(self, place: _Span) -> Iterator[Owner]:
        """Everybody with a span that overlaps with this one."""
        for width, ordered in self._by_width.items():
            first = bisect_left(ordered, (place[0] - (1 << width), 0))
            for span in ordered[first : bisect_left(ordered, (place[1] + 1, 0))]:
                if span[1] >= place[0]:
                    yield from self._owners[span]


def _width(span: _Span) -> int:
    return (span[1] - span[0] + 1).bit_length()


def _spans(rules: Iterable[Rule]) -> tuple[_Span, ...]:
    boxes = {(rule.box.family, rule.box.first_address, rule.box.last_address) for rule in rules}
    base = {4: 0, 6: _IPV6}
    return tuple((base[family] + first, base[family] + last) for family, first, last in boxes)
