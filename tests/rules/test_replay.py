"""Replay: the same verdict on a capture as on each of its packets, and limits as the kernel counts them."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rule_strategies import packets, scopes

from mitigation.rules.canonical import Kind, Parameters, Rule
from mitigation.rules.captures import Capture, read_capture
from mitigation.rules.packets import Packet, TcpFlag, matches
from mitigation.rules.playbooks import render
from mitigation.rules.replay import replay
from mitigation.rules.scope import Scope
from tests.harness.captures import pcap, wire

HOST, SOURCE = IPv4Address("198.51.100.7"), IPv4Address("203.0.113.9")
SCOPE = Scope((ip_network("198.51.100.7/32"),))


def capture_of(tmp_path: Path, *sent: tuple[float, Packet]) -> Capture:
    path = tmp_path / "some.pcap"
    path.write_bytes(pcap((when, wire(packet)) for when, packet in sent))
    return read_capture(path)


def rules_of(kind: Kind, **policy: object) -> list[Rule]:
    return [rule for rule in render("shield", SCOPE, policy).rules if rule.kind in (kind, Kind.PASSED)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    scope=scopes(), sent=st.lists(packets(), min_size=1, max_size=30), playbook=st.sampled_from(["shield", "discard"])
)
def test_a_replay_drops_what_each_rule_drops(tmp_path: Path, scope: Scope, sent: list[Packet], playbook: str) -> None:
    plan = render(playbook, scope, {"allow_whole_host": True} if playbook == "discard" else {})
    stateless = [rule for rule in plan.rules if not rule.parameters.rate]
    plain = [replace(one, is_answer=False) for one in sent if one.destination.version == 4 or one.protocol != 0]
    capture = capture_of(tmp_path, *((float(at), packet) for at, packet in enumerate(plain)))

    found = replay(stateless, capture)

    dropping = [rule for rule in stateless if rule.drops]
    assert found.dropped.tolist() == [any(matches(rule, packet) for rule in dropping) for packet in plain]
    assert found.in_scope.tolist() == [any(matches(rule, packet) for rule in stateless) for packet in plain]
    assert sum(hit.dropped_packets for hit in found.hits) == int(found.dropped.sum())
    assert sum(hit.dropped_octets for hit in found.hits) == int(capture.length[found.dropped].sum())


def test_a_limit_lets_its_burst_through_and_then_its_rate(tmp_path: Path) -> None:
    syn = Packet(SOURCE, HOST, 6, 40_000, 80, TcpFlag.SYN)
    at_once = [(0.0, syn)] * 30
    steady = [(10.0 + number / 10, syn) for number in range(100)]  # ten a second, for ten seconds
    capture = capture_of(tmp_path, *at_once, *steady)

    found = replay(rules_of(Kind.SYN_LIMIT, syn_rate=5, syn_burst=10), capture)

    (hit,) = found.hits
    assert hit.met_packets == 130
    assert found.dropped[:30].tolist() == [False] * 10 + [True] * 20
    assert 40 <= found.dropped[30:].sum() <= 42  # ten of the bucket, then five a second


def test_each_source_has_a_bucket_and_a_64_shares_one(tmp_path: Path) -> None:
    four = [Packet(IPv4Address(int(SOURCE) + at), HOST, 6, 4_000, 80, TcpFlag.SYN) for at in range(20)]
    capture = capture_of(tmp_path, *((0.0, one) for one in four))
    assert not replay(rules_of(Kind.SYN_LIMIT, syn_rate=1, syn_burst=1), capture).dropped.any()

    host6, scope6 = IPv6Address("2001:db8:100::7"), Scope((ip_network("2001:db8:100::7/128"),))
    base = int(IPv6Address("2001:db8:bad::"))
    six = [Packet(IPv6Address(base + at), host6, 6, 4_000, 80, TcpFlag.SYN) for at in range(20)]
    capture = capture_of(tmp_path, *((0.0, one) for one in six))
    rules = [
        one for one in render("shield", scope6, {"syn_rate": 1, "syn_burst": 1}).rules if one.kind is Kind.SYN_LIMIT
    ]
    assert replay(rules, capture).dropped.sum() == 19


def test_answers_to_the_protected_side_are_not_limited(tmp_path: Path) -> None:
    asked = Packet(HOST, SOURCE, 17, 5_000, 3_478)
    answer = Packet(SOURCE, HOST, 17, 3_478, 5_000)
    flood = Packet(IPv4Address("203.0.113.10"), HOST, 17, 3_478, 5_000)
    capture = capture_of(tmp_path, (0.0, asked), *((1.0, answer),) * 50, *((1.0, flood),) * 50)

    found = replay(rules_of(Kind.UDP_LIMIT, udp_rate=1, udp_burst=5), capture)

    assert found.dropped[:51].sum() == 0
    assert found.dropped[51:].sum() == 45


def test_an_empty_capture_and_no_rules(tmp_path: Path) -> None:
    empty = replay(rules_of(Kind.BOGONS), capture_of(tmp_path))
    assert [hit.met_packets for hit in empty.hits] == [0] * len(empty.hits)
    one = Packet(SOURCE, HOST, 17, 53, 80)
    assert replay([], capture_of(tmp_path, (0.0, one))).dropped.tolist() == [False]


@pytest.mark.slow
def test_a_million_packets_take_seconds(tmp_path: Path) -> None:
    amplified = wire(Packet(SOURCE, HOST, 17, 123, 40_000), payload=440)
    syns = [wire(Packet(IPv4Address(int(SOURCE) + at), HOST, 6, 4_000, 443, TcpFlag.SYN)) for at in range(50)]
    ordinary = wire(Packet(SOURCE, HOST, 6, 4_000, 443, TcpFlag.ACK), payload=200)
    elsewhere = wire(Packet(SOURCE, IPv4Address("198.51.100.9"), 17, 123, 40_000))
    cycle = [amplified, *syns, ordinary, elsewhere]
    path = tmp_path / "million.pcap"
    path.write_bytes(pcap((number / 100_000, cycle[number % len(cycle)]) for number in range(1_000_000)))

    started = time.process_time()
    capture = read_capture(path)
    found = replay(render("shield", SCOPE, {}).rules, capture)
    spent = time.process_time() - started

    print(f"\n1,000,000 packets in {spent:.2f} s of a core")
    assert len(capture) == 1_000_000
    by_kind = {hit.rule.kind: hit for hit in found.hits}
    assert by_kind[Kind.AMPLIFICATION].dropped_packets == len(range(0, 1_000_000, len(cycle)))
    assert 0 < by_kind[Kind.SYN_LIMIT].dropped_packets < by_kind[Kind.SYN_LIMIT].met_packets
    assert np.count_nonzero(~found.in_scope) == 1_000_000 // len(cycle)
    assert spent < 10


def test_parameters_are_those_of_the_rule(tmp_path: Path) -> None:
    box = rules_of(Kind.PASSED)[0].box
    rule = Rule(Kind.AMPLIFICATION, box.narrowed(protocols=(17, 17)) or box, Parameters(source_ports=(9_999,)))
    capture = capture_of(tmp_path, (0.0, Packet(SOURCE, HOST, 17, 9_999, 1)), (0.0, Packet(SOURCE, HOST, 17, 123, 1)))

    assert replay([rule], capture).dropped.tolist() == [True, False]
