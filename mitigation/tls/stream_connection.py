"""One end of TLS over a byte stream, without a socket."""

from __future__ import annotations

from mitigation.tls.connection import Connection
from mitigation.tls.credentials import Credentials
from mitigation.tls.errors import NotOpen
from mitigation.tls.events import CloseReason, PlaintextReceived
from mitigation.tls.gnutls import Code, error_name, library
from mitigation.tls.session import Session


class StreamConnection(Connection):
    """One end of TLS over a byte stream. A client end has its hello ready to send at once."""

    def __init__(
        self, credentials: Credentials, *, server: bool, name: str | None = None, ticket: bytes | None = None
    ) -> None:
        super().__init__(Session(credentials, server=server, datagram=False, name=name, ticket=ticket))
        self._outgoing = bytearray()
        if not server:
            self._pump()

    def receive_data(self, data: bytes) -> None:
        """Bytes from the peer; empty bytes mean that it closed its side of the TCP connection."""
        if self.closed:
            return
        if not data:
            self._session.ended = True
        self._session.stream += data
        self._pump()

    def data_to_send(self) -> bytes:
        outgoing = bytes(self._outgoing)
        self._outgoing.clear()
        return outgoing

    def send(self, data: bytes) -> None:
        """Encrypt bytes of any length.

        :raises NotOpen: before the handshake completed, and after the end.
        """
        if self.closed or not self.established:
            raise NotOpen("the TLS connection is not open")
        view = memoryview(data)
        while view:
            sent = self._session.send(bytes(view[:16384]))
            if sent < 0:
                raise NotOpen(f"the TLS connection cannot send: {error_name(sent)}")
            view = view[sent:]
        self._flush()

    def _flush(self) -> None:
        if not self.closed:
            for piece in self._session.pushed:
                self._outgoing += piece
            self._session.pushed.clear()

    def _pump(self) -> None:
        """Call the engine until it asks for more than there is: AGAIN alone may just mean that it read a ticket."""
        settled = False
        while not self.closed and not settled:
            self._session.asked = False
            settled = self._receive_step() if self.established else self._handshake_step()
            self._flush()

    def _handshake_step(self) -> bool:
        code = self._session.handshake()
        if code == Code.SUCCESS:
            self._complete()
            return False
        if code in (Code.AGAIN, Code.INTERRUPTED):
            return self._session.asked
        if library().gnutls_error_is_fatal(code):
            self._fail_with(code)
        return False

    def _receive_step(self) -> bool:
        code, plaintext = self._session.receive()
        if code > 0:
            self._events.append(PlaintextReceived(plaintext))
        elif code in (Code.AGAIN, Code.INTERRUPTED):
            return self._session.asked
        elif code == 0:
            self._session.say_goodbye()
            self._fail(CloseReason.PEER_CLOSED, "close_notify")
        elif code == Code.REHANDSHAKE:
            self._renegotiation()
        elif library().gnutls_error_is_fatal(code):
            self._fail_with(code)
        return False
