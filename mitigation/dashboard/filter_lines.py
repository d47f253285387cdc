"""Entries of clients' lists as lines for people: what is matched, what becomes of it; found by words and by address."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from mitigation.models import Acl
from mitigation.protocol.acls import AclType, parse_ace
from mitigation.protocol.matches import Family
from mitigation.protocol.scope import Network
from mitigation.rules.filters import FilterRule, filter_rule

# In the order people say them; other fields keep the names of RFC 8783.
_WORDS = {
    "source-ipv4-network": "from",
    "source-ipv6-network": "from",
    "source-port-range-or-operator": "source port",
    "destination-ipv4-network": "to",
    "destination-ipv6-network": "to",
    "destination-port-range-or-operator": "port",
}
_ORDER = {name: place for place, name in enumerate(_WORDS)}
_NETWORKS = tuple(
    (f"ipv{family}", f"{side}-ipv{family}-network") for family in (4, 6) for side in ("source", "destination")
)


Range = tuple[int, int, int]  # version, first and last address


@dataclass(frozen=True)
class Line:
    """One entry. Its words are made when they are asked for: a list may have thousands."""

    number: int
    name: str
    ace: Mapping[str, Any]
    family: Family | None

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """Of the networks that it names, sources and destinations."""
        matches = self.ace.get("matches", {})
        texts = (matches.get(layer, {}).get(leaf) for layer, leaf in _NETWORKS)
        return tuple(_range(ipaddress.ip_network(text, strict=False)) for text in texts if text is not None)

    @cached_property
    def match(self) -> str:
        """`UDP from 192.0.2.0/24 source port 53 to 198.51.100.0/25`."""
        fields = sorted(self._rule.conditions, key=lambda field: _ORDER.get(field[0], len(_ORDER)))
        words = [f"{_WORDS.get(name, name)} {value}" for name, value in fields]
        return " ".join([*filter(None, [self._rule.transport]), *words]) or "everything"

    @cached_property
    def action(self) -> str:
        return self._rule.action.removesuffix(" of")

    @cached_property
    def drops(self) -> bool:
        return self._rule.drops

    @cached_property
    def searched(self) -> str:
        return f"{self.name} {self.match} {self.action}".lower()

    @cached_property
    def _rule(self) -> FilterRule:
        return filter_rule("", "", parse_ace(self.ace), self.family)


class _Known:
    """Lines of lists as they were last shown; those of the longest ago go when there are too many."""

    def __init__(self, most: int = 50_000) -> None:
        self._lists: OrderedDict[int, tuple[datetime, tuple[Line, ...]]] = OrderedDict()
        self._most, self._number = most, 0
        self._lock = threading.Lock()  # pages and live updates are rendered in several threads

    def of(self, acl: Acl) -> tuple[Line, ...]:
        stamp = acl.changed_at or acl.created_at
        with self._lock:
            known = self._lists.get(acl.pk)
            if known is not None and known[0] == stamp:
                self._lists.move_to_end(acl.pk)
                return known[1]
        found = _read(acl)
        with self._lock:
            self._forget(acl.pk)
            self._lists[acl.pk] = stamp, found
            self._number += len(found)
            while self._number > self._most and len(self._lists) > 1:
                self._forget(next(iter(self._lists)))
        return found

    def _forget(self, pk: int) -> None:
        if pk in self._lists:
            self._number -= len(self._lists.pop(pk)[1])


_known = _Known()


def lines(acl: Acl) -> tuple[Line, ...]:
    """Of a row whose entries may be deferred: they are read when they are not known as they are now."""
    return _known.of(acl)


def _read(acl: Acl) -> tuple[Line, ...]:
    aces = Acl.objects.filter(pk=acl.pk).values_list("aces", flat=True).first() or ()
    family = AclType(acl.acl_type).family if acl.acl_type else None
    return tuple(Line(number, ace["name"], ace, family) for number, ace in enumerate(aces, start=1))


def network_of(words: str) -> Network | None:
    """An address or a prefix; None where the words are neither."""
    try:
        return ipaddress.ip_network(words.strip(), strict=False)
    except ValueError:
        return None


def found(acl: Acl, words: str) -> Collection[Line]:
    """Those that name the address in `words`, or a network around or inside it; else those that hold every word."""
    network = network_of(words)
    if network is not None:
        family, first, last = _range(network)
        return [
            line
            for line in lines(acl)
            if any(version == family and low <= last and first <= high for version, low, high in line.ranges)
        ]
    wanted = words.lower().split()
    return [line for line in lines(acl) if all(word in line.searched for word in wanted)]


def _range(network: Network) -> Range:
    return network.version, int(network.network_address), int(network.broadcast_address)
