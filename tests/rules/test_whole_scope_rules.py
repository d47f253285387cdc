"""`ratelimit` and `redirect` as rules: what they are inside of, how they meet others, what they never do."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rule_strategies import in_scope, packets, scopes

from mitigation.rules.boxes import Box
from mitigation.rules.canonical import Bucket, Kind, Parameters, Rule
from mitigation.rules.captures import read_capture
from mitigation.rules.packets import Packet, matches
from mitigation.rules.parameters import BadParameter
from mitigation.rules.playbooks import LARGEST_PACKET, render
from mitigation.rules.projection import project
from mitigation.rules.replay import replay
from mitigation.rules.scope import Scope
from tests.harness.captures import pcap, wire

HOST, HOST6 = ip_network("198.51.100.7/32"), ip_network("2001:db8:100::7/128")
WHOLE = Scope((HOST, HOST6))


def buckets(plan) -> set[Bucket]:
    return {bucket for rule in plan.rules for bucket in rule.parameters.buckets}


@pytest.mark.rows("ENF-GEN-001")
@given(scopes(), packets(), st.sampled_from(("ratelimit", "redirect")))
def test_each_packet_of_the_scope_meets_one_rule_of_the_kind_and_no_other_packet_does(scope, packet, playbook):
    plan = render(playbook, scope, {"limit_packets": 10})
    kind = {"ratelimit": Kind.RATE_LIMIT, "redirect": Kind.REDIRECT}[playbook]
    inside = in_scope(scope, packet)

    met = [rule.kind for rule in plan.rules if matches(rule, packet)]

    assert met.count(kind) == inside
    assert met.count(Kind.PASSED) == (inside and playbook == "ratelimit")
    assert set(met) <= {kind, Kind.PASSED}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    wanted=st.lists(
        st.tuples(scopes(), st.sampled_from(("shield", "ratelimit", "redirect", "discard"))), min_size=1, max_size=3
    ),
    sent=st.lists(packets(), min_size=1, max_size=40),
    gap=st.sampled_from((0.0, 0.01, 0.5)),
)
def test_discard_drops_its_scope_and_every_other_playbook_a_part_of_its_own(tmp_path: Path, wanted, sent, gap):
    policy = {"allow_whole_host": True, "limit_packets": 2, "limit_burst": 1}
    sent = [one for one in sent if one.destination.version == 4 or one.protocol != 0]
    file = tmp_path / "some.pcap"
    file.write_bytes(pcap((at * gap, wire(packet)) for at, packet in enumerate(sent)))
    plans = {number: render(playbook, scope, policy).rules for number, (scope, playbook) in enumerate(wanted)}

    found = replay([one.rule for one in project(plans)], read_capture(file))

    for packet, dropped in zip(sent, found.dropped.tolist(), strict=True):
        covering = {playbook for scope, playbook in wanted if in_scope(scope, packet)}
        assert not dropped or covering & {"shield", "ratelimit", "discard"}
        assert dropped or "discard" not in covering


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    wanted=st.lists(st.tuples(scopes(), st.sampled_from((1, 3, 10))), min_size=1, max_size=3),
    sent=st.lists(st.tuples(packets(), st.sampled_from((0.0, 0.01, 0.3))), min_size=1, max_size=60),
    octets=st.booleans(),
)
def test_what_a_limit_drops_is_above_the_rate_of_a_scope_that_holds_it(tmp_path: Path, wanted, sent, octets):
    """For each packet dropped, one of its scopes had more than burst and rate allow, in some time up to it."""
    name, factor = ("limit_octets", 400) if octets else ("limit_packets", 1)
    sent = [(one, gap) for one, gap in sent if one.destination.version == 4 or one.protocol != 0]
    times = [sum(gap for _, gap in sent[: at + 1]) for at in range(len(sent))]
    file = tmp_path / "some.pcap"
    file.write_bytes(pcap((when, wire(packet, payload=1000)) for when, (packet, _) in zip(times, sent, strict=True)))
    capture = read_capture(file)
    policies = [(scope, rate * factor) for scope, rate in wanted]
    plans = {at: render("ratelimit", scope, {name: rate}).rules for at, (scope, rate) in enumerate(policies)}

    dropped = replay([one.rule for one in project(plans)], capture).dropped.tolist()

    for at, (packet, _) in enumerate(sent):
        if not dropped[at]:
            continue
        assert any(
            _exceeds(scope, rate, octets, sent[: at + 1], times, capture.length.tolist())
            for scope, rate in policies
            if in_scope(scope, packet)
        )


def _exceeds(scope: Scope, rate: int, octets: bool, sent, times, lengths) -> bool:
    burst = rate + max(rate // 10, LARGEST_PACKET) if octets else max(rate // 10, 1)
    amount = 0
    for at in range(len(sent) - 1, -1, -1):
        if in_scope(scope, sent[at][0]):
            amount += lengths[at] if octets else 1
            if amount > burst + rate * (times[len(sent) - 1] - times[at]) - 0.001:
                return True
    return False


def test_one_bucket_of_each_rate_for_all_boxes():
    plan = render("ratelimit", WHOLE, {"limit_octets": 1_000_000, "limit_packets": 2_000.7})

    assert len([rule for rule in plan.rules if rule.kind is Kind.RATE_LIMIT]) == 2
    (packets_, octets) = sorted(buckets(plan))
    assert (packets_.octets, packets_.rate, packets_.burst) == (False, 2000, 200)
    assert (octets.octets, octets.rate, octets.burst) == (True, 1_000_000, 100_000)
    assert len({rule.parameters for rule in plan.rules if rule.kind is Kind.RATE_LIMIT}) == 1


def test_scopes_of_one_request_share_a_bucket_and_other_requests_do_not():
    def one(prefix, **more):
        return buckets(render("ratelimit", Scope((prefix,), **more), {"limit_packets": 5}))

    assert one(HOST, part_of="a") == one(HOST6, part_of="a")
    assert one(HOST, part_of="a") != one(HOST, part_of="b")
    assert one(HOST) != one(HOST6)
    assert one(HOST) == one(HOST)


@pytest.mark.rows("ENF-ACT-005")
def test_a_burst_is_never_smaller_than_a_packet():
    (octets,) = buckets(render("ratelimit", WHOLE, {"limit_octets": 20}))
    (packets_,) = buckets(render("ratelimit", WHOLE, {"limit_packets": 1, "limit_burst": 0}))

    assert octets.burst == LARGEST_PACKET
    assert packets_.burst == 1


@pytest.mark.rows("ENF-ACT-004", "ENF-ACT-006")
@pytest.mark.parametrize("rate", [0, 0.5, 0.999])
def test_below_one_a_second_all_is_dropped_where_that_is_allowed(rate):
    narrowed = Scope((HOST,), (), (17,))

    assert {rule.kind for rule in render("ratelimit", narrowed, {"limit_octets": rate}).rules} == {Kind.DISCARD}
    assert "narrow the request" in (render("ratelimit", WHOLE, {"limit_packets": rate}).refused or "")
    consent = {"limit_packets": rate, "allow_whole_host": True}
    assert {rule.kind for rule in render("ratelimit", WHOLE, consent).rules} == {Kind.DISCARD}


def test_without_a_rate_it_is_refused_and_says_what_to_set():
    assert "set limit_octets or limit_packets" in (render("ratelimit", WHOLE, {}).refused or "")
    assert "set limit_octets" in (render("ratelimit", WHOLE, {"limit_octets": None}).refused or "")


@pytest.mark.parametrize(
    ("playbook", "policy", "complaint"),
    [
        ("ratelimit", {"limit_octets": -1}, "limit_octets is a number from 0"),
        ("ratelimit", {"limit_octets": 10**12}, "limit_octets is a number from 0"),
        ("ratelimit", {"limit_packets": True}, "limit_packets is a number"),
        ("ratelimit", {"limit_packets": float("nan")}, "limit_packets is a number"),
        ("ratelimit", {"limit_burst": None}, "limit_burst is a number from 0 to 10"),
        ("redirect", {"redirect_mark": 0}, "redirect_mark is a whole number from 1"),
        ("redirect", {"redirect_mark": 2**32}, "redirect_mark is a whole number"),
        ("redirect", {"redirect_mark": 0x100}, "redirect_mark 0x100 has bits outside redirect_mask 0xf000000"),
        ("redirect", {"redirect_return": ['eth0" accept']}, "is no name of an interface"),
        ("redirect", {"redirect_return": "eth0"}, "redirect_return is a list"),
    ],
)
def test_a_bad_policy_value_is_named(playbook, policy, complaint):
    with pytest.raises(BadParameter, match=complaint):
        render(playbook, WHOLE, policy)


def test_redirect_touches_and_drops_nothing():
    rules = render("redirect", WHOLE, {"redirect_mark": 3, "redirect_mask": 0xFF}).rules

    assert {(rule.kind, rule.drops, rule.touches) for rule in rules} == {(Kind.REDIRECT, False, True)}
    assert {(rule.parameters.mark, rule.parameters.mask) for rule in rules} == {(3, 255)}


def test_overlapping_limits_are_asked_the_stricter_one_first_and_nothing_gets_wider():
    wide, narrow = Box(4, 1, 9), Box(4, 5, 5, 17, 17, 53, 53)
    slow, fast = Bucket(octets=False, rate=5, burst=1, name="a"), Bucket(octets=False, rate=90, burst=1, name="b")
    wanted = {
        "wide": [Rule(Kind.RATE_LIMIT, wide, Parameters(buckets=(fast,)))],
        "narrow": [Rule(Kind.RATE_LIMIT, narrow, Parameters(buckets=(slow,)))],
    }

    found = project(wanted)

    (both,) = [one for one in found if one.rule.box == narrow]
    assert both.rule.parameters.buckets == (slow, fast)
    assert both.owners == {"wide", "narrow"}
    rest = [one for one in found if one is not both]
    assert rest
    assert all(one.rule.parameters.buckets == (fast,) and one.owners == {"wide"} for one in rest)


def test_of_two_marks_the_lower_one_is_set():
    box = Box(4, 1, 1)
    marks = [Parameters(mark=2, mask=3), Parameters(mark=1, mask=15)]
    wanted = {number: [Rule(Kind.REDIRECT, box, parameters)] for number, parameters in enumerate(marks)}

    (found,) = project(wanted)

    assert found.rule.parameters == marks[1]


def test_their_words_for_operators():
    narrow = Scope((HOST,), ((53, 53),), (17,))
    (limit, _) = render("ratelimit", narrow, {"limit_packets": 100, "limit_octets": 10**6}).rules
    (mark,) = render("redirect", narrow, {}).rules

    assert limit.text == (
        "limit UDP to 198.51.100.7 port 53 to 100 packets a second (bursts of 10) and 1000000 octets a second "
        "(bursts of 100000) with all else of its scope"
    )
    assert mark.text == "redirect UDP to 198.51.100.7 port 53 by mark 0x1000000/0xf000000"


def test_a_replay_keeps_one_bucket_for_both_families_and_redirects_without_dropping(tmp_path: Path):
    four = Packet(ip_address("203.0.113.9"), ip_address("198.51.100.7"), 17, 4000, 80)
    six = Packet(ip_address("2001:db8:bad::1"), ip_address("2001:db8:100::7"), 17, 4000, 80)
    file = tmp_path / "some.pcap"
    file.write_bytes(pcap((0.0, wire(packet)) for packet in [four, six] * 20))
    rules = [
        *render("ratelimit", WHOLE, {"limit_packets": 10, "limit_burst": 1}).rules,
        *render("redirect", WHOLE, {}).rules,
    ]

    found = replay(rules, read_capture(file))

    assert found.dropped.tolist() == [False] * 10 + [True] * 30
    by_kind = {kind: [hit for hit in found.hits if hit.rule.kind is kind] for kind in Kind}
    assert [(hit.met_packets, hit.dropped_packets) for hit in by_kind[Kind.RATE_LIMIT]] == [(20, 15), (20, 15)]
    assert [(hit.met_packets, hit.dropped_packets) for hit in by_kind[Kind.REDIRECT]] == [(5, 0), (5, 0)]
