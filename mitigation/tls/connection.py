"""(D)TLS without sockets: bytes and times in, bytes and events out. What both kinds of connection share.

    connection.receive_datagram(data, now=now)
    for datagram in connection.datagrams_to_send(): ...
    while (event := connection.next_event()) is not None: ...
    wake_at = connection.get_timer()

`now` is any monotonic clock in seconds, the same one in every call. After a `Closed` event nothing more happens.
"""

from __future__ import annotations

from mitigation.tls.events import Closed, CloseReason, Event, HandshakeCompleted
from mitigation.tls.gnutls import Alert, Code
from mitigation.tls.session import ALPN, Session, failure


class Connection:
    """The handshake's end, events, and how it all ends."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._server = session.server
        self._credentials = session.credentials
        self._events: list[Event] = []  # a few; an empty deque takes 600 octets
        self.established = False
        self.closed = False

    def next_event(self) -> Event | None:
        return self._events.pop(0) if self._events else None

    def session_ticket(self) -> bytes | None:
        """What a later client connection resumes with; None until the server has sent one."""
        return None if self.closed else self._session.ticket()

    def close(self) -> None:
        """Say close_notify and end; plaintext that was not fetched yet is forgotten. No event follows."""
        self._events.clear()
        if self.closed:
            return
        if self.established:
            self._session.say_goodbye()
        self._end()

    def abort(self, alert: Alert = Alert.ACCESS_DENIED) -> None:
        """Say a fatal alert and end; plaintext that was not fetched yet is forgotten. No event follows."""
        if self.closed:
            return
        self._session.alert(alert)
        self._events.clear()
        self._end()

    def _flush(self) -> object:
        """Take what the engine pushed."""
        raise NotImplementedError

    def _end(self) -> None:
        self._flush()
        self.closed = True
        self._session.close()

    def _fail(self, reason: CloseReason, detail: str, alert: str | None = None) -> None:
        self._events.append(Closed(reason, detail, alert))
        self._end()

    def _fail_with(self, code: int) -> None:
        """End after a fatal return code, telling the peer why when it does not know."""
        detail, alert = failure(self._session, code)
        self._session.alert_for(code)
        self._fail(CloseReason.ERROR, detail, alert)

    def _complete(self) -> bool:
        """Accept the finished handshake, or refuse the peer and return False.

        The engine verifies certificates in full handshakes only: one revoked since its ticket was issued would
        come back in a resumed one.
        """
        session = self._session
        resumed = session.is_resumed
        if resumed and session.verify() is not None:
            self._fail_with(Code.CERTIFICATE_ERROR)
            return False
        if not session.datagram and not self._protocol_agreed():
            session.alert(Alert.NO_APPLICATION_PROTOCOL)
            self._fail(CloseReason.ERROR, 'the peer does not negotiate the application protocol "coap"')
            return False
        try:
            identity = session.identity()
        except ValueError:
            session.alert(Alert.BAD_CERTIFICATE)
            self._fail(CloseReason.ERROR, "the certificate cannot be parsed")
            return False
        self.established = True
        self._events.append(HandshakeCompleted(identity, resumed, session.version, session.cipher))
        return True

    def _protocol_agreed(self) -> bool:
        chosen = self._session.application_protocol
        strict = self._credentials.require_alpn or not self._server
        return chosen == ALPN or (chosen is None and not strict)

    def _renegotiation(self) -> None:
        self._session.alert(Alert.NO_RENEGOTIATION)
