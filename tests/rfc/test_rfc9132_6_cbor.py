"""The CBOR of the signal channel (RFC 9132, sections 6 and 10.6.1.1), octet by octet."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import cbor2
import pytest
from refusals import assert_refused

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import body as bodies
from mitigation.protocol import messages
from mitigation.protocol.paths import Path
from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.wire import PUT, Peer, peer, scope

# RFC 9132, Figure 8: the request of Figure 7.
FIGURE_8 = bytes.fromhex(
    "a1 01 a1 02 81 a4"
    "   06 82 74 323030313A6462383A363430313A3A312F313238"
    "         74 323030313A6462383A363430313A3A322F313238"
    "   07 83 a1 08 18 50  a1 08 19 01bb  a1 08 19 1f90"
    "   0a 81 06"
    "   0e 19 0e10"
)
HEARTBEAT = bytes.fromhex("a1 18 31 a1 18 33 f5")


def entry(cast: Cast, more: dict[Any, Any] | None = None) -> dict[Any, Any]:
    return {6: [f"{cast.domain.host}/32"], 14: 600, **(more or {})}


def body(cast: Cast, more: dict[Any, Any] | None = None) -> bytes:
    return cbor2.dumps({1: {2: [entry(cast, more)]}})


def text(value: str) -> bytes:
    return cbor2.dumps(value)


# -- keys


@pytest.mark.rows("SIG-CBR-001")
@pytest.mark.parametrize("level", ["message", "scope", "target-prefix", "lower-port"])
def test_text_keys_are_refused(alice: Peer, cast: Cast, level: str) -> None:
    wanted = {
        "message": {"ietf-dots-signal-channel:mitigation-scope": {2: [entry(cast)]}},
        "scope": {1: {"scope": [entry(cast)]}},
        "target-prefix": {1: {2: [{"target-prefix": [f"{cast.domain.host}/32"], 14: 600}]}},
        "lower-port": {1: {2: [entry(cast, {7: [{"lower-port": 80}]})]}},
    }

    assert_refused(alice, cbor2.dumps(wanted[level]), "key that is not an integer")


@pytest.mark.rows("SIG-CBR-001")
def test_answers_have_integer_keys_only(alice: Peer, cast: Cast) -> None:
    made = alice.put(1, body(cast, {7: [{8: 80, 9: 90}], 10: [6]}))

    def keys(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [*value, *(key for item in value.values() for key in keys(item))]
        return [key for item in value for key in keys(item)] if isinstance(value, list) else []

    for answer in (made, alice.get(1), alice.get()):
        found = keys(answer.body)
        assert len(found) >= 4
        assert {type(key) for key in found} == {int}


@pytest.mark.rows("SIG-CBR-002", "SIG-CBR-004")
def test_an_answer_is_these_octets(alice: Peer, cast: Cast) -> None:
    prefix = text(f"{cast.domain.host}/32")
    ports = bytes.fromhex("07 82 a1 08 18 50  a2 08 19 03e8 09 19 07d0")
    wanted = bytes.fromhex("a1 01 a1 02 81 a5 06 81") + prefix + ports
    wanted += bytes.fromhex("0a 82 06 11  0e 19 0258  18 2d f4")  # a boolean is simple value 20

    made = alice.put(7, wanted)
    configuration = alice.get(7, uri_query=["c=c"])
    state = alice.get(7, uri_query=["c=n"])

    assert made.payload == bytes.fromhex("a1 01 a1 02 81 a2 05 07 0e 19 0258")
    lifetimes = [bytes.fromhex("0e 19 0258"), bytes.fromhex("0e 19 0257")]
    head, targets = bytes.fromhex("a1 01 a1 02 81 a6 05 07 06 81"), ports + bytes.fromhex("0a 82 06 11")
    assert configuration.payload in [head + prefix + targets + bytes.fromhex("18 2d f4") + left for left in lifetimes]
    # status is unsigned: 10 08, attack-mitigation-signal-loss
    assert state.payload in [bytes.fromhex("a1 01 a1 02 81 a3 05 07") + left + b"\x10\x08" for left in lifetimes]


@pytest.mark.rows("SIG-CBR-003")
@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (Decimal("2.00"), "c4822118c8"),
        (Decimal("1.50"), "c482211896"),
        (Decimal("30.00"), "c48221190bb8"),
        (Decimal(2), "c4822118c8"),
        (Decimal("1.5"), "c482211896"),
        (Decimal("3E+1"), "c48221190bb8"),
        (Decimal("0"), "c4822100"),
    ],
)
def test_a_decimal_has_two_fraction_digits(value: Decimal, octets: str) -> None:
    wanted = bytes.fromhex("a1 181e a1 182c a1 1827 a1 182b") + bytes.fromhex(octets)

    sent = {"signal-config": {"idle-config": {"ack-timeout": {"current-value-decimal": value}}}}

    assert bodies.encode(sent) == wanted
    assert bodies.decode(wanted) == sent


@pytest.mark.rows("SIG-CBR-003")
@pytest.mark.parametrize(
    ("octets", "value"),
    [("c4822014", "2.00"), ("c4820002", "2.00"), ("c4820103", "30.00"), ("c482221907d0", "2.00"), ("c4822110", "0.16")],
)
def test_another_exponent_is_normalised(octets: str, value: str) -> None:
    got = bodies.decode(bytes.fromhex("a1 181e a1 182c a1 1827 a1 182b") + bytes.fromhex(octets))

    decimal = got["signal-config"]["idle-config"]["ack-timeout"]["current-value-decimal"]
    assert str(decimal) == value


@pytest.mark.rows("SIG-CBR-003", "SIG-CBR-002")
@pytest.mark.parametrize(
    "octets",
    [
        "c482221907d1",  # 2.001 has three digits
        "c48219ffff01",  # 1E65535
        "c4821a3b9aca0001",
        "c4823a3b9aca0001",
        "c482211bffffffffffffffff",  # above int64
        "c48221f6",  # a mantissa that is no integer
        "f94000",  # 2.0 as a float
        "02",
        "64322e3030",  # "2.00"
    ],
)
def test_what_is_no_decimal64_of_two_digits_is_refused(octets: str) -> None:
    with pytest.raises(MalformedRequest):
        bodies.decode(bytes.fromhex("a1 181e a1 182c a1 1827 a1 182b") + bytes.fromhex(octets))


@pytest.mark.rows("SIG-CBR-004")
def test_an_endless_lifetime_is_a_negative_integer(alice: Peer, cast: Cast, console: Console) -> None:
    wanted = bytes.fromhex("a1 01 a1 02 81 a2 06 81") + text(f"{cast.domain.host}/32") + bytes.fromhex("0e 20")

    granted = alice.put(1, wanted)
    console.run("Domain.objects.filter(name=name).update(grants_indefinite=True)", name=cast.domain.name)
    endless = alice.put(1, wanted)

    assert granted.payload == bytes.fromhex("a1 01 a1 02 81 a2 05 01 0e 1a 00015180")  # a day, by the domain's policy
    assert endless.payload == bytes.fromhex("a1 01 a1 02 81 a2 05 01 0e 20")
    assert alice.get(1, uri_query=["c=c"]).payload.endswith(b"\x0e\x20")


@pytest.mark.rows("SIG-CBR-005")
def test_mitigation_start_is_an_unsigned_integer_without_a_tag(alice: Peer, cast: Cast) -> None:
    alice.put(7, body(cast))

    shown = alice.get(7)

    start: int = shown.scope[15]
    assert bytes.fromhex("05 07 0f 1a") + start.to_bytes(4, "big") in shown.payload
    assert 0xC1 not in shown.payload[:12]


@pytest.mark.rows("SIG-CBR-006")
def test_the_request_of_figure_7_is_the_octets_of_figure_8(product: Product) -> None:
    domain = product.new_domain()
    product.manage("domain", "add", "figure-7.example", "--prefix", "2001:db8:6401::/64")
    out = product.home / "clients" / "figure-7"
    product.manage("client", "add", "figure-7", "--domain", "figure-7.example", "--out", str(out))
    files = product.new_client(domain, "other")
    request = messages.decode_mitigation(FIGURE_8, Path("mitigate", cuid="dz6pHjaADkaFTbjr0JGBpw", mid=123))

    with peer(type(files)("figure-7", "", out), product.signal_port, cuid="dz6pHjaADkaFTbjr0JGBpw") as client:
        made = client.put(123, FIGURE_8)
        shown = client.get(123, uri_query=["c=c"])

    assert messages.encode_mitigation(request) == FIGURE_8
    assert made.code == "2.01"
    assert made.scope == {5: 123, 14: 3600}
    assert shown.scope[6] == ["2001:db8:6401::1/128", "2001:db8:6401::2/128"]
    assert (shown.scope[7], shown.scope[10]) == ([{8: 80}, {8: 443}, {8: 8080}], [6])


@pytest.mark.rows("SIG-CBR-007")
def test_a_heartbeat_is_seven_octets(alice: Peer) -> None:
    answer = alice.ask(PUT, "hb", HEARTBEAT)

    assert (answer.code, answer.payload) == ("2.04", b"")
    assert messages.encode_heartbeat(peer_hb_status=True) == HEARTBEAT
    assert messages.encode_heartbeat(peer_hb_status=False) == HEARTBEAT[:-1] + b"\xf4"


@pytest.mark.rows("SIG-CBR-008")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_tag_271_may_stand_before_the_body(join: Any, cast: Cast, transport: str) -> None:
    alice = join("alice", transport=transport)
    tagged = bytes.fromhex("d9 010f") + body(cast)

    assert alice.put(1, tagged).code == "2.01"
    assert alice.put(1, body(cast)).code == "2.04"
    assert alice.put(1, tagged).code == "2.04"
    assert alice.ask(PUT, "hb", bytes.fromhex("d9 010f") + HEARTBEAT).code == "2.04"


@pytest.mark.rows("SIG-CBR-008", "SIG-CBR-012")
@pytest.mark.parametrize("place", ["another tag", "twice", "inside"])
def test_a_tag_elsewhere_is_refused(alice: Peer, cast: Cast, place: str) -> None:
    tag = bytes.fromhex("d9 010f")
    wanted = {
        "another tag": bytes.fromhex("d9 0110") + body(cast),
        "twice": tag + tag + body(cast),
        "inside": b"\xa1\x01" + tag + cbor2.dumps({2: [entry(cast)]}),
    }

    assert_refused(alice, wanted[place])


# -- keys that are not known


def at_levels(cast: Cast, key: int, value: Any) -> dict[str, bytes]:
    """A body with this key in each of its maps."""
    own = entry(cast, {7: [{8: 80}]})
    return {
        "body": cbor2.dumps({1: {2: [own]}, key: value}),
        "mitigation-scope": cbor2.dumps({1: {2: [own], key: value}}),
        "scope": cbor2.dumps({1: {2: [{**own, key: value}]}}),
        "target-port-range": cbor2.dumps({1: {2: [{**own, 7: [{8: 80, key: value}]}]}}),
    }


@pytest.mark.rows("SIG-CBR-009", "SIG-MIT-004")
@pytest.mark.parametrize("key", [54, 100, 127, 256, 300, 16383])
@pytest.mark.parametrize("level", ["body", "mitigation-scope", "scope", "target-port-range"])
def test_an_unknown_comprehension_required_key_is_refused_by_name(
    alice: Peer, cast: Cast, key: int, level: str
) -> None:
    assert_refused(alice, at_levels(cast, key, 1)[level], "comprehension-required", str(key))


@pytest.mark.rows("SIG-CBR-009")
def test_all_unknown_keys_are_named(alice: Peer, cast: Cast) -> None:
    assert_refused(alice, body(cast, {100: 1, 300: {}, 200: 1}), ": 100, 300")


@pytest.mark.rows("SIG-CBR-010")
@pytest.mark.parametrize("key", [128, 255, 16384, 32767, 32768, 49151, 49152, 65535])
def test_an_unknown_comprehension_optional_key_is_ignored(alice: Peer, cast: Cast, key: int) -> None:
    for mid, wanted in enumerate(at_levels(cast, key, {1: [2]}).values(), start=1):
        assert alice.put(mid, wanted).code == "2.01"

        shown = alice.get(mid).scope
        assert (shown[6], shown[7]) == ([f"{cast.domain.host}/32"], [{8: 80}])
        assert key not in shown


@pytest.mark.rows("SIG-CBR-010")
@pytest.mark.parametrize(
    "value",
    [
        "c11a00000001",
        "c074323032362d31312d32325430303a30303a30305a",
        "c249010000000000000000",
        "d8206161",
        "f97e00",
        "f6",
    ],
)
def test_whatever_its_value_is(alice: Peer, cast: Cast, value: str) -> None:
    prefix = text(f"{cast.domain.host}/32")
    unknown = bytes.fromhex("19 8001") + bytes.fromhex(value)

    made = alice.put(1, bytes.fromhex("a1 01 a1 02 81 a3 06 81") + prefix + bytes.fromhex("0e 19 0258") + unknown)

    assert made.code == "2.01"


@pytest.mark.rows("SIG-CBR-011")
@pytest.mark.parametrize("key", [0, -1, -300, 65536, 2**32, 2**63])
@pytest.mark.parametrize("level", ["body", "mitigation-scope", "scope", "target-port-range"])
def test_a_key_outside_1_to_65535_is_refused(alice: Peer, cast: Cast, key: int, level: str) -> None:
    assert_refused(alice, at_levels(cast, key, 1)[level], "outside 1 to 65535", str(key))


# -- what is not a body


PREFIX = "6f3139382e35312e3130302e372f3332"  # 198.51.100.7/32
MALFORMED = {
    "a map that is cut off": "a1 01 a1 02 81 a2 06 81 " + PREFIX,
    "a text that is cut off": "a1 01 a1 02 81 a2 06 81 6f3139",
    "a lone break": "ff",
    "reserved additional information": "a1 01 a1 02 81 1c",
    "text that is not UTF-8": "a1 01 a1 02 81 a2 06 81 62c328 0e190258",
    "one octet after the end": "a1 01 a1 02 81 a2 06 81 " + PREFIX + " 0e190258 00",
    "a second body after the end": "a1 01 a1 02 81 a2 06 81 " + PREFIX + " 0e190258 a0",
    "lifetime twice": "a1 01 a1 02 81 a3 06 81 " + PREFIX + " 0e190258 0e190259",
    "mitigation-scope twice": "a2 01 a1 02 81 a2 06 81 " + PREFIX + " 0e190258 01 a0",
    "an array": "80",
    "a number": "01",
    "a text": "6161",
    "null": "f6",
    "an empty map": "a0",
    "an array nested without end": "81" * 400,
    "a huge length": "5b ffffffffffffffff",
    "a huge array": "a1 01 a1 02 9b 00ffffffffffffff",
}


@pytest.mark.rows("SIG-CBR-012", "SIG-MIT-025")
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_well_formed_is_refused(alice: Peer, name: str) -> None:
    assert_refused(alice, bytes.fromhex(MALFORMED[name]))


@pytest.mark.rows("SIG-CBR-012")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_no_body_at_all_is_refused(join: Any, transport: str) -> None:
    assert_refused(join("alice", transport=transport), b"", "empty")


OF_ANOTHER_TYPE: dict[str, Any] = {
    "mitigation-scope (1) is an array": {1: [{2: []}]},
    "scope (2) is a map": {1: {2: {6: ["198.51.100.7/32"], 14: 600}}},
    "scope (2) holds a number": {1: {2: [1]}},
}
ENTRIES_OF_ANOTHER_TYPE: dict[str, dict[int, Any]] = {
    "target-prefix (6) is a text": {6: "198.51.100.7/32"},
    "target-prefix (6) holds octets": {6: [b"198.51.100.7/32"]},
    "target-prefix (6) holds a number": {6: [1]},
    "target-port-range (7) is a map": {7: {8: 80}},
    "target-port-range (7) holds a number": {7: [80]},
    "lower-port (8) is a text": {7: [{8: "80"}]},
    "lower-port (8) is a float": {7: [{8: 80.5}]},
    "lower-port (8) is negative": {7: [{8: -1}]},
    "upper-port (9) is a boolean": {7: [{8: 0, 9: True}]},
    "target-protocol (10) is a number": {10: 6},
    "target-protocol (10) holds a text": {10: ["tcp"]},
    "target-protocol (10) is negative": {10: [-6]},
    "target-protocol (10) holds a boolean": {10: [True]},
    "target-fqdn (11) is a text": {11: "www.example.com"},
    "target-uri (12) is a map": {12: {}},
    "alias-name (13) is a number": {13: 1},
    "lifetime (14) is a text": {14: "600"},
    "lifetime (14) is a float": {14: 600.5},
    "lifetime (14) is a boolean": {14: True},
    "lifetime (14) is null": {14: None},
    "lifetime (14) is a bignum": {14: 2**70},
    "attack-status (29) is a text": {29: "under-attack"},
    "trigger-mitigation (45) is 1": {45: 1},
    "trigger-mitigation (45) is a text": {45: "true"},
    "ietf-dots-signal-control:acl-list (53) is a map": {53: {23: "a", 52: 1}},
}


@pytest.mark.rows("SIG-CBR-002", "SIG-CBR-012")
@pytest.mark.parametrize("name", OF_ANOTHER_TYPE)
def test_a_message_of_another_type_is_refused(alice: Peer, name: str) -> None:
    assert_refused(alice, cbor2.dumps(OF_ANOTHER_TYPE[name]), "is not", name.split(" ")[0])


@pytest.mark.rows("SIG-CBR-002", "SIG-CBR-012", "SIG-MIT-004")
@pytest.mark.parametrize("name", ENTRIES_OF_ANOTHER_TYPE)
def test_a_value_of_another_type_is_refused(alice: Peer, cast: Cast, name: str) -> None:
    refusal = assert_refused(alice, body(cast, ENTRIES_OF_ANOTHER_TYPE[name]))

    if "bignum" not in name:
        assert name.split(" is ")[0].split(" holds ")[0] in refusal


@pytest.mark.rows("SIG-CBR-013")
@pytest.mark.parametrize(
    ("key", "value"), [(30, {32: {33: {36: 30}}}), (49, {51: True}), (46, {47: "a.example"})], ids=["30", "49", "46"]
)
def test_another_message_than_the_path_asks_for_is_refused(alice: Peer, key: int, value: Any) -> None:
    assert_refused(alice, cbor2.dumps({key: value}))


@pytest.mark.rows("SIG-CBR-013")
@pytest.mark.parametrize("wanted", [{1: {2: [{6: ["198.51.100.7/32"], 14: 600}]}}, {30: {32: {33: {36: 30}}}}])
def test_a_heartbeat_with_another_message_is_refused(alice: Peer, wanted: Any) -> None:
    refused = alice.ask(PUT, "hb", cbor2.dumps(wanted))

    assert refused.code == "4.00"
    assert "heartbeat is expected" in refused.diagnostic
    assert alice.get().code == "4.04"


@pytest.mark.rows("SIG-CBR-014")
@pytest.mark.parametrize(("key", "value"), [(30, {}), (46, {}), (49, {51: True})], ids=["30", "46", "49"])
def test_two_messages_in_one_body_are_refused(alice: Peer, cast: Cast, key: int, value: Any) -> None:
    both = cbor2.dumps({1: {2: [entry(cast)]}, key: value})

    assert_refused(alice, both, "several message types")
    assert alice.ask(PUT, "hb", both).code == "4.00"


FROM_SERVERS: dict[str, dict[int, Any]] = {
    "mid": {5: 1},
    "mitigation-start": {15: 1_790_000_000},
    "status": {16: 2},
    "conflict-information": {17: {19: 1}},
    "conflict-status": {18: 1},
    "conflict-cause": {19: 1},
    "retry-timer": {20: 1},
    "conflict-scope": {21: {}},
    "acl-list": {22: []},
    "bytes-dropped": {25: 0},
    "bps-dropped": {26: 0},
    "pkts-dropped": {27: 0},
    "pps-dropped": {28: 0},
}


@pytest.mark.rows("SIG-CBR-015", "SIG-MIT-004")
@pytest.mark.parametrize("name", FROM_SERVERS)
def test_what_servers_send_is_refused_in_a_request(alice: Peer, cast: Cast, name: str) -> None:
    assert_refused(alice, body(cast, FROM_SERVERS[name]), f"{name} is sent by servers only")


@pytest.mark.rows("SIG-CBR-015")
@pytest.mark.parametrize(("key", "name"), [(3, "cdid"), (4, "cuid")])
def test_cuid_and_cdid_have_no_place_in_a_body(alice: Peer, cast: Cast, key: int, name: str) -> None:
    assert_refused(alice, body(cast, {key: "x"}), f"{name} belongs in the path")


@pytest.mark.rows("SIG-CBR-015")
@pytest.mark.parametrize("key", [24, 30, 31, 32, 36, 47, 49, 50, 51, 52, 23, 8, 9])
def test_a_key_of_another_place_is_refused(alice: Peer, cast: Cast, key: int) -> None:
    values: dict[int, Any] = {24: "x", 30: {}, 32: {}, 47: "x", 49: {}, 50: {}, 51: True, 23: "x"}

    assert_refused(alice, body(cast, {key: values.get(key, 1)}))


@pytest.mark.rows("SIG-CBR-016")
def test_attack_status_is_not_repeated_to_the_client(alice: Peer, cast: Cast) -> None:
    alice.put(1, body(cast))

    updated = alice.put(1, body(cast, {29: 1}), if_match=[b""])

    assert updated.code == "2.04"
    for answer in (updated, alice.get(1), alice.get()):
        assert 29 not in answer.scope


# -- encodings


def encodings(prefix: str) -> dict[str, bytes]:
    one = text(prefix)
    return {
        "indefinite maps and arrays": bytes.fromhex("bf 01 bf 02 9f bf 06 9f")
        + one
        + bytes.fromhex("ff 0e 190258 ff ff ff ff"),
        "a text in pieces": bytes.fromhex("a1 01 a1 02 81 a2 06 81 7f")
        + text(prefix[:5])
        + text(prefix[5:])
        + bytes.fromhex("ff 0e 190258"),
        "long integers": bytes.fromhex("a1 1801 a1 190002 81 a2 1a00000006 81")
        + one
        + bytes.fromhex("1b000000000000000e 1b0000000000000258"),
        "long lengths": bytes.fromhex("b90001 01 ba00000001 02 9801 b802 06 990001")
        + b"\x78"
        + bytes([len(prefix)])
        + prefix.encode()
        + bytes.fromhex("0e 190258"),
    }


@pytest.mark.rows("SIG-CBR-017")
@pytest.mark.parametrize("name", ["indefinite maps and arrays", "a text in pieces", "long integers", "long lengths"])
def test_every_encoding_of_the_same_is_the_same_request(alice: Peer, cast: Cast, name: str) -> None:
    prefix = f"{cast.domain.host}/32"

    assert alice.put(1, encodings(prefix)[name]).code == "2.01"

    assert alice.put(1, scope(prefix)).code == "2.04"
    assert alice.get(1).scope[6] == [prefix]


@pytest.mark.rows("SIG-CBR-017")
def test_answers_are_in_the_shortest_definite_form(alice: Peer, bob: Peer, cast: Cast) -> None:
    prefix = f"{cast.domain.host}/32"
    made = alice.put(1, encodings(prefix)["long integers"])
    overlapped = bob.put(1, encodings(prefix)["indefinite maps and arrays"])
    refused = alice.put(0, encodings(prefix)["long lengths"])

    assert (made.code, overlapped.code, refused.code) == ("2.01", "2.01", "4.09")
    for answer in (made, overlapped, refused, alice.get(1), alice.get()):
        assert answer.payload == cbor2.dumps(answer.body)
        assert answer.payload[0] == 0xA1


@pytest.mark.rows("SIG-CBR-018")
def test_a_client_shows_enumerations_it_does_not_know_as_numbers() -> None:
    later = cbor2.dumps({1: {2: [{5: 1, 16: 9, 17: {18: 4, 19: 5}, 14: 60}]}})

    (shown,) = messages.decode_reports(later)

    assert shown["status"] == 9
    assert shown["conflict-information"] == {"conflict-status": 4, "conflict-cause": 5}
