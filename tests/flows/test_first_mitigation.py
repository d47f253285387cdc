"""A network asks for help, is told what happens, and ends it: with peers written by others, and with our own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cbor2
import pytest

from tests.harness.libcoap import GNUTLS, OPENSSL, Libcoap
from tests.harness.product import Domain, Files, Product
from tests.harness.waiting import until

pytestmark = pytest.mark.flow


@pytest.fixture
def domain(product: Product) -> Domain:
    return product.new_domain()


@pytest.fixture
def alice(product: Product, domain: Domain) -> Files:
    return product.new_client(domain, "alice")


def scope(prefix: str, lifetime: int = 600) -> bytes:
    return cbor2.dumps({1: {2: [{6: [prefix], 14: lifetime}]}})


@pytest.mark.rows(
    "SIG-TRN-001",
    "SIG-TRN-003",
    "SIG-TRN-008",
    "SIG-TRN-010",
    "SIG-URI-002",
    "SIG-URI-006",
    "SIG-PUT-001",
    "SIG-PUT-002",
    "SIG-GET-001",
    "SIG-GET-003",
    "SIG-DEL-001",
    "SIG-OBS-001",
    "SIG-OBS-002",
    "SIG-OBS-003",
    "SIG-OBS-016",
    "SIG-ERR-001",
    "SIG-ERR-002",
    "SIG-ERR-005",
    "SIG-COA-017",
    "SIG-COA-018",
    "SIG-AUT-001",
    "SIG-AUT-002",
    "SIG-STA-001",
    "SIG-STA-009",
)
@pytest.mark.parametrize("tool", [GNUTLS, OPENSSL])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("server", ["127.0.0.1", "::1"])
def test_libcoap_puts_observes_gets_and_deletes(
    product: Product, domain: Domain, alice: Files, tool: str, transport: str, server: str
) -> None:
    peer = Libcoap(tool, alice, server=server, port=product.signal_port, transport=transport)
    path = "/mitigate/cuid=c-alice/mid=1".replace("c-alice", f"{alice.name}")

    put = peer.ask("put", path, scope(f"{domain.host}/32"))
    assert put.code == "2.01", put.log
    assert put.body == {1: {2: [{5: 1, 14: 600}]}}

    with peer.observe(path, seconds=40) as watching:
        until(lambda: 2 in watching.statuses, within=15, what="status 2 told to the observer")
        got = peer.ask("get", path)
        assert got.code == "2.05"
        (entry,) = got.body[1][2]
        assert (entry[5], entry[6], entry[16]) == (1, [f"{domain.host}/32"], 2)
        assert 0 < entry[14] <= 600

        gone = peer.ask("delete", path)
        assert (gone.code, gone.payload) == ("2.02", b"")
        until(lambda: 5 in watching.statuses, within=15, what="status 5 told to the observer")

    assert peer.ask("get", path).body[1][2][0][16] == 5


@pytest.mark.rows(
    "SIG-TRN-001",
    "SIG-TRN-011",
    "SIG-TRN-012",
    "SIG-LIF-001",
    "SIG-LIF-002",
    "SIG-PUT-009",
    "SIG-MID-002",
    "SIG-CUI-001",
    "SIG-CUI-003",
)
@pytest.mark.parametrize("server", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_our_own_client_asks_looks_and_withdraws(
    product: Product, domain: Domain, alice: Files, transport: str, server: str
) -> None:
    other = "tcp" if transport == "udp" else "udp"

    asked = product.client(alice, "mitigate", domain.host, domain.host6, transport=transport, server=server)
    assert asked.status == 0, asked.err
    (granted,) = asked.json["scope"]
    mid = granted["mid"]
    assert (asked.json["code"], granted["lifetime"]) == ("2.01", 3600)

    def status() -> int:
        found = product.client(alice, "status", "--mid", str(mid), transport=other, server=server)
        return int(found.json["scope"][0]["status"])

    until(lambda: status() == 2, what="status 2")
    again = product.client(alice, "mitigate", domain.host6, domain.host, "--mid", str(mid), transport=other)
    assert again.json["code"] == "2.04"
    assert product.client(alice, "withdraw", "--mid", str(mid), transport=other).json["code"] == "2.02"
    assert status() == 5
    assert product.client(alice, "mitigate", domain.host, transport=transport).json["scope"][0]["mid"] > mid


def test_the_clients_exit_status_tells_what_happened(product: Product, domain: Domain, alice: Files) -> None:
    foreign = product.client(alice, "mitigate", "203.0.113.7")
    assert (foreign.status, foreign.json["code"]) == (1, "4.00")
    assert "203.0.113.7/32 is outside" in foreign.json["diagnostic"]

    assert product.client(alice, "mitigate", "nonsense").status == 2
    assert product.client(alice, "withdraw").status == 2

    nobody = product.client(alice, "status", "--patience", "2", server="127.0.0.9", transport="tcp")
    assert nobody.status == 3
    assert nobody.json["error"]


@pytest.fixture
def mallory(product: Product) -> Files:
    return product.new_client(product.new_domain(), "mallory")


@pytest.mark.rows(
    "SIG-URI-018",
    "SIG-SEC-003",
    "SIG-CUI-006",
    "SIG-CUI-007",
    "SIG-AUT-007",
    "SIG-ERR-011",
    "SIG-ERR-015",
    "SIG-DEL-002",
)
def test_mallory_sees_and_changes_nothing_of_alices(
    product: Product, domain: Domain, alice: Files, mallory: Files
) -> None:
    path = "/mitigate/cuid=of-alice-x/mid=7".replace("alice-x", domain.name)
    ours = Libcoap(GNUTLS, alice, server="127.0.0.1", port=product.signal_port)
    theirs = Libcoap(GNUTLS, mallory, server="127.0.0.1", port=product.signal_port)
    assert ours.ask("put", path, scope(f"{domain.host}/32")).code == "2.01"

    assert theirs.ask("get", path).code == "4.04"
    assert theirs.ask("get", path.rpartition("/")[0]).code == "4.04"
    assert theirs.ask("delete", path).code == "2.02"
    stolen = product.client(mallory, "mitigate", domain.host, "--cuid", f"of-{domain.name}")
    assert stolen.json["code"] == "4.09"
    assert stolen.json["scope"] == [{"conflict-information": {"conflict-cause": 3}}]
    assert theirs.ask("put", "/mitigate/cuid=mine/mid=1", scope(f"{domain.host}/32")).code == "4.00"

    assert ours.ask("get", path).body[1][2][0][16] in (1, 2)


BAD_INPUT: list[tuple[str, str, bytes, int | None, str, str]] = [
    ("truncated", "mid=1", scope("{host}/32")[:-3], 271, "4.00", "well-formed"),
    ("not CBOR", "mid=1", b"\xff\xff\xff", 271, "4.00", "well-formed"),
    ("JSON", "mid=1", b'{"mitigation-scope": {}}', 50, "4.15", "content format 50"),
    ("plain CBOR", "mid=1", scope("{host}/32"), 60, "4.15", "content format 60"),
    (
        "unknown mandatory key",
        "mid=1",
        cbor2.dumps({1: {2: [{6: ["10.0.0.1/32"], 14: 60, 100: 1}]}}),
        271,
        "4.00",
        "100",
    ),
    ("foreign prefix", "mid=1", scope("203.0.113.7/32"), 271, "4.00", "outside"),
    ("lifetime 0", "mid=1", scope("10.0.0.1/32", 0), 271, "4.00", "lifetime is 0"),
    ("no mid", "", scope("10.0.0.1/32"), 271, "4.00", "lacks mid"),
    ("mid is no number", "mid=x", scope("10.0.0.1/32"), 271, "4.00", "mid is not a number"),
]


@pytest.mark.rows(
    "SIG-MIT-004",
    "SIG-MIT-007",
    "SIG-MIT-017",
    "SIG-MIT-025",
    "SIG-URI-011",
    "SIG-URI-016",
    "SIG-COA-019",
    "SIG-COA-020",
    "SIG-CBR-009",
    "SIG-CBR-012",
    "SIG-ERR-007",
    "SIG-ERR-018",
    "SIG-AUT-013",
)
@pytest.mark.parametrize(
    ("segment", "body", "content_format", "code", "words"),
    [row[1:] for row in BAD_INPUT],
    ids=[row[0] for row in BAD_INPUT],
)
def test_bad_input_gets_its_code_and_sentence_and_leaves_no_state(
    product: Product,
    domain: Domain,
    alice: Files,
    segment: str,
    body: bytes,
    content_format: int | None,
    code: str,
    words: str,
) -> None:
    peer = Libcoap(GNUTLS, alice, server="127.0.0.1", port=product.signal_port)
    path = f"/mitigate/cuid={alice.name}" + (f"/{segment}" if segment else "")

    said = peer.ask("put", path, body, content_format=content_format)

    assert said.code == code, said.log
    assert words in said.payload.decode()
    assert peer.ask("get", f"/mitigate/cuid={alice.name}").code == "4.04"
    assert not [one for one in product.mitigations() if one["domain"] == domain.name]


@pytest.mark.rows(
    "SIG-URI-007",
    "SIG-URI-008",
    "SIG-URI-011",
    "SIG-URI-012",
    "SIG-URI-013",
    "SIG-URI-015",
    "SIG-ERR-012",
    "SIG-ERR-013",
    "SIG-COA-021",
    "SIG-ERR-009",
    "SIG-COA-022",
    "SIG-ERR-024",
)
@pytest.mark.parametrize(
    ("method", "path", "extra", "code"),
    [
        ("post", "/mitigate/cuid=c/mid=1", (), "4.05"),
        ("fetch", "/mitigate/cuid=c", (), "4.05"),
        ("get", "/nosuch", (), "4.04"),
        ("get", "/mitigate", (), "4.00"),
        ("delete", "/mitigate/cuid=c", (), "4.00"),
        ("put", "/mitigate/mid=1", (), "4.00"),
        ("get", "/hb", (), "4.05"),
        ("get", "/mitigate/cuid=c", ("-A", "50"), "4.06"),
        ("get", "/mitigate/cuid=c/mid=", (), "4.00"),
    ],
)
def test_what_a_resource_does_not_take(
    product: Product, alice: Files, method: str, path: str, extra: tuple[str, ...], code: str
) -> None:
    peer = Libcoap(GNUTLS, alice, server="127.0.0.1", port=product.signal_port)

    said = peer.ask(method, path, scope("10.0.0.1/32") if method in ("put", "post", "fetch") else None, extra=extra)

    assert said.code == code, said.log
    assert said.payload


@pytest.mark.rows("SIG-AUT-008", "SIG-TLS-004")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_revoked_certificate_is_out_within_two_seconds(product: Product, domain: Domain, transport: str) -> None:
    import time

    carol = product.new_client(domain, f"carol-{transport}")
    asked = product.client(carol, "mitigate", domain.host6 if transport == "tcp" else domain.host, transport=transport)
    mid = asked.json["scope"][0]["mid"]
    peer = Libcoap(GNUTLS, carol, server="127.0.0.1", port=product.signal_port, transport=transport)
    cuid = product.client(carol, "status", transport=transport)
    assert cuid.status == 0
    with peer.observe(f"/mitigate/cuid={_cuid(carol)}/mid={mid}", seconds=60) as watching:
        until(lambda: watching.codes, what="the observation")

        product.manage("certificate", "revoke", carol.serial)
        revoked = time.monotonic()
        ended = until(
            lambda: any(line.startswith(f"{'signal':>8} |") and "revoked" in line for line in product.lines[-40:]),
            within=5,
        )

        assert ended
        assert time.monotonic() - revoked < 2
    again = product.client(carol, "status", "--patience", "5", transport=transport)
    assert again.status == 3, again.out
    listed = {row["serial"]: row["state"] for row in product.manage("certificate", "list", "--json").json}
    assert listed[carol.serial] == "revoked"
    assert product.manage("mitigation", "list", "--json").json, "what it asked for stays"


def _cuid(files: Files) -> str:
    from mitigation.client.identity import Files as ClientFiles

    return ClientFiles(files.ca, files.cert, files.key).cuid()


@pytest.mark.rows("SIG-AUT-001", "SIG-AUT-002")
def test_a_certificate_of_another_authority_gets_no_session(product: Product, alice: Files, tmp_path: Any) -> None:
    from datetime import UTC, datetime

    from mitigation.pki.authority import initialise, open_authority
    from mitigation.pki.home import Home

    other = Home(tmp_path)
    now = datetime.now(UTC)
    initialise(other, names=["localhost"], addresses=[], now=now)
    issued = open_authority(other).issue_client("alice", now=now)
    (tmp_path / "cert.pem").write_bytes(issued.certificate_pem)
    (tmp_path / "key.pem").write_bytes(issued.key_pem)
    (tmp_path / "ca.pem").write_bytes(alice.ca.read_bytes())

    for transport in ("udp", "tcp"):
        refused = product.client(Files("x", "", tmp_path), "status", "--patience", "5", transport=transport)
        assert refused.status == 3
        assert refused.json["error"]

    assert product.client(alice, "status").json["code"] == "4.04"


@pytest.mark.rows("SIG-AUT-005", "SIG-ERR-008")
def test_a_guest_of_our_authority_gets_401(product: Product, domain: Domain, alice: Files, tmp_path: Any) -> None:
    from datetime import UTC, datetime

    from mitigation.pki.authority import open_authority
    from mitigation.pki.home import Home

    issued = open_authority(Home(product.home)).issue_client("guest", now=datetime.now(UTC))
    (tmp_path / "cert.pem").write_bytes(issued.certificate_pem)
    (tmp_path / "key.pem").write_bytes(issued.key_pem)
    (tmp_path / "ca.pem").write_bytes(alice.ca.read_bytes())
    guest = Files("guest", "", tmp_path)

    for result in (product.client(guest, "status"), product.client(guest, "mitigate", domain.host)):
        assert (result.status, result.json["code"]) == (1, "4.01")
        assert result.json["diagnostic"]


@pytest.fixture
def short_lived(product: Product, domain: Domain) -> Iterator[Files]:
    yield product.new_client(domain, "dora")


@pytest.mark.rows("SIG-LIF-003", "SIG-DEL-006")
def test_a_lifetime_ends_by_itself_to_the_second(product: Product, domain: Domain, short_lived: Files) -> None:
    asked = product.client(short_lived, "mitigate", domain.host, "--lifetime", "3")
    mid = asked.json["scope"][0]["mid"]

    def status() -> int:
        return int(product.client(short_lived, "status", "--mid", str(mid)).json["scope"][0]["status"])

    until(lambda: status() == 5, within=6, what="the terminating period")
    shown = next(one for one in product.mitigations() if one["domain"] == domain.name)
    details = product.mitigation(shown["id"])
    at = {step["happening"]: step["at"] for step in details["history"]}
    from datetime import datetime

    asked_at, ended_at = (datetime.fromisoformat(at[name]) for name in ("submitted", "lifetime-ended"))
    assert 3 <= (ended_at - asked_at).total_seconds() <= 5


@pytest.mark.rows("SIG-AUT-001", "SIG-TLS-004")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_expired_certificate_gets_no_session(
    product: Product, domain: Domain, alice: Files, tmp_path: Any, transport: str
) -> None:
    from datetime import UTC, datetime, timedelta

    from mitigation.pki.authority import open_authority
    from mitigation.pki.home import Home

    issued = open_authority(Home(product.home)).issue_client("late", now=datetime.now(UTC) - timedelta(days=366))
    (tmp_path / "cert.pem").write_bytes(issued.certificate_pem)
    (tmp_path / "key.pem").write_bytes(issued.key_pem)
    (tmp_path / "ca.pem").write_bytes(alice.ca.read_bytes())

    refused = product.client(
        Files("late", "", tmp_path), "mitigate", domain.host, "--patience", "5", transport=transport
    )

    assert refused.status == 3, refused.out
    assert refused.json["error"]
    assert product.client(alice, "status").json["code"] == "4.04", "the server goes on"


@pytest.mark.rows(
    "SIG-GET-005", "SIG-GET-006", "SIG-GET-009", "SIG-BLK-001", "SIG-BLK-002", "SIG-BLK-006", "SIG-BLK-007"
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_long_bodies_go_in_blocks_both_ways_and_parts_can_be_asked_for(
    product: Product, domain: Domain, alice: Files, transport: str
) -> None:
    peer = Libcoap(GNUTLS, alice, server="127.0.0.1", port=product.signal_port, transport=transport)
    network = domain.host.rpartition(".")[0]
    prefixes = [f"{network}.{n}/32" for n in range(200)]
    path = f"/mitigate/cuid=blocks-{alice.name}/mid=1"

    put = peer.ask("put", path, cbor2.dumps({1: {2: [{6: prefixes, 14: 600}]}}), extra=("-b", "512"))
    assert put.code == "2.01", put.log

    whole = peer.ask("get", path)
    assert whole.body[1][2][0][6] == prefixes
    small = peer.ask("get", path, extra=("-b", "32"), wait=20)
    assert small.body[1][2][0][6] == prefixes
    assert set(peer.ask("get", path + "?c=n").body[1][2][0]) <= {5, 14, 15, 16, 25, 26, 27, 28}
    assert set(peer.ask("get", path + "?c=c").body[1][2][0]) == {5, 6, 14}
    assert 16 in peer.ask("get", path + "?c=x&z=1").body[1][2][0]


@pytest.mark.rows("SIG-LIF-008", "SIG-LIF-009", "SIG-LIF-013", "SIG-LIF-016")
def test_a_network_that_falls_silent_is_protected_as_it_asked(tmp_path: Any) -> None:
    import signal

    from tests.harness.product import running

    quick = {"DOTS_SESSION_LOSS_AFTER": "3", "DOTS_DRIVER": "dryrun"}
    with running(environment=quick) as product:
        domain = product.new_domain()
        alice = product.new_client(domain, "alice")
        peer = Libcoap(GNUTLS, alice, server="127.0.0.1", port=product.signal_port)
        body = cbor2.dumps({1: {2: [{6: [f"{domain.host}/32"], 14: 600, 45: False}]}})
        assert peer.ask("put", "/mitigate/cuid=c/mid=1", body).code == "2.01"

        def happenings() -> list[str]:
            (one,) = product.mitigations()
            return [step["happening"] for step in product.mitigation(one["id"])["history"]]

        # It said goodbye: it is away, not lost. Then a session that is cut off without a word.
        assert peer.ask("get", "/mitigate/cuid=c/mid=1").body[1][2][0][16] == 8
        assert happenings() == ["submitted"]
        watching = peer.observe("/mitigate/cuid=c/mid=1", seconds=60)
        until(lambda: watching.codes, what="the session")
        watching._process.send_signal(signal.SIGKILL)
        until(lambda: "session-lost" in happenings(), within=30, what="the loss")
        watching.__exit__()
