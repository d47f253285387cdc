"""Playbooks: from what is to be protected to rules inside it.

A target says what to keep alive, so `shield` takes out what attacks are made of and leaves ordinary clients alone.
`ratelimit` holds all of a scope to a rate, whoever sends it; `redirect` drops nothing and marks all of it for another
way, to a scrubber. `discard` drops all of a scope and therefore asks for one that is narrowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mitigation.rules.boxes import (
    EVERY_PORT,
    NO_PORT,
    PORT_PROTOCOLS,
    Box,
    Range,
    TooManyBoxes,
    scope_boxes,
)
from mitigation.rules.canonical import Bucket, Kind, Parameters, Rule
from mitigation.rules.parameters import PARAMETERS, BadParameter, read_parameters
from mitigation.rules.scope import Scope
from mitigation.rules.wording import PROTOCOL_NAMES, numbers

TCP: Range = (6, 6)
UDP: Range = (17, 17)
ICMP: dict[int, Range] = {4: (1, 1), 6: (58, 58)}

# Octets of the largest IP packet: 65,535 behind a header of 40 (RFC 8200, section 3). One that is larger than a bucket
# would never pass, however rare, and receive offload joins packets before they are looked at.
LARGEST_PACKET = 65_575
LARGEST_BURST = 2**32 - 1  # what the kernel takes


@dataclass(frozen=True)
class Plan:
    """Either rules with notes on what was left out and why, or `refused` with the reason and no rules."""

    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str | None = None


def render(playbook: str, scope: Scope, parameters: Mapping[str, Any]) -> Plan:
    """The rules of one playbook for one scope, all of them inside the scope.

    Rules of one kind do not overlap. Raises BadParameter for an unknown playbook or a policy value it does not take;
    what the scope itself makes impossible is a refused plan.
    """
    if playbook not in PARAMETERS:
        raise BadParameter(f"there is no playbook {playbook}; known are {', '.join(sorted(PARAMETERS))}")
    values = read_parameters(playbook, parameters)
    if not scope.prefixes:
        return Plan(refused="the scope names no destination, and nothing is ever filtered for all destinations")
    try:
        boxes = scope_boxes(scope)
    except TooManyBoxes as error:
        return Plan(refused=str(error))
    return _PLAYBOOKS[playbook](scope, boxes, values)


def _discard(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> Plan:
    if scope.is_whole_host and not values["allow_whole_host"]:
        return Plan(
            refused="discard would drop everything to the target and finish the attacker's work: narrow the request by "
            "protocol or port, or allow discarding whole hosts in the domain's policy"
        )
    rules = tuple(Rule(Kind.DISCARD, box) for box in boxes)
    return Plan(rules=rules, notes=_scope_notes(scope))


def _ratelimit(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> Plan:
    """One bucket for each of the two rates, for all boxes together."""
    rates = [(octets, values[name]) for name, octets in (("limit_packets", False), ("limit_octets", True))]
    rates = [(octets, rate) for octets, rate in rates if rate is not None]
    if not rates:
        return Plan(refused="ratelimit has no rate here: set limit_octets or limit_packets in the domain's policy")
    if any(rate < 1 for _, rate in rates):
        plan = _discard(scope, boxes, values)
        return replace(plan, notes=(*plan.notes, "a rate below 1 a second lets nothing through, so all is dropped"))
    name = _digest(scope.part_of or repr(boxes))
    buckets = tuple(_bucket(octets, int(rate), values["limit_burst"], name) for octets, rate in rates)
    parameters = Parameters(buckets=buckets, interfaces=values["redirect_return"])
    rules = [Rule(Kind.RATE_LIMIT, box, parameters) for box in boxes]
    return Plan(tuple(rules + [Rule(Kind.PASSED, box) for box in boxes]), _scope_notes(scope))


def _bucket(octets: bool, rate: int, seconds: float, name: str) -> Bucket:
    burst = max(int(rate * seconds), LARGEST_PACKET if octets else 1)
    return Bucket(octets=octets, rate=rate, burst=min(burst, LARGEST_BURST), name=name)


def _redirect(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> Plan:
    parameters = Parameters(
        mark=values["redirect_mark"], mask=values["redirect_mask"], interfaces=values["redirect_return"]
    )
    return Plan(tuple(Rule(Kind.REDIRECT, box, parameters) for box in boxes), _scope_notes(scope))


def _shield(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> Plan:
    rules: list[Rule] = []
    notes = list(_scope_notes(scope))
    for part in _SHIELD_PARTS:
        found, left_out = part(scope, boxes, values)
        rules.extend(found)
        notes.extend(left_out)
    rules.extend(Rule(Kind.PASSED, box) for box in boxes)
    return Plan(rules=tuple(rules), notes=tuple(notes))


Part = Callable[[Scope, list[Box], Mapping[str, Any]], tuple[list[Rule], list[str]]]


def _amplification(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    ports: tuple[int, ...] = values["amplification_ports"]
    if not ports:
        return [], ["UDP from amplification ports is let through: the policy lists none"]
    rules = _within(Kind.AMPLIFICATION, boxes, UDP, EVERY_PORT, Parameters(source_ports=ports))
    if not rules:
        return [], [_outside("UDP from amplification ports", "UDP")]
    needed = [port for port in (53, 123) if port in ports]
    if not needed:
        return rules, []
    return rules, [
        f"answers from UDP port {numbers(tuple(needed))} are dropped too, also those the target asked for itself: if "
        "it uses name or time servers elsewhere, take these ports out of amplification_ports"
    ]


def _fragments(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    if not values["drop_fragments"]:
        return [], ["UDP fragments are let through: the policy says so"]
    rules = _within(Kind.FRAGMENTS, boxes, UDP, (NO_PORT, NO_PORT), Parameters())
    if rules or not scope.port_ranges:
        return rules, [] if rules else [_outside("UDP fragments", "UDP")]
    return [], [
        "fragments after the first carry no ports, so with target-port-range they are not in the scope and are let "
        "through; ask for the whole host, or add a filter for fragments, to have them dropped"
    ]


def _tcp_flags(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    if not values["drop_impossible_flags"]:
        return [], ["TCP with impossible flags is let through: the policy says so"]
    rules = _within(Kind.TCP_FLAGS, boxes, TCP, EVERY_PORT, Parameters())
    return rules, [] if rules else [_outside("TCP with impossible flags", "TCP")]


def _bogons(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    rules: list[Rule] = []
    notes: list[str] = []
    for family in sorted({box.family for box in boxes}):
        prefixes = tuple(prefix for prefix in values["bogon_prefixes"] if prefix.version == family)
        if not prefixes:
            notes.append(f"no source is refused as bogon in IPv{family}: the policy lists none")
            continue
        ours = [box for box in boxes if box.family == family]
        rules.extend(Rule(Kind.BOGONS, box, Parameters(source_prefixes=prefixes)) for box in ours)
    return rules, notes


def _syn_limit(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    if not values["syn_rate"]:
        return [], ["new TCP connections are not limited: the policy says so"]
    limit = Parameters(rate=values["syn_rate"], burst=values["syn_burst"])
    rules = _within(Kind.SYN_LIMIT, boxes, TCP, EVERY_PORT, limit)
    return rules, [] if rules else [_outside("the limit on new TCP connections", "TCP")]


def _udp_limit(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    if not values["stateful"]:
        return [], []
    if not values["udp_rate"]:
        return [], ["UDP is not limited per source: the policy says so"]
    limit = Parameters(rate=values["udp_rate"], burst=values["udp_burst"])
    rules = _within(Kind.UDP_LIMIT, boxes, UDP, EVERY_PORT, limit)
    return rules, [] if rules else [_outside("the limit on UDP", "UDP")]


def _icmp_limit(scope: Scope, boxes: list[Box], values: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    if not values["stateful"]:
        return [], [
            "this point sees one direction only: the limits on UDP and ICMP per source are left out, because answers "
            "to what the target asked for could not be told from a flood"
        ]
    if not values["icmp_rate"]:
        return [], ["ICMP is not limited per source: the policy says so"]
    limit = Parameters(rate=values["icmp_rate"], burst=values["icmp_burst"])
    rules = []
    for box in boxes:
        narrowed = box.narrowed(protocols=ICMP[box.family])
        if narrowed is not None and narrowed.first_port == NO_PORT:
            rules.append(Rule(Kind.ICMP_LIMIT, narrowed, limit))
    return rules, [] if rules else [_outside("the limit on ICMP", "ICMP")]


_SHIELD_PARTS: tuple[Part, ...] = (
    _amplification,
    _fragments,
    _tcp_flags,
    _bogons,
    _syn_limit,
    _udp_limit,
    _icmp_limit,
)

_PLAYBOOKS: dict[str, Callable[[Scope, list[Box], Mapping[str, Any]], Plan]] = {
    "shield": _shield,
    "ratelimit": _ratelimit,
    "redirect": _redirect,
    "discard": _discard,
}


def _digest(words: str) -> str:
    return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()


def _within(kind: Kind, boxes: Iterable[Box], protocols: Range, ports: Range, parameters: Parameters) -> list[Rule]:
    narrowed = (box.narrowed(protocols=protocols, ports=ports) for box in boxes)
    return [Rule(kind, box, parameters) for box in narrowed if box is not None]


def _outside(what: str, protocol: str) -> str:
    return f"{what}: left out, the scope has no {protocol}"


def _scope_notes(scope: Scope) -> tuple[str, ...]:
    """ENF-TGT-003: the split between protocols with and without ports is said, since the request does not show it."""
    whole = [protocol for protocol in scope.protocols if protocol not in PORT_PROTOCOLS]
    if not scope.port_ranges or not whole:
        return ()
    names = ", ".join(PROTOCOL_NAMES.get(protocol, f"protocol {protocol}") for protocol in sorted(set(whole)))
    return (f"{names}: no ports there, so target-port-range does not narrow it and all of it is in the scope",)
