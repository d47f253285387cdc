"""CBOR bodies: strict on the way in, exact on the way out (RFC 9132, section 6)."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import body, messages
from mitigation.protocol.paths import Path
from mitigation.protocol.scope import MitigationRequest, PortRange, Scope, parse_target_prefix

PATH = Path("mitigate", cuid="dz6pHjaADkaFTbjr0JGBpw", mid=123)
MINIMAL = {1: {2: [{6: ["198.51.100.7/32"], 14: 3600}]}}

# RFC 9132, Figures 7 and 8.
FIGURE_8 = bytes.fromhex(
    "a101a10281a40682743230303 13a6462383a363430313a3a312f313238"
    "74323030313a6462383a363430313a3a322f3132380783a1081850a10819"
    "01bba108191f900a81060e190e10".replace(" ", "")
)


def decode(value: object) -> MitigationRequest:
    return messages.decode_mitigation(cbor2.dumps(value), PATH)


@pytest.mark.rows("SIG-CBR-001", "SIG-CBR-002", "SIG-CBR-006")
def test_the_request_of_figure_7_is_the_bytes_of_figure_8() -> None:
    scope = Scope(
        target_prefix=(parse_target_prefix("2001:db8:6401::1/128"), parse_target_prefix("2001:db8:6401::2/128")),
        target_port_range=(PortRange(80, 80), PortRange(443, 443), PortRange(8080, 8080)),
        target_protocol=(6,),
    )

    encoded = messages.encode_mitigation(MitigationRequest(cuid="c", mid=123, scope=scope, lifetime=3600))

    assert encoded == FIGURE_8
    assert messages.decode_mitigation(FIGURE_8, PATH).scope == scope


@pytest.mark.rows("SIG-CBR-007")
def test_the_heartbeat_is_seven_bytes() -> None:
    assert messages.encode_heartbeat(peer_hb_status=True).hex() == "a11831a11833f5"
    assert messages.decode_heartbeat(bytes.fromhex("a11831a11833f5")) is True
    assert messages.decode_heartbeat(bytes.fromhex("a11831a11833f4")) is False


@pytest.mark.rows("SIG-HB-004")
def test_a_heartbeat_without_peer_hb_status_is_refused() -> None:
    with pytest.raises(MalformedRequest):
        messages.decode_heartbeat(cbor2.dumps({49: {}}))


@pytest.mark.rows("SIG-CBR-004")
@pytest.mark.parametrize(("lifetime", "octets"), [(-1, "0e20"), (3600, "0e190e10"), (23, "0e17")])
def test_lifetime_is_minus_one_or_unsigned(lifetime: int, octets: str) -> None:
    assert messages.encode_grant(1, lifetime).hex().endswith(octets)


@pytest.mark.rows("SIG-CBR-005", "SIG-MID-009", "SIG-GET-003")
def test_mitigation_start_has_no_tag() -> None:
    report = messages.MitigationReport(mid=7, status=2, lifetime=60, mitigation_start=1_700_000_000)

    encoded = messages.encode_reports([report])

    assert bytes.fromhex("0f1a6553f100") in encoded
    assert messages.decode_reports(encoded) == [
        {"mid": 7, "mitigation-start": 1_700_000_000, "lifetime": 60, "status": 2}
    ]


@pytest.mark.rows("SIG-STA-005", "SIG-STA-007")
def test_counters_wrap_and_absent_ones_are_left_out() -> None:
    report = messages.MitigationReport(
        mid=1, status=2, lifetime=60, bytes_dropped=2**64 + 5, bps_dropped=1, pkts_dropped=2, pps_dropped=0
    )

    (entry,) = messages.decode_reports(messages.encode_reports([report]))

    assert entry["bytes-dropped"] == 5
    assert (entry["pkts-dropped"], entry["pps-dropped"]) == (2, 0)
    bare = messages.MitigationReport(mid=1, status=1, lifetime=60)
    assert not {"bytes-dropped", "pkts-dropped"} & messages.decode_reports(messages.encode_reports([bare]))[0].keys()


@pytest.mark.rows("SIG-CBR-008")
def test_the_optional_tag_makes_no_difference() -> None:
    assert decode(cbor2.CBORTag(271, MINIMAL)) == decode(MINIMAL)


@pytest.mark.rows("SIG-CBR-017")
@pytest.mark.parametrize(
    "encoded",
    [
        "bf01bf029fbf069f6f3139382e35312e3130302e372f3332ff0e190e10ffffffff",  # indefinite lengths
        "b90001a101a10281a206816f3139382e35312e3130302e372f33320e1a00000e10".replace("a101a1", "1801a1"),
    ],
)
def test_other_encodings_of_the_same_body_are_read(encoded: str) -> None:
    assert messages.decode_mitigation(bytes.fromhex(encoded), PATH) == decode(MINIMAL)


@pytest.mark.rows("SIG-CBR-009", "SIG-MIT-004")
def test_unknown_comprehension_required_keys_are_all_named() -> None:
    with pytest.raises(MalformedRequest, match="100, 300"):
        decode({1: {2: [{6: ["198.51.100.7/32"], 14: 3600, 300: 1, 100: {5: 6}}]}})


@pytest.mark.rows("SIG-CBR-010")
@pytest.mark.parametrize("key", [128, 255, 16384, 32768, 49152, 65535])
def test_unknown_optional_keys_are_ignored_everywhere(key: int) -> None:
    assert decode({key: 1, 1: {key: [], 2: [{key: {1: 2}, 6: ["198.51.100.7/32"], 14: 3600}]}}) == decode(MINIMAL)


@pytest.mark.rows("SIG-CBR-011")
@pytest.mark.parametrize("key", [0, -1, 65536, 2**63, -(2**64), 2**70])
def test_keys_outside_the_registry_are_refused(key: int) -> None:
    with pytest.raises(MalformedRequest):
        decode({1: {2: [{6: ["198.51.100.7/32"], 14: 3600, key: 1}]}})


@pytest.mark.rows("SIG-CBR-012", "SIG-CBR-001", "SIG-SEC-006")
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"hello",
        bytes.fromhex("a1"),  # ends early
        bytes.fromhex("a10101ff"),  # goes on after its end
        bytes.fromhex("a2010101 02".replace(" ", "")),  # the same key twice
        cbor2.dumps({"mitigation-scope": {}}),
        cbor2.dumps([MINIMAL]),
        cbor2.dumps(cbor2.CBORTag(272, MINIMAL)),
        cbor2.dumps({1: {2: [{6: [cbor2.CBORTag(32, "198.51.100.7/32")], 14: 3600}]}}),
        cbor2.dumps({1: {2: [{6: ["198.51.100.7/32"], 14: 2**70}]}}),  # a big integer is a tag
        cbor2.dumps({1: {2: [{6: "198.51.100.7/32", 14: 3600}]}}),
        cbor2.dumps({1: {2: [{6: [7], 14: 3600}]}}),
        cbor2.dumps({1: {2: [{6: ["198.51.100.7/32"], 14: 3600.0}]}}),
        cbor2.dumps({1: {2: [{6: ["198.51.100.7/32"], 14: "3600"}]}}),
        cbor2.dumps({1: {2: [{6: ["198.51.100.7/32"], 14: 3600, 45: 1}]}}),
        cbor2.dumps({1.0: {2: [{6: ["198.51.100.7/32"], 14: 3600}]}}),
        cbor2.dumps({True: {2: [{6: ["198.51.100.7/32"], 14: 3600}]}}),
        b"\x81" * 100_000 + b"\x00",
        b"\x9f" * 2_000,
        b"\x5f" * 2_000,
        bytes.fromhex("9bffffffffffffffff"),  # an array that says it is enormous
        bytes.fromhex("5bffffffffffffffff"),
        bytes.fromhex("d81d00"),  # a shared reference to nothing
    ],
)
def test_what_is_not_a_dots_body_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedRequest):
        messages.decode_mitigation(payload, PATH)


@pytest.mark.rows("SIG-CBR-012", "SIG-SEC-006")
@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_fail_otherwise(payload: bytes) -> None:
    try:
        messages.decode_mitigation(payload, PATH)
    except MalformedRequest as refusal:
        assert str(refusal)


@pytest.mark.rows("SIG-CBR-012")
@given(st.data())
def test_every_truncation_of_a_request_is_refused(data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(FIGURE_8) - 1))

    with pytest.raises(MalformedRequest):
        messages.decode_mitigation(FIGURE_8[:cut], PATH)


@pytest.mark.rows("SIG-CBR-013", "SIG-CBR-014")
@pytest.mark.parametrize("value", [{30: {}}, {49: {51: True}}, {1: {2: []}, 49: {51: True}}, {}])
def test_a_body_of_another_message_type_is_refused(value: object) -> None:
    with pytest.raises(MalformedRequest):
        decode(value)
    with pytest.raises(MalformedRequest):
        messages.decode_heartbeat(cbor2.dumps(MINIMAL))


@pytest.mark.rows("SIG-CBR-015", "SIG-URI-019", "SIG-MIT-026")
@pytest.mark.parametrize(
    "extra", [{5: 7}, {16: 2}, {15: 1}, {17: {19: 1}}, {25: 0}, {26: 0}, {27: 0}, {28: 0}, {4: "c"}, {3: "d"}]
)
def test_what_only_a_server_sends_or_the_path_holds_is_refused(extra: dict[int, object]) -> None:
    with pytest.raises(MalformedRequest):
        decode({1: {2: [{6: ["198.51.100.7/32"], 14: 3600, **extra}]}})


def test_encoding_is_the_inverse_of_decoding_for_every_name() -> None:
    with pytest.raises(KeyError):
        body.encode({"no-such-name": 1})
