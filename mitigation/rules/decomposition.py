"""Taking overlapping boxes apart, so that a packet lies in at most one and every owner is still known.

Sets in equipment refuse overlapping elements, and a packet has to count for each mitigation that asked for its drop.
A sweep cuts the address axis only where the set of covering boxes changes, then the protocol axis inside each
slab, then the ports. Ten thousand boxes that do not overlap cost a sort.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from mitigation.rules.boxes import Box, Family, Range

Owner = TypeVar("Owner", bound=Hashable)

# One box to cut: ranges along the axes still to come, and who wants it.
_Item = tuple[tuple[Range, ...], Owner]
_Piece = tuple[tuple[Range, ...], frozenset[Owner]]


def decompose(wanted: Mapping[Owner, Iterable[Box]]) -> list[tuple[Box, frozenset[Owner]]]:
    """Disjoint boxes that cover exactly the union, each with all owners whose boxes cover it, in order."""
    items: dict[Family, list[_Item[Owner]]] = {}
    for owner, boxes in wanted.items():
        for box in boxes:
            items.setdefault(box.family, []).append(((box.addresses, box.protocols, box.ports), owner))
    return [
        (Box(family, *addresses, *protocols, *ports), owners)
        for family in sorted(items)
        for (addresses, protocols, ports), owners in _cut(items[family])
    ]


def overlapping(boxes: Iterable[Box]) -> list[Box]:
    """The boxes that share a packet with another of them; empty for what `decompose` returns."""
    numbered = dict(enumerate(boxes))
    hit: set[int] = set()
    for _, owners in decompose({number: [box] for number, box in numbered.items()}):
        if len(owners) > 1:
            hit |= owners
    return [numbered[number] for number in sorted(hit)]


def _cut(items: list[_Item[Owner]]) -> list[_Piece[Owner]]:
    if not items[0][0]:
        return [((), frozenset(owner for _, owner in items))]
    if len(items) == 1:
        ranges, owner = items[0]
        return [(ranges, frozenset((owner,)))]
    pieces: list[_Piece[Owner]] = []
    before: tuple[Range, list[_Piece[Owner]]] | None = None
    for span, active in _slabs(items):
        inner = _cut(active)
        if before is not None and before[0][1] + 1 == span[0] and before[1] == inner:
            span = (before[0][0], span[1])
        elif before is not None:
            pieces.extend(_prefixed(*before))
        before = (span, inner)
    if before is not None:
        pieces.extend(_prefixed(*before))
    return pieces


def _prefixed(span: Range, inner: list[_Piece[Owner]]) -> list[_Piece[Owner]]:
    return [((span, *ranges), owners) for ranges, owners in inner]


def _slabs(items: list[_Item[Owner]]) -> Iterable[tuple[Range, list[_Item[Owner]]]]:
    """Ranges of the first axis between two changes of who covers it, with these items less that axis."""
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for number, (ranges, _) in enumerate(items):
        starts.setdefault(ranges[0][0], []).append(number)
        ends.setdefault(ranges[0][1] + 1, []).append(number)
    points = sorted(starts.keys() | ends.keys())
    active: dict[int, _Item[Owner]] = {}
    for point, following in zip(points, points[1:], strict=False):
        for number in ends.get(point, ()):
            del active[number]
        for number in starts.get(point, ()):
            ranges, owner = items[number]
            active[number] = (ranges[1:], owner)
        if active:
            yield (point, following - 1), list(active.values())
