"""coaps+tcp: one token interface per aiocoap context, one protocol per TLS connection, a server's listening sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from aiocoap import Message, error, interfaces
from aiocoap.numbers.codes import INTERNAL_SERVER_ERROR

from mitigation.tls.callbacks import Callbacks
from mitigation.tls.credentials import Credentials
from mitigation.tls.demultiplexer import HALF_OPEN, SESSIONS
from mitigation.tls.errors import NotOpen, TooLarge
from mitigation.tls.events import Closed, CloseReason, HandshakeCompleted, PlaintextReceived
from mitigation.tls.gnutls import Alert
from mitigation.tls.messages import encode_frame
from mitigation.tls.remotes import BLOCK_OVERHEAD, Remote, block_size_exponent
from mitigation.tls.signalling import Channel
from mitigation.tls.sockets import BACKLOG, allow_fast_open
from mitigation.tls.stream_connection import StreamConnection

log = logging.getLogger(__name__)

HANDSHAKE_LIMIT: Final = 15.0  # s, from the TCP connection to the peer's CSM
WRITE_LIMIT: Final = 256 * 1024  # bytes that a peer may leave unread


class StreamRemote(Remote):
    """The peer of one TLS connection."""

    scheme = "coaps+tcp"
    transport = "tcp"

    def __init__(self, protocol: TlsProtocol, completed: HandshakeCompleted) -> None:
        peer, local = protocol.addresses()
        super().__init__(completed, peer, local)
        self.protocol = protocol
        self.interface = protocol.interface
        self.channel = Channel(self)
        self.heard_at = time.monotonic()

    @property
    def last_heard(self) -> float:
        return self.heard_at

    @property
    def maximum_block_size_exp(self) -> int:
        return block_size_exponent(self.channel.peer_message_size)

    @property
    def maximum_payload_size(self) -> int:
        return max(16, self.channel.peer_message_size - BLOCK_OVERHEAD)

    def send_bytes(self, data: bytes) -> None:
        """Send one encoded message.

        :raises TooLarge: above the peer's Max-Message-Size (RFC 8323, section 5.3.1).
        :raises NotOpen: when the session is over.
        """
        if not self.is_open:
            raise NotOpen("the session is over")
        if len(data) > self.channel.peer_message_size:
            raise TooLarge(f"{len(data)} bytes exceed the peer's Max-Message-Size of {self.channel.peer_message_size}")
        self.channel.send(data)
        self.protocol.flush()

    def cut(self, reason: CloseReason = CloseReason.CUT, *, alert: Alert | None = None) -> None:
        self.protocol.end(reason, alert=alert)

    def pause(self, seconds: float) -> None:
        self.protocol.pause(seconds)

    def session_ticket(self) -> bytes | None:
        return self.protocol.connection.session_ticket()


class StreamInterface(interfaces.TokenInterface):  # type: ignore[misc]
    """What the token layer of one aiocoap context sees of TLS; connections and listeners register here."""

    def __init__(self, token_layer: Any) -> None:
        self.token_layer = token_layer
        self.statistics: Counter[str] = Counter()
        self.owners: set[StreamListener] = set()
        self.connections: set[TlsProtocol] = set()
        self.half_open: set[TlsProtocol] = set()  # those of them whose handshake is not complete

    def send_message(self, message: Any, messageerror_monitor: Callable[..., None] | None) -> None:
        """Reliable transport: there is nothing to repeat and nobody to tell that a message was bad."""
        if message.code.is_response():
            silent = (message.opt.no_response or 0) & 1 << message.code.class_ - 1
            message.opt.no_response = None
            if silent:
                return
        try:
            message.remote.send_bytes(encode_frame(message))
        except TooLarge as too_large:
            self._refuse(message, too_large)
        except NotOpen as closed:
            if message.code.is_request():
                raise error.NetworkError(str(closed)) from closed

    async def fill_or_recognize_remote(self, message: Any) -> bool:
        return isinstance(message.remote, StreamRemote) and message.remote.interface is self

    async def shutdown(self) -> None:
        for owner in list(self.owners):
            owner.close()
        for protocol in list(self.connections):
            protocol.release(CloseReason.SHUTDOWN)

    def _refuse(self, message: Any, too_large: TooLarge) -> None:
        self.statistics["too large"] += 1
        if message.code.is_request():
            raise error.NetworkError(str(too_large)) from too_large
        log.error("a message to %r is not sent: %s", message.remote, too_large)
        short = Message(code=INTERNAL_SERVER_ERROR, payload=b"the response is too large", _token=message.token)
        message.remote.send_bytes(encode_frame(short))


class TlsProtocol(asyncio.Protocol):
    """The server's end, and what the client's end has in common with it."""

    def __init__(self, interface: StreamInterface, callbacks: Callbacks, connection: StreamConnection) -> None:
        self.interface = interface
        self.connection = connection
        self.remote: StreamRemote | None = None
        self.callbacks = callbacks
        self.transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._resuming: asyncio.TimerHandle | None = None
        self._ended = False

    # -- asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self.interface.connections.add(self)
        self.interface.half_open.add(self)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_LIMIT, self._too_slow)
        self._write()

    def data_received(self, data: bytes) -> None:
        self.connection.receive_data(data)
        self._settle()

    def eof_received(self) -> None:
        self.connection.receive_data(b"")
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(CloseReason.ERROR, f"the TCP connection is lost{f': {exc}' if exc else ''}")

    def pause_writing(self) -> None:
        """The peer does not read: what we have to say would pile up here."""
        self.interface.statistics["peers that do not read"] += 1
        self._finish(CloseReason.ERROR, "the peer does not read")
        if self.transport is not None:
            self.transport.abort()

    # -- for the remote --------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """(peer, local)."""
        assert self.transport is not None
        peer = self.transport.get_extra_info("peername") or ("", 0)
        local = self.transport.get_extra_info("sockname") or ("", 0)
        return (peer[0], peer[1]), (local[0], local[1])

    def flush(self) -> None:
        """Encrypt and write what the channel has to say."""
        if self.remote is not None and not self.connection.closed:
            data = self.remote.channel.take_output()
            if data:
                self.connection.send(data)
            self._write()

    def pause(self, seconds: float) -> None:
        """Read nothing for so long: the peer's own queue fills up then."""
        if self._resuming is not None or self.transport is None or self.transport.is_closing():
            return
        self.transport.pause_reading()
        self._resuming = asyncio.get_running_loop().call_later(seconds, self._resume)

    def release(self, reason: CloseReason) -> None:
        """End in good order: Release, close_notify, FIN."""
        if self.remote is not None and self.remote.is_open:
            self.remote.channel.release()
            self.flush()
        self.end(reason)

    def end(self, reason: CloseReason, *, alert: Alert | None = None) -> None:
        """End now, with close_notify or a fatal alert."""
        self.flush()
        if alert is None:
            self.connection.close()
        else:
            self.connection.abort(alert)
        self._finish(reason, "ended by this end")

    # -- the inside ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, PlaintextReceived):
                self._receive(event.data)
            elif isinstance(event, HandshakeCompleted):
                self._complete(event)
            else:
                self._closed(event)
        self.flush()
        self._write()

    def _complete(self, completed: HandshakeCompleted) -> None:
        if not self.callbacks.authorise(completed.identity):
            self.interface.statistics["handshakes refused"] += 1
            log.info("%s is refused after the handshake", completed.identity.subject)
            self.connection.abort(Alert.ACCESS_DENIED)
            self._finish(CloseReason.REVOKED, "refused after the handshake")
            return
        self.interface.statistics["handshakes resumed" if completed.resumed else "handshakes completed"] += 1
        self.interface.half_open.discard(self)
        self.remote = StreamRemote(self, completed)
        self.remote.channel.hello()
        self.flush()
        self.on_secure()

    def on_secure(self) -> None:
        """The handshake is complete and our CSM is on its way."""
        assert self.remote is not None
        log.info("%r is open, %s", self.remote, "resumed" if self.remote.resumed else "new")
        self.callbacks.opened(self.remote)

    def on_capable(self) -> None:
        """The peer's CSM came: it believes in this connection too."""

    def _receive(self, data: bytes) -> None:
        remote = self.remote
        if remote is None:
            return
        remote.heard_at = time.monotonic()
        channel, layer = remote.channel, self.interface.token_layer
        for message in channel.receive(data):
            if not self.callbacks.hears(remote):
                continue
            if message.code.is_request():
                layer.process_request(message)
            elif message.code.is_response():
                layer.process_response(message)
            if not remote.is_open:
                return
        if channel.has_peer_csm and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self.on_capable()
        if channel.ended is not None:
            log.info("%r ends: %s", remote, channel.ended)
            self.interface.statistics["connections aborted"] += 1
            self.end(CloseReason.ERROR)
        elif channel.released:
            self.end(CloseReason.PEER_CLOSED)

    def _closed(self, event: Closed) -> None:
        if self.remote is None:
            self.interface.statistics["handshakes failed"] += 1
            self.on_refused(event)
        self._finish(event.reason, event.detail)

    def on_refused(self, event: Closed) -> None:
        """The handshake failed."""
        log.info("no handshake with %s: %s", self.addresses()[0][0], event.detail)

    def _resume(self) -> None:
        self._resuming = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _too_slow(self) -> None:
        self._deadline = None
        self.interface.statistics["handshakes timed out"] += 1
        if self.remote is not None:
            self.remote.channel.abort("no Capabilities and Settings Message came in time")
        self.end(CloseReason.TIMED_OUT)

    def _write(self) -> None:
        data = self.connection.data_to_send()
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _finish(self, reason: CloseReason, detail: str) -> None:
        """Everything that has to happen once, whoever ended the connection."""
        self._write()
        if self._ended:
            return
        self._ended = True
        self.connection.close()
        self.interface.connections.discard(self)
        self.interface.half_open.discard(self)
        for timer in (self._deadline, self._resuming):
            if timer is not None:
                timer.cancel()
        if self.transport is not None:
            self.transport.close()
        if self.remote is not None:
            remote = self.remote
            remote.is_open = False
            remote.ending = detail
            log.info("%r is closed: %s (%s)", remote, reason, detail)
            self.interface.statistics[f"sessions closed: {reason}"] += 1
            self.interface.token_layer.dispatch_error(
                error.RemoteServerShutdown(f"the session ended: {detail}"), remote
            )
            self.callbacks.closed(remote, reason)
        self.on_finished(reason)

    def on_finished(self, reason: CloseReason) -> None:
        """The connection is over."""


class StreamListener:
    """The TCP sockets of a server."""

    def __init__(
        self,
        interface: StreamInterface,
        credentials: Credentials,
        callbacks: Callbacks,
        *,
        half_open: int = HALF_OPEN,
        sessions: int = SESSIONS,
    ) -> None:
        self.interface = interface
        self.credentials = credentials
        self._callbacks = callbacks
        self._most_half_open = half_open
        self._most_sessions = sessions
        self._servers: list[asyncio.Server] = []
        interface.owners.add(self)

    @property
    def statistics(self) -> Counter[str]:
        return self.interface.statistics

    async def add_socket(self, sock: socket.socket) -> None:
        allow_fast_open(sock)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._accept, sock=sock, backlog=BACKLOG))

    def sessions(self) -> Iterator[Remote]:
        return (protocol.remote for protocol in list(self.interface.connections) if protocol.remote is not None)

    def close(self) -> None:
        """Stop listening and end all sessions."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for protocol in list(self.interface.connections):
            protocol.release(CloseReason.SHUTDOWN)
        self.interface.owners.discard(self)

    def _accept(self) -> asyncio.Protocol:
        half_open = len(self.interface.half_open)
        if half_open >= self._most_half_open or len(self.interface.connections) - half_open >= self._most_sessions:
            self.interface.statistics["refused: too many connections"] += 1
            return _Turned()
        return TlsProtocol(self.interface, self._callbacks, StreamConnection(self.credentials, server=True))


class _Turned(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
