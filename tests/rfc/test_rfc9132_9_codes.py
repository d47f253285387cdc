"""Which code answers what (RFC 9132, section 9; RFC 7252, section 5.9), one sentence of the code matrix each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import pytest
import scenes
from aiocoap.numbers.types import CON
from conftest import Join

from mitigation.pki.authority import open_authority
from mitigation.pki.home import Home
from mitigation.signal_channel.errors import CODES
from tests.flows.durability_state import locked
from tests.harness.console import Console
from tests.harness.product import Cast, Files, Product
from tests.harness.raw import Raw
from tests.harness.wire import DELETE, GET, POST, PUT, Peer, peer, scope

HEARTBEAT = cbor2.dumps({49: {51: True}})
IF_MATCH, PROXY_URI, PROXY_SCHEME, Q_BLOCK1, Q_BLOCK2, UNKNOWN_CRITICAL = 1, 35, 39, 19, 31, 65_001
TOKEN, OTHER = b"\x01", b"\x02"

# Each is one fault alone, in a body that is otherwise right.
WRONG_BODIES: dict[str, Any] = {
    "nothing": b"",
    "no CBOR": b"\xff\xff",
    "no map": cbor2.dumps([1]),
    "another message": cbor2.dumps({30: {}}),
    "no scope": cbor2.dumps({1: {}}),
    "two scopes": cbor2.dumps({1: {2: [{6: ["192.0.2.1/32"], 14: 60}] * 2}}),
    "no target": scope(),
    "no lifetime": scope("192.0.2.1/32", lifetime=None),
    "lifetime 0": scope("192.0.2.1/32", lifetime=0),
    "lifetime -2": scope("192.0.2.1/32", lifetime=-2),
    "an empty target": scope(k6=[""]),
    "an empty list": scope(k6=[]),
    "a prefix that is none": scope("192.0.2.256/32"),
    "an address without length": scope("192.0.2.1"),
    "a port above 65535": scope("192.0.2.1/32", k7=[{8: 65_536}]),
    "ports in the wrong order": scope("192.0.2.1/32", k7=[{8: 9, 9: 8}]),
    "a protocol above 255": scope("192.0.2.1/32", k10=[256]),
    "an alias of nobody": scope(k13=["nobody"]),
    "an unknown key that must be understood": scope("192.0.2.1/32", k127=1),
    "the cuid in the body": scope("192.0.2.1/32", k4="me"),
    "a server's key": scope("192.0.2.1/32", k16=2),
    "filters of an armed request": scope("192.0.2.1/32", k45=False, k53=[{23: "f", 52: 1}]),
    "a target of another domain": scope("198.51.100.1/32"),
}


@pytest.fixture(scope="module")
def guest(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Somebody with a certificate of our authority who is nobody's client."""
    home = Home(product.home)
    issued = open_authority(home).issue_client("guest", now=datetime.now(UTC))
    directory: Path = tmp_path_factory.mktemp("guest")
    (directory / "cert.pem").write_bytes(issued.certificate_pem)
    (directory / "key.pem").write_bytes(issued.key_pem)
    (directory / "ca.pem").write_bytes(home.authority_certificate.read_bytes())
    with peer(Files("guest", "", directory), product.signal_port) as opened:
        yield opened


def mitigate(one: Peer, mid: int = 1) -> str:
    return f"mitigate/cuid={one.cuid}/mid={mid}"


@pytest.mark.rows("SIG-ERR-001")
def test_2_01_for_a_new_mid_only(alice: Peer, cast: Cast) -> None:
    assert alice.put(1, scope(scenes.only(cast))).code == "2.01"
    assert alice.put(1, scope(scenes.only(cast))).code == "2.04"


@pytest.mark.rows("SIG-ERR-002")
def test_2_02_for_delete_whether_known_or_not(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    assert (alice.delete(1).code, alice.delete(99).code) == ("2.02", "2.02")


@pytest.mark.rows("SIG-ERR-004")
def test_2_04_for_a_refresh_with_a_body_and_for_a_heartbeat_without(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refresh, heartbeat = alice.put(1, scope(scenes.only(cast))), alice.ask(PUT, "hb", HEARTBEAT)

    assert (refresh.code, refresh.scope) == ("2.04", {5: 1, 14: 600})
    assert (heartbeat.code, heartbeat.payload) == ("2.04", b"")


@pytest.mark.rows("SIG-ERR-005")
def test_2_05_for_get_and_notifications(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))
    watch = alice.watch(1)
    watch.next()
    alice.delete(1)

    assert alice.get(1).code == "2.05"
    assert watch.until_status(5).code == "2.05"


@pytest.mark.rows("SIG-ERR-007", "SIG-ERR-019", "SIG-ERR-010")
@pytest.mark.parametrize("fault", WRONG_BODIES)
def test_4_00_for_any_violation_in_a_body_and_neither_4_22_nor_4_03(alice: Peer, fault: str) -> None:
    refused = alice.put(1, WRONG_BODIES[fault], content_format=271)

    assert refused.code == "4.00"
    assert refused.diagnostic
    assert alice.get(1).code == "4.04"


@pytest.mark.rows("SIG-ERR-007")
@pytest.mark.parametrize("path", ["mitigate", "mitigate/mid=1", "mitigate/cuid=a", "mitigate/mid=1/cuid=a"])
def test_4_00_for_a_path_that_lacks_something_or_has_another_order(alice: Peer, cast: Cast, path: str) -> None:
    refused = alice.ask(PUT, path, scope(scenes.only(cast)))

    assert refused.code == "4.00"
    assert refused.diagnostic


@pytest.mark.rows("SIG-ERR-007")
def test_4_00_for_a_changed_refresh(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refused = alice.put(1, scope(scenes.only(cast, 9)))

    assert refused.code == "4.00"
    assert "higher mid" in refused.diagnostic


@pytest.mark.rows("SIG-ERR-008")
def test_4_01_for_who_is_not_registered(guest: Peer, cast: Cast) -> None:
    for refused in (guest.put(1, scope(scenes.only(cast))), guest.get(), guest.delete(1)):
        assert refused.code == "4.01"
        assert "not registered" in refused.diagnostic


@pytest.mark.rows("SIG-ERR-008")
def test_4_01_for_nobody_while_an_operator_changes_a_domain(alice: Peer, cast: Cast, console: Console) -> None:
    alice.put(1, scope(scenes.only(cast), k45=False))
    codes: set[str] = set()
    for seconds in range(20):
        scenes.set_domain(console, cast, attack_over_after=seconds)
        codes |= {alice.get(1).code for _ in range(10)}

    assert codes == {"2.05"}


@pytest.mark.rows("SIG-ERR-009")
@pytest.mark.parametrize("option", [UNKNOWN_CRITICAL, 9, 21, Q_BLOCK1, Q_BLOCK2])
@pytest.mark.parametrize("code", [GET, PUT, DELETE])
def test_4_02_for_a_critical_option_that_is_not_known(alice: Peer, cast: Cast, option: int, code: Any) -> None:
    body = scope(scenes.only(cast)) if code == PUT else b""

    refused = alice.ask(code, mitigate(alice), body, confirmable=True, raw={option: b"\x01"})

    assert refused.code == "4.02"
    assert str(option) in refused.diagnostic
    assert alice.get(1).code == "4.04"


@pytest.mark.rows("SIG-ERR-009")
def test_4_02_is_not_said_to_a_non_confirmable_message(alice: Peer, join: Join, cast: Cast) -> None:
    raw = Raw(alice)
    raw.send(PUT, raw.mitigate(1), scope(scenes.only(cast)), token=TOKEN, raw={UNKNOWN_CRITICAL: b""})
    raw.send(PUT, "hb", HEARTBEAT, token=OTHER)

    assert raw.next(OTHER).code.dotted == "2.04"
    assert raw.next_or_none(TOKEN, within=0.5) is None
    assert join("alice").get(1).code == "4.04"


@pytest.mark.rows("SIG-ERR-009")
def test_4_02_for_blocks_of_both_kinds_and_an_unknown_elective_option_is_ignored(alice: Peer, cast: Cast) -> None:
    body = scope(scenes.only(cast))
    mixed = alice.put(1, body, confirmable=True, block1=(0, False, 4), raw={Q_BLOCK1: b"\x04"})

    assert mixed.code == "4.02"
    assert alice.put(1, body, raw={65_000: b"x"}).code == "2.01"


@pytest.mark.rows("SIG-ERR-010", "SIG-ERR-026")
def test_codes_that_rfc_9132_does_not_have_are_not_in_use() -> None:
    used = {code.dotted for code in CODES.values()}

    assert not used & {"3.00", "4.03", "5.06"}


@pytest.mark.rows("SIG-ERR-011")
@pytest.mark.parametrize("path", ["nothing", "", "mitigation", "mitigate2/cuid=a/mid=1"])
def test_4_04_for_an_unknown_resource(alice: Peer, path: str) -> None:
    refused = alice.ask(GET, path)

    assert refused.code == "4.04"
    assert refused.diagnostic


@pytest.mark.rows("SIG-ERR-011")
def test_4_04_for_a_filter_that_is_not_there(alice: Peer, cast: Cast) -> None:
    refused = alice.put(1, scope(scenes.only(cast), k53=[{23: "no-such-filter", 52: 1}]))

    assert refused.code == "4.04"
    assert "no-such-filter" in refused.diagnostic
    assert alice.get(1).code == "4.04"


@pytest.mark.rows("SIG-ERR-011")
def test_4_04_for_get_and_never_for_delete(alice: Peer) -> None:
    assert (alice.get(1).code, alice.get().code, alice.delete(1).code) == ("4.04", "4.04", "2.02")


@pytest.mark.rows("SIG-ERR-012")
def test_4_05_for_a_method_that_a_resource_does_not_take(alice: Peer, cast: Cast) -> None:
    for refused in (
        alice.ask(POST, mitigate(alice), scope(scenes.only(cast))),
        alice.ask(GET, "hb"),
        alice.ask(POST, "hb", HEARTBEAT),
        alice.ask(DELETE, "hb"),
    ):
        assert refused.code == "4.05"
        assert "PUT" in refused.diagnostic


@pytest.mark.rows("SIG-ERR-021", "SIG-ERR-012")
@pytest.mark.parametrize("method", [5, 6, 7, 8, 31])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_4_05_for_a_method_that_nobody_knows_and_not_5_01(join: Join, method: int, transport: str) -> None:
    alice = join("alice", transport=transport)
    raw = Raw(alice)

    raw.send(method, raw.mitigate(1), token=TOKEN, kind=CON)

    assert raw.next(TOKEN).code.dotted == "4.05"


@pytest.mark.rows("SIG-ERR-013")
@pytest.mark.parametrize("accept", [0, 50, 60, 65_000])
def test_4_06_for_a_format_that_cannot_be_given(alice: Peer, cast: Cast, accept: int) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refused = alice.get(1, accept=accept)

    assert refused.code == "4.06"
    assert str(accept) in refused.diagnostic
    assert alice.get(1, accept=271).code == "2.05"


@pytest.mark.rows("SIG-ERR-015")
def test_4_09_has_a_dots_body(alice: Peer, cast: Cast) -> None:
    alice.put(2, scope(scenes.only(cast)))

    refused = alice.put(1, scope(scenes.only(cast)))

    assert refused.code == "4.09"
    assert refused.message.opt.content_format == 271
    assert refused.scope[17][19] == 1


@pytest.mark.rows("SIG-ERR-016")
def test_4_12_for_if_none_match_on_what_is_there(alice: Peer, cast: Cast) -> None:
    assert alice.put(1, scope(scenes.only(cast)), if_none_match=True).code == "2.01"

    refused = alice.put(1, scope(scenes.only(cast), lifetime=900), if_none_match=True)

    assert refused.code == "4.12"
    assert "exists" in refused.diagnostic
    assert alice.get(1).scope[14] <= 600


@pytest.mark.rows("SIG-ERR-018")
@pytest.mark.parametrize("content_format", [0, 50, 60, 272, 65_000])
def test_4_15_for_another_content_format(alice: Peer, cast: Cast, content_format: int) -> None:
    refused = alice.put(1, scope(scenes.only(cast)), content_format=content_format)

    assert refused.code == "4.15"
    assert str(content_format) in refused.diagnostic
    assert alice.get(1).code == "4.04"


@pytest.mark.rows("SIG-ERR-020")
def test_5_00_for_what_should_not_happen_and_nothing_of_the_inside(
    alice: Peer, cast: Cast, console: Console, product: Product
) -> None:
    alice.put(1, scope(scenes.only(cast), k45=False))
    damage = "Mitigation.objects.filter(client__name=client).update(acl_changes=value)"
    console.run(damage, client=cast.alice.name, value=[{"damaged": "on purpose"}])

    failed = alice.get(1)
    console.run(damage, client=cast.alice.name, value=[])

    assert failed.code == "5.00"
    assert failed.diagnostic == "the server failed; its operators see why in the log"
    assert any("request failed" in line for line in product.lines)
    assert alice.put(2, scope(scenes.only(cast, 2))).code == "2.01"


@pytest.mark.rows("SIG-ERR-023")
def test_5_03_with_max_age_where_a_domain_has_its_quota(alice: Peer, cast: Cast, console: Console) -> None:
    console.run("Domain.objects.filter(name=name).update(maximum_mitigations=1)", name=cast.domain.name)
    alice.put(1, scope(scenes.only(cast, 1)))

    refused = alice.put(2, scope(scenes.only(cast, 2)))

    assert (refused.code, refused.message.opt.max_age) == ("5.03", 60)
    assert "maximum" in refused.diagnostic
    assert alice.put(1, scope(scenes.only(cast, 1))).code == "2.04"


@pytest.mark.rows("SIG-ERR-023")
def test_5_03_with_max_age_while_nothing_can_be_stored(alice: Peer, cast: Cast, product: Product) -> None:
    with locked(product):
        refused = alice.put(1, scope(scenes.only(cast)))

    assert (refused.code, refused.message.opt.max_age) == ("5.03", 5)
    assert refused.diagnostic
    assert alice.put(1, scope(scenes.only(cast))).code == "2.01"


@pytest.mark.rows("SIG-ERR-024")
@pytest.mark.parametrize(
    "options", [{PROXY_URI: b"coaps://elsewhere.example/.well-known/dots/hb"}, {PROXY_SCHEME: b"coaps"}]
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_5_05_for_whoever_takes_us_for_a_proxy(join: Join, options: dict[int, bytes], transport: str) -> None:
    alice = join("alice", transport=transport)

    refused = alice.ask(GET, mitigate(alice), confirmable=True, raw=options)

    assert refused.code == "5.05"
    assert refused.diagnostic == "this server is no proxy"


# -- several faults at once: the one that comes first in the order of checks is told


@pytest.mark.rows("SIG-ERR-027")
def test_an_option_comes_before_everything(guest: Peer, alice: Peer) -> None:
    wrong = {"confirmable": True, "raw": {UNKNOWN_CRITICAL: b""}}

    assert guest.ask(PUT, "nothing", b"\xff", content_format=60, **wrong).code == "4.02"
    assert alice.ask(POST, "hb", b"\xff", **wrong).code == "4.02"


@pytest.mark.rows("SIG-ERR-027")
def test_the_path_comes_before_identity_format_and_body(guest: Peer, alice: Peer) -> None:
    assert guest.ask(PUT, "nothing", b"\xff", content_format=60).code == "4.04"
    assert alice.ask(PUT, "nothing", b"\xff", content_format=60).code == "4.04"


@pytest.mark.rows("SIG-ERR-027")
def test_the_method_comes_before_format_identity_and_body(guest: Peer, alice: Peer) -> None:
    assert alice.ask(POST, mitigate(alice), b"\xff", content_format=60).code == "4.05"
    assert guest.ask(POST, mitigate(guest), b"\xff", content_format=60).code == "4.05"


@pytest.mark.rows("SIG-ERR-027")
def test_the_format_comes_before_identity_and_body(guest: Peer, alice: Peer) -> None:
    assert alice.put(1, b"\xff", content_format=60).code == "4.15"
    assert guest.put(1, b"\xff", content_format=60).code == "4.15"


@pytest.mark.rows("SIG-ERR-027")
def test_identity_comes_before_the_body_and_the_body_before_the_state(guest: Peer, alice: Peer, cast: Cast) -> None:
    assert guest.put(1, b"\xff").code == "4.01"
    alice.put(2, scope(scenes.only(cast)))
    assert alice.put(1, scope(scenes.only(cast), lifetime=0)).code == "4.00"
    assert alice.put(1, scope(scenes.only(cast))).code == "4.09"
