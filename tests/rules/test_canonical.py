from __future__ import annotations

import json
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_strategies import BASE4, BASE6, boxes

from mitigation.rules.boxes import LAST_ADDRESS, NO_PORT, Box
from mitigation.rules.canonical import Kind, Parameters, Rule, parse_key

HOST = Box(4, BASE4 + 7, BASE4 + 7)


@st.composite
def any_box(draw):
    family = draw(st.sampled_from((4, 6)))
    addresses = sorted(draw(st.tuples(*[st.integers(0, LAST_ADDRESS[family])] * 2)))
    protocols = sorted(draw(st.tuples(*[st.integers(0, 255)] * 2)))
    ports = sorted(draw(st.tuples(*[st.integers(NO_PORT, 65535)] * 2)))
    return Box(family, *addresses, *protocols, *ports)


parameters = st.builds(
    Parameters,
    rate=st.integers(0, 1000),
    burst=st.integers(0, 1000),
    source_ports=st.lists(st.integers(0, 65535), max_size=3).map(tuple),
    source_prefixes=st.sampled_from(((), (ip_network("10.0.0.0/8"),), (ip_network("fc00::/7"),))),
)
rules = st.builds(Rule, st.sampled_from(list(Kind)), any_box() | boxes(), parameters)


@given(rules)
def test_a_key_is_short_plain_and_gives_back_the_box(rule):
    parsed = parse_key(rule.key)

    assert (parsed.kind, parsed.box, parsed.digest) == (rule.kind, rule.box, rule.parameters.digest)
    assert len(rule.key) <= 119
    assert set(rule.key) <= set("abcdefghijklmnopqrstuvwxyz0123456789 .:/,-")


def test_the_longest_key_fits():
    far = Box(6, 2**128 - 2**100 - 1, 2**128 - 2, 100, 255, NO_PORT, 65534)

    longest = max((Rule(kind, far, Parameters(rate=1)).key for kind in Kind if kind is not Kind.DISCARD), key=len)

    assert len(longest) <= 119


@given(rules, rules)
def test_keys_are_equal_only_for_equal_rules(one, other):
    assert (one.key == other.key) == (one == other)


@given(rules)
def test_a_rule_survives_storage_as_json(rule):
    stored = json.dumps(rule.to_json())

    assert Rule.from_json(stored) == rule
    assert Rule.from_json(json.loads(stored)) == rule


@pytest.mark.parametrize("bad", ["", "discard", "discard 198.51.100.7/32 17", "burn 198.51.100.7/32 any any"])
def test_other_words_are_no_key(bad):
    with pytest.raises(ValueError):
        parse_key(bad)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(Kind.DISCARD, HOST), "drop all protocols to 198.51.100.7"),
        (Rule(Kind.DISCARD, Box(4, BASE4, BASE4 + 255, 17, 17, 53, 53)), "drop UDP to 198.51.100.0/24 port 53"),
        (
            Rule(Kind.DISCARD, Box(4, BASE4 + 1, BASE4 + 6, 6, 6, 80, 90)),
            "drop TCP to 198.51.100.1 to 198.51.100.6 ports 80 to 90",
        ),
        (
            Rule(Kind.AMPLIFICATION, HOST, Parameters(source_ports=(17, 19, 53, 123))),
            "drop UDP from amplification ports 17, 19, 53, 123 to 198.51.100.7",
        ),
        (
            Rule(Kind.FRAGMENTS, Box(6, BASE6, BASE6 + 2**80 - 1, 17, 17, -1, -1)),
            "drop UDP fragments after the first to 2001:db8:100::/48",
        ),
        (Rule(Kind.TCP_FLAGS, HOST), "drop TCP with impossible flags to 198.51.100.7"),
        (
            Rule(Kind.SYN_LIMIT, Box(4, BASE4, BASE4, 6, 6, 0, 65535), Parameters(rate=50, burst=100)),
            "limit new TCP connections to 198.51.100.0 to 50 a second (bursts of 100) from each source",
        ),
        (Rule(Kind.PASSED, HOST), "count all protocols that got through to 198.51.100.7"),
    ],
)
def test_an_operator_reads_one_plain_line(rule, text):
    assert rule.text == text
    assert "\n" not in rule.text


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_words_and_only_counting_and_marking_do_not_drop(kind):
    rule = Rule(kind, HOST, Parameters(1, 1, (53,), (ip_network("10.0.0.0/8"),)))

    assert "198.51.100.7" in rule.text
    assert rule.drops == (kind not in (Kind.REDIRECT, Kind.PASSED))
    assert rule.touches == (kind is not Kind.PASSED)
