"""Programs that other people wrote, against our server: libcoap on GnuTLS and on OpenSSL, s_client, gnutls-cli."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tls_pki import Pki
from tls_service import Service, eventually, serving

from mitigation.tls import CloseReason, CredentialFiles, Credentials

TOOLS = ("coap-client-gnutls", "coap-client-openssl", "openssl", "gnutls-cli")
pytestmark = pytest.mark.flow


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


@pytest_asyncio.fixture
async def service(server_credentials: Credentials) -> AsyncIterator[Service]:
    async with serving(server_credentials, "127.0.0.1", "::1") as running:
        yield running


async def run(*command: str, stdin: bytes = b"", within: float = 15.0) -> str:
    """Output and errors of a program."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(stdin), within)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")


def uri(service: Service, scheme: str, number: int, path: str) -> str:
    host, port = service.address("tcp" if scheme == "coaps+tcp" else "udp", number)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{path}"


def papers(files: CredentialFiles) -> list[str]:
    return ["-c", str(files.certificate), "-j", str(files.key), "-C", str(files.ca)]


CLIENTS = pytest.mark.parametrize(
    "client",
    [pytest.param(tool, marks=needs(tool)) for tool in ("coap-client-gnutls", "coap-client-openssl")],
)
SCHEMES = pytest.mark.parametrize("scheme", ["coaps", "coaps+tcp"])


@CLIENTS
@SCHEMES
@pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.rows("SIG-TRN-001", "SIG-TLS-016", "SIG-TCP-001")
async def test_libcoap_gets_and_puts(
    service: Service, alice: Credentials, client: str, scheme: str, number: int
) -> None:
    stored = await run(
        client, "-B", "5", *papers(alice.files), "-m", "put", "-e", "news", uri(service, scheme, number, "a")
    )
    fetched = await run(client, "-B", "5", *papers(alice.files), uri(service, scheme, number, "a"))
    who = await run(client, "-B", "5", *papers(alice.files), uri(service, scheme, number, "who"))

    assert service.site.value == b"news", stored
    assert fetched.strip() == "news"
    assert who.strip() == "CN=alice"
    await eventually(lambda: len(service.closed) == 3)
    assert {reason for _, reason in service.closed} <= {CloseReason.PEER_CLOSED, CloseReason.ERROR}


@CLIENTS
@SCHEMES
async def test_libcoap_watches(service: Service, alice: Credentials, client: str, scheme: str) -> None:
    watching = asyncio.create_task(
        run(client, "-s", "1", "-B", "5", *papers(alice.files), uri(service, scheme, 0, "watch"))
    )
    await eventually(lambda: service.site.watchers == 1)

    await service.site.change(b", and news")
    output = await watching

    assert "hello, and news" in output
    await eventually(lambda: service.site.watchers == 0)


@CLIENTS
@SCHEMES
@pytest.mark.rows("SIG-AUT-001", "SIG-AUT-002")
async def test_libcoap_with_a_bad_certificate_gets_nothing(
    service: Service, shared_pki: Pki, tmp_path: Path, client: str, scheme: str
) -> None:
    mallory = Pki(tmp_path, name="other").issue("mallory")
    bad = CredentialFiles(shared_pki.path("pem"), mallory.certificate, mallory.key)
    late = shared_pki.issue("late", expired=True)

    for files in (bad, late):
        await run(client, "-B", "2", *papers(files), uri(service, scheme, 0, "a"))

    assert not service.opened and not service.site.requests


@needs("coap-client-gnutls")
@pytest.mark.rows("SIG-TRN-005")
async def test_libcoap_without_dtls_gets_nothing(service: Service) -> None:
    host, port = service.address("udp")

    output = await run("coap-client-gnutls", "-B", "1", "-N", f"coap://{host}:{port}/a")

    assert "hello" not in output
    assert not service.site.requests


# -- versions and protocols -------------------------------------------------------------------------------------------


def s_client(service: Service, files: CredentialFiles, transport: str, *options: str) -> list[str]:
    host, port = service.address(transport)
    return [
        "openssl",
        "s_client",
        "-connect",
        f"{host}:{port}",
        "-cert",
        str(files.certificate),
        "-key",
        str(files.key),
        "-CAfile",
        str(files.ca),
        "-cipher",
        "ALL:@SECLEVEL=0",
        *options,
    ]


@needs("openssl")
@pytest.mark.rows("SIG-TLS-001")
@pytest.mark.parametrize(
    ("transport", "option"),
    [("tcp", "-tls1"), ("tcp", "-tls1_1"), ("udp", "-dtls1")],
)
async def test_older_versions_are_refused(service: Service, alice: Credentials, transport: str, option: str) -> None:
    output = await run(*s_client(service, alice.files, transport, option), within=6)

    assert not service.opened, output
    assert "alert protocol version" in output.lower() or transport == "udp", output


@needs("openssl")
@pytest.mark.rows("SIG-TLS-001", "SIG-TCP-005")
@pytest.mark.parametrize(
    ("transport", "option", "version"),
    [("tcp", "-tls1_2", "TLS1.2"), ("tcp", "-tls1_3", "TLS1.3"), ("udp", "-dtls1_2", "DTLS1.2")],
)
async def test_current_versions_are_served(
    service: Service, alice: Credentials, transport: str, option: str, version: str
) -> None:
    alpn = ("-alpn", "coap") if transport == "tcp" else ()
    process = await asyncio.create_subprocess_exec(
        *s_client(service, alice.files, transport, option, *alpn),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    await eventually(lambda: service.opened)
    output, _ = await asyncio.wait_for(process.communicate(b"Q\n"), 10)

    assert service.opened[0].version == version
    assert transport == "udp" or "ALPN protocol: coap" in output.decode(errors="replace")


@needs("openssl")
@pytest.mark.rows("SIG-TCP-005")
async def test_another_application_protocol_is_refused(service: Service, alice: Credentials) -> None:
    output = await run(*s_client(service, alice.files, "tcp", "-alpn", "h2"), within=6)

    assert "no application protocol" in output.lower()
    assert not service.opened


@needs("openssl")
@pytest.mark.rows("SIG-TCP-005")
async def test_silence_about_the_application_protocol_is_tolerated(service: Service, alice: Credentials) -> None:
    process = await asyncio.create_subprocess_exec(
        *s_client(service, alice.files, "tcp"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )

    await eventually(lambda: service.opened)

    process.kill()
    await process.wait()


@needs("openssl")
@pytest.mark.rows("SIG-TLS-023", "SIG-TLS-024")
async def test_early_data_is_never_accepted(service: Service, alice: Credentials, tmp_path: Path) -> None:
    """Without anti-replay shared between workers, a PUT sent twice would be taken twice."""
    ticket, early = tmp_path / "session.pem", tmp_path / "early"
    early.write_bytes(b"\x00\xe1\x20\x03\xb1a")
    process = await asyncio.create_subprocess_exec(
        *s_client(service, alice.files, "tcp", "-tls1_3", "-alpn", "coap", "-sess_out", str(ticket)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    await eventually(ticket.exists)
    process.stdin.write(b"Q\n")
    output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert "Max Early Data: 0" in output.decode(errors="replace")

    again = await run(
        *s_client(service, alice.files, "tcp", "-tls1_3", "-alpn", "coap"),
        "-sess_in",
        str(ticket),
        "-early_data",
        str(early),
        stdin=b"Q\n",
    )

    assert "Early data was not sent" in again or "Early data was rejected" in again, again
    assert not service.site.requests


@needs("openssl")
@pytest.mark.rows("SIG-TLS-002")
async def test_renegotiation_is_refused_and_the_process_lives(service: Service, alice: Credentials) -> None:
    output = await run(*s_client(service, alice.files, "tcp", "-tls1_2", "-alpn", "coap"), stdin=b"R\n", within=8)
    await eventually(lambda: service.opened and service.closed)

    assert "verify return" in output or "RENEGOTIATING" in output
    assert len(service.asked) == 1


@needs("gnutls-cli")
@pytest.mark.rows("SIG-TLS-001", "SIG-TLS-003")
@pytest.mark.parametrize(
    "priority",
    [
        "NORMAL:-VERS-ALL:+VERS-TLS1.1",
        "NORMAL:-VERS-ALL:+VERS-TLS1.0",
        "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+NULL:+SHA256",
        "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA",
    ],
)
async def test_gnutls_cli_cannot_talk_us_down(service: Service, alice: Credentials, priority: str) -> None:
    host, port = service.address("tcp")

    output = await run(
        "gnutls-cli",
        "--x509cafile",
        str(alice.files.ca),
        "--x509certfile",
        str(alice.files.certificate),
        "--x509keyfile",
        str(alice.files.key),
        "--priority",
        priority,
        "-p",
        str(port),
        host,
        within=6,
    )

    assert "Handshake was completed" not in output
    assert not service.opened
