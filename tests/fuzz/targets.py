"""What is fuzzed: each target takes bytes and raises only when the server would have done wrong.

A refusal in domain words is right; any other exception, a wrong answer, or a table that grows is not. Used by the
tests with Hypothesis, and by `make fuzz` with atheris or with plain mutation.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path as FilePath
from types import SimpleNamespace
from typing import Any

from aiocoap import Code

from mitigation.exceptions import DotsError
from mitigation.pki.authority import initialise, open_authority
from mitigation.pki.home import Home
from mitigation.protocol import body, messages
from mitigation.protocol.paths import Path
from mitigation.tls import CloseReason, CredentialFiles, Credentials, epoch_zero, records
from mitigation.tls.datagram_connection import DatagramConnection
from mitigation.tls.demultiplexer import Demultiplexer
from mitigation.tls.demultiplexer import Path as NetworkPath
from mitigation.tls.messages import FormatError, decode_datagram
from mitigation.tls.signalling import Channel

HALF_OPEN = 8
NOW = datetime(2026, 11, 22, tzinfo=UTC)
_PATH = Path("mitigate", cuid="c", mid=1)


def fuzz_body(data: bytes) -> None:
    """CBOR bodies: a value that can be encoded again, or a refusal."""
    for decode in (lambda: messages.decode_mitigation(data, _PATH), lambda: messages.decode_heartbeat(data)):
        try:
            decoded = decode()
        except DotsError as refusal:
            assert str(refusal)
            continue
        if decoded is not None and hasattr(decoded, "scope"):
            again = messages.decode_mitigation(messages.encode_mitigation(decoded), _PATH)
            assert again.digest == decoded.digest
    try:
        body.decode(data)
    except DotsError as refusal:
        assert len(str(refusal)) < 1_000, "a peer's own words must not come back without bound"


def fuzz_records(data: bytes) -> None:
    """What anybody may send before anything is known of them: records and handshake headers."""
    position = 0
    for record in records.split(data):
        assert data[position : position + len(record)] == record
        position += len(record)
        for kind, _, length, offset, fragment in records.handshake_messages(record):
            assert kind < 0 or offset + len(fragment) <= length <= records.LONGEST_MESSAGE
        epoch_zero.refuse_from_client(record, 0)
        epoch_zero.refuse_from_server(record)
        epoch_zero.plaintext_alert(record)
    if records.is_client_hello(data):
        assert len(records.client_random(data)) == 32


class _Remote(SimpleNamespace):
    """A session as far as messages look at it."""

    def __init__(self) -> None:
        super().__init__(
            transport="udp", maximum_block_size_exp=6, session_id=1, identity=SimpleNamespace(sha256="00"), is_open=True
        )

    __hash__ = object.__hash__

    def as_response_address(self) -> _Remote:
        return self


def fuzz_frames(data: bytes) -> None:
    """CoAP over a stream, in whatever pieces it comes: requests, or the end of the channel with a reason."""
    channel = Channel(_Remote())
    size = 1 + (data[0] if data else 0)
    for start in range(0, len(data), size):
        for message in channel.receive(data[start : start + size]):
            assert message.code.is_request() or message.code.is_response() or 0 < int(message.code) < 224
        assert len(channel._spool) <= 1 << 14 or channel.ended is not None
    assert channel.ended is None or channel.take_output() or "aborted" in channel.ended


def fuzz_message(data: bytes) -> str:
    """One CoAP message through the dispatcher and the mitigation resource: one answer, never "internal error".

    Returns its code, empty for what is no request.
    """
    try:
        message = decode_datagram(data, _door().remote)
    except FormatError:
        return ""
    return str(_door().ask(message).code.dotted) if message.code.is_request() else ""


class _Listener:
    """Takes what the demultiplexer says, and lets everybody in."""

    def transmit(self, path: NetworkPath, datagram: bytes) -> None:
        assert datagram

    def authorise(self, identity: object) -> bool:
        return True

    def opened(self, association: Any) -> None:
        return

    def received(self, association: Any, data: bytes) -> None:
        return

    def closed(self, association: Any, reason: Any, detail: str) -> None:
        return


class _Port:
    """A server's table of associations, and a hello that has earned its cookie, anew for each input."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._port = 0
        directory = FilePath(tempfile.mkdtemp(prefix="dots-fuzz-"))
        home = Home(directory)
        initialise(home, names=["localhost"], addresses=[], now=datetime.now(UTC))
        files = CredentialFiles(
            ca=home.authority_certificate,
            certificate=home.server_certificate,
            key=home.server_key,
            crl=home.revocation_list,
        )
        self._server = Credentials(files, ticket_key=b"t" * 64, cookie_key=b"c" * 16)
        issued = open_authority(home).issue_client("fuzz", now=datetime.now(UTC))
        (directory / "cert.pem").write_bytes(issued.certificate_pem)
        (directory / "key.pem").write_bytes(issued.key_pem)
        self._client = Credentials(
            CredentialFiles(
                ca=home.authority_certificate, certificate=directory / "cert.pem", key=directory / "key.pem"
            )
        )
        self._sent: list[tuple[NetworkPath, bytes]] = []
        listener = _Listener()
        listener.transmit = lambda path, datagram: self._sent.append((path, datagram))  # type: ignore[method-assign]
        self.table = Demultiplexer(self._server, listener, half_open=HALF_OPEN, sessions=4)

    def offer(self, data: bytes) -> None:
        """Cold to the port; to a handshake that waits for the client's second flight; and in place of parts of it."""
        self._port = self._port % 60_000 + 1
        self._now += 0.01
        where = NetworkPath(self, ("192.0.2.1", self._port), b"")
        self._give(data, where)
        client = DatagramConnection(self._client, server=False, now=self._now, name="localhost")
        step = data[0] % 4 if data else 0
        for turn in range(4):
            for datagram in client.datagrams_to_send():
                self._give(_spoiled(datagram, data) if turn == step else datagram, where)
            answers, self._sent = self._sent, []
            for _, answer in answers:
                if not client.closed:
                    client.receive_datagram(answer, now=self._now)
        client.close()
        self._give(data, where)
        assert self.table.half_open <= HALF_OPEN
        assert len(self.table) <= 4
        for association in self.table.associations():
            self.table.cut(association, CloseReason.CUT)
        if self._port % 64 == 0:
            self._now += 100.0
        self.table.on_timer(self._now)
        self._sent.clear()

    def _give(self, datagram: bytes, where: NetworkPath) -> None:
        before = len(self._sent)
        known = self.table.half_open + len(self.table)
        self.table.receive_datagram(datagram, where, now=self._now)
        grown = self.table.half_open + len(self.table) > known
        answers = self._sent[before:]
        if not known and not grown:  # nobody has shown a cookie: at most one answer, no longer than the question
            assert sum(len(answer) for _, answer in answers) <= len(datagram)


def _spoiled(datagram: bytes, data: bytes) -> bytes:
    """The datagram with `data` written over some part of it, or cut short, or followed by it."""
    if len(data) < 3:
        return datagram
    at = int.from_bytes(data[1:3], "big") % (len(datagram) + 1)
    match data[0] // 4 % 4:
        case 0:
            return datagram[:at] + data[3:] + datagram[at + len(data) - 3 :]
        case 1:
            return datagram[:at]
        case 2:
            return datagram + data[3:]
    return (
        bytes(octet ^ data[3 + number % (len(data) - 3)] for number, octet in enumerate(datagram)) if data[3:] else b""
    )


def fuzz_handshake(data: bytes) -> None:
    """Datagrams at the port, before, in and after a handshake: no exception, no state without a cookie."""
    _port().offer(data)


class _Door:
    """Dispatcher and resources without a database: the writer grants everything."""

    def __init__(self) -> None:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dotsweb.settings")
        import django

        django.setup()
        from mitigation.services.mitigations import Granted, Submission
        from mitigation.signal_channel.book import Identity
        from mitigation.signal_channel.dispatcher import Dispatcher
        from mitigation.signal_channel.observers import Observers
        from mitigation.signal_channel.resources.heartbeat import Heartbeat
        from mitigation.signal_channel.resources.mitigate import Mitigate
        from mitigation.signal_channel.statuses import Statuses

        class Writer:
            async def submit(self, item: object) -> Granted | None:
                return Granted(item.request.mid, 60, created=True) if isinstance(item, Submission) else None

        async def nothing(key: object) -> list[Any]:
            return []

        somebody = Identity(1, 1, 1, "alice", "a.example", NOW, NOW + timedelta(days=1))
        self.remote = _Remote()
        self._mitigate = Mitigate(Writer(), Observers(), Statuses(nothing), lambda: NOW)
        self._dispatcher = Dispatcher({"mitigate": self._mitigate, "hb": Heartbeat()}, lambda _: somebody)
        self._loop = asyncio.new_event_loop()

    def ask(self, message: Any) -> Any:
        sent: list[Any] = []

        def add_response(answer: Any, is_last: bool = False) -> None:
            sent.append((answer, is_last))

        pipe = SimpleNamespace(request=message, add_response=add_response)
        self._loop.run_until_complete(self._dispatcher.render_to_pipe(pipe))  # type: ignore[arg-type]
        ((answer, last),) = sent
        assert last
        assert answer.code != Code.INTERNAL_SERVER_ERROR
        answer.mid, answer.token = 1, message.token
        answer.mtype = message.mtype
        assert answer.encode()
        assert max(self._mitigate.sizes.values()) <= 1_024
        return answer


@cache
def _door() -> _Door:
    return _Door()


@cache
def _port() -> _Port:
    return _Port()


TARGETS: dict[str, Callable[[bytes], object]] = {
    "body": fuzz_body,
    "message": fuzz_message,
    "frames": fuzz_frames,
    "records": fuzz_records,
    "handshake": fuzz_handshake,
}
