"""Whom either end accepts: chain, time, revocation, purpose and name, in full and in resumed handshakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from tls_harness import Wire, closed_reasons
from tls_pki import CLIENT, SERVER, Pki

from mitigation.tls import BadCredentials, CloseReason, CredentialFiles, Credentials
from mitigation.tls.events import Closed, HandshakeCompleted
from mitigation.tls.refusals import refusal
from mitigation.tls.stream_connection import StreamConnection

MakeWire = Callable[..., Wire]
TICKET_KEY, COOKIE_KEY = b"t" * 64, b"c" * 16


def server_of(pki: Pki, **kwargs: object) -> Credentials:
    return Credentials(pki.issue_server(), ticket_key=TICKET_KEY, cookie_key=COOKIE_KEY, **kwargs)


def detail(wire: Wire, end: str) -> str:
    return next(event.detail for who, event in wire.happened(Closed) if who == end)


def alert_of(wire: Wire, end: str) -> str | None:
    return next(event.alert for who, event in wire.happened(Closed) if who == end)


def run_streams(server: Credentials, client: Credentials, *, ticket: bytes | None = None) -> tuple[list, list]:
    """Events of (client, server) after a TLS handshake and a word each way."""
    near = StreamConnection(client, server=False, name="server.example", ticket=ticket)
    far = StreamConnection(server, server=True)
    events: tuple[list, list] = ([], [])
    for _ in range(12):
        for one, other, heard in ((near, far, events[1]), (far, near, events[0])):
            data = one.data_to_send()
            if data:
                other.receive_data(data)
            while (event := other.next_event()) is not None:
                heard.append(event)
    events[0].append(near.session_ticket())
    near.close(), far.close()
    return events


# -- the server's view ------------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-AUT-001", "SIG-AUT-002")
def test_a_good_client_is_known_by_its_certificate(wire: MakeWire) -> None:
    link = wire().run()

    (_, completed) = next(pair for pair in link.happened(HandshakeCompleted) if pair[0] == "server")
    certificate = x509.load_der_x509_certificate(completed.identity.der)
    from cryptography.hazmat.primitives import hashes

    assert completed.identity.kind == "x509"
    assert completed.identity.subject == "CN=alice"
    assert completed.identity.sha256 == certificate.fingerprint(hashes.SHA256()).hex()
    assert completed.version == "DTLS1.2"
    assert not completed.resumed


BAD_CLIENTS = {
    "expired": (lambda pki: pki.issue("late", expired=True), "it has expired", "Certificate is expired"),
    "revoked": (None, "it is revoked", "Certificate was revoked"),
    "unknown CA": (None, "it is not signed by the CA given", "CA is unknown"),
    "no usages": (lambda pki: pki.issue("bare", usages=()), "it lacks the clientAuth usage", "Certificate is bad"),
    "a server": (
        lambda pki: pki.issue("srv", usages=(SERVER,)),
        "its extended key usage forbids this",
        "Certificate is bad",
    ),
}


def bad_client(pki: Pki, kind: str) -> CredentialFiles:
    if kind == "revoked":
        files = pki.issue("gone")
        pki.revoke(files)
        return files
    if kind == "unknown CA":
        files = Pki(pki.directory, name="other").issue("mallory")
        return CredentialFiles(pki.path("pem"), files.certificate, files.key)
    made: CredentialFiles = BAD_CLIENTS[kind][0](pki)
    return made


@pytest.mark.rows("SIG-AUT-001", "SIG-AUT-002", "SIG-TLS-002")
@pytest.mark.parametrize("kind", BAD_CLIENTS)
def test_a_dtls_client_is_refused_when(wires: Callable[..., Wire], pki: Pki, kind: str) -> None:
    client = Credentials(bad_client(pki, kind))
    _, reason, alert = BAD_CLIENTS[kind]

    link = wires(server_of(pki), client).run(lambda wire: wire.client.closed, limit=20)

    assert reason in detail(link, "server")
    assert alert_of(link, "client") == alert
    assert not link.happened(HandshakeCompleted)


@pytest.mark.rows("SIG-AUT-001", "SIG-AUT-002")
@pytest.mark.parametrize("kind", BAD_CLIENTS)
@pytest.mark.parametrize("version", ["TLS1.2", "TLS1.3"])
def test_a_tls_client_is_refused_when(pki: Pki, kind: str, version: str) -> None:
    client = Credentials(
        bad_client(pki, kind), tls_priorities=f"NORMAL:-VERS-ALL:+VERS-{version}:-CIPHER-ALL:+AES-128-GCM"
    )
    _, reason, alert = BAD_CLIENTS[kind]

    near, far = run_streams(server_of(pki), client)

    assert reason in far[0].detail and len(far) == 1
    closed = next(event for event in near if isinstance(event, Closed))
    assert closed.alert == alert
    assert str(refusal(closed)) == f"your certificate was refused: {alert}"


@pytest.mark.rows("SIG-AUT-001")
def test_a_client_without_certificate_is_refused(wires: Callable[..., Wire], pki: Pki) -> None:
    client = Credentials(CredentialFiles(ca=pki.path("pem")))

    link = wires(server_of(pki), client).run(lambda wire: wire.client.closed, limit=20)
    near, far = run_streams(server_of(pki), client)

    assert not link.happened(HandshakeCompleted)
    assert "certificate was refused" in str(refusal(next(e for end, e in link.happened(Closed) if end == "client")))
    assert not any(isinstance(event, HandshakeCompleted) for event in far)
    assert "certificate was refused" in str(refusal(next(event for event in near if isinstance(event, Closed))))


# -- resumption -------------------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-TLS-011")
def test_a_ticket_resumes_on_another_worker_and_keeps_the_identity(wires: Callable[..., Wire], pki: Pki) -> None:
    alice, files = Credentials(pki.issue("alice")), pki.issue_server()
    workers = [Credentials(files, ticket_key=TICKET_KEY, cookie_key=COOKIE_KEY) for _ in range(2)]
    first = wires(workers[0], alice).run()

    second = wires(workers[1], alice, ticket=first.client.session_ticket()).run()

    resumed = dict(second.happened(HandshakeCompleted))
    assert resumed["server"].resumed and resumed["client"].resumed
    assert resumed["server"].identity.subject == "CN=alice"


@pytest.mark.rows("SIG-TLS-012")
@pytest.mark.parametrize("damage", ["flipped", "other key", "noise"])
def test_a_bad_ticket_leads_to_a_full_handshake(wires: Callable[..., Wire], pki: Pki, damage: str) -> None:
    alice, server = Credentials(pki.issue("alice")), server_of(pki)
    ticket = wires(server, alice).run().client.session_ticket()
    if damage == "flipped":
        middle = len(ticket) // 2
        ticket = ticket[:middle] + bytes(byte ^ 0x55 for byte in ticket[middle : middle + 300]) + ticket[middle + 300 :]
    elif damage == "noise":
        ticket = b"no ticket at all"
    else:
        server = Credentials(pki.issue_server(), ticket_key=b"n" * 64, cookie_key=COOKIE_KEY)

    link = wires(server, alice, ticket=ticket).run()

    assert link.echoed
    assert not any(event.resumed for _, event in link.happened(HandshakeCompleted))


@pytest.mark.rows("SIG-TLS-012", "SIG-AUT-008")
def test_a_certificate_revoked_after_its_ticket_was_issued_does_not_come_back(
    wires: Callable[..., Wire], pki: Pki
) -> None:
    files = pki.issue("alice")
    server, alice = server_of(pki), Credentials(files)
    ticket = wires(server, alice).run().client.session_ticket()
    pki.revoke(files)
    server.reload()

    link = wires(server, alice, ticket=ticket).run(lambda wire: wire.client.closed, limit=20)

    assert not any(end == "server" for end, _ in link.happened(HandshakeCompleted))
    assert "it is revoked" in detail(link, "server")
    assert alert_of(link, "client") == "Certificate was revoked"


@pytest.mark.rows("SIG-TLS-012", "SIG-AUT-008")
@pytest.mark.parametrize("version", ["TLS1.2", "TLS1.3"])
def test_the_same_over_tls(pki: Pki, version: str) -> None:
    files = pki.issue("alice")
    server = server_of(pki)
    alice = Credentials(files, tls_priorities=f"NORMAL:-VERS-ALL:+VERS-{version}:-CIPHER-ALL:+AES-128-GCM")
    near, far = run_streams(server, alice)
    ticket = near[-1]
    assert ticket and not far[0].resumed
    _, again = run_streams(server, alice, ticket=ticket)
    assert again[0].resumed
    pki.revoke(files)
    server.reload()

    _, refused = run_streams(server, alice, ticket=ticket)

    assert isinstance(refused[0], Closed) and "it is revoked" in refused[0].detail


def test_a_client_checks_the_server_of_a_resumed_session_too(wires: Callable[..., Wire], pki: Pki) -> None:
    files = pki.issue_server()
    server = Credentials(files, ticket_key=TICKET_KEY, cookie_key=COOKIE_KEY)
    alice = Credentials(pki.issue("alice"))
    ticket = wires(server, alice).run().client.session_ticket()

    link = wires(server, alice, ticket=ticket, name="other.example").run(lambda wire: wire.client.closed, limit=5)

    assert "its name does not match" in detail(link, "client")


# -- the client's view ------------------------------------------------------------------------------------------------


def bad_server(pki: Pki, kind: str) -> CredentialFiles:
    names = (x509.DNSName("server.example"),)
    if kind == "unknown CA":
        return Pki(pki.directory, name="other").issue("server", usages=(SERVER,), names=names)
    if kind == "expired":
        return pki.issue("old", usages=(SERVER,), names=names, expired=True)
    if kind == "only a URI":
        return pki.issue("uri", usages=(SERVER,), names=(x509.UniformResourceIdentifier("coaps://server.example"),))
    if kind == "only a common name":
        return pki.issue("server.example", usages=(SERVER,))
    if kind == "another name":
        return pki.issue("wrong", usages=(SERVER,), names=(x509.DNSName("other.example"),))
    if kind == "a client":
        return pki.issue("cl", usages=(CLIENT,), names=names)
    files = pki.issue("gone", usages=(SERVER,), names=names)
    pki.revoke(files)
    return files


BAD_SERVERS = {
    "unknown CA": "it is not signed by the CA given",
    "expired": "it has expired",
    "revoked": "it is revoked",
    "only a URI": "its name does not match",
    "only a common name": "its name does not match",
    "another name": "its name does not match",
    "a client": "its extended key usage forbids this",
}


@pytest.mark.rows("SIG-TLS-004", "SIG-TLS-005", "SIG-TLS-008")
@pytest.mark.parametrize("kind", BAD_SERVERS)
def test_a_client_refuses_a_server_when(wires: Callable[..., Wire], pki: Pki, kind: str) -> None:
    files = bad_server(pki, kind)
    server = Credentials(
        CredentialFiles(pki.path("pem"), files.certificate, files.key), ticket_key=TICKET_KEY, cookie_key=COOKIE_KEY
    )
    alice = Credentials(pki.issue("alice"))

    link = wires(server, alice).run(lambda wire: wire.client.closed, limit=5)
    near, _ = run_streams(server, alice)

    assert BAD_SERVERS[kind] in detail(link, "client")
    assert closed_reasons(link, "client") == [CloseReason.ERROR]
    assert BAD_SERVERS[kind] in near[0].detail
    assert str(refusal(near[0])) == f"the server's certificate is refused: {BAD_SERVERS[kind]}"


@pytest.mark.rows("SIG-TLS-005")
@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("server.example", True),
        ("SERVER.example", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("127.0.0.2", False),
        ("x.server.example", False),
        ("example", False),
    ],
)
def test_the_name_asked_for_is_compared_with_the_alternative_names(wire: MakeWire, name: str, good: bool) -> None:
    link = wire(name=name).run(lambda wire: wire.echoed or wire.client.closed, limit=5)

    assert link.echoed is good


# -- ALPN and suites --------------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-TCP-005")
def test_a_server_tolerates_or_refuses_silence_about_the_protocol(monkeypatch: pytest.MonkeyPatch, pki: Pki) -> None:
    alice, files = Credentials(pki.issue("alice")), pki.issue_server()
    lenient, strict = Credentials(files), Credentials(files, require_alpn=True)
    without_alpn(monkeypatch)

    _, tolerated = run_streams(lenient, alice)
    _, refused = run_streams(strict, alice)

    assert isinstance(tolerated[0], HandshakeCompleted)
    assert isinstance(refused[0], Closed) and "application protocol" in refused[0].detail


@pytest.mark.rows("SIG-TCP-004")
def test_a_client_refuses_a_server_that_does_not_choose_coap(monkeypatch: pytest.MonkeyPatch, pki: Pki) -> None:
    alice, server = Credentials(pki.issue("alice")), server_of(pki)
    without_alpn(monkeypatch, servers=True)

    near, _ = run_streams(server, alice)

    assert isinstance(near[0], Closed) and "application protocol" in near[0].detail


def without_alpn(monkeypatch: pytest.MonkeyPatch, *, servers: bool = False) -> None:
    """Let one end of the sessions made from now on say nothing of ALPN, as some stacks do."""
    from mitigation.tls import session

    original, real = session.Session._set_up_transport, session.library()

    class Silent:
        def __getattr__(self, name: str) -> object:
            return (lambda *args: 0) if name == "gnutls_alpn_set_protocols" else getattr(real, name)

    def set_up(self: session.Session, prestate: object) -> None:
        if self.server is servers:
            monkeypatch.setattr(session, "library", Silent)
        try:
            original(self, prestate)
        finally:
            monkeypatch.setattr(session, "library", lambda: real)

    monkeypatch.setattr(session.Session, "_set_up_transport", set_up)


@pytest.mark.rows("SIG-TLS-002", "SIG-TLS-003")
@pytest.mark.parametrize(
    "suites",
    [
        "-CIPHER-ALL:+AES-128-CBC:-MAC-ALL:+SHA1",
        "-KX-ALL:+RSA",
        "-CIPHER-ALL:+NULL:-MAC-ALL:+SHA256",
        "-CIPHER-ALL:+ARCFOUR-128:-MAC-ALL:+MD5",
    ],
)
def test_weak_suites_are_refused(wires: Callable[..., Wire], pki: Pki, suites: str) -> None:
    client = Credentials(
        pki.issue("alice"),
        dtls_priorities=f"NORMAL:-VERS-ALL:+VERS-DTLS1.2:{suites}",
        tls_priorities=f"NORMAL:-VERS-ALL:+VERS-TLS1.2:{suites}",
    )

    link = wires(server_of(pki), client).run(lambda wire: wire.client.closed, limit=80)
    _, far = run_streams(server_of(pki), client)

    assert not link.happened(HandshakeCompleted)
    assert not any(isinstance(event, HandshakeCompleted) for event in far)


@pytest.mark.rows("SIG-TLS-016")
def test_a_constrained_client_with_ccm_8_alone_is_served(wires: Callable[..., Wire], pki: Pki) -> None:
    client = Credentials(
        pki.issue("alice"), dtls_priorities="NORMAL:-VERS-ALL:+VERS-DTLS1.2:-CIPHER-ALL:+AES-128-CCM-8"
    )

    link = wires(server_of(pki), client).run()

    assert link.echoed
    assert {event.cipher for _, event in link.happened(HandshakeCompleted)} == {"AES-128-CCM-8"}


# -- files ------------------------------------------------------------------------------------------------------------


def test_reload_takes_the_new_list_and_keeps_running_sessions(wires: Callable[..., Wire], pki: Pki) -> None:
    files = pki.issue("alice")
    server, alice = server_of(pki), Credentials(files)
    running = wires(server, alice).run()
    pki.revoke(files)

    server.reload()
    refused = wires(server, alice).run(lambda wire: wire.client.closed, limit=20)
    running.echoed = False
    running.client.send(b"ping")
    running._after("client")
    running.run()

    assert running.echoed
    assert "it is revoked" in detail(refused, "server")


@pytest.mark.parametrize("broken", ["ca", "certificate", "key", "crl"])
def test_unusable_files_are_named_and_a_failed_reload_changes_nothing(
    wires: Callable[..., Wire], pki: Pki, broken: str
) -> None:
    files = pki.issue_server()
    server = Credentials(files, cookie_key=COOKIE_KEY)
    path = getattr(files, broken)
    path.write_text("not a certificate at all")

    with pytest.raises(BadCredentials, match=path.name):
        server.reload()
    with pytest.raises(BadCredentials):
        Credentials(files)

    alice = Credentials(Pki(pki.directory, name="apart").issue("alice"))
    alice.files = CredentialFiles(ca=alice.files.ca)
    link = wires(server, alice).run(lambda wire: bool(wire.happened(Closed)), limit=5)
    assert "not signed by the CA" in detail(link, "client")  # the old certificate is still shown


def test_keys_of_the_wrong_size_and_missing_files_are_refused(pki: Pki) -> None:
    files = pki.issue_server()

    with pytest.raises(BadCredentials, match="ticket key must be 64"):
        Credentials(files, ticket_key=b"short")
    with pytest.raises(BadCredentials, match="cookie key must be 16"):
        Credentials(files, cookie_key=b"short")
    with pytest.raises(BadCredentials, match="cannot be read"):
        Credentials(CredentialFiles(ca=pki.directory / "nowhere.pem"))
    with pytest.raises(BadCredentials, match="priority string"):
        Credentials(files, dtls_priorities="NORMAL:+NONSENSE")


def test_an_outdated_revocation_list_still_counts_and_locks_nobody_out(wires: Callable[..., Wire], pki: Pki) -> None:
    """The library does not look at nextUpdate: to keep the list fresh is the owner's business."""
    gone = pki.issue("gone")
    pki.revoke(gone)
    pki.write_crl(expired=True)

    good = wires(server_of(pki), Credentials(pki.issue("alice"))).run()
    bad = wires(server_of(pki), Credentials(gone)).run(lambda wire: wire.client.closed, limit=20)

    assert good.echoed
    assert "it is revoked" in detail(bad, "server")


def test_the_public_key_of_an_identity_is_what_cuids_are_made_of(wire: MakeWire, shared_pki: Pki) -> None:
    link = wire().run()
    identity = next(event.identity for end, event in link.happened(HandshakeCompleted) if end == "server")

    key = x509.load_der_x509_certificate(identity.der).public_key()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    assert identity.subject_public_key_info() == key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
