"""coaps for a client: one DTLS association on a connected UDP socket of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from mitigation.tls.callbacks import Callbacks
from mitigation.tls.credentials import Credentials
from mitigation.tls.datagram_connection import DatagramConnection
from mitigation.tls.datagram_interface import BATCH, DatagramInterface, DatagramRemote, Timer
from mitigation.tls.errors import NoConnection
from mitigation.tls.events import Closed, CloseReason, HandshakeCompleted, PlaintextReceived
from mitigation.tls.gnutls import Alert
from mitigation.tls.refusals import refusal
from mitigation.tls.remotes import Remote

log = logging.getLogger(__name__)


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
