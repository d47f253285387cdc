"""Each kind of rule against real packets, on both sides of each of its borders, for IPv4 and IPv6."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest
from traffic import (
    AFTER,
    BEFORE,
    FAMILIES,
    HOST,
    NETWORK,
    OTHER_SOURCE,
    SOURCE,
    Totals,
    discard,
    for_a_while,
    scope,
    shield,
    through,
    to,
)

from lab.packets import ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP, UDP, Flow, Receiver, send, total
from mitigation.rules.canonical import Kind
from mitigation.rules.packets import Packet, TcpFlag, matches
from mitigation.rules.playbooks import render
from mitigation.rules.projection import project

pytestmark = pytest.mark.flow
families = pytest.mark.parametrize("family", FAMILIES)


@families
@pytest.mark.rows("ENF-GEN-001")
def test_amplified_udp_is_dropped_and_counted_and_its_neighbours_pass(lab, driver, family):
    rules = shield(scope(NETWORK[family]), [Kind.AMPLIFICATION], amplification_ports=[53, 123])
    driver.apply(for_a_while(rules), ())

    sent, seen = through(
        lab,
        to(HOST[family], source_port=123, count=300),
        to(HOST[family], source_port=53, count=200, payload=1000),
        to(HOST[family], source_port=122, count=20),
        to(HOST[family], source_port=124, count=20),
        to(BEFORE[family], source_port=123, count=30),
        to(AFTER[family], source_port=123, count=30),
        to(HOST[family], source_port=123, protocol=TCP, count=10),
    )

    totals = Totals(driver)
    assert totals.packets(rules) == 500
    assert totals.octets(rules) == sent[0].octets + sent[1].octets
    assert total(seen, destination=HOST[family], protocol=UDP, source_port=123) == 0
    assert total(seen, destination=HOST[family], source_port=53) == 0
    assert total(seen, source_port=122) == total(seen, source_port=124) == 20
    assert total(seen, destination=BEFORE[family]) == total(seen, destination=AFTER[family]) == 30
    assert total(seen, protocol=TCP, destination=HOST[family]) == 10


@families
@pytest.mark.rows("ENF-FRG-005")
def test_later_fragments_are_dropped_before_they_are_put_together(lab, make_driver, family):
    driver = make_driver(stateful=False)
    rules = shield(scope(f"{HOST[family]}"), [Kind.FRAGMENTS])
    driver.apply(for_a_while(rules), ())

    sent, seen = through(
        lab,
        to(HOST[family], count=50, payload=3000, fragment_size=1200),
        to(AFTER[family], count=50, payload=3000, fragment_size=1200),
        to(HOST[family], protocol=TCP, count=10, payload=2000, fragment_size=1200, tcp_flags=ACK),
        to(HOST[family], count=10),
    )

    totals = Totals(driver)
    assert totals.packets(rules) == sent[0].later_fragments == 100
    assert totals.octets(rules) == sent[0].later_octets
    here = [one for one in seen if one.destination == HOST[family]]
    assert total(here, protocol=UDP, is_later_fragment=True) == 0
    assert total(here, protocol=UDP, is_later_fragment=False) == 60
    assert total(here, protocol=TCP, is_later_fragment=True) == 10
    assert total(seen, destination=AFTER[family]) == 150


@families
def test_with_connection_tracking_fragments_never_reach_reassembly(lab, driver, family):
    rules = shield(scope(HOST[family]), [Kind.FRAGMENTS])
    driver.apply(for_a_while(rules), ())

    sent, seen = through(lab, to(HOST[family], count=50, payload=3000, fragment_size=1200), to(AFTER[family], count=7))

    assert Totals(driver).packets(rules) == sent[0].later_fragments
    assert total(seen, destination=HOST[family], protocol=UDP) == 0
    assert total(seen, destination=AFTER[family]) == 7


@families
def test_impossible_flags_are_dropped_and_possible_ones_pass(lab, driver, family):
    rules = shield(scope(HOST[family]), [Kind.TCP_FLAGS])
    driver.apply(for_a_while(rules), ())
    flows = [
        to(HOST[family], protocol=TCP, tcp_flags=flags, destination_port=1000 + flags, count=2) for flags in range(64)
    ]

    _, seen = through(lab, *flows)

    arrived = {flags for flags in range(64) if total(seen, protocol=TCP, destination_port=1000 + flags)}
    packets = {
        flags: Packet(ip_address(SOURCE[family]), ip_address(HOST[family]), 6, 4000, 1000 + flags, TcpFlag(flags))
        for flags in range(64)
    }
    expected = {flags for flags, packet in packets.items() if not any(matches(rule, packet) for rule in rules)}
    assert arrived == expected
    assert arrived >= {SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK}
    assert not arrived & {0, SYN | FIN, SYN | RST, FIN, FIN | RST}
    assert Totals(driver).packets(rules) == 2 * (64 - len(expected))


@families
def test_bogon_sources_are_dropped_whatever_the_protocol(lab, driver, family):
    inside, outside = {
        4: (("10.0.0.0", "10.255.255.255"), ("9.255.255.255", "11.0.0.0", "203.0.113.1")),
        6: (("fc00::", "fdff:ffff::1"), ("fbff::1", "2001:db8:bad:a000::1")),
    }[family]
    rules = shield(scope(HOST[family]), [Kind.BOGONS])
    driver.apply(for_a_while(rules), ())
    protocols = (UDP, TCP, ICMP if family == 4 else ICMPV6, 47)

    _, seen = through(
        lab,
        *(to(HOST[family], sources=inside, protocol=protocol, count=20) for protocol in protocols),
        *(to(HOST[family], sources=outside, protocol=protocol, count=len(outside)) for protocol in protocols),
        to(AFTER[family], sources=inside, count=4),
        to(HOST[family], sources=inside, count=10, payload=2000, fragment_size=1200),
    )

    here = [one for one in seen if one.destination == HOST[family]]
    assert {one.source for one in here} == set(outside)
    assert total(here) == 4 * len(outside)
    assert total(seen, destination=AFTER[family]) == 4
    assert Totals(driver).packets(rules) == 80 + 20


@families
def test_new_connections_are_limited_per_source_and_others_are_left_alone(lab, driver, family):
    rules = shield(scope(HOST[family]), [Kind.SYN_LIMIT], syn_rate=1, syn_burst=20)
    driver.apply(for_a_while(rules), ())

    sent, seen = through(
        lab,
        to(HOST[family], protocol=TCP, count=500),
        to(HOST[family], protocol=TCP, sources=(OTHER_SOURCE[family],), count=15),
        to(HOST[family], protocol=TCP, tcp_flags=ACK, count=200),
        to(HOST[family], protocol=TCP, tcp_flags=SYN | ACK, destination_port=81, count=200),
        to(AFTER[family], protocol=TCP, count=100),
    )

    opened = total(seen, source=SOURCE[family], destination=HOST[family], destination_port=80) - 200
    assert 20 <= opened <= 30
    assert Totals(driver).packets(rules) == 500 - opened
    assert total(seen, source=OTHER_SOURCE[family]) == 15
    assert total(seen, destination_port=81) == 200
    assert total(seen, destination=AFTER[family]) == 100


def test_ipv6_sources_are_limited_by_their_64(lab, driver):
    rules = shield(scope(HOST[6]), [Kind.SYN_LIMIT], syn_rate=1, syn_burst=20)
    driver.apply(for_a_while(rules), ())
    many = tuple(f"2001:db8:bad:a000:{number:x}::1" for number in range(1, 101))

    _, seen = through(lab, to(HOST[6], protocol=TCP, sources=many, count=300))

    arrived = total(seen, destination=HOST[6], protocol=TCP)
    assert 20 <= arrived <= 30
    assert Totals(driver).packets(rules) == 300 - arrived


@families
def test_a_limit_holds_for_each_destination_by_itself(lab, driver, family):
    rules = shield(scope(NETWORK[family]), [Kind.SYN_LIMIT], syn_rate=1, syn_burst=20)
    driver.apply(for_a_while(rules), ())
    neighbour = {4: "198.51.100.6", 6: "2001:db8:100::6"}[family]

    _, seen = through(lab, to(HOST[family], protocol=TCP, count=200), to(neighbour, protocol=TCP, count=15))

    assert total(seen, destination=neighbour) == 15
    assert total(seen, destination=HOST[family], protocol=TCP) < 40


def test_when_too_many_sources_come_the_limit_lets_them_pass(lab, make_driver):
    driver = make_driver(meter_size=4)
    rules = shield(scope(HOST[4]), [Kind.SYN_LIMIT], syn_rate=1, syn_burst=5)
    driver.apply(for_a_while(rules), ())
    flows = [to(HOST[4], protocol=TCP, sources=(f"203.0.113.{n}",), count=30) for n in range(20, 40)]

    _, seen = through(lab, *flows)

    arrived = {source: total(seen, source=f"203.0.113.{source}") for source in range(20, 40)}
    unlimited = [source for source, packets in arrived.items() if packets == 30]
    assert 16 <= len(unlimited) < 20
    assert Totals(driver).packets(rules) == 600 - sum(arrived.values())


@families
def test_udp_is_limited_per_source_but_not_the_answers_the_host_asked_for(lab, driver, family):
    rules = shield(scope(HOST[family]), [Kind.UDP_LIMIT], udp_rate=1, udp_burst=20)
    driver.apply(for_a_while(rules), ())
    send(lab.victim, Flow(SOURCE[family], (HOST[family],), source_port=6000, destination_port=5000))

    _, seen = through(
        lab,
        to(HOST[family], source_port=5000, destination_port=6000, count=200),
        to(HOST[family], source_port=5001, destination_port=6001, count=300),
        to(HOST[family], sources=(OTHER_SOURCE[family],), destination_port=6002, count=15),
        to(AFTER[family], count=100),
    )

    limited = total(seen, destination_port=6001)
    assert total(seen, destination_port=6000) == 200
    assert 20 <= limited <= 30
    assert total(seen, destination_port=6002) == 15
    assert total(seen, destination=AFTER[family]) == 100
    assert Totals(driver).packets(rules) == 300 - limited


def test_a_service_that_answers_does_not_lift_the_limit(lab, driver):
    """The flood makes tracking call the flow established as soon as one answer is seen; it stays a flood."""
    rules = shield(scope(HOST[4]), [Kind.UDP_LIMIT], udp_rate=1, udp_burst=20)
    driver.apply(for_a_while(rules), ())
    through(lab, to(HOST[4], source_port=7000, destination_port=7001))
    send(lab.victim, Flow(SOURCE[4], (HOST[4],), source_port=7001, destination_port=7000))

    _, seen = through(lab, to(HOST[4], source_port=7000, destination_port=7001, count=200))

    assert total(seen, destination_port=7001) <= 30


@families
def test_icmp_is_limited_per_source(lab, driver, family):
    protocol, echo = {4: (ICMP, 8), 6: (ICMPV6, 128)}[family]
    rules = shield(scope(HOST[family]), [Kind.ICMP_LIMIT], icmp_rate=1, icmp_burst=20)
    driver.apply(for_a_while(rules), ())

    _, seen = through(
        lab,
        to(HOST[family], protocol=protocol, icmp_type=echo, count=200),
        to(HOST[family], protocol=protocol, icmp_type=echo, sources=(OTHER_SOURCE[family],), count=15),
        to(AFTER[family], protocol=protocol, icmp_type=echo, count=50),
        to(HOST[family], count=50),
    )

    arrived = total(seen, protocol=protocol, source=SOURCE[family], destination=HOST[family])
    assert 20 <= arrived <= 30
    assert total(seen, source=OTHER_SOURCE[family]) == 15
    assert total(seen, protocol=protocol, destination=AFTER[family]) == 50
    assert total(seen, protocol=UDP) == 50
    assert Totals(driver).packets(rules) == 200 - arrived


@families
@pytest.mark.rows("ENF-GEN-001", "ENF-TGT-001", "ENF-TGT-003", "ENF-TGT-004")
@pytest.mark.parametrize(
    "asked",
    [
        {"ports": ((53, 53), (80, 90)), "protocols": (17, 1, 58)},
        {"ports": ((80, 90),)},
        {"protocols": (6, 47)},
        {"ports": ((0, 65535),), "protocols": (17,)},
        {},
    ],
    ids=("ports and protocols", "ports", "protocols", "every port", "whole hosts"),
)
def test_discard_drops_in_the_kernel_exactly_what_the_rules_say(lab, driver, family, asked):
    """A packet for each combination of border values, against the pure `matches`."""
    rules = discard(scope(NETWORK[family], **asked))
    driver.apply(for_a_while(rules), ())
    destinations = (3, 4, 7, 8)
    prefix = {4: "198.51.100.", 6: "2001:db8:100::"}[family]
    with_ports = itertools.product(destinations, (6, 17, 33, 132), (0, 52, 53, 54, 79, 80, 90, 91, 65535))
    without = itertools.product(destinations, (1, 47, 58), (None,))
    wanted, flows = {}, []
    for number, (last, protocol, port) in enumerate([*with_ports, *without]):
        source = {4: f"203.0.113.{number % 250 + 1}", 6: f"2001:db8:bad:a000::{number + 1:x}"}[family]
        packet = Packet(ip_address(source), ip_address(f"{prefix}{last}"), protocol, 4000, port)
        wanted[source, f"{prefix}{last}", protocol, port] = not any(matches(rule, packet) for rule in rules)
        flows.append(Flow(f"{prefix}{last}", (source,), protocol, destination_port=port or 0))

    _, seen = through(lab, *flows)

    arrived = {(one.source, one.destination, one.protocol, one.destination_port) for one in seen}
    assert {key: key in arrived for key in wanted} == wanted
    assert Totals(driver).packets(rules) == sum(not passes for passes in wanted.values())


@families
@pytest.mark.rows("ENF-FRG-006")
def test_discard_by_port_lets_later_fragments_pass_and_discard_by_protocol_does_not(lab, make_driver, family):
    driver = make_driver(stateful=False)
    by_port = discard(scope(HOST[family], ports=((80, 80),), protocols=(17,)))
    by_protocol = discard(scope(AFTER[family], protocols=(17,)))
    driver.apply(for_a_while(by_port + by_protocol), ())

    sent, seen = through(
        lab,
        to(HOST[family], count=20, payload=3000, fragment_size=1200),
        to(AFTER[family], count=20, payload=3000, fragment_size=1200),
    )

    totals = Totals(driver)
    assert total(seen, destination=HOST[family], is_later_fragment=True) == 40
    assert total(seen, destination=HOST[family], is_later_fragment=False, protocol=UDP) == 0
    assert total(seen, destination=AFTER[family]) == 0
    assert totals.packets(by_port) == 20
    assert totals.packets(by_protocol) == sent[1].packets == 60


@families
def test_overlapping_mitigations_count_for_each_owner(lab, make_driver, family):
    driver = make_driver(stateful=False)
    projected = project(
        {
            "network": discard(scope(NETWORK[family], protocols=(17,))),
            "dns": discard(scope(HOST[family], ports=((53, 53),), protocols=(17,))),
            "host": discard(scope(HOST[family], protocols=(17, 47))),
        }
    )
    driver.apply(for_a_while(one.rule for one in projected), ())
    neighbour = {4: "198.51.100.4", 6: "2001:db8:100::4"}[family]

    _, seen = through(
        lab,
        to(HOST[family], destination_port=53, count=10),
        to(HOST[family], destination_port=54, count=20),
        to(neighbour, destination_port=53, count=40),
        to(HOST[family], protocol=47, count=80),
        to(HOST[family], payload=2000, fragment_size=1200, count=100),
        to(AFTER[family], destination_port=53, count=5),
    )

    totals = Totals(driver)
    counted = {
        owner: totals.packets(one.rule for one in projected if owner in one.owners)
        for owner in ("network", "dns", "host")
    }
    assert counted == {"network": 70 + 200, "dns": 10, "host": 30 + 80 + 200}
    assert total(seen, destination=AFTER[family]) == 5
    assert total(seen, destination=HOST[family]) == total(seen, destination=neighbour) == 0


@families
def test_what_gets_through_is_counted_as_passed_and_only_that(lab, make_driver, family):
    driver = make_driver(stateful=False)
    rules = shield(scope(HOST[family]), [Kind.AMPLIFICATION, Kind.PASSED], amplification_ports=[123])
    driver.apply(for_a_while(rules), ())

    sent, _ = through(
        lab,
        to(HOST[family], source_port=123, count=100),
        to(HOST[family], count=30),
        to(HOST[family], protocol=TCP, count=20),
        to(HOST[family], protocol=47, count=10),
        to(HOST[family], payload=2000, fragment_size=1200, count=5),
        to(AFTER[family], count=9),
    )

    totals = Totals(driver)
    passed = [rule for rule in rules if rule.kind is Kind.PASSED]
    assert totals.packets(passed) == 30 + 20 + 10 + 10
    assert totals.octets(passed) == sum(one.octets for one in sent[1:5])
    assert totals.packets(rule for rule in rules if rule.drops) == 100


def test_atomic_fragments_of_ipv6_carry_ports_like_any_packet(lab, make_driver):
    driver = make_driver(stateful=False)
    rules = shield(scope(HOST[6]), [Kind.AMPLIFICATION, Kind.FRAGMENTS], amplification_ports=[123])
    driver.apply(for_a_while(rules), ())

    _, seen = through(
        lab,
        to(HOST[6], source_port=123, count=10, fragment_size=1200),
        to(HOST[6], source_port=124, count=10, fragment_size=1200),
    )

    totals = Totals(driver)
    assert totals.packets(rule for rule in rules if rule.kind is Kind.AMPLIFICATION) == 10
    assert totals.packets(rule for rule in rules if rule.kind is Kind.FRAGMENTS) == 0
    assert total(seen, source_port=124) == 10


def test_the_whole_shield_at_once_counts_each_packet_once(lab, driver):
    rules = list(render("shield", scope(HOST[4], HOST[6]), {}).rules)
    driver.apply(for_a_while(rules), ())

    with Receiver(lab.victim) as receiver:
        sent = send(
            lab.attacker,
            to(HOST[4], source_port=123, sources=("10.0.0.1",), count=50),
            to(HOST[4], protocol=TCP, tcp_flags=SYN | FIN, sources=("10.0.0.1",), count=50),
            to(HOST[6], source_port=19, count=50),
            to(HOST[6], protocol=TCP, tcp_flags=0, count=50),
        )
        seen = receiver.stop()

    totals = Totals(driver)
    assert totals.packets(rule for rule in rules if rule.drops) == sum(one.packets for one in sent) == 200
    assert total(seen, protocol=UDP) == total(seen, protocol=TCP) == 0
