"""`ratelimit` and `redirect` against real packets, on both sides of their borders, for IPv4 and IPv6."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

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

from lab.packets import TCP, Receiver, send, total
from lab.topology import Namespace, Topology
from mitigation.drivers.base import DesiredFilters, HealthState
from mitigation.drivers.nftables import NftablesDriver
from mitigation.protocol.acls import parse_acl
from mitigation.rules.canonical import Kind, Rule
from mitigation.rules.filters import FilterSet, filter_list
from mitigation.rules.playbooks import render
from mitigation.rules.projection import project
from mitigation.rules.scope import Scope

pytestmark = pytest.mark.flow
families = pytest.mark.parametrize("family", FAMILIES)
GRE = 47
MARK, MASK = 0x01000000, 0x0F000000
BACK = {"redirect_return": ["to-scrubber"]}


def ratelimit(protected: Scope, **policy: Any) -> list[Rule]:
    return list(render("ratelimit", protected, policy).rules)


def limits(rules: list[Rule]) -> list[Rule]:
    return [rule for rule in rules if rule.kind is Kind.RATE_LIMIT]


def within(seconds: float, rate: float, burst: float) -> range:
    """What a bucket lets pass of much more, in that time."""
    return range(int(burst), int(burst + rate * (seconds + 1)) + 2)


# -- a whole scope held to a rate -------------------------------------------------------------------------------------


@families
@pytest.mark.rows("ENF-GEN-001", "ENF-ACT-005")
def test_a_scope_passes_its_rate_in_packets_and_its_neighbours_pass_whole(lab, driver, family):
    rules = ratelimit(scope(NETWORK[family]), limit_packets=50, limit_burst=0.4)
    driver.apply(for_a_while(rules), ())

    began = time.monotonic()
    _, seen = through(
        lab,
        to(HOST[family], count=500),
        to(HOST[family], protocol=TCP, count=500),
        to(BEFORE[family], count=100),
        to(AFTER[family], count=100),
    )
    seconds = time.monotonic() - began

    passed = total(seen, destination=HOST[family])
    assert passed in within(seconds, 50, 20)
    totals = Totals(driver)
    assert totals.packets(limits(rules)) == 1000 - passed
    assert totals.packets(rule for rule in rules if rule.kind is Kind.PASSED) == passed
    assert total(seen, destination=BEFORE[family]) == total(seen, destination=AFTER[family]) == 100


@pytest.mark.rows("ENF-ACT-005")
def test_octets_are_those_of_ip_packets_and_the_largest_packet_always_fits(lab, driver):
    rules = ratelimit(scope(HOST[4]), limit_octets=1000)
    driver.apply(for_a_while(rules), ())

    began = time.monotonic()
    sent, seen = through(lab, to(HOST[4], count=200, payload=972))
    seconds = time.monotonic() - began

    size = sent[0].octets // sent[0].packets
    assert size == 1000
    passed = total(seen, destination=HOST[4])
    # The kernel's bucket of octets holds a second of the rate beside the burst.
    assert passed * size in within(seconds, 1000, 65_575)
    totals = Totals(driver)
    assert totals.octets(limits(rules)) == (200 - passed) * size


def test_one_bucket_holds_for_both_families_and_all_protocols(lab, driver):
    rules = ratelimit(scope(HOST[4], HOST[6]), limit_packets=50, limit_burst=0.4)
    driver.apply(for_a_while(rules), ())

    began = time.monotonic()
    _, seen = through(
        lab,
        *(to(HOST[family], count=100) for family in FAMILIES),
        *(to(HOST[family], protocol=GRE, count=100) for family in FAMILIES),
        *(to(HOST[family], sources=(f"203.0.113.{n}",), count=10) for family in (4,) for n in range(20, 30)),
    )
    seconds = time.monotonic() - began

    passed = sum(total(seen, destination=HOST[family]) for family in FAMILIES)
    assert passed in within(seconds, 50, 20)
    assert Totals(driver).packets(limits(rules)) == 500 - passed


@families
def test_what_stays_below_the_rate_passes_whole(lab, driver, family):
    rules = ratelimit(scope(HOST[family]), limit_packets=400, limit_burst=0.5, limit_octets=200_000)
    driver.apply(for_a_while(rules), ())

    _, seen = through(lab, to(HOST[family], count=200, rate=200))

    assert total(seen, destination=HOST[family]) == 200
    assert Totals(driver).packets(limits(rules)) == 0


@families
def test_the_stricter_limit_of_an_overlap_takes_nothing_from_the_rest_of_the_wider_scope(lab, driver, family):
    wide = ratelimit(scope(HOST[family]), limit_packets=400, limit_burst=1)
    narrow = ratelimit(scope(HOST[family], ports=((53, 53),), protocols=(17,)), limit_packets=10, limit_burst=1)
    projected = project({"wide": wide, "narrow": narrow})
    driver.apply(for_a_while(one.rule for one in projected), ())

    began = time.monotonic()
    _, seen = through(lab, to(HOST[family], destination_port=53, count=5000), to(HOST[family], count=300))
    seconds = time.monotonic() - began

    assert total(seen, destination_port=53) in within(seconds, 10, 10)
    assert total(seen, destination_port=80) == 300


@families
def test_what_the_shield_drops_does_not_count_against_the_rate(lab, driver, family):
    rules = ratelimit(scope(HOST[family]), limit_packets=10, limit_burst=10)
    rules += shield(scope(HOST[family]), [Kind.AMPLIFICATION, Kind.UDP_LIMIT], udp_rate=1, udp_burst=20)
    driver.apply(for_a_while(rules), ())

    _, seen = through(
        lab,
        to(HOST[family], source_port=123, count=500),
        to(HOST[family], count=500),
        to(HOST[family], protocol=TCP, count=60),
    )

    assert total(seen, protocol=TCP) == 60
    assert Totals(driver).packets(limits(rules)) == 0


@pytest.mark.rows("ENF-ACT-004", "ENF-ACT-006")
def test_rates_are_rounded_down_and_below_one_nothing_passes(lab, driver):
    below = ratelimit(scope(HOST[4], protocols=(17,)), limit_octets=0.5)
    whole = ratelimit(scope(AFTER[4], protocols=(17,)), limit_packets=1.9, limit_burst=5)
    driver.apply(for_a_while([*below, *whole]), ())

    began = time.monotonic()
    _, seen = through(lab, to(HOST[4], count=50), to(HOST[4], protocol=TCP, count=5), to(AFTER[4], count=50))
    seconds = time.monotonic() - began

    assert {rule.kind for rule in below} == {Kind.DISCARD}
    assert total(seen, destination=HOST[4], protocol=17) == 0
    assert total(seen, destination=HOST[4], protocol=TCP) == 5
    assert total(seen, destination=AFTER[4]) in within(seconds, 1, 5)
    (limit,) = listed(lab, "limit")
    assert (limit["rate"], limit["burst"], limit["inv"]) == (1, 5, True)


def test_the_highest_rates_are_taken_by_the_kernel(lab, driver):
    rules = ratelimit(scope(HOST[4]), limit_octets=12_500_000_000, limit_packets=10_000_000, limit_burst=10)
    driver.apply(for_a_while(rules), ())

    _, seen = through(lab, to(HOST[4], count=500))

    assert {one["rate"] for one in listed(lab, "limit")} == {12_500_000_000, 10_000_000}
    assert total(seen, destination=HOST[4]) == 500


# -- their life in the kernel -----------------------------------------------------------------------------------------


def listed(lab: Topology, what: str) -> list[dict[str, Any]]:
    found = json.loads(lab.router.run("nft", "-j", "list", "ruleset"))["nftables"]
    return [item[what] for item in found if what in item]


def test_limits_and_marks_read_back_are_repaired_and_go(lab, driver):
    rules = ratelimit(scope(HOST[4], HOST[6]), limit_packets=5, limit_octets=70_000)
    marks = list(render("redirect", scope(AFTER[4], AFTER[6]), {}).rules)
    driver.apply(for_a_while(rules + marks), ())
    assert driver.installed().keys() == {rule.key for rule in rules + marks}
    assert driver.health().state is HealthState.HEALTHY
    assert len(listed(lab, "limit")) == 2

    for name in [one["name"] for one in listed(lab, "chain") if one["name"].startswith(("do_rate", "do_mark"))]:
        lab.router.run("nft", "flush", "chain", "inet", "dots", name)
    assert driver.installed().keys() == {rule.key for rule in rules if rule.kind is Kind.PASSED}
    driver.apply(for_a_while(rules + marks), ())
    assert driver.installed().keys() == {rule.key for rule in rules + marks}

    driver.apply((), {rule.key for rule in limits(rules)})
    wait_for_no_limit(lab, driver)
    driver.resync(for_a_while(marks))
    assert driver.installed().keys() == {rule.key for rule in marks}
    assert {one["name"].rpartition("_")[0].rpartition("_")[0] for one in listed(lab, "chain")} & {"do_mark_ports4"}


def wait_for_no_limit(lab: Topology, driver: NftablesDriver) -> None:
    """An element that has just expired may still hold on to its chain, and that to its limit."""
    deadline = time.monotonic() + 10
    while listed(lab, "limit"):
        assert time.monotonic() < deadline, "the limit did not go"
        driver._table.drop_idle_limits()


def test_a_limit_goes_with_its_last_rule_and_no_earlier(lab, driver):
    both = ratelimit(scope(HOST[4], HOST[6]), limit_packets=5)
    four = [rule for rule in limits(both) if rule.box.family == 4]
    six = [rule for rule in limits(both) if rule.box.family == 6]
    driver.apply(for_a_while(four + six), ())

    driver.apply((), {rule.key for rule in four})
    assert len(listed(lab, "limit")) == 1
    assert driver.installed().keys() == {rule.key for rule in six}
    driver.apply((), {rule.key for rule in six})

    wait_for_no_limit(lab, driver)
    assert not [one for one in listed(lab, "chain") if one["name"].startswith("do_rate")]


def test_many_limits_go_at_once_and_leave_nothing_behind(lab, driver):
    """More than are taken away one by one, where elements are made to expire and would hold on to their chains."""
    scopes = [scope(f"198.51.100.{n}/32") for n in range(10, 60)]
    rules = [rule for one in scopes for rule in ratelimit(one, limit_packets=5)]
    driver.apply(for_a_while(rules), ())
    assert len(listed(lab, "limit")) == 50

    driver.apply((), {rule.key for rule in rules})

    assert listed(lab, "limit") == []
    assert not [one for one in listed(lab, "chain") if one["name"].startswith("do_rate")]


def test_renewing_a_limit_keeps_its_bucket(lab, driver):
    rules = ratelimit(scope(HOST[4]), limit_packets=1, limit_burst=10)
    driver.apply(for_a_while(rules), ())
    through(lab, to(HOST[4], count=50))

    began = time.monotonic()
    driver.apply(for_a_while(rules, 900), ())
    driver.resync(for_a_while(rules, 900))
    _, seen = through(lab, to(HOST[4], count=50))
    seconds = time.monotonic() - began

    assert total(seen, destination=HOST[4]) <= seconds + 3


# -- another way ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scrubber(lab: Topology) -> Iterator[Namespace]:
    """A fifth namespace beside the router, where marked packets go, as docs/enforcement.md has it."""
    namespace = Namespace(lab.router.name.replace("-router", "-scrubber"))
    router, end = lab.router, "to-scrubber"
    lines = (
        "ip netns add {scrubber}",
        "ip link add {end} netns {router} type veth peer name uplink netns {scrubber}",
        "ip -n {router} address add 169.254.9.1/30 dev {end}",
        "ip -n {router} address add fe80::1/64 dev {end} nodad",
        "ip -n {router} link set {end} up",
        "ip -n {scrubber} address add 169.254.9.2/30 dev uplink",
        "ip -n {scrubber} address add fe80::2/64 dev uplink nodad",
        "ip -n {scrubber} link set uplink up",
        "ip -n {scrubber} link set lo up",
        "ip -n {scrubber} route add default via 169.254.9.1",
        "ip -n {scrubber} -6 route add default via fe80::1 dev uplink",
        "ip netns exec {scrubber} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.uplink.rp_filter=0",
        "ip netns exec {scrubber} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        "ip netns exec {router} sysctl -qw net.ipv4.conf.{end}.rp_filter=0",
    )
    families = ("-4", "-6")
    try:
        for line in lines:
            run(line.format(scrubber=namespace.name, router=router.name, end=end))
        router.run("ip", "route", "add", "default", "via", "169.254.9.2", "dev", end, "table", "1001")
        router.run("ip", "-6", "route", "add", "default", "via", "fe80::2", "dev", end, "table", "1001")
        for family in families:
            router.run("ip", family, "rule", "add", "iif", end, "lookup", "main", "priority", "1000")
            rule = ("fwmark", f"{MARK:#x}/{MASK:#x}", "lookup", "1001", "priority", "1001")
            router.run("ip", family, "rule", "add", *rule)
        yield namespace
    finally:
        for family in families:
            for priority in ("1000", "1001"):
                subprocess.run(["ip", "-n", router.name, family, "rule", "del", "priority", priority], check=False)
        subprocess.run(["ip", "netns", "del", namespace.name], check=False, timeout=30)
        subprocess.run(["ip", "-n", router.name, "link", "del", end], check=False, capture_output=True, timeout=30)


def run(line: str) -> None:
    subprocess.run(line.split(), check=True, capture_output=True, timeout=30)


@families
@pytest.mark.rows("ENF-GEN-001", "ENF-TGT-001")
def test_redirected_packets_leave_by_another_link_and_no_others_do(lab, driver, scrubber, family):
    rules = list(render("redirect", scope(NETWORK[family], ports=((80, 90),), protocols=(17,)), {}).rules)
    driver.apply(for_a_while(rules), ())
    scrubber.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")

    with Receiver(scrubber) as diverted, Receiver(lab.victim) as arrived:
        send(
            lab.attacker,
            *(to(HOST[family], destination_port=port, count=10) for port in (79, 80, 90, 91)),
            to(HOST[family], protocol=TCP, count=10),
            to(BEFORE[family], count=10),
            to(AFTER[family], count=10),
        )
        scrubbed, seen = diverted.stop(), arrived.stop()

    ports = {one.destination_port: one.packets for one in scrubbed if one.destination == HOST[family]}
    assert ports == {80: 10, 90: 10}
    assert total(seen, destination=HOST[family], protocol=17) == 20
    assert {one.destination_port for one in seen if one.destination == HOST[family] and one.protocol == 17} == {79, 91}
    assert total(seen, destination=HOST[family], protocol=TCP) == 10
    assert total(seen, destination=BEFORE[family]) == total(seen, destination=AFTER[family]) == 10
    assert Totals(driver).packets(rules) == 20


@families
def test_what_the_scrubber_sends_back_arrives_and_counts_as_passed(lab, driver, scrubber, family):
    """Also without the ip rule for what comes back: nothing from that interface is marked again."""
    lab.router.run("ip", f"-{family}", "rule", "del", "priority", "1000")
    rules = list(render("redirect", scope(HOST[family]), BACK).rules)
    passed = [Rule(Kind.PASSED, rule.box) for rule in rules]
    driver.apply(for_a_while(rules + passed), ())

    with Receiver(scrubber) as diverted:
        _, seen = through(lab, to(HOST[family], count=30))
        scrubbed = diverted.stop()

    assert total(scrubbed, destination=HOST[family]) == total(seen, destination=HOST[family]) == 30
    totals = Totals(driver)
    assert totals.packets(rules) == 30
    assert totals.packets(passed) == 30


@families
def test_with_the_ip_rule_for_what_comes_back_it_goes_round_once(lab, driver, scrubber, family):
    driver.apply(for_a_while(render("redirect", scope(HOST[family]), {}).rules), ())

    with Receiver(scrubber) as diverted:
        _, seen = through(lab, to(HOST[family], count=30))
        scrubbed = diverted.stop()

    assert total(scrubbed, destination=HOST[family]) == total(seen, destination=HOST[family]) == 30


@families
def test_what_is_dropped_is_not_redirected_and_the_rest_is(lab, driver, scrubber, family):
    redirected = list(render("redirect", scope(HOST[family]), BACK).rules)
    driver.apply(for_a_while([*redirected, *discard(scope(HOST[family], protocols=(17,)))]), ())

    with Receiver(scrubber) as diverted:
        _, seen = through(lab, to(HOST[family], count=30), to(HOST[family], protocol=TCP, count=20))
        scrubbed = diverted.stop()

    assert total(scrubbed, destination=HOST[family]) == total(seen, destination=HOST[family]) == 20
    assert Totals(driver).packets(redirected) == 20


@pytest.mark.rows("ENF-ACT-012")
def test_other_bits_of_the_mark_stay_as_they_are(lab, driver, scrubber):
    """Somebody else's bits before ours, and somebody who counts them after."""
    other = f"""table inet other {{
        chain before {{ type filter hook prerouting priority -500; meta mark set 0x80500001; }}
        counter kept {{ }}
        chain after {{ type filter hook prerouting priority 0; meta mark {0x81500001:#x} counter name kept; }}
    }}"""
    lab.router.run("nft", "-f", "-", text=other)
    try:
        driver.apply(for_a_while(render("redirect", scope(HOST[4]), BACK).rules), ())
        with Receiver(scrubber) as diverted:
            send(lab.attacker, to(HOST[4], count=15), to(AFTER[4], count=15))
            scrubbed = diverted.stop()
        (kept,) = [one for one in listed(lab, "counter") if one["table"] == "other"]
    finally:
        lab.router.run("nft", "delete", "table", "inet", "other")

    assert total(scrubbed, destination=HOST[4]) == 15
    assert kept["packets"] == 15


def test_a_one_sided_box_limits_and_redirects_too(lab, make_driver: Callable[..., NftablesDriver], scrubber):
    driver = make_driver(stateful=False)
    rules = ratelimit(scope(HOST[4]), limit_packets=1, limit_burst=10)
    rules += render("redirect", scope(HOST[4]), {}).rules
    assert driver.check(rules) == []
    driver.apply(for_a_while(rules), ())
    scrubber.run("sysctl", "-qw", "net.ipv4.ip_forward=0")

    with Receiver(scrubber) as diverted:
        send(lab.attacker, to(HOST[4], count=100))
        scrubbed = diverted.stop()

    passed = total(scrubbed, destination=HOST[4])
    assert 10 <= passed <= 15
    totals = Totals(driver)
    assert totals.packets(limits(rules)) == 100 - passed
    assert totals.packets(rule for rule in rules if rule.kind is Kind.REDIRECT) == passed


@families
@pytest.mark.rows("ENF-ACT-009")
def test_what_a_clients_filter_accepts_enters_no_scrubber_and_counts_against_no_rate(lab, driver, scrubber, family):
    partner, network = SOURCE[family], ip_network(f"{HOST[family]}")
    leaf = {f"ipv{family}": {f"source-ipv{family}-network": str(ip_network(partner))}}
    entry = {"name": "partner", "matches": leaf, "actions": {"forwarding": "accept"}}
    accepts = filter_list("1//alice", parse_acl({"name": "partners", "aces": {"ace": [entry]}}), (network,))
    driver.apply_filters([DesiredFilters(FilterSet("d1", (network,), (accepts,)), 600)])
    rules = ratelimit(scope(HOST[family]), limit_packets=1, limit_burst=10, **BACK)
    rules += render("redirect", scope(HOST[family]), BACK).rules
    driver.apply(for_a_while(rules), ())

    with Receiver(scrubber) as diverted:
        others = (OTHER_SOURCE[family],)
        _, seen = through(lab, to(HOST[family], count=100), to(HOST[family], sources=others, count=8))
        scrubbed = diverted.stop()

    assert total(seen, source=partner) == 100
    assert total(scrubbed, source=partner) == 0
    assert total(scrubbed, source=others[0], destination=HOST[family]) == 8
    totals = Totals(driver)
    assert totals.packets(limits(rules)) == 0
    assert totals.packets(rule for rule in rules if rule.kind is Kind.REDIRECT) == 8
