from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from rule_strategies import packets, scopes

from mitigation.rules.boxes import Box
from mitigation.rules.canonical import Kind, Parameters, Rule
from mitigation.rules.packets import matches
from mitigation.rules.playbooks import render
from mitigation.rules.projection import Kept, Projected, project

policies = st.sampled_from(
    (
        {},
        {"amplification_ports": [19]},
        {"amplification_ports": [53], "syn_rate": 3, "syn_burst": 4},
        {"bogon_prefixes": ["10.0.0.0/8", "fc00::/7"], "stateful": False},
    )
)


@given(st.lists(st.tuples(scopes(), policies), max_size=3), packets())
def test_what_anyone_drops_is_dropped_once_for_each_who_covers_it(wanted, packet):
    plans = {number: render("shield", scope, policy).rules for number, (scope, policy) in enumerate(wanted)}
    dropping = {(n, rule.kind) for n, rules in plans.items() for rule in rules if matches(rule, packet)}

    found = [one for one in project(plans) if matches(one.rule, packet)]

    assert {one.rule.kind for one in found} == {kind for _, kind in dropping}
    assert len(found) == len({one.rule.kind for one in found})
    for one in found:
        assert {number for number, kind in dropping if kind is one.rule.kind} <= one.owners


def test_different_wishes_for_the_same_packets_both_hold():
    box = Box(4, 1, 1, 17, 17, 0, 65535)
    wanted = {
        "a": [
            Rule(Kind.AMPLIFICATION, box, Parameters(source_ports=(19, 53))),
            Rule(Kind.UDP_LIMIT, box, Parameters(rate=10, burst=50)),
            Rule(Kind.BOGONS, box, Parameters(source_prefixes=(ip_network("10.0.0.0/8"),))),
        ],
        "b": [
            Rule(Kind.AMPLIFICATION, box, Parameters(source_ports=(123,))),
            Rule(Kind.UDP_LIMIT, box, Parameters(rate=20, burst=30)),
            Rule(Kind.BOGONS, box, Parameters(source_prefixes=(ip_network("0.0.0.0/8"),))),
        ],
    }
    both = frozenset("ab")

    assert project(wanted) == [
        Projected(Rule(Kind.AMPLIFICATION, box, Parameters(source_ports=(19, 53, 123))), both),
        Projected(
            Rule(Kind.BOGONS, box, Parameters(source_prefixes=(ip_network("0.0.0.0/8"), ip_network("10.0.0.0/8")))),
            both,
        ),
        Projected(Rule(Kind.UDP_LIMIT, box, Parameters(rate=10, burst=30)), both),
    ]


def test_nothing_wanted_is_nothing_projected():
    assert project({"a": []}) == []


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.integers(0, 4), st.tuples(scopes(), policies) | st.none(), max_size=3), max_size=6))
def test_what_is_kept_is_at_any_time_what_would_be_projected_anew(steps):
    kept, wanted = Kept(), {}
    for step in steps:
        changes = {owner: render("shield", *one).rules if one else () for owner, one in step.items()}
        before = dict(kept.found)

        moved = kept.change(changes)

        wanted |= changes
        assert kept.found == {one.rule.key: one for one in project(wanted)}
        assert {key for key in before.keys() | kept.found.keys() if before.get(key) != kept.found.get(key)} <= moved
        for owner in wanted:
            assert kept.keys_of(owner) == {key for key, one in kept.found.items() if owner in one.owners}


def test_what_shares_no_address_with_a_change_is_not_touched():
    kept = Kept()
    kept.change({"far": [Rule(Kind.DISCARD, Box(4, 9, 9))], "near": [Rule(Kind.DISCARD, Box(4, 1, 4))]})

    moved = kept.change({"new": [Rule(Kind.DISCARD, Box(4, 3, 3))]})

    assert moved == {key for key, one in kept.found.items() if "far" not in one.owners} | {
        "discard 0.0.0.1-0.0.0.4 any any"
    }
