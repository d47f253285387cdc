"""Both transports on loopback, with our own client and our own server."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiocoap
import pytest
import pytest_asyncio
from aiocoap import error
from aiocoap.numbers.codes import CHANGED, CONTENT, INTERNAL_SERVER_ERROR, NOT_FOUND, PUT
from tls_pki import Pki
from tls_service import Caller, Service, ask, calling, eventually, request_to, serving, silent_udp

from mitigation import tls
from mitigation.tls import Alert, CloseReason, CredentialFiles, Credentials, NoConnection

BOTH = pytest.mark.parametrize("transport", ["udp", "tcp"])
HOSTS = ("127.0.0.1", "::1")


@pytest_asyncio.fixture
async def service(server_credentials: Credentials) -> AsyncIterator[Service]:
    async with serving(server_credentials, *HOSTS) as running:
        yield running


@pytest_asyncio.fixture
async def caller(alice: Credentials) -> AsyncIterator[Caller]:
    async with calling(alice) as made:
        yield made


# -- requests ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("number", [0, 1], ids=HOSTS)
@pytest.mark.rows("SIG-TRN-001", "SIG-TRN-006", "SIG-TRN-009", "SIG-TRN-013")
async def test_requests_are_answered(service: Service, caller: Caller, transport: str, number: int) -> None:
    remote = await caller.connect(service, transport, number=number)

    stored = await ask(caller.context, remote, "a", code=PUT, payload=b"news")
    fetched = [await ask(caller.context, remote, "a", reliable=False) for _ in range(20)]
    missing = await ask(caller.context, remote, "nowhere")

    assert stored.code == CHANGED
    assert {(response.code, response.payload) for response in fetched} == {(CONTENT, b"news")}
    assert missing.code == NOT_FOUND
    (session,) = service.opened
    assert session.transport == transport
    assert session.identity.subject == "CN=alice"
    assert session.peer[0] == HOSTS[number]
    assert session.local == service.address(transport, number)
    assert session.uri_base_local.startswith("coaps://" if transport == "udp" else "coaps+tcp://")
    assert session.version == ("DTLS1.2" if transport == "udp" else "TLS1.3")
    assert session.opened_at <= session.last_heard
    assert [each.remote for each in service.site.requests] == [session] * 22


@BOTH
@pytest.mark.rows("SIG-TRN-008", "SIG-TCP-011", "SIG-TCP-012")
async def test_the_server_may_ask_over_the_same_session(service: Service, caller: Caller, transport: str) -> None:
    await caller.connect(service, transport)
    (session,) = service.opened

    answers = await asyncio.gather(
        *(ask(service.context, session, "hb", code=PUT, payload=b"beat", reliable=False) for _ in range(5)),
        ask(service.context, session, "nowhere"),
    )

    assert [answer.code for answer in answers] == [CHANGED] * 5 + [NOT_FOUND]
    assert len(caller.site.requests) == 6


@BOTH
@pytest.mark.rows("SIG-TCP-014", "SIG-TCP-016", "SIG-COA-005")
async def test_changes_are_told_to_a_watcher_until_it_goes(service: Service, caller: Caller, transport: str) -> None:
    remote = await caller.connect(service, transport)
    request = caller.context.request(request_to(remote, "watch", observe=0), handle_blockwise=False)
    told = aiter(request.observation)
    assert (await request.response).payload == b"hello"

    for value in (b"one", b"two", b"three"):
        await service.site.change(value)
        assert (await asyncio.wait_for(anext(told), 5)).payload == value

    assert service.site.watchers == 1
    remote.cut()
    await eventually(lambda: service.site.watchers == 0)


@pytest.mark.rows("SIG-OBS-015")
async def test_a_reset_stops_the_notifications(service: Service, caller: Caller) -> None:
    remote = await caller.connect(service, "udp")
    request = caller.context.request(request_to(remote, "watch", observe=0), handle_blockwise=False)
    await request.response
    assert service.site.watchers == 1

    remote.outgoing.clear()  # as after a restart of the client's program: the next notification finds nobody
    await service.site.change(b"news")

    await eventually(lambda: service.site.watchers == 0)


@pytest.mark.rows("SIG-COA-012")
async def test_a_slow_answer_comes_after_its_acknowledgement(service: Service, caller: Caller) -> None:
    remote = await caller.connect(service, "udp")
    waiting = asyncio.create_task(ask(caller.context, remote, "slow"))
    await eventually(lambda: service.site.requests and not remote.messages.exchanges)

    service.site.release.set()

    assert (await waiting).payload == b"at last"


@BOTH
@pytest.mark.rows("SIG-COA-027", "SIG-TCP-003")
async def test_an_answer_too_large_for_the_transport_becomes_an_error(
    service: Service, caller: Caller, transport: str
) -> None:
    remote = await caller.connect(service, transport)

    answer = await ask(caller.context, remote, "big")

    assert answer.code == INTERNAL_SERVER_ERROR
    assert service.opened[0].maximum_block_size_exp == 6
    assert (await ask(caller.context, remote, "a")).payload == b"hello"


async def test_the_block_size_follows_the_path_mtu(service: Service, shared_pki: Pki) -> None:
    narrow = Credentials(shared_pki.issue("narrow"), mtu=576)
    async with calling(narrow) as caller:
        remote = await caller.connect(service, "udp")

    assert remote.maximum_block_size_exp == 4  # 256 bytes of payload


# -- names and numbers ------------------------------------------------------------------------------------------------


@BOTH
async def test_two_sessions_of_one_client_are_two_remotes(service: Service, caller: Caller, transport: str) -> None:
    one, two = await caller.connect(service, transport), await caller.connect(service, transport)

    assert one != two and len({one, two}) == 2
    sessions = service.listeners.sessions()
    assert len({session.session_id for session in sessions}) == 2
    assert len({session.blockwise_key for session in sessions}) == 2
    assert sessions[0].identity == sessions[1].identity


# -- the ends of sessions ---------------------------------------------------------------------------------------------


@BOTH
async def test_a_client_that_leaves_is_noticed(service: Service, caller: Caller, transport: str) -> None:
    remote = await caller.connect(service, transport)

    remote.cut()

    await eventually(lambda: service.closed)
    assert service.closed == [(service.opened[0], CloseReason.PEER_CLOSED)]
    assert not service.opened[0].is_open and not service.listeners.sessions()
    assert caller.closed == [(remote, CloseReason.CUT)]
    with pytest.raises(error.NetworkError):
        await ask(caller.context, remote, "a")


@BOTH
@pytest.mark.rows("SIG-AUT-008", "SIG-TLS-034")
async def test_a_session_that_is_cut_is_over_at_both_ends(service: Service, caller: Caller, transport: str) -> None:
    kept, cut = await caller.connect(service, transport), await caller.connect(service, transport)
    session = next(each for each in service.opened if each.peer[1] == cut.local[1])
    pending = asyncio.create_task(ask(caller.context, cut, "slow"))
    await eventually(lambda: service.site.requests)

    number = service.listeners.cut_where(
        lambda remote: remote is session, CloseReason.REVOKED, alert=Alert.ACCESS_DENIED
    )

    assert number == 1
    assert service.closed == [(session, CloseReason.REVOKED)]
    with pytest.raises(error.NetworkError):
        await pending
    assert [remote for remote, _ in caller.closed] == [cut]
    assert (await ask(caller.context, kept, "a")).code == CONTENT


@BOTH
async def test_closing_the_listeners_ends_all_sessions(service: Service, caller: Caller, transport: str) -> None:
    remotes = [await caller.connect(service, transport) for _ in range(3)]

    await service.listeners.close()

    assert [reason for _, reason in service.closed] == [CloseReason.SHUTDOWN] * 3
    await eventually(lambda: len(caller.closed) == 3)
    assert {reason for _, reason in caller.closed} == {CloseReason.PEER_CLOSED}
    assert not any(remote.is_open for remote in remotes)


@pytest.mark.rows("SIG-TCP-019")
async def test_a_tcp_connection_that_breaks_is_an_error_not_a_goodbye(service: Service, caller: Caller) -> None:
    remote = await caller.connect(service, "tcp")

    remote.protocol.transport.abort()

    await eventually(lambda: service.closed)
    assert service.closed[0][1] is CloseReason.ERROR


# -- who gets in ------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.rows("SIG-TLS-011", "SIG-TLS-037")
async def test_the_credential_decides_after_every_handshake(service: Service, caller: Caller, transport: str) -> None:
    first = await caller.connect(service, transport)
    await ask(caller.context, first, "a")
    ticket = first.session_ticket()
    resumed = await caller.connect(service, transport, ticket=ticket)
    assert resumed.resumed and (await ask(caller.context, resumed, "who")).payload == b"CN=alice"
    service.welcome = lambda identity: False

    for offered in (None, ticket):
        await assert_refused(service, caller, transport, offered, "your certificate was refused: Access was denied")

    assert len(service.asked) == 4
    assert len(service.opened) == 2


async def assert_refused(service: Service, caller: Caller, transport: str, ticket: bytes | None, sentence: str) -> None:
    """A client that resumes over DTLS speaks last in the handshake: it hears of a refusal right after it."""
    if transport == "udp" and ticket is not None:
        remote = await caller.connect(service, transport, ticket=ticket)
        with pytest.raises(error.NetworkError):
            await ask(caller.context, remote, "a")
        assert remote.ending == sentence
        return
    with pytest.raises(NoConnection, match=sentence):
        await caller.connect(service, transport, ticket=ticket)


@BOTH
@pytest.mark.rows("SIG-TLS-012", "SIG-AUT-008")
async def test_who_was_revoked_does_not_resume(pki: Pki, transport: str) -> None:
    files = pki.issue("alice")
    async with (
        serving(Credentials(pki.issue_server(), ticket_key=b"t" * 64)) as service,
        calling(Credentials(files)) as caller,
    ):
        first = await caller.connect(service, transport)
        await ask(caller.context, first, "a")
        pki.revoke(files)
        service.credentials.reload()

        await assert_refused(
            service, caller, transport, first.session_ticket(), "your certificate was refused: Certificate was revoked"
        )

        assert (await ask(caller.context, first, "a")).code == CONTENT  # cutting it is the owner's business


@BOTH
@pytest.mark.rows("SIG-TLS-004", "SIG-TLS-005")
async def test_a_client_says_what_is_wrong_with_the_server(
    service: Service, caller: Caller, shared_pki: Pki, tmp_path: Path, transport: str
) -> None:
    stranger = Pki(tmp_path, name="stranger")
    files = shared_pki.issue("carol")
    doubting = Credentials(CredentialFiles(stranger.path("pem"), files.certificate, files.key))

    with pytest.raises(NoConnection, match="the server's certificate is refused: its name does not match"):
        await caller.connect(service, transport, server_name="other.example")
    with pytest.raises(NoConnection, match="the server's certificate is refused: it is not signed by the CA given"):
        await caller.connect(service, transport, credentials=doubting)


@BOTH
@pytest.mark.rows("SIG-AUT-001")
@pytest.mark.slow
async def test_a_client_says_what_the_server_did_not_like(
    service: Service, caller: Caller, shared_pki: Pki, tmp_path: Path, transport: str
) -> None:
    mallory = Pki(tmp_path, name="other").issue("mallory")
    strange = Credentials(CredentialFiles(shared_pki.path("pem"), mallory.certificate, mallory.key))
    late = Credentials(shared_pki.issue("late", expired=True))
    nobody = Credentials(CredentialFiles(shared_pki.path("pem")))

    for credentials, alert in (
        (strange, "CA is unknown"),
        (late, "Certificate is expired"),
        (nobody, "Handshake failed|Certificate is required"),
    ):
        with pytest.raises(NoConnection, match=f"your certificate was refused: ({alert})") as refused:
            await caller.connect(service, transport, credentials=credentials)
        assert refused.value.alert
    assert not service.opened


async def test_a_client_says_that_nobody_is_there(caller: Caller) -> None:
    with silent_udp() as sock:
        host, port = sock.getsockname()
        with pytest.raises(NoConnection, match="did not answer within 0.2 s"):
            await tls.connect(caller.context, host, port, credentials=caller.credentials, timeout=0.2)
    for transport in ("udp", "tcp"):
        with pytest.raises(NoConnection, match="cannot be reached"):
            await tls.connect(caller.context, host, port, transport=transport, credentials=caller.credentials)
    for name in ("", "two..dots", "x" * 64 + ".example"):
        with silent_udp() as sock, pytest.raises(NoConnection):
            await tls.connect(
                caller.context, *sock.getsockname(), server_name=name, credentials=caller.credentials, timeout=0.2
            )
    with pytest.raises(NoConnection, match="cannot be resolved"):
        await tls.connect(caller.context, "nowhere.invalid", credentials=caller.credentials)


# -- plaintext, floods, silence ---------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-TRN-005")
async def test_plain_coap_gets_nothing(service: Service, caller: Caller) -> None:
    loop = asyncio.get_running_loop()
    get = b"\x40\x01\x12\x34\xb1a"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.setblocking(False)
        plain.connect(service.address("udp"))
        plain.send(get)
        await caller.connect(service, "udp")  # by now the first one has been read
        with pytest.raises(BlockingIOError):
            plain.recv(100)
    reader, writer = await asyncio.open_connection(*service.address("tcp"))
    writer.write(b"\x00\xe1\x10\x01\xb1a")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()

    assert answer[:1] in (b"", b"\x15")  # nothing but perhaps an alert
    assert not service.site.requests and len(service.opened) == 1
    assert loop is asyncio.get_running_loop()


async def test_a_flood_of_hellos_leaves_nothing_behind(service: Service, caller: Caller) -> None:
    from mitigation.tls.datagram_connection import DatagramConnection

    hello = DatagramConnection(caller.credentials, server=False, now=0.0, name="x.example").datagrams_to_send()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        flood.setblocking(False)
        for _ in range(500):
            flood.sendto(hello, service.address("udp"))
        await caller.connect(service, "udp")
        answers = []
        with pytest.raises(BlockingIOError):
            while True:
                answers.append(flood.recv(2000))

    assert answers and max(map(len, answers)) <= len(hello)
    assert service.listeners.statistics["udp: hellos without cookie"] == 501
    assert service.listeners.statistics["udp: handshakes begun"] == 1


async def test_connections_that_say_nothing_are_limited_and_ended(
    server_credentials: Credentials, alice: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mitigation.tls.stream_transport.HANDSHAKE_LIMIT", 0.3)
    async with serving(server_credentials, half_open=3) as service, calling(alice) as caller:
        mute = [await asyncio.open_connection(*service.address("tcp")) for _ in range(3)]
        reader, writer = await asyncio.open_connection(*service.address("tcp"))
        with pytest.raises(ConnectionResetError):
            if not await asyncio.wait_for(reader.read(), 5):
                raise ConnectionResetError

        for each, _ in mute:
            assert await asyncio.wait_for(each.read(), 5) == b""
        remote = await caller.connect(service, "tcp")

        assert (await ask(caller.context, remote, "a")).code == CONTENT
        assert service.listeners.statistics["tcp: handshakes timed out"] == 3
        assert service.listeners.statistics["tcp: refused: too many connections"] == 1
        for _, each in [*mute, (None, writer)]:
            each.close()


@pytest.mark.rows("SIG-TCP-001")
async def test_a_peer_without_settings_is_aborted(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mitigation.tls.signalling.Channel.hello", lambda self: None)
    monkeypatch.setattr("mitigation.tls.stream_transport.HANDSHAKE_LIMIT", 0.3)

    with pytest.raises(NoConnection):
        await caller.connect(service, "tcp")

    await eventually(lambda: service.closed)
    assert service.closed[0][1] in (CloseReason.TIMED_OUT, CloseReason.ERROR, CloseReason.PEER_CLOSED)


async def test_a_peer_that_does_not_read_is_ended(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = await caller.connect(service, "tcp")
    (session,) = service.opened
    remote.protocol.transport.pause_reading()
    service.site.value = b"x" * 900

    while session.is_open:
        session.send_bytes(b"\x00\x00" * 500)
        await asyncio.sleep(0)

    assert service.closed == [(session, CloseReason.ERROR)]
    assert service.listeners.statistics["tcp: peers that do not read"] == 1


@pytest.mark.rows("SIG-TCP-018")
async def test_a_release_is_answered_by_the_end(service: Service, caller: Caller) -> None:
    remote = await caller.connect(service, "tcp")
    answer = asyncio.create_task(ask(caller.context, remote, "a"))
    await asyncio.sleep(0)

    await eventually(answer.done)
    remote.channel.release()
    remote.protocol.flush()

    await eventually(lambda: service.closed)
    assert (await answer).code == CONTENT
    assert service.closed == [(service.opened[0], CloseReason.PEER_CLOSED)]


# -- messages as no good peer sends them ------------------------------------------------------------------------------


@pytest.mark.rows("SIG-COA-025")
async def test_malformed_messages_are_rejected_and_the_session_goes_on(service: Service, caller: Caller) -> None:
    remote = await caller.connect(service, "udp")
    heard: list[bytes] = []
    original = remote.interface.received
    remote.interface.received = lambda peer, data: heard.append(data) or original(peer, data)

    for data in (
        b"\x49\x01\x00\x01" + b"t" * 9,
        b"\x59\x01\x00\x02" + b"t" * 9,
        b"\x40\x01\x00\x03\xff",
        b"\x80\x01\x00\x04",
        b"\x40\x00\x00\x05",
    ):
        remote.send_bytes(data)
    assert (await ask(caller.context, remote, "a")).code == CONTENT

    resets = [data for data in heard if data[0] == 0x70]
    assert resets == [b"\x70\x00\x00\x01", b"\x70\x00\x00\x03", b"\x70\x00\x00\x05"]
    assert service.listeners.statistics["udp: malformed messages"] == 3
    assert service.listeners.statistics["udp: messages of unknown version"] == 1


@pytest.mark.rows("SIG-TCP-001", "SIG-TCP-010", "SIG-TCP-013")
@pytest.mark.parametrize("frame", [b"\x09\x01" + b"t" * 9, b"\x20\xe1\x11x"])
async def test_a_stream_error_aborts_the_connection(service: Service, caller: Caller, frame: bytes) -> None:
    remote = await caller.connect(service, "tcp")

    remote.send_bytes(frame)

    await eventually(lambda: service.closed and caller.closed)
    assert service.closed[0][1] is CloseReason.ERROR
    assert remote.channel.ended.startswith("the peer aborted")


@pytest.mark.slow
async def test_a_broken_callback_stops_only_its_own_datagram(service: Service, caller: Caller) -> None:
    def fail(identity: object) -> bool:
        raise RuntimeError("no database")

    service.welcome = fail
    with pytest.raises(NoConnection):
        await caller.connect(service, "udp", timeout=3)
    service.welcome = lambda identity: True

    remote = await caller.connect(service, "udp")

    assert (await ask(caller.context, remote, "a")).code == CONTENT
    assert service.listeners.statistics["udp: failures"] == 1


# -- many addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_wildcard_socket_answers_from_the_address_that_was_asked(
    server_credentials: Credentials, alice: Credentials, transport: str
) -> None:
    async with serving(server_credentials, "0.0.0.0", "::") as service, calling(alice) as caller:
        for number, host in ((0, "127.0.0.1"), (0, "127.0.0.2"), (0, "127.9.9.9"), (1, "::1")):
            remote = await caller.connect(service, transport, number=number, host=host)
            assert (await ask(caller.context, remote, "a")).code == CONTENT
            assert service.opened[-1].local == (host, service.address(transport, number)[1])


MANY_ADDRESSES = """
import asyncio, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from tls_pki import Pki
from tls_service import ask, calling, serving
from mitigation.tls import Credentials

async def main():
    pki = Pki(Path({directory!r}), name="inner")
    server, alice = Credentials(pki.issue_server()), Credentials(pki.issue("alice"))
    async with serving(server, "::", "0.0.0.0") as service, calling(alice) as caller:
        for number, host in ((0, "2001:db8::2"), (0, "2001:db8::3"), (1, "192.0.2.2"), (1, "192.0.2.3")):
            remote = await caller.connect(service, "udp", number=number, host=host)
            assert (await ask(caller.context, remote, "a")).payload == b"hello"
            assert service.opened[-1].local[0] == host, service.opened[-1].local
    print("answered from each")

asyncio.run(main())
"""


@pytest.mark.flow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a network namespace of our own is needed")
def test_the_same_on_a_host_with_several_global_addresses(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(tls.__file__).parents[2])]
    script = tmp_path / "inner.py"
    script.write_text(MANY_ADDRESSES.format(paths=paths, directory=str(tmp_path)))
    addresses = ["2001:db8::2/128", "2001:db8::3/128", "192.0.2.2/32", "192.0.2.3/32"]
    setup = "ip link set lo up && " + " && ".join(f"ip addr add {address} dev lo" for address in addresses)

    ran = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"{setup} && exec {sys.executable} {script}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.stdout.strip() == "answered from each", ran.stderr


async def test_sockets_share_a_port_and_may_come_from_outside(
    server_credentials: Credentials, alice: Credentials
) -> None:
    first = tls.open_udp("127.0.0.1", 0)
    port = first.getsockname()[1]
    second = tls.open_udp("127.0.0.1", port)
    inherited = socket.socket(fileno=os.dup(first.fileno()))
    first.close()
    context = aiocoap.Context()
    listeners = await tls.listen(
        context,
        server_credentials,
        udp_sockets=[inherited, second],
        authorise=lambda identity: True,
        opened=lambda remote: None,
        closed=lambda remote, reason: None,
    )
    async with calling(alice) as caller:
        for _ in range(8):
            remote = await tls.connect(
                caller.context, "127.0.0.1", port, credentials=alice, server_name="server.example"
            )
            assert (await ask(caller.context, remote, "a")).code == NOT_FOUND

    await listeners.close()
    await context.shutdown()


def test_the_receive_queue_is_as_deep_as_we_may() -> None:
    from mitigation.tls.sockets import RECEIVE_BUFFER, UdpSocket

    with tls.open_udp("127.0.0.1", 0) as sock:
        granted = UdpSocket(sock).receive_buffer
        limit = int(Path("/proc/sys/net/core/rmem_max").read_text())

    assert granted in (RECEIVE_BUFFER, limit)


def test_the_library_says_its_version_or_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mitigation.tls import gnutls

    assert tuple(int(part) for part in tls.available().split(".")[:2]) >= (3, 6)
    gnutls.library.cache_clear()
    monkeypatch.setattr(gnutls, "SONAME", "libgnutls-of-another-world.so")
    with pytest.raises(tls.LibraryMissing, match="install the system package libgnutls30"):
        tls.available()
    monkeypatch.setattr(gnutls, "SONAME", "libgnutls.so.30")
    monkeypatch.setattr(gnutls, "OLDEST", (99, 0, 0))
    with pytest.raises(tls.LibraryMissing, match="at least 99.0.0"):
        tls.available()
    monkeypatch.undo()
    assert tls.available()


FAST_OPEN = """
import asyncio, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from tls_pki import Pki
from tls_service import ask, calling, serving
from mitigation.tls import Credentials

def opened_fast():
    names, values = [line.split() for line in Path("/proc/net/netstat").read_text().splitlines()[:2]]
    return int(dict(zip(names, values))["TCPFastOpenPassive"])

async def main():
    pki = Pki(Path({directory!r}), name="fast")
    server, alice = Credentials(pki.issue_server()), Credentials(pki.issue("alice"))
    async with serving(server, "127.0.0.1") as service, calling(alice) as caller:
        for expected in (0, 1, 2):
            remote = await caller.connect(service, "tcp")
            assert (await ask(caller.context, remote, "a")).payload == b"hello"
            assert opened_fast() == expected, opened_fast()
    print("opened fast")

asyncio.run(main())
"""


@pytest.mark.flow
@pytest.mark.rows("SIG-TLS-019")
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a network namespace of our own is needed")
def test_the_second_tcp_connection_carries_its_hello_in_the_syn(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(tls.__file__).parents[2])]
    script = tmp_path / "fast.py"
    script.write_text(FAST_OPEN.format(paths=paths, directory=str(tmp_path)))
    setup = "ip link set lo up && echo 3 > /proc/sys/net/ipv4/tcp_fastopen"

    ran = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", f"{setup} && exec {sys.executable} {script}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    if "tcp_fastopen" in ran.stderr:
        pytest.skip("this kernel does not let a namespace choose TCP Fast Open")
    assert ran.stdout.strip() == "opened fast", ran.stderr
