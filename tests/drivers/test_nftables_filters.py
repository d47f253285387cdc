"""Clients' filters against real packets: each match kind on both sides of its border, order, actions, edits."""

from __future__ import annotations

import os
import time
from collections import Counter
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from django.utils import timezone
from traffic import HOST, SOURCE, discard, for_a_while, scope, shield, through, to, wait_until

from lab.packets import UDP, Receiver, finish_sending, start_sending, total
from mitigation.drivers.base import DesiredFilters
from mitigation.drivers.nft_filters import conditions
from mitigation.drivers.nft_guards import LEAST_GUARDED, guards
from mitigation.exceptions import DriverError
from mitigation.models import Acl, EnforcedAce, EnforcementPoint
from mitigation.protocol.acls import parse_acl
from mitigation.protocol.filters import ActivationType
from mitigation.rules.canonical import Kind
from mitigation.rules.filter_packets import read_packet
from mitigation.rules.filters import FilterList, FilterRule, FilterSet, filter_list
from mitigation.services import domains, enforcement, filter_enforcement
from mitigation.services.enforcement import Standing
from tests.harness.filter_cases import cases
from tests.harness.ip_packets import send_octets

pytestmark = pytest.mark.flow

# Times how much slower a machine may be that others use too; SOAK_ROOM=1 holds an idle one to the promise.
ROOM = float(os.environ.get("SOAK_ROOM", "3"))
DOMAIN = (ip_network("198.51.100.0/24"), ip_network("2001:db8:100::/48"))
CASES = cases()
ALL_PACKETS = {
    family: [one for case in CASES if case.family == family for one in case.hits + case.misses] for family in (4, 6)
}


def a_list(*entries: tuple[dict[str, Any], str], name: str = "x", rate: str = "", **members: Any) -> FilterList:
    tree = {
        "name": name,
        "aces": {
            "ace": [
                {
                    "name": f"r{number}",
                    "matches": one,
                    "actions": {"forwarding": action} | ({"rate-limit": rate} if rate and action == "accept" else {}),
                }
                for number, (one, action) in enumerate(entries)
            ]
        },
    }
    return filter_list("1//alice", parse_acl(tree | members), DOMAIN)


def desired(
    *lists: FilterList, key: str = "d1", seconds: int = 3600, destinations: Any = DOMAIN
) -> list[DesiredFilters]:
    return [DesiredFilters(FilterSet(key, tuple(destinations), lists), seconds)]


def counted(driver: Any) -> dict[str, tuple[int, int]]:
    return {one.key: (one.packets, one.octets) for one in driver.filter_counters()}


def of(rules: FilterList, number: int = 0) -> str:
    rule: FilterRule = rules.rules[number]
    return rule.key


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("part", range(4))
@pytest.mark.rows(
    "ENF-GEN-001",
    "ENF-HDR-004",
    "ENF-TCP-001",
    "ENF-TCP-003",
    "ENF-TCP-004",
    "ENF-TCP-005",
    "ENF-PRT-001",
    "ENF-PRT-003",
    "ENF-UIC-001",
    "ENF-UIC-002",
    "ENF-FRG-005",
    "DATA-CAP-008",
    "DATA-CAP-009",
    "DATA-MAT-016",
)
def test_the_kernel_matches_what_the_entry_says_of_every_packet_of_every_case(lab, driver, family, part):
    """Each entry against the packets of all of them; which are its own was worked out by hand in tests/rules."""
    packets = ALL_PACKETS[family]
    for case in [one for one in CASES if one.family == family][part::4]:
        rules = a_list((case.matches, "drop"))
        driver.apply_filters(desired(rules))
        assert set(driver.filters_in_force(desired(rules))) == {"d1"}, case.name

        send_octets(lab.attacker, packets)

        expected = [one for one in packets if rules.rules[0].accepts(read_packet(one)) and is_inside(one)]
        assert set(case.hits) & set(packets) <= set(expected) | {one for one in case.hits if not is_inside(one)}
        assert counted(driver)[of(rules)] == (len(expected), sum(map(len, expected))), case.name
        driver.apply_filters([])
        driver.filter_counters()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.rows("DATA-ORD-002", "ENF-GEN-001")
def test_no_first_look_up_of_a_long_list_costs_a_match(lab, driver, family):
    """Lists long enough for one: the same entry eight times, for each first look-up there is, and eight of all kinds."""
    packets = [one for one in ALL_PACKETS[family] if is_inside(one)]
    entries = [one.matches for one in CASES if one.family == family]
    lists = [[one] * LEAST_GUARDED for one in entries]
    lists += [entries[at : at + LEAST_GUARDED] for at in range(0, len(entries) - LEAST_GUARDED, LEAST_GUARDED)]
    drawn = [a_list(*((one, "drop") for one in some)) for some in lists]
    by_guards = {tuple(guards(one.rules)): one for one in drawn}
    assert {"saddr", "daddr", "dport", "sport", "l4proto"} <= {
        word for some in by_guards for word in " ".join(some).split()
    }
    for rules in by_guards.values():
        wanted = desired(rules)
        driver.apply_filters(wanted)
        assert set(driver.filters_in_force(wanted)) == {"d1"}

        send_octets(lab.attacker, packets)

        decided = Counter(rule.key for one in packets if (rule := wanted[0].filters.decide(read_packet(one))))
        assert {key: seen for key, (seen, _) in counted(driver).items() if seen} == decided, rules.rules[0].text
        driver.apply_filters([])
        driver.filter_counters()


def is_inside(packet: bytes) -> bool:
    return any(read_packet(packet).destination in one for one in DOMAIN)


# -- order and actions ------------------------------------------------------------------------------------------------


def to_port(port: int, family: int = 4) -> dict[str, Any]:
    return {f"ipv{family}": {}, "udp": {"destination-port-range-or-operator": {"port": port}}}


def from_source(family: int) -> dict[str, Any]:
    return {f"ipv{family}": {f"source-ipv{family}-network": f"{SOURCE[family]}/{32 if family == 4 else 128}"}}


@pytest.mark.rows("DATA-ORD-002", "ENF-STA-001", "ENF-ORD-005")
def test_the_first_entry_that_matches_decides(lab, driver):
    first = a_list((to_port(53), "accept"), (to_port(53), "drop"), (to_port(54), "drop"), name="first")
    second = a_list(({"ipv4": {}, "udp": {}}, "drop"), (to_port(54), "accept"), name="second")
    driver.apply_filters(desired(first, second))

    _, seen = through(lab, *(to(HOST[4], destination_port=port, count=10 + port) for port in (53, 54, 55)))

    assert total(seen, destination_port=53) == 63
    assert total(seen, destination_port=54) == total(seen, destination_port=55) == 0
    totals = counted(driver)
    assert [totals[of(first, at)][0] for at in range(3)] == [63, 0, 64]
    assert [totals[of(second, at)][0] for at in range(2)] == [65, 0]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.rows("ENF-ACT-009", "ENF-ACT-012", "DATA-ORD-003", "ENF-GEN-001")
def test_what_a_filter_accepts_is_dropped_by_no_mitigation(lab, make_driver, family):
    """Neither by what drops at once nor by a limit, with connection tracking between the two."""
    driver = make_driver()
    partner = a_list((from_source(family), "accept"))
    other = {4: "203.0.113.10", 6: "2001:db8:bad:a001::9"}[family]
    driver.apply_filters(desired(partner))
    limited = shield(scope(HOST[family]), [Kind.UDP_LIMIT, Kind.AMPLIFICATION], udp_rate=1, udp_burst=5)
    driver.apply(for_a_while([*limited, *discard(scope(HOST[family], protocols=[6]))]), ())

    flows = [(6, 80, 4000), (17, 80, 123), (17, 81, 4000)]
    _, seen = through(
        lab,
        *(
            to(HOST[family], sources=(one,), protocol=protocol, destination_port=port, source_port=source, count=100)
            for one in (SOURCE[family], other)
            for protocol, port, source in flows
        ),
    )

    assert total(seen, source=SOURCE[family]) == 300
    assert total(seen, source=other, protocol=6) == total(seen, source=other, source_port=123) == 0
    assert total(seen, source=other, destination_port=81) < 20
    assert counted(driver)[of(partner)][0] == 300


@pytest.mark.rows("ENF-ACT-009")
def test_fragments_that_are_accepted_pass_reassembly_and_all_that_drops(lab, driver):
    partner_source = "203.0.113.77"  # of no other test, whose halves of datagrams may still wait for the rest
    partner = a_list(({"ipv4": {"source-ipv4-network": f"{partner_source}/32"}}, "accept"))
    driver.apply_filters(desired(partner))
    driver.apply(for_a_while([*shield(scope(HOST[4]), [Kind.FRAGMENTS]), *discard(scope(HOST[4], protocols=[17]))]), ())

    sent, seen = through(
        lab,
        to(HOST[4], count=30, payload=3000, fragment_size=1200, sources=(partner_source,)),
        to(HOST[4], count=30, payload=3000, fragment_size=1200, sources=("203.0.113.78",)),
    )

    assert total(seen, source=partner_source) == sent[0].packets
    assert total(seen, source="203.0.113.78") == 0
    assert counted(driver)[of(partner)] == (sent[0].packets, sent[0].octets)


@pytest.mark.rows("ENF-ACT-009")
def test_the_mark_is_ours_alone_and_gone_before_routing(lab, make_driver):
    """Nobody gets past the drops with a mark of his own, and routing sees the marks of others as they were."""
    driver = make_driver(mark=0x0100_0000)
    driver.apply_filters(desired(a_list((to_port(53), "accept"))))
    driver.apply(for_a_while(discard(scope(HOST[4], protocols=[17], ports=[(54, 54)]))), ())
    lab.router.run(
        "nft",
        "-f",
        "-",
        text="""
        table inet others {
            chain early {
                type filter hook prerouting priority -500; policy accept;
                meta mark set 0x01000007
            }
            chain late {
                type filter hook forward priority 0; policy accept;
                udp dport 53-55 meta mark 0x7 counter comment "others"
                meta mark & 0x01000000 != 0 counter comment "ours"
            }
        }
        """,
    )
    try:
        _, seen = through(lab, *(to(HOST[4], destination_port=port, count=10) for port in (53, 54, 55)))
        rules = lab.router.run("nft", "list", "chain", "inet", "others", "late")
    finally:
        lab.router.run("nft", "delete", "table", "inet", "others")

    assert [total(seen, destination_port=port) for port in (53, 54, 55)] == [10, 0, 10]
    assert 'packets 20 bytes 1840 comment "others"' in rules
    assert 'packets 0 bytes 0 comment "ours"' in rules


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.rows("ENF-ACT-005", "ENF-STA-004", "DATA-ACL-016")
def test_a_rate_limit_lets_its_rate_through_and_counts_everything(lab, driver, family):
    """100,000 octets a second: what arrives in a burst is one second's worth and the burst, then the rate."""
    limited = a_list((to_port(53, family), "accept"), rate="100000.00")
    driver.apply_filters(desired(limited))
    size = {4: 1000, 6: 1000}[family]
    payload = size - {4: 28, 6: 48}[family]

    sent, seen = through(
        lab,
        to(HOST[family], destination_port=53, payload=payload, count=600, rate=300),
        to(HOST[family], destination_port=54, payload=payload, count=100),
    )

    passed = total(seen, destination_port=53) * size
    assert 190_000 <= passed <= 100_000 * 3 + 10_000 + 2 * size + 50_000  # two seconds, more on a slow machine
    assert passed < sent[0].octets
    assert total(seen, destination_port=54) == 100
    assert counted(driver)[of(limited)] == (600, sent[0].octets)


@pytest.mark.rows("ENF-ACT-004", "ENF-ACT-006")
@pytest.mark.parametrize("rate", ["0.00", "0.50"])
def test_a_rate_below_an_octet_a_second_drops(lab, driver, rate):
    driver.apply_filters(desired(a_list((to_port(53), "accept"), rate=rate)))

    _, seen = through(lab, to(HOST[4], destination_port=53, count=5), to(HOST[4], destination_port=54, count=5))

    assert (total(seen, destination_port=53), total(seen, destination_port=54)) == (0, 5)


@pytest.mark.rows("ENF-ACT-005")
def test_the_two_families_of_an_entry_share_one_rate(lab, driver):
    limited = a_list(({"udp": {}}, "accept"), rate="20.00")
    driver.apply_filters(desired(limited))

    _, seen = through(lab, *(to(HOST[family], payload=1000, count=50) for family in (4, 6)))

    assert total(seen, destination=HOST[4], protocol=UDP) + total(seen, destination=HOST[6], protocol=UDP) <= 2
    assert counted(driver)[of(limited)][0] == 100


@pytest.mark.rows("ENF-GEN-002", "ENF-ORD-006", "DATA-ACL-018", "DATA-ACL-021", "DATA-CNF-005")
def test_an_entry_without_a_destination_means_the_domain_and_no_other(lab, driver):
    ours = (ip_network("198.51.100.4/30"), ip_network("2001:db8:100::4/126"))
    theirs = (ip_network("198.51.100.8/32"),)
    driver.apply_filters(
        desired(a_list(({}, "drop")), destinations=ours)
        + desired(a_list((to_port(53), "drop")), key="d2", destinations=theirs)
    )

    _, seen = through(
        lab,
        *(to(f"198.51.100.{last}", destination_port=port, count=7) for last in (3, 4, 7, 8) for port in (53, 54)),
        *(to(f"2001:db8:100::{last}", count=7) for last in (3, 4, 7, 8)),
    )

    arrived = {(one.destination, one.destination_port) for one in seen if one.protocol == UDP}
    assert arrived == {
        *(("198.51.100.3", port) for port in (53, 54)),
        ("198.51.100.8", 54),
        ("2001:db8:100::3", 80),
        ("2001:db8:100::8", 80),
    }


# -- edits ------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("ENF-ORD-005", "ENF-STA-001")
def test_no_packet_sees_a_half_loaded_set_and_counters_go_on(lab, driver):
    """Under a stream that both the old and the new rules drop, and one that both accept, thirty edits leak nothing."""
    fixed = [(to_port(53), "drop"), (from_source(4), "accept"), ({"ipv4": {}}, "drop")]
    many = [(to_port(port), "drop") for port in range(1000, 1300)]
    versions = [a_list(*fixed), a_list(*many, *fixed), a_list(fixed[0], *many, *fixed[1:])]
    names = ["r0", "r300", "r0"]
    driver.apply_filters(desired(versions[0]))

    with Receiver(lab.victim) as receiver:
        stream = start_sending(
            lab.attacker,
            to(HOST[4], destination_port=53, count=30_000, rate=10_000),
            to(HOST[4], destination_port=54, count=30_000, rate=10_000),
        )
        edits = 0
        while stream.poll() is None and edits < 200:
            edits += 1
            driver.apply_filters(desired(versions[edits % 3]))
        sent = finish_sending(stream)
        seen = receiver.stop()

    assert edits >= 10
    assert total(seen, destination_port=53) == 0
    assert total(seen, destination_port=54) == sent[1].packets
    dropped = {one.ace: 0 for one in versions[1].rules}
    for one in driver.filter_counters():
        for rule in versions[1].rules:
            if rule.key == one.key:
                dropped[rule.ace] += one.packets
    assert sum(dropped[name] for name in set(names)) <= 60_000


@pytest.mark.rows("ENF-STA-001")
def test_an_edit_beside_it_leaves_an_entry_counting(lab, driver):
    one = a_list((to_port(53), "drop"))
    driver.apply_filters(desired(one))
    through(lab, to(HOST[4], destination_port=53, count=5))
    epochs = {counter.epoch for counter in driver.filter_counters()}

    two = a_list((to_port(53), "drop"), (to_port(54), "drop"))
    driver.apply_filters(desired(a_list(({"tcp": {}}, "drop"), name="before"), two))
    through(lab, to(HOST[4], destination_port=53, count=5))

    (counter,) = (counter for counter in driver.filter_counters() if counter.key == of(two))
    assert counter.packets == 10
    assert {counter.epoch} == epochs


def test_what_is_taken_away_tells_its_last_totals(lab, driver):
    one = a_list((to_port(53), "drop"))
    driver.apply_filters(desired(one))
    through(lab, to(HOST[4], destination_port=53, count=5))

    driver.apply_filters([])

    assert counted(driver)[of(one)][0] == 5
    assert counted(driver) == {}
    assert driver.filters_in_force(desired(one)) == {}
    left = lab.router.run("nft", "list", "table", "inet", driver.table)
    assert "ace_" not in left
    assert "acl" not in left


# -- what others do, and the end --------------------------------------------------------------------------------------

DAMAGES = {
    "the jumps are flushed": "flush chain inet dots {top}",
    "a rule is inserted in front": "insert rule inet dots {top} accept",
    "a segment is emptied": "flush chain inet dots {segment}",
    "a rule of a segment is put in": "insert rule inet dots {segment} udp dport 53 accept",
    "nobody is led there": "flush map inet dots {map}",
    "somebody else is led somewhere": "add element inet dots {map} {{ 192.0.2.0/24 : jump {segment} }}",
    "the hook is emptied": "flush chain inet dots {hook}",
    "the table is gone": "delete table inet dots",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.replace(" ", "-"))
def test_changes_by_hand_are_seen_and_repaired(lab, driver, damage):
    wanted = desired(a_list((to_port(53), "drop"), (to_port(54), "drop")))
    driver.apply_filters(wanted)
    assert driver.filters_in_force(wanted).keys() == {"d1"}
    names = sorted(
        line.split()[1]
        for line in lab.router.run("nft", "list", "table", "inet", "dots").splitlines()
        if "{" in line and line.split()[0] in ("chain", "map")
    )
    words = {
        "top": next(name for name in names if name.startswith("acls_")),
        "segment": next(name for name in names if name.startswith("acl_")),
        "map": next(name for name in names if name.startswith("filter_4")),
        "hook": next(name for name in names if name.startswith("filters_")),
    }

    lab.router.run("nft", DAMAGES[damage].format(**words))
    through_before = driver.filters_in_force(wanted)
    driver.apply_filters(wanted)

    if damage != "somebody else is led somewhere":
        assert through_before == {}
    assert driver.filters_in_force(wanted).keys() == {"d1"}
    _, seen = through(lab, *(to(HOST[4], destination_port=port, count=5) for port in (53, 54, 55)))
    assert [total(seen, destination_port=port) for port in (53, 54, 55)] == [0, 0, 5]
    assert "192.0.2.0/24" not in lab.router.run("nft", "list", "map", "inet", "dots", words["map"])


def test_nothing_of_others_is_touched_and_everything_of_ours_goes(lab, driver):
    lab.router.run("nft", "-f", "-", text="add table inet others\nadd chain inet others acl_x\n")
    try:
        wanted = desired(a_list((to_port(53), "drop"), ({"tcp": {}}, "accept"), rate="1000.00"))
        driver.apply_filters(wanted)
        assert driver.filters_in_force(wanted).keys() == {"d1"}
        driver.apply(for_a_while(discard(scope(HOST[4], protocols=[17]))), ())
        lab.router.run("nft", "add", "chain", "inet", "dots", "theirs")

        driver.remove_all()

        assert driver.filters_in_force(wanted) == {}
        listed = lab.router.run("nft", "list", "ruleset")
    finally:
        lab.router.run("nft", "delete", "table", "inet", "others")
    assert "chain acl_x" in listed
    assert listed.split("table inet dots")[1].split() == ["{", "chain", "theirs", "{", "}", "}"]


def test_filters_and_mitigations_do_not_take_each_other_away(lab, driver):
    wanted = desired(a_list((to_port(53), "drop")))
    rules = for_a_while(discard(scope(HOST[4], protocols=[6])))

    driver.apply_filters(wanted)
    driver.resync(rules)
    assert driver.filters_in_force(wanted).keys() == {"d1"}

    driver.apply_filters([])
    assert driver.installed().keys() == {one.rule.key for one in rules}
    assert driver.health().state == "healthy"


@pytest.mark.rows("ENF-GEN-008")
def test_the_kernel_lets_go_by_itself_when_nobody_renews(lab, driver):
    driver.apply_filters(desired(a_list((to_port(53), "drop")), seconds=2))
    _, seen = through(lab, to(HOST[4], destination_port=53, count=5))
    assert total(seen, destination_port=53) == 0

    wait_until(lambda: driver.filters_in_force(desired(a_list((to_port(53), "drop")))) == {})

    _, seen = through(lab, to(HOST[4], destination_port=53, count=5))
    assert total(seen, destination_port=53) == 5


def test_a_deadline_is_renewed(lab, driver):
    rules = a_list((to_port(53), "drop"))
    driver.apply_filters(desired(rules, seconds=300))

    driver.apply_filters(desired(rules, seconds=30_000))

    assert 29_900 < driver.filters_in_force(desired(rules))["d1"] <= 30_000


@pytest.mark.rows("ENF-ORD-005")
def test_destinations_of_a_domain_may_change(lab, driver):
    rules = a_list(({}, "drop"))
    for prefix, dropped in (
        ("198.51.100.0/24", 10),
        ("198.51.100.0/29", 5),
        ("198.51.100.7/32", 5),
        ("198.51.100.0/28", 10),
    ):
        driver.apply_filters(desired(rules, destinations=[ip_network(prefix)]))
        _, seen = through(lab, to(HOST[4], count=5), to("198.51.100.8", count=5))
        assert total(seen, protocol=UDP) == 10 - dropped, prefix


# -- what it can do ---------------------------------------------------------------------------------------------------


@pytest.mark.rows("DATA-CAP-003", "DATA-CAP-009", "DATA-CAP-011", "DATA-CAP-013", "ENF-GEN-006", "ENF-GEN-007")
def test_what_is_promised_is_in_the_cases_above(driver):
    promised = driver.filter_capabilities()

    assert promised["forwarding-actions"] == ["ietf-access-control-list:drop", "ietf-access-control-list:accept"]
    assert promised["transport-protocols"] == [1, 6, 17, 58]
    tried = {(part, leaf) for case in CASES for part, fields in case.matches.items() for leaf in fields}
    for part in ("ipv4", "ipv6", "tcp", "udp", "icmp"):
        for leaf, is_promised in promised[part].items():
            assert is_promised
            if leaf != "port-range":
                name = {"hoplimit": "ttl"}.get(leaf, leaf)
                assert any(one[0] == part and one[1].startswith(name.removesuffix("-prefix")) for one in tried), leaf


@pytest.mark.rows("ENF-TEL-001", "ENF-VAL-005")
def test_what_cannot_be_done_exactly_is_named(make_driver):
    driver = make_driver(max_rules=3)
    fast = a_list(({}, "accept"), rate="10000000001.00")
    long = a_list(({"ipv4": {}, "icmp": {"rest-of-header": "AAAA" * 30}}, "drop"))
    fine = a_list(*(({}, "drop") for _ in range(4)), name="fine")

    assert [one.key for one in driver.check_filters(fine.rules)] == [of(fine, 3)]
    for rules in (fast, long):
        assert [one.key for one in driver.check_filters(rules.rules)] == [of(rules)]
        with pytest.raises(DriverError, match="octets"):
            driver.apply_filters(desired(rules))


def test_rules_as_nft_has_them():
    rules = a_list(({"ipv6": {}, "tcp": {"destination-port-range-or-operator": {"port": 80}}}, "drop"))

    assert list(conditions(rules.rules[0])) == [
        "meta nfproto ipv6 frag frag-off 0 meta l4proto 6 tcp dport 80-80",
        "meta nfproto ipv6 exthdr frag missing meta l4proto 6 tcp dport 80-80",
    ]


@pytest.mark.slow
@pytest.mark.django_db
def test_one_more_of_ten_thousand_entries_stands_within_a_second(driver):
    """From the row that a client has changed to the rules read back and written down as installed."""
    now = timezone.now()
    domains.add_domain("a.example", prefixes=["198.51.100.0/24"], fqdns=[], actor="test", now=now)
    client = domains.add_client("alice", domain="a.example", actor="test", now=now)
    point = EnforcementPoint.objects.create(name="local", driver="nftables", enforces=True, counts=True)
    entries = [
        {
            "name": f"r{n}",
            "matches": {"ipv4": {"source-ipv4-network": f"10.{n >> 8}.{n & 255}.0/24"}, "udp": {}},
            "actions": {"forwarding": "ietf-access-control-list:drop"},
        }
        for n in range(10_001)
    ]
    row = Acl.objects.create(
        client=client,
        cuid="c",
        name="x",
        activation_type=ActivationType.IMMEDIATE,
        aces=entries[:-1],
        created_at=now,
        changed_at=now,
        refreshed_at=now,
        expires_at=now + timedelta(days=7),
    )
    standing = Standing()

    def look() -> float:
        began = time.monotonic()
        enforcement.reconcile(point.pk, driver, holder="me", clock=timezone.now, standing=standing, full=False)
        return time.monotonic() - began

    first = look()
    filter_enforcement.count(point.pk, driver, standing.filters, clock=timezone.now)
    assert EnforcedAce.objects.filter(state="installed").count() == 10_000

    row.aces, row.changed_at = entries, timezone.now()
    row.save()
    took = look()

    assert EnforcedAce.objects.filter(state="installed").count() == 10_001
    quiet = look()
    print(f"10,000 entries: {first:.2f} s; one more: {took:.2f} s; nothing new: {quiet:.3f} s")
    assert took < 1.0 * ROOM


def test_what_was_taken_away_at_once_is_put_back_at_once(lab, driver):
    """As after the kill switch: what this process had read before holds no more."""
    wanted = desired(a_list((to_port(53), "drop")))
    driver.apply_filters(wanted)
    assert driver.filters_in_force(wanted).keys() == {"d1"}
    through(lab, to(HOST[4], destination_port=53, count=5))

    driver.remove_all()
    assert driver.filters_in_force(wanted) == {}
    assert counted(driver)[of(wanted[0].filters.lists[0])][0] == 5
    driver.apply_filters(wanted)

    assert driver.filters_in_force(wanted).keys() == {"d1"}
    _, seen = through(lab, to(HOST[4], destination_port=53, count=5))
    assert total(seen, destination_port=53) == 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.rows("DATA-ORD-002", "ENF-GEN-001")
def test_long_lists_of_sources_hit_the_same_packets_as_short_ones(lab, driver, family):
    """A segment is skipped for sources it does not name; those at the borders of what it names are not."""
    name = f"ipv{family}"
    base = {4: "203.0.113.{}", 6: "2001:db8:bad:a000::{:x}"}[family]
    length = {4: 31, 6: 127}[family]
    dropped = [at for at in range(0, 250, 2) if at % 8]  # pairs of addresses, every fourth pair left out
    entries = [({name: {f"source-{name}-network": f"{base.format(at)}/{length}"}}, "drop") for at in dropped]
    accepted = ({name: {f"source-{name}-network": f"{base.format(2)}/{length + 1}"}}, "accept")
    rules = a_list(accepted, *entries, name="sources")
    assert any("saddr !=" in text for text in guards(rules.rules))
    driver.apply_filters(desired(rules))
    assert driver.filters_in_force(desired(rules)).keys() == {"d1"}

    _, seen = through(lab, *(to(HOST[family], sources=(base.format(at),)) for at in range(1, 254)))

    arrived = {one.source for one in seen if one.protocol == UDP}
    hit = {base.format(at + by) for at in dropped for by in (0, 1)} - {base.format(2)}
    assert arrived == {base.format(at) for at in range(1, 254)} - hit
