"""Access control lists as JSON: what is taken, what is refused with which tag and path, what comes back."""

from __future__ import annotations

import json
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

import pytest

from mitigation.protocol.acls import (
    AclType,
    Forwarding,
    IcmpMatch,
    TcpMatch,
    TreeFault,
    UdpMatch,
    check_capabilities,
    parse_ace,
    parse_acl,
    to_json,
)
from mitigation.protocol.filters import ActivationType
from mitigation.protocol.matches import BitOperator, PortMatch

DROP: dict[str, Any] = {"forwarding": "drop"}
ACCEPT: dict[str, Any] = {"forwarding": "accept"}
V4, V6 = "198.51.100.0/24", "2001:db8:100::/48"
TO_V4 = {"ipv4": {"destination-ipv4-network": V4}}
TO_V6 = {"ipv6": {"destination-ipv6-network": V6}}


def ace(matches: Any = None, actions: Any = None, name: str = "r1") -> dict[str, Any]:
    return {
        "name": name,
        "matches": {} if matches is None else matches,
        "actions": DROP if actions is None else actions,
    }


def acl(*aces: Any, **members: Any) -> dict[str, Any]:
    return {"name": "x", "aces": {"ace": list(aces)}} | {name.replace("_", "-"): one for name, one in members.items()}


def fault(tree: Any) -> TreeFault:
    with pytest.raises(TreeFault) as caught:
        parse_acl(tree)
    assert caught.value.sentence
    return caught.value


def refused(matches: Any, actions: Any = None, **members: Any) -> tuple[str, str, str]:
    """Tag, app-tag and the path below the entry."""
    found = fault(acl(ace(matches, actions), **members))
    assert found.path[:3] == ("acl[name='x']", "aces", "ace[name='r1']")
    return found.tag, found.app_tag, "/".join(found.path[3:])


def taken(matches: Any, **members: Any) -> Any:
    """What an entry with these matches goes back to: the same, if it was canonical."""
    tree = acl(ace(matches), **members)
    assert to_json(parse_acl(json.loads(json.dumps(tree)))) == tree | {
        "aces": {"ace": [ace(matches, {"forwarding": "ietf-access-control-list:drop"})]}
    }
    return parse_acl(tree).aces[0].matches


# -- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("DATA-ACL-001", "DATA-ACL-008", "DATA-ACT-001", "DATA-ORD-001")
def test_the_examples_of_the_checklist_come_back_as_they_are():
    tree = acl(
        ace({"ipv4": {"destination-ipv4-network": V4, "fragment": {"operator": "match", "type": "isf"}}}, name="frags"),
        ace(
            {
                "ipv4": {"destination-ipv4-network": V4, "protocol": 17},
                "udp": {"source-port-range-or-operator": {"operator": "eq", "port": 123}},
            },
            {"forwarding": "ietf-access-control-list:accept", "rate-limit": "125000.00"},
            name="ntp-slow",
        ),
        type="ietf-access-control-list:ipv4-acl-type",
        activation_type="activate-when-mitigating",
    )

    found = parse_acl(tree)

    assert found.type is AclType.IPV4
    assert [one.name for one in found.aces] == ["frags", "ntp-slow"]
    assert found.aces[1].action.rate_limit == Decimal(125_000)
    tree["aces"]["ace"][0]["actions"] = {"forwarding": "ietf-access-control-list:drop"}
    assert to_json(found) == tree


def test_identities_may_stand_without_their_module_as_in_the_figures():
    found = parse_acl(acl(ace(actions=ACCEPT), type="ipv4-acl-type"))

    assert to_json(found)["type"] == "ietf-access-control-list:ipv4-acl-type"
    assert found.aces[0].action.forwarding is Forwarding.ACCEPT


@pytest.mark.rows("DATA-ACT-002")
def test_without_an_activation_type_it_is_when_mitigating_and_only_told_when_asked():
    found = parse_acl(acl(ace({"tcp": {"source-port-range-or-operator": {"port": 53}}})))

    assert found.activation is ActivationType.ACTIVATE_WHEN_MITIGATING
    assert "activation-type" not in to_json(found)
    told = to_json(found, with_defaults=True)
    assert told["activation-type"] == "activate-when-mitigating"
    ports = told["aces"]["ace"][0]["matches"]["tcp"]["source-port-range-or-operator"]
    assert ports == {"operator": "eq", "port": 53}


@pytest.mark.rows("DATA-ACT-001")
@pytest.mark.parametrize("word", ["active", "Immediate", 2, None, ""])
def test_other_activation_types_are_refused(word):
    found = fault(acl(activation_type=word))

    assert (found.tag, found.path) == ("invalid-value", ("acl[name='x']", "activation-type"))


@pytest.mark.rows("DATA-ACL-007")
@pytest.mark.parametrize("name", ["", "n" * 65, 7, "a\0b", "\ud800"])
def test_names_have_1_to_64_characters(name):
    assert fault({"name": name}).tag == "invalid-value"
    assert fault({"name": name}).path[-1] == "name"
    assert fault(acl(ace() | {"name": name})).tag == "invalid-value"


@pytest.mark.rows("DATA-ACL-007", "DATA-ACL-023")
def test_a_missing_name_is_told_at_its_list():
    found = fault(acl({"matches": {}, "actions": DROP}))

    assert (found.tag, found.path) == ("missing-attribute", ("acl[name='x']", "aces"))
    assert fault({}).tag == "missing-attribute"
    assert parse_acl({"name": "n" * 64}).name == "n" * 64


@pytest.mark.rows("DATA-ACL-007", "DATA-ACL-025")
def test_names_of_entries_are_unique_in_their_list():
    found = fault(acl(ace(), ace(TO_V4)))

    assert (found.tag, found.path) == ("invalid-value", ("acl[name='x']", "aces", "ace[name='r1']"))


@pytest.mark.rows("DATA-ERR-008")
def test_names_with_quotes_stand_in_paths_all_the_same():
    found = fault(acl(ace(name="it's", actions={})))

    assert found.path[2] == """ace[name="it's"]"""
    assert found.path[3:] == ("actions", "forwarding")


@pytest.mark.rows("DATA-ACL-011")
@pytest.mark.parametrize("word", ["eth-acl-type", "mixed-eth-ipv4-acl-type", "vendor:acl", "ipv5-acl-type", 4, ""])
def test_types_without_ip_matches_are_refused(word):
    found = fault(acl(type=word))

    assert (found.tag, found.path) == ("invalid-value", ("acl[name='x']", "type"))


@pytest.mark.rows("DATA-ACL-009", "ENF-HDR-004")
def test_matches_fit_the_type_of_their_list():
    mismatch = ("invalid-value", "dots-type-mismatch", "matches/ipv6")

    assert refused(TO_V6, type="ipv4-acl-type") == mismatch
    assert refused(TO_V4, type="ipv6-acl-type") == (*mismatch[:2], "matches/ipv4")
    assert parse_acl(acl(ace(TO_V6), type="ipv6-acl-type")).family == 6


@pytest.mark.rows("DATA-ACL-010")
def test_without_a_type_the_matches_tell_the_family_and_must_agree():
    found = fault(acl(ace(TO_V4), ace(TO_V6, name="r2")))

    assert (found.tag, found.app_tag) == ("invalid-value", "dots-type-mismatch")
    assert found.path[2:] == ("ace[name='r2']", "matches", "ipv6")
    assert parse_acl(acl(ace({"tcp": {}}), ace(TO_V4, name="r2"))).family == 4
    assert parse_acl(acl(ace({"tcp": {}}))).family is None


@pytest.mark.rows("DATA-ACL-017")
def test_an_immediate_filter_names_its_destination():
    missing = ("missing-attribute", "dots-destination-required")
    figure_36 = {"tcp": {"flags-bitmask": {"operator": "not any", "bitmask": 4095}}}

    assert refused(figure_36, activation_type="immediate") == (*missing, "matches/ipv4/destination-ipv4-network")
    assert refused({"ipv6": {}}, activation_type="immediate") == (*missing, "matches/ipv6/destination-ipv6-network")
    assert parse_acl(acl(ace(TO_V6), activation_type="immediate")).activation is ActivationType.IMMEDIATE
    assert parse_acl(acl(ace(figure_36)))


@pytest.mark.rows("DATA-ACL-026")
def test_what_the_server_tells_cannot_be_set():
    found = fault(acl() | {"pending-lifetime": 10080})
    assert (found.tag, found.app_tag) == ("invalid-value", "dots-read-only")
    assert found.path == ("acl[name='x']", "pending-lifetime")

    found = fault(acl(ace() | {"statistics": {"matched-packets": "0"}}))
    assert (found.tag, found.app_tag) == ("invalid-value", "dots-read-only")
    assert found.path[2:] == ("ace[name='r1']", "statistics")


@pytest.mark.rows("DATA-ACL-023")
def test_unknown_members_are_told_with_the_path_of_their_parent():
    found = fault(acl() | {"colour": "red"})
    assert (found.tag, found.path) == ("unknown-element", ("acl[name='x']",))
    assert "colour" in found.sentence

    assert refused(TO_V4 | {"eth": {}}) == ("unknown-element", "", "matches")
    # Figure 34 of RFC 8783 has the actions inside of the matches: a misprint.
    assert refused({"udp": {}, "actions": DROP}) == ("unknown-element", "", "matches")


def test_members_of_other_modules_are_left_alone():
    tree = acl(ace(TO_V4 | {"vendor:colour": "red"})) | {"vendor:size": 7, "@type": {"x:y": 1}}

    assert to_json(parse_acl(tree))["aces"]["ace"][0]["matches"] == TO_V4


@pytest.mark.parametrize("tree", [None, [], "x", 5, {"name": "x", "aces": []}, {"name": "x", "aces": {"ace": {}}}])
def test_other_shapes_are_refused(tree):
    assert fault(tree).tag == "invalid-value"


def test_an_entry_can_be_read_by_itself():
    with pytest.raises(TreeFault) as caught:
        parse_ace(ace({"ipv4": {"ttl": 256}}))

    assert caught.value.path == ("ace[name='r1']", "matches", "ipv4", "ttl")
    assert parse_ace(ace(TO_V4)).name == "r1"


# -- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.rows("DATA-ACL-012", "DATA-ERR-007")
@pytest.mark.parametrize("entry", [{"name": "r1"}, ace(actions={})])
def test_forwarding_is_mandatory(entry):
    found = fault(acl(entry))

    assert found.tag == "missing-attribute"
    assert found.path[2:] == ("ace[name='r1']", "actions", "forwarding")


@pytest.mark.rows("DATA-ACL-013")
def test_reject_is_no_dots_action():
    there = "actions/forwarding"

    for word in ("reject", "ietf-access-control-list:reject"):
        assert refused(TO_V4, {"forwarding": word}) == ("invalid-value", "dots-action-not-supported", there)
    assert refused(TO_V4, {"forwarding": "redirect"}) == ("invalid-value", "", there)
    assert refused(TO_V4, {"forwarding": 1}) == ("invalid-value", "", there)


@pytest.mark.rows("DATA-ACL-014")
def test_a_rate_limit_needs_accept():
    answer = refused(TO_V4, DROP | {"rate-limit": "20.00"})

    assert answer == ("invalid-value", "dots-rate-limit-needs-accept", "actions/rate-limit")


@pytest.mark.rows("DATA-ACL-015", "ENF-ACT-002")
@pytest.mark.parametrize(
    "value", ["-1.00", "-0.01", "20.001", "1e3", "", "NaN", " 1", "1.", 20, 20.0, "92233720368547758.08", "१"]
)
def test_no_other_rate_limits_are_taken(value):
    assert refused(TO_V4, ACCEPT | {"rate-limit": value}) == ("invalid-value", "", "actions/rate-limit")


@pytest.mark.rows("DATA-ACL-015", "DATA-ACL-016")
@pytest.mark.parametrize(
    ("given", "told"),
    [("20", "20.00"), ("+020.5", "20.50"), ("0.00", "0.00"), ("92233720368547758.07", "92233720368547758.07")],
)
def test_a_rate_limit_is_told_with_two_digits(given, told):
    found = parse_acl(acl(ace(TO_V4, ACCEPT | {"rate-limit": given})))

    assert to_json(found)["aces"]["ace"][0]["actions"]["rate-limit"] == told


# -- matches ----------------------------------------------------------------------------------------------------------


@pytest.mark.rows("DATA-ACL-021")
def test_nothing_and_empty_containers_are_matches_too():
    assert taken({}).ip is None
    assert taken({"ipv4": {}}).ip is not None
    assert taken({"tcp": {}}).transport == TcpMatch()
    assert taken({"udp": {}}).transport == UdpMatch()
    assert taken({"ipv6": {}, "icmp": {}}).transport == IcmpMatch()
    assert parse_acl(acl({"name": "r1", "actions": DROP})).aces[0].matches.ip is None


@pytest.mark.rows("DATA-MAT-001", "DATA-ACL-020")
def test_prefixes_are_of_their_family_and_lose_their_host_bits():
    found = parse_acl(
        acl(ace({"ipv4": {"destination-ipv4-network": "198.51.100.25/24", "source-ipv4-network": "0.0.0.0/0"}}))
    )
    ip = found.aces[0].matches.ip
    assert ip is not None
    assert (ip.destination, ip.source) == (ip_network(V4), ip_network("0.0.0.0/0"))

    ip = parse_acl(acl(ace({"ipv6": {"source-ipv6-network": "2001:DB8:0:0::1/64"}}))).aces[0].matches.ip
    assert ip is not None
    assert ip.source == ip_network("2001:db8::/64")


@pytest.mark.rows("DATA-MAT-001")
@pytest.mark.parametrize(
    "value",
    ["198.51.100.0", "198.51.100.0/33", "2001:db8::/32", "198.51.100.0/255.255.255.0", "198.051.100.0/24", "a/8", "/8"]
    + ["198.51.100.0/024", "198.51.100.0/24\n", 5, None, ["198.51.100.0/24"], "fe80::1%eth0/64"],
)
def test_what_is_no_ipv4_prefix_is_refused(value):
    for leaf in ("destination-ipv4-network", "source-ipv4-network"):
        assert refused({"ipv4": {leaf: value}}) == ("invalid-value", "", f"matches/ipv4/{leaf}")


@pytest.mark.rows("DATA-MAT-001")
@pytest.mark.parametrize("value", ["2001:db8::", "2001:db8::/129", "198.51.100.0/24", "fe80::1%eth0/64", "::1/"])
def test_what_is_no_ipv6_prefix_is_refused(value):
    for leaf in ("destination-ipv6-network", "source-ipv6-network"):
        assert refused({"ipv6": {leaf: value}}) == ("invalid-value", "", f"matches/ipv6/{leaf}")


NUMBERS = [
    ("ipv4", "dscp", 0, 63),
    ("ipv4", "ecn", 0, 3),
    ("ipv4", "length", 0, 65_535),
    ("ipv4", "ttl", 0, 255),
    ("ipv4", "protocol", 0, 255),
    ("ipv4", "ihl", 5, 15),
    ("ipv4", "offset", 20, 8_191),
    ("ipv4", "identification", 0, 65_535),
    ("ipv6", "dscp", 0, 63),
    ("ipv6", "ecn", 0, 3),
    ("ipv6", "length", 0, 65_535),
    ("ipv6", "ttl", 0, 255),
    ("ipv6", "protocol", 1, 255),
    ("ipv6", "flow-label", 0, 1_048_575),
    ("tcp", "sequence-number", 0, 2**32 - 1),
    ("tcp", "acknowledgement-number", 0, 2**32 - 1),
    ("tcp", "data-offset", 5, 15),
    ("tcp", "reserved", 0, 15),
    ("tcp", "window-size", 0, 65_535),
    ("tcp", "urgent-pointer", 0, 65_535),
    ("udp", "length", 0, 65_535),
    ("icmp", "type", 0, 255),
    ("icmp", "code", 0, 255),
]


@pytest.mark.rows(
    "DATA-MAT-002",
    "DATA-MAT-003",
    "DATA-MAT-004",
    "DATA-MAT-005",
    "DATA-MAT-006",
    "DATA-MAT-008",
    "DATA-MAT-009",
    "DATA-MAT-022",
    "DATA-MAT-027",
    "DATA-MAT-028",
)
@pytest.mark.parametrize(("container", "leaf", "lowest", "highest"), NUMBERS)
def test_numbers_have_their_bounds(container, leaf, lowest, highest):
    members = {"type": "ietf-access-control-list:ipv4-acl-type"} if container == "icmp" else {}
    for value in (lowest, highest):
        taken({container: {leaf: value}}, **members)
    for value in (lowest - 1, highest + 1, str(lowest), float(lowest), True, None, [lowest], {}):
        tag, _, path = refused({container: {leaf: value}}, **members)
        assert (tag, path) == ("invalid-value", f"matches/{container}/{leaf}"), value


@pytest.mark.rows("DATA-MAT-006", "DATA-MAT-008")
def test_what_the_module_allows_and_no_packet_has_is_refused_as_that():
    never = ("invalid-value", "dots-never-matches")

    for value in (16, 20, 60):
        assert refused({"ipv4": {"ihl": value}}) == (*never, "matches/ipv4/ihl")
    for value in (8_192, 65_535):
        assert refused({"ipv4": {"offset": value}}) == (*never, "matches/ipv4/offset")
    assert refused({"ipv4": {"fragment": {"type": "ff lf"}}}) == (*never, "matches/ipv4/fragment/type")
    assert refused({"tcp": {"reserved": 16}}) == (*never, "matches/tcp/reserved")
    for protocol in (0, 43, 44, 51, 60):
        assert refused({"ipv6": {"protocol": protocol}}) == (*never, "matches/ipv6/protocol")


@pytest.mark.rows("DATA-MAT-004", "DATA-MAT-025")
def test_names_of_other_modules_fields_are_unknown():
    assert refused({"ipv6": {"hoplimit": 5}}) == ("unknown-element", "", "matches/ipv6")
    assert refused({"tcp": {"source-port": {"port": 5}}}) == ("unknown-element", "", "matches/tcp")
    assert refused({"ipv4": {"flow-label": 5}}) == ("unknown-element", "", "matches/ipv4")
    assert refused({"ipv6": {"ihl": 5}}) == ("unknown-element", "", "matches/ipv6")
    assert refused({"udp": {"flags-bitmask": {}}}) == ("unknown-element", "", "matches/udp")


@pytest.mark.rows("DATA-ACL-024", "ENF-UIC-003")
@pytest.mark.parametrize(
    "matches",
    [{"tcp": {}, "udp": {}}, {"ipv4": {}, "ipv6": {}}, {"udp": {}, "icmp": {}}, {"tcp": {}, "udp": {}, "icmp": {}}],
)
def test_two_cases_of_a_choice_are_one_too_many(matches):
    assert refused(matches) == ("bad-element", "", "matches")


@pytest.mark.rows("DATA-MAT-029")
def test_icmp_needs_a_family():
    assert refused({"icmp": {"type": 8}}) == ("missing-attribute", "", "matches/icmp")
    assert parse_acl(acl(ace({"icmp": {"type": 8}}), type="ipv4-acl-type"))
    assert parse_acl(acl(ace({"ipv6": {}, "icmp": {"type": 128}})))


@pytest.mark.rows("DATA-MAT-030", "ENF-HDR-004")
@pytest.mark.parametrize(
    ("family", "protocol", "transport", "agrees"),
    [
        (4, 6, "tcp", True),
        (4, 17, "tcp", False),
        (6, 17, "udp", True),
        (6, 6, "udp", False),
        (4, 1, "icmp", True),
        (4, 58, "icmp", False),
        (6, 58, "icmp", True),
        (6, 1, "icmp", False),
    ],
)
def test_the_protocol_is_that_of_the_transport_header(family, protocol, transport, agrees):
    matches = {f"ipv{family}": {"protocol": protocol}, transport: {}}

    if agrees:
        taken(matches)
    else:
        assert refused(matches) == ("invalid-value", "", f"matches/ipv{family}/protocol")


# -- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("DATA-MAT-010", "DATA-MAT-011", "DATA-MAT-012")
def test_fragments():
    at = "matches/ipv4/fragment"

    assert taken({"ipv4": {"fragment": {"type": "isf"}}}).ip.fragment.operator == BitOperator()
    assert taken({"ipv4": {"fragment": {"operator": "not any", "type": "df isf"}}}).ip.fragment.value == 3
    assert taken({"ipv6": {"fragment": {"operator": "any", "type": "ff lf"}}}).ip.fragment.value == 12
    assert refused({"ipv4": {"fragment": {}}}) == ("missing-attribute", "", f"{at}/type")
    assert refused({"ipv4": {"fragment": {"type": "xf"}}}) == ("invalid-value", "", f"{at}/type")
    assert refused({"ipv4": {"fragment": {"type": 2}}}) == ("invalid-value", "", f"{at}/type")
    assert refused({"ipv4": {"fragment": {"type": "isf isf"}}}) == ("invalid-value", "", f"{at}/type")
    assert refused({"ipv6": {"fragment": {"type": "isf df"}}}) == (
        "invalid-value",
        "dots-df-not-in-ipv6",
        "matches/ipv6/fragment/type",
    )


def test_bits_come_back_in_the_order_of_their_positions():
    found = parse_acl(acl(ace({"ipv4": {"fragment": {"operator": "any  not", "type": "lf ff"}}})))

    fragment = to_json(found)["aces"]["ace"][0]["matches"]["ipv4"]["fragment"]
    assert fragment == {"operator": "not any", "type": "ff lf"}


@pytest.mark.rows("DATA-MAT-013", "DATA-MAT-014")
@pytest.mark.parametrize("operator", ["match any", "not match any", "not", ""])
def test_an_operator_is_either_match_or_any(operator):
    for matches in (
        {"ipv4": {"fragment": {"operator": operator, "type": "isf"}}},
        {"tcp": {"flags-bitmask": {"operator": operator, "bitmask": 2}}},
    ):
        tag, app_tag, path = refused(matches)
        assert (tag, app_tag, path.rsplit("/", 1)[1]) == ("invalid-value", "dots-operator-invalid", "operator")


@pytest.mark.rows("DATA-MAT-015", "ENF-TCP-001")
@pytest.mark.parametrize("words", [(), ("match",), ("any",), ("not", "match"), ("not", "any")])
def test_operators_hold_their_truth_table(words):
    operator = BitOperator(words)
    for data in range(16):
        for value in range(16):
            expected = (data & value) != 0 if "any" in words else (data & value) == value
            assert operator.accepts(data, value) is (expected != ("not" in words))


@pytest.mark.rows("DATA-MAT-017", "DATA-MAT-018")
def test_a_bitmask_has_twelve_bits():
    there = "matches/tcp/flags-bitmask/bitmask"

    for value in (0, 2, 16, 4095):
        assert taken({"tcp": {"flags-bitmask": {"operator": "match", "bitmask": value}}})
    for value in (-1, 4096, 65_535, "2"):
        assert refused({"tcp": {"flags-bitmask": {"bitmask": value}}}) == ("invalid-value", "", there)
    assert refused({"tcp": {"flags-bitmask": {"operator": "any"}}}) == ("missing-attribute", "", there)


@pytest.mark.rows("DATA-MAT-020")
def test_two_ways_to_match_the_same_bits_are_not_combined():
    assert refused({"ipv4": {"fragment": {"type": "isf"}, "flags": "more"}}) == (
        "invalid-value",
        "dots-fragment-and-flags",
        "matches/ipv4/flags",
    )
    assert refused({"tcp": {"flags-bitmask": {"bitmask": 2}, "flags": "syn"}}) == (
        "invalid-value",
        "dots-flags-and-bitmask",
        "matches/tcp/flags",
    )


@pytest.mark.rows("DATA-MAT-007", "DATA-MAT-021")
def test_flags_are_words():
    assert taken({"ipv4": {"flags": "fragment more"}}).ip.flags == ("fragment", "more")
    assert taken({"ipv4": {"flags": ""}}).ip.flags == ()
    assert taken({"tcp": {"flags": "cwr ece urg ack psh rst syn fin"}}).transport.flags[0] == "cwr"
    assert refused({"tcp": {"flags": "ns"}}) == ("invalid-value", "", "matches/tcp/flags")
    assert refused({"ipv4": {"flags": "df"}}) == ("invalid-value", "", "matches/ipv4/flags")


# -- ports and octets -------------------------------------------------------------------------------------------------

PORTS = ("source-port-range-or-operator", "destination-port-range-or-operator")


@pytest.mark.rows("DATA-MAT-023", "DATA-MAT-024", "DATA-MAT-026")
@pytest.mark.parametrize("leaf", PORTS)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_ports_are_a_range_or_one_with_an_operator(transport, leaf):
    at = f"matches/{transport}/{leaf}"

    def wrong(ports: Any) -> tuple[str, str, str]:
        return refused({transport: {leaf: ports}})

    for ports in ({"lower-port": 80, "upper-port": 80}, {"lower-port": 0, "upper-port": 65_535}, {"port": 53}):
        taken({transport: {leaf: ports}})
    for operator in ("lte", "gte", "eq", "neq"):
        taken({transport: {leaf: {"operator": operator, "port": 65_535}}})
    assert wrong({"lower-port": 80}) == ("missing-attribute", "", f"{at}/upper-port")
    assert wrong({"upper-port": 80}) == ("missing-attribute", "", f"{at}/lower-port")
    assert wrong({"lower-port": 81, "upper-port": 80}) == ("invalid-value", "must-violation", f"{at}/lower-port")
    assert wrong({"operator": "eq"}) == ("missing-attribute", "", f"{at}/port")
    assert wrong({"operator": "lt", "port": 5}) == ("invalid-value", "", f"{at}/operator")
    assert wrong({"port": 65_536}) == ("invalid-value", "", f"{at}/port")
    assert wrong({"lower-port": 1, "upper-port": 2, "port": 3}) == ("bad-element", "", at)
    assert wrong([{"lower-port": 1}]) == ("invalid-value", "", at)


@pytest.mark.rows("DATA-MAT-024", "ENF-PRT-001")
def test_a_port_alone_means_that_port():
    for operator, hits in {"": {5}, "eq": {5}, "neq": {4, 6}, "lte": {4, 5}, "gte": {5, 6}}.items():
        assert {port for port in (4, 5, 6) if PortMatch(5, 5, operator).accepts(port)} == hits
    assert [PortMatch(4, 6, is_range=True).accepts(port) for port in (3, 4, 5, 6, 7)] == [False, *[True] * 3, False]


@pytest.mark.rows("DATA-MAT-022", "DATA-MAT-028")
def test_octets_are_base64():
    assert taken({"tcp": {"options": "AgQFtA=="}}).transport.options == bytes((2, 4, 5, 0xB4))
    icmp = taken({"ipv4": {}, "icmp": {"rest-of-header": "AAEAAg=="}}).transport
    assert icmp.rest_of_header == bytes((0, 1, 0, 2))
    for value in ("", "AgQFtA", "Ag*=", 5, "A" * 56, "Ag=="):  # none, unpadded, no base64, a number, 42 and 1 octets
        assert refused({"tcp": {"options": value}})[0::2] == ("invalid-value", "matches/tcp/options"), value


# -- capabilities -----------------------------------------------------------------------------------------------------

CAPABILITIES: dict[str, Any] = {
    "address-family": ["ipv4", "ipv6"],
    "forwarding-actions": ["ietf-access-control-list:drop"],
    "rate-limit": False,
    "ipv4": {"destination-prefix": True, "ttl": False},
    "ipv6": {"destination-prefix": True, "hoplimit": True},
    "tcp": {"source-port": True, "destination-port": True, "port-range": False},
}


@pytest.mark.rows("DATA-ACL-022", "DATA-CAP-010", "ENF-HDR-006", "ENF-TEL-001")
@pytest.mark.parametrize(
    ("matches", "actions", "path"),
    [
        ({"ipv4": {"ttl": 5}}, DROP, "matches/ipv4/ttl"),
        ({"ipv4": {"source-ipv4-network": V4}}, DROP, "matches/ipv4/source-ipv4-network"),
        ({"tcp": {PORTS[0]: {"port": 5}}}, DROP, f"matches/tcp/{PORTS[0]}"),
        ({"udp": {}}, DROP, "matches/udp"),
        ({}, ACCEPT, "actions/forwarding"),
        ({}, ACCEPT | {"rate-limit": "1.00"}, "actions/rate-limit"),
    ],
)
def test_what_is_not_promised_is_refused(matches, actions, path):
    with pytest.raises(TreeFault) as caught:
        check_capabilities(parse_acl(acl(ace(matches, actions))), CAPABILITIES)

    assert (caught.value.tag, caught.value.app_tag) == ("unknown-element", "dots-match-not-supported")
    assert "/".join(caught.value.path) == f"acl[name='x']/aces/ace[name='r1']/{path}"


@pytest.mark.rows("DATA-CAP-005")
def test_what_is_promised_is_taken():
    check_capabilities(parse_acl(acl(ace({"ipv6": {"ttl": 5}}))), CAPABILITIES)
    check_capabilities(parse_acl(acl(ace(TO_V4 | {"tcp": {}}))), CAPABILITIES)
