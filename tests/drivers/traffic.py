"""Words for tests that send packets through the router and ask what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from lab.packets import Flow, Receiver, Seen, Sent, send
from lab.topology import ATTACKER4, ATTACKER6, Topology
from mitigation.drivers.base import Counter, Desired, Driver
from mitigation.rules.canonical import Kind, Rule
from mitigation.rules.playbooks import render
from mitigation.rules.scope import Scope

FAMILIES = (4, 6)
HOST = {4: "198.51.100.7", 6: "2001:db8:100::7"}
BEFORE = {4: "198.51.100.3", 6: "2001:db8:100::3"}  # around the /30 and /126 that the host lies in
AFTER = {4: "198.51.100.8", 6: "2001:db8:100::8"}
NETWORK = {4: "198.51.100.4/30", 6: "2001:db8:100::4/126"}
SOURCE = {4: ATTACKER4, 6: ATTACKER6}
OTHER_SOURCE = {4: "203.0.113.10", 6: "2001:db8:bad:a001::9"}


def scope(*prefixes: str, ports: Iterable[tuple[int, int]] = (), protocols: Iterable[int] = ()) -> Scope:
    return Scope(tuple(ip_network(prefix) for prefix in prefixes), tuple(ports), tuple(protocols))


def shield(protected: Scope, kinds: Iterable[Kind], **policy: Any) -> list[Rule]:
    return [rule for rule in render("shield", protected, policy).rules if rule.kind in set(kinds)]


def discard(protected: Scope) -> list[Rule]:
    return list(render("discard", protected, {"allow_whole_host": True}).rules)


def for_a_while(rules: Iterable[Rule], seconds: int = 600) -> list[Desired]:
    return [Desired(rule, seconds) for rule in rules]


def to(destination: str, **more: Any) -> Flow:
    family = 6 if ":" in destination else 4
    fields = {"sources": (SOURCE[family],)} | more
    return Flow(destination, **fields)


def through(lab: Topology, *flows: Flow) -> tuple[list[Sent], list[Seen]]:
    """Sends the flows from the attacker; what went out, and what of it reached the victim (not the router's own)."""
    with Receiver(lab.victim) as receiver:
        sent = send(lab.attacker, *flows)
        return sent, [one for one in receiver.stop() if not ip_address(one.source).is_link_local]


class Totals:
    """Keeps running totals as the caller of a driver has to: by key, over all epochs."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._latest: dict[tuple[str, str], Counter] = {}

    def read(self) -> Mapping[str, tuple[int, int]]:
        for counter in self._driver.counters():
            self._latest[counter.key, counter.epoch] = counter
        found: dict[str, tuple[int, int]] = {}
        for counter in self._latest.values():
            packets, octets = found.get(counter.key, (0, 0))
            found[counter.key] = (packets + counter.packets, octets + counter.octets)
        return found

    def packets(self, rules: Iterable[Rule]) -> int:
        found = self.read()
        return sum(found.get(rule.key, (0, 0))[0] for rule in rules)

    def octets(self, rules: Iterable[Rule]) -> int:
        found = self.read()
        return sum(found.get(rule.key, (0, 0))[1] for rule in rules)


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
