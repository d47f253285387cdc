"""What a mitigation request may hold (RFC 9132, section 4.4.1.1)."""

from __future__ import annotations

import ipaddress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import messages
from mitigation.protocol.paths import Path
from mitigation.protocol.scope import (
    MitigationRequest,
    PortRange,
    Scope,
    ancestor_keys,
    covered_by,
    parse_target_prefix,
    range_keys,
)

PATH = Path("mitigate", cuid="c", mid=1)
GOOD = {6: ["198.51.100.7/32"], 14: 3600}


def decode(entry: dict[int, object]) -> MitigationRequest:
    return messages.decode_mitigation(cbor2.dumps({1: {2: [entry]}}), PATH)


@pytest.mark.rows("SIG-MIT-001")
@pytest.mark.parametrize("scopes", [[], [GOOD, GOOD]])
def test_scope_holds_exactly_one_entry(scopes: list[object]) -> None:
    with pytest.raises(MalformedRequest, match="scope has"):
        messages.decode_mitigation(cbor2.dumps({1: {2: scopes}}), PATH)


@pytest.mark.rows("SIG-MIT-002")
def test_a_target_is_needed() -> None:
    with pytest.raises(MalformedRequest, match="a target is missing"):
        decode({7: [{8: 80}], 10: [6], 14: 3600})


@pytest.mark.rows("SIG-MIT-003")
@pytest.mark.parametrize(
    "entry", [{6: []}, {7: []}, {10: []}, {11: []}, {12: []}, {13: []}, {11: [""]}, {13: [""]}, {7: [{}]}]
)
def test_an_empty_value_makes_the_whole_request_invalid(entry: dict[int, object]) -> None:
    with pytest.raises(MalformedRequest, match="empty"):
        decode({**GOOD, **entry})


@pytest.mark.rows("SIG-MIT-005")
@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.0/33",
        "2001:db8::/129",
        "192.0.2.7",
        "2001:db8::1",
        "x/24",
        "192.0.2.0/-1",
        "/24",
        "192.0.2.0/24/24",
        "fe80::1%eth0/128",
    ],
)
def test_what_is_not_a_prefix_is_refused_by_name(text: str) -> None:
    with pytest.raises(MalformedRequest, match="target-prefix"):
        decode({**GOOD, 6: [text]})


@pytest.mark.rows("SIG-MIT-005")
def test_host_bits_are_cleared() -> None:
    assert decode({**GOOD, 6: ["198.51.100.9/24"]}).scope.target_prefix == (ipaddress.ip_network("198.51.100.0/24"),)


@pytest.mark.rows("SIG-MIT-006", "SIG-MIT-027")
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("255.255.255.255/32", "broadcast"),
        ("127.0.0.1/32", "loopback"),
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("224.0.0.0/4", "multicast"),
        ("239.1.2.3/32", "multicast"),
        ("ff02::1/128", "multicast"),
        ("::ffff:127.0.0.1/128", "loopback"),
        ("64:ff9b::e000:1/128", "multicast"),
    ],
)
def test_addresses_nobody_can_own_are_refused(text: str, kind: str) -> None:
    with pytest.raises(MalformedRequest, match=kind):
        parse_target_prefix(text)


@pytest.mark.rows("SIG-MIT-008", "SIG-MIT-009")
@pytest.mark.parametrize(
    "ranges",
    [[{8: 90, 9: 80}], [{9: 80}], [{8: 65536}], [{8: 1, 9: 65536}], [{8: 80}, {8: 80, 9: 90}], [{8: 80, 23: "x"}]],
)
def test_port_ranges_that_make_no_sense_are_refused(ranges: list[object]) -> None:
    with pytest.raises(MalformedRequest):
        decode({**GOOD, 7: ranges})


@pytest.mark.rows("SIG-MIT-008")
def test_a_single_port_has_no_upper_end() -> None:
    assert decode({**GOOD, 7: [{8: 0}, {8: 8000, 9: 8099}]}).scope.target_port_range == (
        PortRange(0, 0),
        PortRange(8000, 8099),
    )


@pytest.mark.rows("SIG-MIT-010")
def test_protocols_are_octets_and_absent_means_any() -> None:
    assert decode({**GOOD, 10: [0, 255]}).scope.target_protocol == (0, 255)
    assert decode(GOOD).scope.target_protocol == ()
    with pytest.raises(MalformedRequest, match="255"):
        decode({**GOOD, 10: [256]})


@pytest.mark.rows("SIG-MIT-016", "SIG-MIT-017", "SIG-MIT-018")
@pytest.mark.parametrize(
    ("entry", "words"), [({}, "missing"), ({14: 0}, "is 0"), ({14: -2}, "-1"), ({14: 2**32}, "between")]
)
def test_lifetimes_that_cannot_be(entry: dict[int, object], words: str) -> None:
    with pytest.raises(MalformedRequest, match=words):
        decode({6: ["198.51.100.7/32"], **entry})


@pytest.mark.rows("SIG-MIT-018", "SIG-MIT-019")
@pytest.mark.parametrize("lifetime", [-1, 1, 2**32 - 1])
def test_lifetimes_at_the_borders(lifetime: int) -> None:
    request = decode({6: ["198.51.100.7/32"], 14: lifetime})

    assert request.lifetime == lifetime
    assert request.trigger_mitigation is True


@pytest.mark.rows("SIG-PUT-007")
def test_order_and_encoding_do_not_change_what_is_asked() -> None:
    one = decode({6: ["198.51.100.7/32", "198.51.100.9/32"], 7: [{8: 80}, {8: 443}], 10: [6, 17], 14: 60})
    other = decode(
        {10: [17, 6], 14: 90, 7: [{8: 443, 9: 443}, {8: 80}], 6: ["198.51.100.9/32", "198.51.100.7/32"], 45: True}
    )

    assert one.digest == other.digest
    assert one.digest != decode({6: ["198.51.100.7/32"], 7: [{8: 80}, {8: 443}], 10: [6, 17], 14: 60}).digest


@pytest.mark.rows("SIG-GET-004")
def test_order_is_kept_for_the_answer() -> None:
    scope = decode({6: ["198.51.100.9/32", "198.51.100.7/32"], 14: 60}).scope

    assert [str(prefix) for prefix in Scope.from_json(scope.as_json()).target_prefix] == [
        "198.51.100.9/32",
        "198.51.100.7/32",
    ]


@pytest.mark.rows("SIG-SEC-016")
def test_the_number_of_targets_is_bounded() -> None:
    with pytest.raises(MalformedRequest, match="257 entries"):
        decode({6: [f"10.0.{n // 256}.{n % 256}/32" for n in range(257)], 14: 60})


networks = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda p: ipaddress.ip_network(p, strict=False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
        lambda p: ipaddress.IPv6Network((ipaddress.IPv6Address(p[0]), p[1]), strict=False)
    ),
)


@given(networks, networks)
def test_ancestor_keys_find_exactly_the_containing_prefixes(one: object, other: object) -> None:
    assert isinstance(one, ipaddress.IPv4Network | ipaddress.IPv6Network)
    assert isinstance(other, ipaddress.IPv4Network | ipaddress.IPv6Network)
    if one.version != other.version:
        return

    contains = (
        one.prefixlen <= other.prefixlen
        and range_keys(one)[0] in ancestor_keys(other)
        and range_keys(one)[1] >= range_keys(other)[1]
    )

    assert contains == covered_by(other, [one])


@pytest.mark.rows("SIG-EFF-002", "SIG-EFF-008", "SIG-MIT-016")
def test_attack_status_is_1_or_2_and_lets_lifetime_be_left_out() -> None:
    updated = decode({6: ["198.51.100.7/32"], 29: 2})

    assert (updated.attack_status, updated.lifetime) == (2, None)
    assert updated.digest == decode(GOOD).digest
    for bad in (0, 3):
        with pytest.raises(MalformedRequest, match="attack-status"):
            decode({**GOOD, 29: bad})


@pytest.mark.rows("SIG-GET-005", "SIG-GET-008")
def test_a_part_of_a_report_is_configuration_or_state() -> None:
    report = messages.MitigationReport(
        mid=1, status=2, lifetime=60, mitigation_start=5, pkts_dropped=3, scope=decode(GOOD).scope
    )

    def names(part: messages.Content) -> set[str]:
        return set(messages.decode_reports(messages.encode_reports([report], part))[0])

    assert names(messages.Content.CONFIGURATION) == {"mid", "target-prefix", "lifetime"}
    assert names(messages.Content.STATE) == {"mid", "lifetime", "status", "mitigation-start", "pkts-dropped"}
    assert names(messages.Content.ALL) == names(messages.Content.CONFIGURATION) | names(messages.Content.STATE)
