"""The gate before every stage: never in the way of a rule, open no longer than somebody needs it."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traffic import AFTER, HOST, Totals, discard, for_a_while, scope, shield, through, to

from lab.packets import Receiver, finish_sending, start_sending, total
from mitigation.drivers.nft_gate import LENGTHS, MOST, granules
from mitigation.rules.boxes import LAST_ADDRESS
from mitigation.rules.canonical import Kind
from mitigation.rules.playbooks import render

pytestmark = pytest.mark.flow
UDP = (17,)


def udp_to(*prefixes: str):
    return discard(scope(*prefixes, protocols=UDP))


def keys(rules) -> set[str]:
    return {rule.key for rule in rules}


def listed(lab, what: str) -> list[dict]:
    found = json.loads(lab.router.run("nft", "-j", "list", "table", "inet", "dots"))["nftables"]
    return [item[what] for item in found if what in item]


def gate(lab) -> dict[str, set[str]]:
    """By length with its family, what the kernel lets through."""
    found = {}
    for gate_set in listed(lab, "set"):
        if gate_set["name"].startswith("gate_"):
            elements = {one["elem"]["val"] if isinstance(one, dict) else one for one in gate_set.get("elem", ())}
            found["/".join(gate_set["name"].split("_")[1:3])] = elements
    return {length: elements for length, elements in found.items() if elements}


def entries(lab) -> dict[str, int]:
    """By stage, how many sets of the gate it asks."""
    bases = [chain["name"] for chain in listed(lab, "chain") if chain.get("hook")]
    rules = [rule["chain"] for rule in listed(lab, "rule")]
    stages = ("drops", "limits", "passed")
    return {stage: sum(rules.count(base) for base in bases if base.startswith(stage)) for stage in stages}


# Granules


@st.composite
def spans(draw):
    family = draw(st.sampled_from((4, 6)))
    bits = {4: 32, 6: 128}[family]
    size = draw(st.integers(0, bits).flatmap(lambda length: st.integers(1, 1 << length)))
    first = draw(st.integers(0, LAST_ADDRESS[family] + 1 - size))
    return family, first, first + size - 1


@given(spans(), st.data())
def test_the_granules_of_a_range_hold_all_of_it_and_each_some(span, data):
    family, first, last = span
    inside = data.draw(st.integers(first, last))

    found = granules(*span)

    networks = [ip_network(f"{one.value}/{one.level.length}") for one in found]
    assert any(ip_address(inside.to_bytes({4: 4, 6: 16}[family], "big")) in network for network in networks)
    assert all(int(network[0]) <= last and int(network[-1]) >= first for network in networks)
    assert len(set(found)) == len(found) <= MOST + 1


@pytest.mark.parametrize(("family", "length"), [(family, length) for family in LENGTHS for length in LENGTHS[family]])
def test_a_network_of_one_of_the_lengths_takes_one_granule(family, length):
    network = ip_network({4: "198.51.100.0/32", 6: "2001:db8:100::/128"}[family]).supernet(new_prefix=length)

    (only,) = granules(family, int(network[0]), int(network[-1]))

    assert (only.level.length, only.value) == (length, str(network[0]))


# In the kernel

WIDE = {
    4: ["198.51.100.7/32", "198.51.100.6/31", "198.51.100.0/25", "198.51.100.0/24", "198.51.96.0/20", "198.51.0.0/16"]
    + ["198.48.0.0/12", "198.0.0.0/8", "192.0.0.0/3", "128.0.0.0/1"],
    6: ["2001:db8:100::7/128", "2001:db8:100::/125", "2001:db8:100::/120", "2001:db8:100::/64", "2001:db8:100::/56"]
    + ["2001:db8:100::/48", "2001:db8:100::/40", "2001:db8::/32", "2001:d00::/24", "2000::/3", "::/1"],
}


@pytest.mark.parametrize("prefix", [*WIDE[4], *WIDE[6]])
def test_a_scope_of_any_width_gets_its_packets(lab, driver, prefix):
    rules = udp_to(prefix)
    driver.apply(for_a_while(rules), ())

    (sent,), seen = through(lab, to(HOST[6 if ":" in prefix else 4], count=20))

    assert driver.installed().keys() == keys(rules)
    assert total(seen) == 0
    assert Totals(driver).packets(rules) == sent.packets == 20


def test_beside_a_scope_packets_pass_and_meet_no_rule(lab, driver):
    driver.apply(for_a_while(render("shield", scope(HOST[4], HOST[6]), {}).rules), ())

    _, seen = through(lab, *(to(AFTER[family], source_port=123, count=20) for family in (4, 6)))

    assert [total(seen, destination=AFTER[family]) for family in (4, 6)] == [20, 20]
    assert gate(lab) == {"4/32": {HOST[4]}, "6/128": {HOST[6]}}
    assert entries(lab) == {"drops": 2, "limits": 2, "passed": 2}


def test_a_stage_without_a_rule_asks_nothing(lab, driver):
    driver.apply(for_a_while(udp_to(HOST[4])), ())

    assert entries(lab) == {"drops": 1, "limits": 0, "passed": 0}


@pytest.mark.parametrize(
    "damage", ["delete element inet dots {gate_4_32} {{ 198.51.100.7 }}", "flush chain inet dots {drops}"]
)
def test_a_gate_closed_by_hand_is_missed_and_opened_again(lab, driver, damage):
    rules = udp_to(HOST[4], HOST[6])
    driver.apply(for_a_while(rules), ())
    names = [one["name"] for what in ("set", "chain") for one in listed(lab, what)]
    full = {word: next(name for name in names if name.rpartition("_")[0] == word) for word in ("gate_4_32", "drops")}
    lab.router.run("nft", "-f", "-", text=damage.format(**full))
    _, seen = through(lab, to(HOST[4], count=10))
    assert total(seen) == 10

    standing = driver.installed()
    driver._read_at = (driver._netlink.generation(), driver._nft.changes)  # as if nobody had done it
    among = driver.installed_among(keys(rules))

    assert not standing.keys() & keys(rule for rule in rules if rule.box.family == 4)
    assert among == standing
    driver.apply(for_a_while(rules), ())
    assert driver.installed().keys() == keys(rules)
    _, seen = through(lab, to(HOST[4], count=10))
    assert total(seen) == 0


def test_a_deadline_set_on_the_gate_by_hand_is_the_rules_own_until_it_is_renewed(lab, driver):
    rules = udp_to(HOST[4])
    driver.apply(for_a_while(rules, 600), ())
    name = next(one["name"] for one in listed(lab, "set") if one["name"].startswith("gate_4_32"))
    lab.router.run("nft", "-f", "-", text=f"add element inet dots {name} {{ {HOST[4]} timeout 50s }}\n")
    assert all(one.expires_in_seconds <= 50 for one in driver.installed().values())

    driver.apply(for_a_while(rules, 600), ())

    assert all(one.expires_in_seconds > 500 for one in driver.installed().values())


@pytest.mark.parametrize("renews_in_place", [True, False])
def test_the_gate_stays_open_for_the_last_that_needs_it(lab, driver, renews_in_place):
    driver._table._renews_in_place = renews_in_place
    amplified, all_of_it = shield(scope(HOST[4]), [Kind.AMPLIFICATION]), udp_to(HOST[4])
    driver.apply(for_a_while([*amplified, *all_of_it]), ())

    driver.apply((), keys(all_of_it))
    driver.installed()
    driver.tidy()

    assert gate(lab) == {"4/32": {HOST[4]}}
    assert driver.installed().keys() == keys(amplified)
    driver.apply((), keys(amplified))
    driver.installed()
    driver.tidy()
    assert gate(lab) == {}
    assert entries(lab) == {"drops": 0, "limits": 0, "passed": 0}


def test_what_comes_after_the_reading_is_not_closed_out(lab, driver):
    """Between a reading and tidying up others may come to need what nobody needed."""
    rules = udp_to(HOST[4])
    driver.apply(for_a_while(rules), ())
    driver.apply((), keys(rules))
    driver.installed()

    driver.apply(for_a_while(rules), ())
    driver.tidy()

    assert driver.installed().keys() == keys(rules)
    _, seen = through(lab, to(HOST[4], count=10))
    assert total(seen) == 0


def test_resync_and_tidying_leave_just_what_is_needed(lab, driver):
    driver.apply(for_a_while(udp_to(HOST[4], AFTER[4], "198.51.100.0/26", HOST[6])[:3]), ())
    kept = udp_to("203.0.112.0/20", HOST[6])

    driver.resync(for_a_while(kept))
    assert driver.installed().keys() == keys(kept)
    driver.tidy()

    assert driver.installed().keys() == keys(kept)
    assert gate(lab) == {"4/24": {f"203.0.{third}.0" for third in range(112, 128)}, "6/128": {HOST[6]}}


def test_neighbours_in_one_granule_come_and_go_without_a_gap(lab, driver):
    """The /25s share a /24 of the gate or have addresses of their own; the flood's rule stands all the time."""
    rules, others = udp_to(HOST[4]), udp_to("198.51.100.128/25") + udp_to("198.51.96.0/23")
    driver.apply(for_a_while(rules), ())

    with Receiver(lab.victim) as receiver:
        flood = start_sending(lab.attacker, to(HOST[4], count=20_000, rate=15_000))
        rounds = 0
        while flood.poll() is None:
            driver.apply(for_a_while(others), ())
            driver.apply((), keys(others))
            driver.installed()
            driver.tidy()
            rounds += 1
        (sent,), seen = finish_sending(flood), receiver.stop()

    assert rounds > 3
    assert total(seen, destination=HOST[4]) == 0
    assert Totals(driver).packets(rules) == sent.packets == 20_000


NETWORKS = ("198.51.100.7/32", "198.51.100.8/30", "198.51.100.128/25", "198.51.101.0/24", "198.51.102.0/23")
STEPS = st.lists(
    st.tuples(st.sampled_from(("add", "remove", "look", "hand")), st.sampled_from(NETWORKS)), min_size=3, max_size=8
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_whatever_comes_and_goes_what_stands_is_let_through_and_nothing_else_after_a_look(lab, driver, steps):
    driver.resync(())
    driver.installed()
    driver.tidy()
    wanted: set[str] = set()
    for what, network in steps:
        rules = udp_to(network)
        if what == "add":
            driver.apply(for_a_while(rules), ())
            wanted.add(network)
        elif what == "remove":
            driver.apply((), keys(rules))
            wanted.discard(network)
        elif what == "look":
            driver.installed()
            driver.tidy()
        elif wanted:
            name = next(one["name"] for one in listed(lab, "set") if one["name"].startswith("gate_4_24"))
            lab.router.run("nft", "-f", "-", text=f"flush set inet dots {name}\n")
            missing = {one for one in wanted if not keys(udp_to(one)) & driver.installed().keys()}
            assert missing == {one for one in wanted if ip_network(one).prefixlen < 25}
            driver.apply(for_a_while(udp_to(*missing)) if missing else (), ())

        expected = keys(rule for one in wanted for rule in udp_to(one))
        assert driver.installed().keys() == expected

    driver.tidy()
    assert driver.installed().keys() == expected
    boxes = [rule.box for one in wanted for rule in udp_to(one)]
    needed = {one for box in boxes for one in granules(box.family, *box.addresses)}
    assert {value for values in gate(lab).values() for value in values} == {one.value for one in needed}
