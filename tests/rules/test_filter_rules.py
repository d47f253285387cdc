"""Filter rules of a domain: what each entry matches, in which order, and never more than the domain."""

from __future__ import annotations

from decimal import Decimal
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitigation.protocol.acls import parse_acl
from mitigation.rules.filter_packets import matches, read_packet
from mitigation.rules.filters import FilterList, FilterSet, OutsideDomain, destinations, filter_list
from tests.harness.filter_cases import Case, cases
from tests.harness.ip_packets import icmp_message, ip, tcp_header, udp_header

DOMAIN = (ip_network("198.51.100.0/24"), ip_network("2001:db8:100::/48"))
CASES = cases()


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


def a_set(*lists: FilterList) -> FilterSet:
    return FilterSet("d1", DOMAIN, lists)


@pytest.mark.rows(
    "DATA-MAT-003",
    "DATA-MAT-005",
    "DATA-MAT-007",
    "DATA-MAT-015",
    "DATA-MAT-016",
    "DATA-MAT-017",
    "DATA-MAT-021",
    "DATA-MAT-027",
    "ENF-TCP-003",
    "ENF-UIC-001",
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_entry_matches_its_packets_and_not_those_beside_them(case: Case):
    (rule,) = a_list((case.matches, "drop")).rules

    assert [rule.accepts(read_packet(packet)) for packet in case.hits] == [True] * len(case.hits)
    assert [rule.accepts(read_packet(packet)) for packet in case.misses] == [False] * len(case.misses)


@pytest.mark.rows("DATA-ACL-010", "DATA-ACL-021")
def test_without_a_family_both_are_meant():
    (tcp,) = a_list(({"tcp": {}}, "drop")).rules
    (only_six,) = a_list(({"tcp": {}}, "drop"), type="ipv6-acl-type").rules
    (everything,) = a_list(({}, "drop")).rules

    for family in (4, 6):
        segment, datagram = read_packet(ip(family, 6, tcp_header())), read_packet(ip(family, 17, udp_header()))
        assert tcp.accepts(segment)
        assert not tcp.accepts(datagram)
        assert only_six.accepts(segment) is (family == 6)
        assert everything.accepts(datagram)


# -- packets ----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=120))
def test_any_octets_are_a_packet_or_a_value_error(octets):
    try:
        packet = read_packet(octets)
    except ValueError:
        return
    for case in CASES[::25]:
        matches(a_list((case.matches, "drop")).rules[0].matches, packet)


@given(cut=st.integers(0, 40), case=st.sampled_from(CASES))
def test_a_header_that_is_cut_short_matches_no_field_that_is_not_there(cut, case):
    whole = ip(case.family, 6, tcp_header())
    header = 20 if case.family == 4 else 40
    packet = bytearray(whole[: header + cut])
    packet[2:4] = len(packet).to_bytes(2, "big") if case.family == 4 else packet[2:4]

    (rule,) = a_list((case.matches, "drop")).rules
    if rule.accepts(read_packet(bytes(packet))) and "tcp" in case.matches:
        assert cut >= 2 or "source-port-range-or-operator" not in case.matches["tcp"]
        assert cut >= 4 or "destination-port-range-or-operator" not in case.matches["tcp"]


# -- order ------------------------------------------------------------------------------------------------------------

PACKETS = [
    read_packet(ip(family, protocol, transport, source=source, destination=destination))
    for family, sources, hosts in (
        (4, ("203.0.113.9", "192.0.2.1"), ("198.51.100.7", "198.51.100.9", "198.51.101.1")),
        (6, ("2001:db8:bad::9", "2001:db8:c::1"), ("2001:db8:100::7", "2001:db8:200::7")),
    )
    for source in sources
    for destination in hosts
    for protocol, transport in (
        (6, tcp_header(destination_port=80)),
        (17, udp_header(source_port=53)),
        (1 if family == 4 else 58, icmp_message()),
    )
]

ENTRIES: list[dict[str, Any]] = [
    {},
    {"tcp": {}},
    {"udp": {"source-port-range-or-operator": {"port": 53}}},
    {"ipv4": {"source-ipv4-network": "192.0.2.0/24"}},
    {"ipv4": {"destination-ipv4-network": "198.51.100.7/32"}},
    {"ipv6": {"source-ipv6-network": "2001:db8:c::/48"}},
    {"ipv6": {"destination-ipv6-network": "2001:db8:100::/64"}},
]


def same_family(entries: list[tuple[dict[str, Any], str]]) -> bool:
    return not (any("ipv4" in one for one, _ in entries) and any("ipv6" in one for one, _ in entries))


lists = st.lists(
    st.lists(st.tuples(st.sampled_from(ENTRIES), st.sampled_from(("drop", "accept"))), max_size=5).filter(same_family),
    max_size=3,
)


@pytest.mark.rows("DATA-ORD-002", "DATA-CNF-004")
@given(lists)
def test_the_first_entry_that_matches_decides_over_all_lists_in_order(wanted):
    filters = a_set(*(a_list(*entries, name=f"l{number}") for number, entries in enumerate(wanted)))
    by_hand = [(one, f"l{number}", f"r{at}") for number, some in enumerate(wanted) for at, (one, _) in enumerate(some)]

    for packet in PACKETS:
        found = filters.decide(packet)
        name = (found.acl, found.ace) if found else None
        hit = [(acl, ace) for one, acl, ace in by_hand if in_words(one, packet, wanted[int(acl[1:])])]
        inside = packet.destination in DOMAIN[0] or packet.destination in DOMAIN[1]
        assert name == (hit[0] if hit and inside else None)


def in_words(entry: dict[str, Any], packet: Any, its_list: list[tuple[dict[str, Any], str]]) -> bool:
    """What the seven entries above say, told apart from the code under test."""
    families = {name for one, _ in its_list for name in one if name.startswith("ip")}
    if families and f"ipv{packet.family}" not in families:
        return False
    match ENTRIES.index(entry):
        case 0:
            return True
        case 1:
            return packet.protocol == 6
        case 2:
            return packet.protocol == 17
        case 3:
            return str(packet.source) == "192.0.2.1"
        case 4:
            return str(packet.destination) == "198.51.100.7"
        case 5:
            return str(packet.source) == "2001:db8:c::1"
        case _:
            return str(packet.destination) == "2001:db8:100::7"


# -- the domain -------------------------------------------------------------------------------------------------------


@pytest.mark.rows("ENF-GEN-002", "DATA-ACL-018", "DATA-ACL-019", "DATA-AUZ-004")
def test_an_entry_never_reaches_beyond_its_domain():
    for outside in ("198.51.101.0/24", "198.51.100.0/23", "0.0.0.0/0"):
        with pytest.raises(OutsideDomain, match="x/r0"):
            a_list(({"ipv4": {"destination-ipv4-network": outside}}, "drop"))
    for entry in ({}, {"ipv4": {}}, {"ipv6": {}}):
        filters = a_set(a_list((entry, "drop")))
        for packet in PACKETS:
            if filters.decide(packet):
                assert any(packet.destination in prefix for prefix in DOMAIN)


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(26, 32)), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 63), st.integers(26, 32)), max_size=4),
)
def test_what_is_never_filtered_is_cut_out_of_the_domain(prefixes, untouched):
    def network(one: tuple[int, int]) -> Any:
        return ip_network((int(ip_address("198.51.100.0")) + one[0], one[1]), strict=False)

    inside, holes = [network(one) for one in prefixes], [network(one) for one in untouched]
    found = destinations(inside, holes)

    for number in range(-32, 128):
        host = ip_address(int(ip_address("198.51.100.0")) + number)
        expected = any(host in one for one in inside) and not any(host in one for one in holes)
        assert sum(host in one for one in found) == expected


# -- what operators read, what counters are called --------------------------------------------------------------------


def test_a_counter_is_called_the_same_whatever_is_in_its_entry():
    (one,), (other,) = a_list(({}, "drop")).rules, a_list(({"tcp": {}}, "accept")).rules

    assert one.key == other.key
    assert len({one.key, *(rule.key for rule in a_list(({}, "drop"), ({}, "drop"), name="y").rules)}) == 3


@pytest.mark.rows("ENF-ACT-004", "ENF-ACT-006")
@pytest.mark.parametrize(("given_rate", "drops", "rate"), [("0.00", True, 0), ("0.99", True, 0), ("1.99", False, 1)])
def test_a_rate_is_rounded_down_and_below_one_octet_a_second_drops(given_rate, drops, rate):
    (rule,) = a_list(({}, "accept"), rate=given_rate).rules

    assert (rule.drops, rule.rate) == (drops, rate)
    assert rule.rate_limit == Decimal(given_rate)


def test_a_rule_in_words():
    tree = {
        "ipv4": {"source-ipv4-network": "192.0.2.0/24", "fragment": {"operator": "not any", "type": "isf"}},
        "tcp": {
            "flags-bitmask": {"operator": "match", "bitmask": 2},
            "destination-port-range-or-operator": {"lower-port": 8000, "upper-port": 8099},
        },
    }

    assert a_list((tree, "accept"), rate="640000.00").rules[0].text == (
        "accept up to 640,000 octets a second of TCP source-ipv4-network 192.0.2.0/24 fragment not any isf "
        "destination-port-range-or-operator 8000-8099 flags-bitmask match 0x002"
    )
    assert a_list(({}, "drop")).rules[0].text == "drop everything"
