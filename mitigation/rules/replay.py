"""What rules would have done to captured traffic: the same conditions as the equipment's, without any equipment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitigation.rules.boxes import NO_PORT, Box
from mitigation.rules.canonical import LIMITS, Bucket, Kind, Parameters, Rule
from mitigation.rules.captures import NONE, Capture
from mitigation.rules.packets import (
    IMPOSSIBLE_TCP_FLAGS,
    NEIGHBOUR_DISCOVERY,
    OPENING,
    OPENING_MASK,
    TCP,
    UDP,
)

Mask = NDArray[np.bool_]
Rows = NDArray[Any]
_HALF = 2**64 - 1
_MIXERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class Hit:
    """What met a rule, and what of that it dropped: a limit lets through what is below it, a redirection everything."""

    rule: Rule
    met_packets: int
    met_octets: int
    dropped_packets: int
    dropped_octets: int


@dataclass(frozen=True)
class Replayed:
    """The masks are of the capture's rows. A packet counts for the first rule that drops it."""

    hits: tuple[Hit, ...]
    in_scope: Mask
    dropped: Mask


def replay(rules: Sequence[Rule], capture: Capture) -> Replayed:
    """Apply disjoint rules in the order in which equipment does. The scope is what rules of kind PASSED count.

    What answers the protected side is known by who spoke first in the capture; answers to what was sent before
    it began therefore look like requests.
    """
    count = len(capture)
    dropped, in_scope = np.zeros(count, bool), np.zeros(count, bool)
    hits = []
    answers: Mask | None = None
    for kind in Kind:
        of_kind = [one for one in rules if one.kind is kind]
        if kind is Kind.RATE_LIMIT:
            hits += _limited_together(of_kind, capture, in_scope, dropped)
            continue
        for rule in of_kind:
            rows = _in_box(rule.box, capture)
            in_scope[rows] = True
            if kind is Kind.PASSED:
                continue
            rows = rows[~dropped[rows]]
            rows = rows[_CONDITIONS[kind](rule, capture, rows)]
            if kind in (Kind.UDP_LIMIT, Kind.ICMP_LIMIT):
                answers = _answers(capture) if answers is None else answers
                rows = rows[~answers[rows]]
            over = rows[_above(rule.parameters, capture, rows)] if kind in LIMITS else rows
            over = over if rule.drops else over[:0]
            dropped[over] = True
            hits.append(_hit(rule, capture, rows, over))
    return Replayed(tuple(hits), in_scope, dropped)


def _hit(rule: Rule, capture: Capture, met: Rows, dropped: Rows) -> Hit:
    octets = capture.length
    return Hit(rule, len(met), int(octets[met].sum()), len(dropped), int(octets[dropped].sum()))


# -- which packets ----------------------------------------------------------------------------------------------------


def _in_box(box: Box, capture: Capture) -> Rows:
    found = capture.family == box.family
    if box.family == 4:
        found &= (capture.destination_low >= box.first_address) & (capture.destination_low <= box.last_address)
    else:
        found &= ~_below(capture, box.first_address) & ~_beyond(capture, box.last_address)
    found &= (capture.protocol >= box.first_protocol) & (capture.protocol <= box.last_protocol)
    if box.ports != (NO_PORT, 65_535):
        found &= (capture.port >= box.first_port) & (capture.port <= box.last_port)
    return np.flatnonzero(found)


def _below(capture: Capture, address: int) -> Mask:
    high, low = np.uint64(address >> 64), np.uint64(address & _HALF)
    below: Mask = (capture.destination_high < high) | (
        (capture.destination_high == high) & (capture.destination_low < low)
    )
    return below


def _beyond(capture: Capture, address: int) -> Mask:
    high, low = np.uint64(address >> 64), np.uint64(address & _HALF)
    beyond: Mask = (capture.destination_high > high) | (
        (capture.destination_high == high) & (capture.destination_low > low)
    )
    return beyond


Condition = Callable[[Rule, Capture, Rows], Mask]


def _everything(_: Rule, __: Capture, rows: Rows) -> Mask:
    return np.ones(len(rows), bool)


def _amplified(rule: Rule, capture: Capture, rows: Rows) -> Mask:
    found: Mask = (capture.protocol[rows] == UDP) & np.isin(capture.source_port[rows], rule.parameters.source_ports)
    found &= capture.port[rows] != NO_PORT
    return found


def _later_udp(_: Rule, capture: Capture, rows: Rows) -> Mask:
    found: Mask = (capture.protocol[rows] == UDP) & capture.is_later_fragment[rows].astype(bool)
    return found


def _impossible(_: Rule, capture: Capture, rows: Rows) -> Mask:
    flags = capture.tcp_flags[rows]
    found = np.zeros(len(rows), bool)
    for mask, value in IMPOSSIBLE_TCP_FLAGS:
        found |= flags & int(mask) == int(value)
    found &= flags != NONE
    return found


def _bogon(rule: Rule, capture: Capture, rows: Rows) -> Mask:
    found = np.zeros(len(rows), bool)
    high, low = capture.source_high[rows], capture.source_low[rows]
    for prefix in rule.parameters.source_prefixes:
        first, mask = int(prefix.network_address), int(prefix.netmask)
        found |= ((high & np.uint64(mask >> 64)) == np.uint64(first >> 64)) & (
            (low & np.uint64(mask & _HALF)) == np.uint64(first & _HALF)
        )
    return found


def _opening(_: Rule, capture: Capture, rows: Rows) -> Mask:
    flags = capture.tcp_flags[rows]
    found: Mask = (capture.protocol[rows] == TCP) & (flags != NONE) & (flags & int(OPENING_MASK) == int(OPENING))
    return found


def _any_udp(_: Rule, capture: Capture, rows: Rows) -> Mask:
    found: Mask = (capture.protocol[rows] == UDP) & (capture.port[rows] != NO_PORT)
    return found


def _limited_icmp(_: Rule, capture: Capture, rows: Rows) -> Mask:
    neighbours = np.isin(capture.icmp_type[rows], NEIGHBOUR_DISCOVERY)
    found: Mask = (capture.protocol[rows] == 1) | ((capture.protocol[rows] == 58) & ~neighbours)
    return found


_CONDITIONS: dict[Kind, Condition] = {
    Kind.DISCARD: _everything,
    Kind.AMPLIFICATION: _amplified,
    Kind.FRAGMENTS: _later_udp,
    Kind.TCP_FLAGS: _impossible,
    Kind.BOGONS: _bogon,
    Kind.SYN_LIMIT: _opening,
    Kind.UDP_LIMIT: _any_udp,
    Kind.ICMP_LIMIT: _limited_icmp,
    Kind.REDIRECT: _everything,
}


# -- what needs memory ------------------------------------------------------------------------------------------------


def _answers(capture: Capture) -> Mask:
    """Packets that go against the direction of the first one of their flow."""
    source = _mixed(capture.source_high, capture.source_low, capture.source_port)
    destination = _mixed(capture.destination_high, capture.destination_low, capture.port)
    forward = source < destination
    flow = _mixed(np.minimum(source, destination), np.maximum(source, destination), capture.protocol)
    _, first, which = np.unique(flow, return_index=True, return_inverse=True)
    answers: Mask = forward != forward[first][which]
    return answers


def _mixed(*columns: Rows) -> Rows:
    """One number for each row that is, but for chance of one in 10^12, the same only for the same values."""
    value = np.zeros(len(columns[0]), np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            value = (value ^ column.astype(np.int64).view(np.uint64)) * np.uint64(_MIXERS[0])
            value = (value ^ value >> np.uint64(30)) * np.uint64(_MIXERS[1])
            value = (value ^ value >> np.uint64(27)) * np.uint64(_MIXERS[2])
            value ^= value >> np.uint64(31)
    return value


def _above(limit: Parameters, capture: Capture, rows: Rows) -> Mask:
    """Token buckets of the kernel: `burst` at first, `rate` more a second, one for each source and destination.

    An IPv6 source is its /64, of which an attacker has every address.
    """
    if not len(rows):
        return np.zeros(0, bool)
    six = capture.family[rows] == 6
    low = np.where(six, np.uint64(0), capture.source_low[rows])
    bucket = _mixed(capture.source_high[rows], low, capture.destination_high[rows], capture.destination_low[rows])
    order = np.lexsort((capture.time[rows], bucket))
    over = np.zeros(len(rows), bool)
    times, buckets = capture.time[rows][order].tolist(), bucket[order].tolist()
    rate, burst = float(limit.rate), float(limit.burst)
    tokens, last, current = burst, 0.0, None
    for at, (when, which) in enumerate(zip(times, buckets, strict=True)):
        if which != current:
            tokens, current = burst, which
        else:
            tokens = min(burst, tokens + (when - last) * rate)
        last = when
        if tokens >= 1.0:
            tokens -= 1.0
        else:
            over[order[at]] = True
    return over


_SECOND = 10**9  # the kernel counts tokens in nanoseconds


class _Tokens:
    """A bucket as the kernel keeps it: a packet costs the time in which the rate brings it in.

    A bucket of packets holds `burst` of them. One of octets holds `burst` and a second of the rate.
    """

    def __init__(self, bucket: Bucket, start: float) -> None:
        self._bucket = bucket
        self._most = (
            _SECOND * (bucket.rate + bucket.burst) // bucket.rate
            if bucket.octets
            else _SECOND // bucket.rate * bucket.burst
        )
        self._tokens, self._last = self._most, start

    def is_over(self, when: float, octets: int) -> bool:
        bucket = self._bucket
        tokens = min(self._most, self._tokens + max(0, round((when - self._last) * _SECOND)))
        cost = _SECOND * (octets if bucket.octets else 1) // bucket.rate
        self._last = when
        self._tokens = tokens - cost if tokens >= cost else tokens
        return tokens < cost


def _limited_together(rules: Sequence[Rule], capture: Capture, in_scope: Mask, dropped: Mask) -> list[Hit]:
    """Rules that share buckets, packet by packet in the order of time; marks what they drop."""
    met = []
    for rule in rules:
        rows = _in_box(rule.box, capture)
        in_scope[rows] = True
        met.append(rows[~dropped[rows]])
    rows = np.concatenate([*met, np.zeros(0, np.int64)]).astype(np.int64)
    which = np.repeat(np.arange(len(rules)), [len(some) for some in met])
    order = np.lexsort((rows, capture.time[rows]))
    start = float(capture.time[rows].min()) if len(rows) else 0.0
    tokens = {bucket: _Tokens(bucket, start) for rule in rules for bucket in rule.parameters.buckets}
    asked = [[tokens[bucket] for bucket in rule.parameters.buckets] for rule in rules]
    times, lengths = capture.time[rows[order]].tolist(), capture.length[rows[order]].tolist()
    for at, rule_number, when, octets in zip(rows[order].tolist(), which[order].tolist(), times, lengths, strict=True):
        if any(one.is_over(when, octets) for one in asked[rule_number]):
            dropped[at] = True
    return [_hit(rule, capture, some, some[dropped[some]]) for rule, some in zip(rules, met, strict=True)]
