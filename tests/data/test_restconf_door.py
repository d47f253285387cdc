"""The door of the data channel: TLS, gateways, request rates, and what survives a crash."""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from data_trees import MODULE, Connect, acl, alias

from mitigation.pki.home import Home
from tests.harness import databases
from tests.harness.product import Cast, Files, Product, _free_ports, running
from tests.harness.rest import DOTS_DATA, ROOT, Rest
from tests.harness.waiting import until

CLIENT, ALIAS = f"{MODULE}:dots-client", f"{MODULE}:alias"


def context(cast: Cast, *, certificate: bool = True) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(cast.alice.ca))
    if certificate:
        made.load_cert_chain(cast.alice.cert, cast.alice.key)
    return made


def handshake(product: Product, made: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("localhost", product.data_port), timeout=10)
    return made.wrap_socket(raw, server_hostname="localhost")


# -- TLS


@pytest.mark.rows("DATA-TRN-003")
@pytest.mark.parametrize(
    ("version", "works"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)], ids=["1.1", "1.2", "1.3"]
)
def test_nothing_older_than_tls_1_2_is_spoken(product: Product, cast: Cast, version: str, works: bool) -> None:
    made = context(cast)
    made.set_ciphers("ALL:@SECLEVEL=0")
    wanted = getattr(ssl.TLSVersion, version)
    with pytest.warns(DeprecationWarning) if not works else closing(socket.socket()):
        made.minimum_version = made.maximum_version = wanted
    if works:
        with handshake(product, made) as session:
            assert (session.version() or "").replace("TLSv", "") == version[4:].replace("_", ".")
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(product, made)


@pytest.mark.rows("DATA-TRN-004")
@pytest.mark.parametrize("suites", ["AES128-SHA:AES256-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA", "eNULL"])
def test_only_authenticated_encryption_is_used(product: Product, cast: Cast, suites: str) -> None:
    made = context(cast)
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(f"{suites}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(product, made)


@pytest.mark.rows("DATA-TRN-006", "DATA-TRN-007", "DATA-TRN-027")
def test_the_server_shows_a_certificate_with_its_name_and_no_wildcard(product: Product, cast: Cast) -> None:
    with handshake(product, context(cast)) as session:
        certificate = x509.load_der_x509_certificate(session.getpeercert(binary_form=True) or b"")
    assert certificate.version is x509.Version.v3
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = names.get_values_for_type(x509.DNSName)
    assert found
    assert not [name for name in found if "*" in name]


@pytest.mark.rows("DATA-TRN-020", "DATA-TRN-012")
def test_a_certificate_of_another_authority_gets_nowhere(product: Product, cast: Cast) -> None:
    with running(environment={"DOTS_DRIVER": "dryrun"}) as elsewhere:
        stranger = elsewhere.new_client(elsewhere.new_domain(), "stranger")
        made = ssl.create_default_context(cafile=str(cast.alice.ca))
        made.load_cert_chain(stranger.cert, stranger.key)
        with pytest.raises((ssl.SSLError, ConnectionError)), handshake(product, made) as session:
            session.send(b"GET /restconf HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not session.recv(1), "TLS 1.3 tells of it after the handshake"
            raise ConnectionError


@pytest.mark.rows("DATA-TRN-001", "DATA-ROOT-011")
def test_nothing_is_answered_in_clear(product: Product) -> None:
    with socket.create_connection(("localhost", product.data_port), timeout=10) as clear:
        clear.sendall(b"GET /.well-known/host-meta HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while True:
            try:
                part = clear.recv(4096)
            except ConnectionError:
                break
            if not part:
                break
            said += part
    assert b"XRD" not in said
    assert b"HTTP/1.1 200" not in said


@pytest.mark.rows("DATA-TRN-023")
def test_many_requests_go_over_one_connection(alice: Rest, cast: Cast) -> None:
    connection = alice._connection
    for _ in range(10):
        assert alice.get().status == 200
    assert alice._connection is connection


@pytest.fixture
def early(product: Product, tmp_path: Path) -> Iterator[Path]:
    """A session of TLS 1.3 that allows early data, made with a server of OpenSSL's own under our server's name."""
    home, session, (port,) = Home(product.home), tmp_path / "session", _free_ports(1)
    own = ["-cert", str(home.server_certificate), "-key", str(home.server_key)]
    server = subprocess.Popen(
        ["openssl", "s_server", "-tls1_3", "-early_data", "-port", str(port), *own],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        until(lambda: _has_session(port, session), within=15, what="a session with early data")
        yield session
    finally:
        server.kill()
        server.communicate(timeout=5)


def _has_session(port: int, session: Path) -> bool:
    _s_client(port, "-sess_out", str(session))
    return session.exists() and session.stat().st_size > 0


def _s_client(port: int, *more: str, said: bytes = b"Q\n") -> str:
    command = ["openssl", "s_client", "-connect", f"localhost:{port}", "-tls1_3", "-servername", "localhost", *more]
    done = subprocess.run(command, input=said, capture_output=True, timeout=20, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.rows("DATA-TRN-005")
def test_early_data_is_not_taken(product: Product, cast: Cast, early: Path, tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(b"GET /.well-known/host-meta HTTP/1.1\r\nHost: localhost\r\n\r\n")

    offered = _s_client(product.data_port, "-sess_in", str(early), "-early_data", str(request))

    assert "Early data was rejected" in offered, offered[-2000:]
    assert "XRD" not in offered
    # And nobody is ever given what early data needs: a ticket.
    own = ["-CAfile", str(cast.alice.ca), "-cert", str(cast.alice.cert), "-key", str(cast.alice.key)]
    plain = _s_client(product.data_port, *own, "-sess_out", str(tmp_path / "ours"), said=request.read_bytes())
    assert "Verify return code: 0 (ok)" in plain
    assert "Max Early Data" not in plain
    assert not (tmp_path / "ours").exists()


@pytest.mark.rows("DATA-TRN-014", "DATA-TRN-015")
@pytest.mark.parametrize("scheme", ["Basic", "Bearer", "Digest username="])
def test_http_authentication_neither_replaces_a_certificate_nor_changes_whose_it_is(
    product: Product, alice: Rest, mallory: Rest, scheme: str
) -> None:
    """We do not offer it; a certificate is always wanted, and is all that counts."""
    word = base64.b64encode(f"{alice.cuid}:secret".encode()).decode()
    with closing(Rest(product, None, cuid=alice.cuid, ca=alice.files.ca)) as nobody:
        answer = nobody.get(headers={"Authorization": f"{scheme} {word}"})
    assert answer.fault == (401, "access-denied")
    assert "basic" not in answer.headers["www-authenticate"].lower()
    assert mallory.get(alice.mine, headers={"Authorization": f"{scheme} {word}"}).status == 404
    assert alice.get(headers={"Authorization": f"{scheme} {word}"}).status == 200


# -- gateways


@pytest.fixture
def gateway(product: Product, cast: Cast) -> Iterator[Rest]:
    name = f"gw.{cast.domain.name}"
    out = product.home / "clients" / name
    words = ["client", "add", name, "--domain", cast.domain.name, "--gateway", "--out", str(out), "--json"]
    files = Files(name, product.manage(*words).json["serial"], out)
    with closing(Rest(product, files, cuid=f"behind-{name}")) as one:
        yield one


@pytest.mark.rows("DATA-REG-020", "DATA-REG-026", "DATA-ERR-003", "DATA-AUZ-008")
def test_a_gateway_registers_its_client_with_cdid_first(gateway: Rest, mallory: Rest, cast: Cast) -> None:
    answer = gateway.post_alias(alias(cast))
    assert answer.fault == (403, "access-denied")

    body = {CLIENT: [{"cuid": gateway.cuid, "cdid": "client-7"}]}
    assert gateway.post(DOTS_DATA, body).status == 201
    assert gateway.get().json == body
    assert gateway.post_alias(alias(cast)).status == 201
    foreign = alias(cast, "foreign", target_prefix=["203.0.113.1/32"])
    assert gateway.post_alias(foreign).error["error-app-tag"] == "dots-target-not-authorized"
    assert mallory.get(gateway.mine).status == 404


@pytest.mark.rows("DATA-REG-025")
def test_two_cdids_that_are_declared_equal_are_one_client(product: Product, cast: Cast, mallory: Rest) -> None:
    """A client with two certificates, behind two gateways of its domain; an operator says that it is one."""

    def gateway(number: int) -> Files:
        name = f"gw{number}.{cast.domain.name}"
        out = product.home / "clients" / name
        words = ["client", "add", name, "--domain", cast.domain.name, "--gateway", "--out", str(out), "--json"]
        return Files(name, product.manage(*words).json["serial"], out)

    cuid = f"behind-{cast.domain.name}"
    one, two = (Rest(product, gateway(number), cuid=cuid) for number in (1, 2))
    with closing(one), closing(two):
        assert one.files is not None
        assert two.files is not None
        product.console.manage("client", "equate", two.files.name, "cert-b", one.files.name, "cert-a")

        assert two.post(DOTS_DATA, {CLIENT: [{"cuid": cuid, "cdid": "cert-b"}]}).status == 201
        assert one.post(DOTS_DATA, {CLIENT: [{"cuid": cuid, "cdid": "cert-a"}]}).fault == (409, "resource-denied")
        assert one.post_alias(alias(cast)).status == 201
        assert two.post_acl(acl(cast)).status == 201
        for rest in (one, two):
            assert rest.get("aliases/alias=web").status == 200
            assert rest.get("acls/acl=drops").status == 200
        assert two.post_alias(alias(cast)).fault == (409, "resource-denied"), "the name is taken, by itself"
        assert one.get("acls").etag == two.get("acls").etag
        many = [alias(cast, f"alias-{number}") for number in range(600)]
        assert one.put("aliases", {f"{MODULE}:aliases": {"alias": many}}).status == 204
        more = [alias(cast, f"more-{number}") for number in range(401)]
        assert two.post_alias(*more).fault == (409, "resource-denied"), "the quota is one"

        other = {CLIENT: [{"cuid": f"{cuid}-2", "cdid": "cert-c"}]}
        assert two.post(DOTS_DATA, other).status == 201
        assert one.get(f"{DOTS_DATA}/dots-client={cuid}-2").status == 404, "another client"
        assert mallory.get(one.mine).status == 404
        assert two.delete("").status == 204
        assert one.post_alias(alias(cast)).fault == (403, "access-denied"), "to be registered anew"


# -- rates, and what lasts


@pytest.fixture(scope="module")
def slow() -> Iterator[Product]:
    with running(environment={"DOTS_DRIVER": "dryrun", "DOTS_CLIENT_RATE": "1", "DOTS_CLIENT_BURST": "20"}) as one:
        yield one


@pytest.mark.rows("DATA-OPS-003", "DATA-ERR-012", "DATA-GWY-009")
def test_a_client_that_asks_too_much_is_told_when_to_come_again(slow: Product) -> None:
    (cast,) = slow.new_casts(1)
    with closing(Rest(slow, cast.alice)) as alice, closing(Rest(slow, cast.mallory)) as mallory:
        answers = [alice.post(DOTS_DATA, {CLIENT: [{"cuid": f"new-{number}"}]}) for number in range(30)]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(refused) >= 5
        assert refused[-1].error["error-tag"] == "resource-denied"
        assert int(refused[-1].headers["retry-after"]) >= 1
        assert mallory.get(ROOT).status == 200, "others are not held back"


@pytest.mark.rows("DATA-OPS-006", "DATA-LIF-013", "DATA-ACL-025")
def test_what_was_answered_survives_the_death_of_the_process(slow: Product) -> None:
    (cast,) = slow.new_casts(1)
    with closing(Rest(slow, cast.bob)) as bob:
        assert bob.register().status == 201
        assert bob.post_acl(acl(cast)).status == 201
        tag = bob.get("acls").etag
        children = Path(f"/proc/{slow.pid}/task/{slow.pid}/children").read_text().split()
        (data,) = [int(pid) for pid in children if b"rundata" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(data, signal.SIGKILL)
        bob.close()

        def back() -> bool:
            try:
                return bob.get("acls").status == 200
            except OSError:
                bob.close()
                return False

        until(back, within=20, what="the data channel being back")
        assert bob.get("acls").etag == tag


@pytest.mark.rows("DATA-ERR-002")
def test_while_the_database_is_locked_the_answer_is_503(alice: Rest, cast: Cast, product: Product) -> None:
    with databases.held(product.home, product.environment.get("DATABASE_URL", "")):
        answer = alice.post_alias(alias(cast))
    assert answer.fault == (503, "operation-failed")
    assert answer.headers["retry-after"]
    assert alice.get("aliases/alias=web").status == 404
    assert alice.post_alias(alias(cast)).status == 201


@pytest.mark.rows("DATA-TREE-004", "DATA-UPD-010", "DATA-ALI-014", "DATA-ALI-032")
def test_writes_under_a_foreign_cuid_change_nothing(alice: Rest, mallory: Rest, connect: Connect, cast: Cast) -> None:
    alice.post_alias(alias(cast, "b"), alias(cast, "a"))
    body = {ALIAS: [alias(cast, "b", target_protocol=[6])]}
    for method, path, content in (
        ("PUT", "aliases/alias=b", body),
        ("PATCH", "aliases/alias=b", body),
        ("POST", "aliases", {ALIAS: [alias(cast, "c")]}),
        ("DELETE", "", None),
    ):
        assert mallory.ask(method, f"{alice.mine}/{path}".rstrip("/"), content).status == 404, method
    names = {one["name"] for one in alice.get("aliases/alias").json[ALIAS]}
    assert names == {"a", "b"}
