"""The client: open a session with a server, over UDP or TCP, anew or by ticket."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Literal

from mitigation.tls.callbacks import Callbacks
from mitigation.tls.credentials import Credentials
from mitigation.tls.datagram_connection import DatagramConnection
from mitigation.tls.datagram_transport import BATCH, DatagramInterface, DatagramRemote
from mitigation.tls.errors import EngineError, NoConnection
from mitigation.tls.events import Closed, CloseReason, HandshakeCompleted, PlaintextReceived
from mitigation.tls.gnutls import Alert
from mitigation.tls.refusals import refusal
from mitigation.tls.remotes import PORT, Remote
from mitigation.tls.server import datagram_interface, stream_interface
from mitigation.tls.sockets import try_fast_open
from mitigation.tls.stream_connection import StreamConnection
from mitigation.tls.stream_transport import StreamInterface, TlsProtocol
from mitigation.tls.timer import Timer

log = logging.getLogger(__name__)

Transport = Literal["udp", "tcp"]


async def connect(
    context: Any,
    host: str,
    port: int = PORT,
    *,
    transport: Transport = "udp",
    credentials: Credentials,
    server_name: str | None = None,
    ticket: bytes | None = None,
    timeout: float = 15.0,
    closed: Callable[[Remote, CloseReason], None] | None = None,
) -> Remote:
    """Open a session; set the Remote on a request as `message.remote` and give it to `context.request`.

    `server_name` is what the server's certificate must name, DNS name or IP address; `host` when not given (RFC 9132,
    section 7.1). `ticket` is what `Remote.session_ticket` of an earlier session gave; an old one costs nothing. The
    addresses of a name are tried in turn within `timeout` seconds. The server may send requests over the session too:
    the context's site answers them. `closed` is called once when the session ends, whoever ends it.

    :raises NoConnection: with a sentence that says why.
    """
    callbacks = Callbacks(closed=closed) if closed is not None else Callbacks()
    name = server_name or host
    failed: NoConnection | None = None
    try:
        async with asyncio.timeout(timeout):
            for family, address in await _resolve(host, port, transport):
                try:
                    if transport == "udp":
                        return await _open_datagram(context, family, address, credentials, callbacks, name, ticket)
                    return await _open_stream(context, family, address, credentials, callbacks, name, ticket)
                except NoConnection as error:
                    failed = error
    except TimeoutError:
        failed = failed or NoConnection(f"{host} did not answer within {timeout:g} s")
    assert failed is not None
    raise failed


async def _resolve(host: str, port: int, transport: Transport) -> list[tuple[int, Any]]:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)
    except socket.gaierror as error:
        raise NoConnection(f"the name {host} cannot be resolved: {error.strerror}") from None
    return [(family, address) for family, _, _, _, address in found]


async def _open_datagram(
    context: Any,
    family: int,
    address: Any,
    credentials: Credentials,
    callbacks: Callbacks,
    name: str,
    ticket: bytes | None,
) -> Remote:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect(address)
        client = DatagramClient(datagram_interface(context), credentials, callbacks, sock, name=name, ticket=ticket)
    except (OSError, EngineError, UnicodeError) as error:  # the last for a name that is no host name
        sock.close()
        raise NoConnection(f"{address[0]} cannot be reached: {error}") from None
    return await client.open()


async def _open_stream(
    context: Any,
    family: int,
    address: Any,
    credentials: Credentials,
    callbacks: Callbacks,
    name: str,
    ticket: bytes | None,
) -> Remote:
    loop = asyncio.get_running_loop()
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try_fast_open(sock)
    try:
        await loop.sock_connect(sock, address)
        connection = StreamConnection(credentials, server=False, name=name, ticket=ticket)
        interface = stream_interface(context)
        _, protocol = await loop.create_connection(
            lambda: TlsClientProtocol(interface, callbacks, connection), sock=sock
        )
    except (OSError, EngineError, UnicodeError) as error:  # the last for a name that is no host name
        sock.close()
        raise NoConnection(f"{address[0]} cannot be reached: {error}") from None
    except BaseException:
        sock.close()
        raise
    try:
        return await protocol.opening
    except BaseException:
        protocol.end(CloseReason.SHUTDOWN)
        raise


class ClientRemote(DatagramRemote):
    """The server at the other end of a client's association."""

    def __init__(self, client: DatagramClient, completed: HandshakeCompleted) -> None:
        self._client = client
        super().__init__(
            client.interface,
            completed,
            client.sock.getpeername()[:2],
            client.sock.getsockname()[:2],
            client.connection.data_mtu,
        )
        self.heard_at = time.monotonic()

    @property
    def last_heard(self) -> float:
        return self.heard_at

    def send_bytes(self, data: bytes) -> None:
        self._client.send(data)

    def cut(self, reason: CloseReason = CloseReason.CUT, *, alert: Alert | None = None) -> None:
        self._client.close(reason)

    def session_ticket(self) -> bytes | None:
        return self._client.connection.session_ticket()


class DatagramClient:
    """One DTLS association that we open, on a connected socket of its own."""

    def __init__(
        self,
        interface: DatagramInterface,
        credentials: Credentials,
        callbacks: Callbacks,
        sock: Any,
        *,
        name: str,
        ticket: bytes | None = None,
    ) -> None:
        self.interface = interface
        self.sock = sock
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self._remote: ClientRemote | None = None
        self._opening: asyncio.Future[Remote] = self._loop.create_future()
        self._timer = Timer(self._loop, self._on_timer)
        self.connection = DatagramConnection(credentials, server=False, now=self._loop.time(), name=name, ticket=ticket)
        interface.owners.add(self)
        self._loop.add_reader(sock.fileno(), self._on_readable)
        self._settle()

    async def open(self) -> Remote:
        """Wait for the handshake.

        :raises NoConnection: when it fails.
        """
        try:
            return await self._opening
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes) -> None:
        self.connection.send(data)
        self._transmit()

    def close(self, reason: CloseReason = CloseReason.SHUTDOWN) -> None:
        """End the session with close_notify."""
        if self in self.interface.owners:
            self.connection.close()
            self._transmit()
            self._finish(reason, "ended by this end")

    def _on_readable(self) -> None:
        for _ in range(BATCH):
            if self.connection.closed:
                return
            try:
                data = self.sock.recv(65535)
            except BlockingIOError:
                return
            except OSError as failed:
                self._on_socket_error(failed)
                return
            if data:
                self.connection.receive_datagram(data, now=self._loop.time())
                self._settle()

    def _on_socket_error(self, failed: OSError) -> None:
        """An ICMP error: reason enough to give a handshake up, not to doubt a session that is up."""
        if self._remote is None and not self._opening.done():
            self._opening.set_exception(NoConnection(f"the server cannot be reached: {failed.strerror}"))

    def _on_timer(self) -> None:
        self.connection.on_timer(self._loop.time())
        self._settle()

    def _settle(self) -> None:
        self._transmit()
        completed: HandshakeCompleted | None = None
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, PlaintextReceived):
                self._open(completed)
                self._receive(event.data)
            elif isinstance(event, HandshakeCompleted):
                completed = event
            else:
                self._closed(event)
                return
        self._open(completed)
        self._transmit()
        self._timer.set(self.connection.get_timer())

    def _open(self, completed: HandshakeCompleted | None) -> None:
        """Not before the rest of the datagram was looked at: a refusal may ride behind the Finished."""
        if completed is not None and self._remote is None and not self._opening.done():
            self._remote = ClientRemote(self, completed)
            self._opening.set_result(self._remote)
            self._callbacks.opened(self._remote)

    def _receive(self, data: bytes) -> None:
        if self._remote is not None:
            self._remote.heard_at = time.monotonic()
            self.interface.received(self._remote, data)

    def _closed(self, event: Closed) -> None:
        self._transmit()
        if not self._opening.done():
            self._opening.set_exception(refusal(event))
        self._finish(event.reason, str(refusal(event)) if event.alert else event.detail)

    def _finish(self, reason: CloseReason, ending: str) -> None:
        self.interface.owners.discard(self)
        self._timer.set(None)
        self._loop.remove_reader(self.sock.fileno())
        self.sock.close()
        if not self._opening.done():
            self._opening.set_exception(NoConnection(f"the connection was closed: {ending}"))
            self._opening.exception()
        if self._remote is not None:
            remote, self._remote = self._remote, None
            self.interface.ended(remote, ending)
            self._callbacks.closed(remote, reason)

    def _transmit(self) -> None:
        for datagram in self.connection.datagrams_to_send():
            try:
                self.sock.send(datagram)
            except OSError as failed:
                log.debug("a datagram is lost: %s", failed)


class TlsClientProtocol(TlsProtocol):
    """The client's end. It is open when the server's CSM came: under TLS 1.3 the end of the client's handshake does not
    yet mean that the server accepted its certificate."""

    def __init__(self, interface: StreamInterface, callbacks: Callbacks, connection: StreamConnection) -> None:
        super().__init__(interface, callbacks, connection)
        self.opening: asyncio.Future[Remote] = asyncio.get_running_loop().create_future()

    def on_secure(self) -> None:
        return

    def on_capable(self) -> None:
        if self.remote is not None and not self.opening.done():
            self.opening.set_result(self.remote)
            self.callbacks.opened(self.remote)

    def on_refused(self, event: Closed) -> None:
        self._give_up(refusal(event))

    def _closed(self, event: Closed) -> None:
        self._give_up(refusal(event))
        super()._closed(event)

    def on_finished(self, reason: CloseReason) -> None:
        self._give_up(NoConnection(f"the server closed the connection during the handshake ({reason})"))

    def _give_up(self, why: NoConnection) -> None:
        if not self.opening.done():
            self.opening.set_exception(why)
            self.opening.exception()  # whoever opens may have given up already
