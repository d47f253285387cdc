from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_strategies import in_scope, packets, scopes

from mitigation.rules.boxes import scope_boxes
from mitigation.rules.canonical import Kind
from mitigation.rules.packets import Packet, TcpFlag, matches
from mitigation.rules.parameters import AMPLIFICATION_PORTS, BOGON_PREFIXES, PARAMETERS, BadParameter, read_parameters
from mitigation.rules.playbooks import render
from mitigation.rules.scope import Scope

HOST = ip_network("198.51.100.7/32")
HOST6 = ip_network("2001:db8:100::7/128")
WHOLE = Scope((HOST, HOST6))


def packet(protocol: int = 17, *, source: str = "203.0.113.9", sport: int | None = 4000, **more: object) -> Packet:
    destination = "2001:db8:100::7" if ":" in source else "198.51.100.7"
    fields = {"destination_port": 80} | more
    return Packet(ip_address(source), ip_address(destination), protocol, sport, **fields)  # type: ignore[arg-type]


def dropped_by(plan, packet) -> set[Kind]:
    return {rule.kind for rule in plan.rules if rule.drops and matches(rule, packet)}


def kinds(plan) -> set[Kind]:
    return {rule.kind for rule in plan.rules}


@pytest.mark.rows("ENF-GEN-001", "ENF-TGT-011")
@given(scopes(), packets(), st.sampled_from(("shield", "discard")), st.booleans())
def test_no_rule_reaches_outside_the_scope(scope, packet, playbook, stateful):
    plan = render(playbook, scope, {"allow_whole_host": True, "stateful": stateful})

    assert plan.refused is None
    assert in_scope(scope, packet) or not any(matches(rule, packet) for rule in plan.rules)


@pytest.mark.rows("ENF-GEN-001", "ENF-TGT-001")
@given(scopes(), packets())
def test_discard_drops_exactly_the_scope_and_counts_each_packet_once(scope, packet):
    plan = render("discard", scope, {"allow_whole_host": True})

    assert sum(matches(rule, packet) for rule in plan.rules) == (1 if in_scope(scope, packet) else 0)


@given(scopes(), packets())
def test_shield_counts_exactly_the_scope_as_passed(scope, packet):
    passed = [rule for rule in render("shield", scope, {}).rules if rule.kind is Kind.PASSED]

    assert sum(matches(rule, packet) for rule in passed) == (1 if in_scope(scope, packet) else 0)


@given(scopes())
def test_rules_of_one_kind_do_not_overlap_and_lie_in_the_boxes_of_the_scope(scope):
    rules = render("shield", scope, {}).rules

    for one, other in combinations(rules, 2):
        assert one.kind is not other.kind or one.box.intersection(other.box) is None
    assert all(any(rule.box.is_subset(box) for box in scope_boxes(scope)) for rule in rules)
    assert len({rule.key for rule in rules}) == len(rules)


def test_shield_takes_out_what_attacks_are_made_of():
    plan = render("shield", WHOLE, {})

    assert dropped_by(plan, packet(sport=123)) == {Kind.AMPLIFICATION, Kind.UDP_LIMIT}
    assert dropped_by(plan, packet(sport=None, destination_port=None, fragment_offset=185)) >= {Kind.FRAGMENTS}
    assert dropped_by(plan, packet(6, tcp_flags=TcpFlag.SYN | TcpFlag.FIN)) == {Kind.TCP_FLAGS}
    assert Kind.BOGONS in dropped_by(plan, packet(source="10.1.2.3"))
    assert Kind.BOGONS in dropped_by(plan, packet(source="fc00::1"))
    assert dropped_by(plan, packet(6, tcp_flags=TcpFlag.SYN)) == {Kind.SYN_LIMIT}
    assert dropped_by(plan, packet(1, sport=None, destination_port=None, icmp_type=8)) == {Kind.ICMP_LIMIT}
    assert plan.refused is None


def test_shield_leaves_ordinary_packets_alone():
    plan = render("shield", WHOLE, {})
    ordinary = [
        packet(6, tcp_flags=TcpFlag.ACK),
        packet(6, tcp_flags=TcpFlag.ACK | TcpFlag.PSH),
        packet(6, tcp_flags=TcpFlag.SYN | TcpFlag.ACK),
        packet(6, tcp_flags=TcpFlag.FIN | TcpFlag.ACK),
        packet(6, tcp_flags=TcpFlag.RST),
        packet(17, sport=4000, is_answer=True),
        packet(58, source="2001:db8:bad::1", sport=None, destination_port=None, icmp_type=135),
        packet(47, sport=None, destination_port=None),
        packet(58, source="fe80::1", sport=None, destination_port=None, icmp_type=136),
    ]

    assert [dropped_by(plan, one) for one in ordinary] == [set()] * len(ordinary)


def test_a_box_that_sees_one_direction_leaves_the_stateful_part_out_and_says_so():
    plan = render("shield", WHOLE, {"stateful": False})

    assert not kinds(plan) & {Kind.UDP_LIMIT, Kind.ICMP_LIMIT}
    assert Kind.SYN_LIMIT in kinds(plan)
    assert any("one direction only" in note for note in plan.notes)


@pytest.mark.rows("ENF-TEL-004", "ENF-FRG-006")
def test_with_ports_the_fragments_are_left_out_and_the_plan_says_why():
    plan = render("shield", Scope((HOST,), ((53, 53),), (17,)), {})

    assert Kind.FRAGMENTS not in kinds(plan)
    assert any("fragments after the first carry no ports" in note for note in plan.notes)


def test_what_the_scope_does_not_have_is_left_out_with_a_note():
    plan = render("shield", Scope((HOST,), (), (6,)), {})

    assert kinds(plan) == {Kind.TCP_FLAGS, Kind.BOGONS, Kind.SYN_LIMIT, Kind.PASSED}
    assert [note for note in plan.notes if "left out" in note] == [
        "UDP from amplification ports: left out, the scope has no UDP",
        "UDP fragments: left out, the scope has no UDP",
        "the limit on UDP: left out, the scope has no UDP",
        "the limit on ICMP: left out, the scope has no ICMP",
    ]


@pytest.mark.rows("ENF-TGT-003")
def test_the_split_between_protocols_with_and_without_ports_is_said():
    plan = render("discard", Scope((HOST,), ((80, 80),), (6, 1)), {})

    assert plan.notes == (
        "ICMP: no ports there, so target-port-range does not narrow it and all of it is in the scope",
    )


def test_dropping_answers_of_name_servers_is_said():
    assert any("UDP port 53, 123" in note for note in render("shield", WHOLE, {}).notes)
    assert not any("UDP port" in note for note in render("shield", WHOLE, {"amplification_ports": [19]}).notes)


def test_discard_of_a_whole_host_needs_consent():
    refused = render("discard", WHOLE, {})
    allowed = render("discard", WHOLE, {"allow_whole_host": True})

    assert refused.rules == ()
    assert refused.refused is not None
    assert "finish the attacker's work" in refused.refused
    assert allowed.refused is None
    assert len(allowed.rules) == 2


@pytest.mark.parametrize("narrowed", [Scope((HOST,), ((53, 53),)), Scope((HOST,), (), (17,))])
def test_discard_narrowed_by_port_or_protocol_needs_none(narrowed):
    assert render("discard", narrowed, {}).refused is None


@pytest.mark.parametrize("playbook", sorted(PARAMETERS))
def test_a_scope_without_destination_is_refused(playbook):
    assert "no destination" in (render(playbook, Scope((), (), (17,)), {}).refused or "")


@pytest.mark.rows("ENF-VAL-005")
def test_a_scope_of_too_many_boxes_is_refused_with_the_numbers():
    scope = Scope((HOST,), tuple((port, port) for port in range(0, 2000, 2)), (17,))

    assert render("shield", scope, {}).refused == (
        "the scope needs 1000 combinations of prefix, protocol and port; 256 are allowed"
    )


def test_policy_overrides_reach_the_rules():
    policy = {
        "amplification_ports": [53, 19, 19],
        "bogon_prefixes": ["10.0.0.0/8"],
        "syn_rate": 5,
        "syn_burst": 7,
        "udp_rate": 0,
        "drop_fragments": False,
        "drop_impossible_flags": False,
    }

    plan = render("shield", WHOLE, policy)

    by_kind = {rule.kind: rule.parameters for rule in plan.rules}
    assert by_kind[Kind.AMPLIFICATION].source_ports == (19, 53)
    assert by_kind[Kind.BOGONS].source_prefixes == (ip_network("10.0.0.0/8"),)
    assert (by_kind[Kind.SYN_LIMIT].rate, by_kind[Kind.SYN_LIMIT].burst) == (5, 7)
    assert not kinds(plan) & {Kind.UDP_LIMIT, Kind.FRAGMENTS, Kind.TCP_FLAGS}
    assert {rule.box.family for rule in plan.rules if rule.kind is Kind.BOGONS} == {4}
    assert any("IPv6" in note and "bogon" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"syn_rat": 5}, "no playbook knows syn_rat"),
        ({"syn_rate": -1}, "syn_rate is a whole number"),
        ({"syn_rate": True}, "syn_rate is a whole number"),
        ({"syn_burst": 0}, "syn_burst is a whole number from 1"),
        ({"stateful": 1}, "stateful is true or false"),
        ({"amplification_ports": "53"}, "amplification_ports is a list"),
        ({"amplification_ports": [65536]}, "amplification_ports is a whole number"),
        ({"amplification_ports": list(range(300))}, "at most 256"),
        ({"bogon_prefixes": ["10.0.0.1/8"]}, "bogon_prefixes: 10.0.0.1/8 has host bits set"),
        ({"bogon_prefixes": [10]}, "bogon_prefixes: 10 is no prefix"),
    ],
)
def test_a_bad_policy_value_is_named(policy, complaint):
    with pytest.raises(BadParameter, match=complaint):
        render("shield", WHOLE, policy)


def test_an_unknown_playbook_is_named_with_the_known_ones():
    with pytest.raises(BadParameter, match="no playbook scrub; known are discard, ratelimit, redirect, shield"):
        render("scrub", WHOLE, {})


@pytest.mark.parametrize("playbook", sorted(PARAMETERS))
def test_every_default_has_a_source_and_passes_its_own_check(playbook):
    for parameter in PARAMETERS[playbook]:
        given = [str(p) for p in parameter.default] if "prefixes" in parameter.name else parameter.default
        assert parameter.source
        assert parameter.meaning
        read = read_parameters(playbook, {parameter.name: given})[parameter.name]
        assert set(read) == set(parameter.default) if isinstance(read, tuple) else read == parameter.default


def test_default_bogons_hold_no_address_that_labs_and_neighbours_need():
    bogons = [ip_network(prefix) for prefix in BOGON_PREFIXES]

    for address in ("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "fe80::1", "64:ff9b::1", "8.8.8.8"):
        assert not any(ip_address(address) in prefix for prefix in bogons)


def test_every_amplification_port_says_which_service_it_is():
    assert all(reason for reason in AMPLIFICATION_PORTS.values())
    assert 443 not in AMPLIFICATION_PORTS
