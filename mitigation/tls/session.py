"""One libgnutls session with its transport in memory: what the library pulls we set, what it pushes we collect."""

from __future__ import annotations

import errno
from typing import Any, Final

from mitigation.tls.credentials import Credentials
from mitigation.tls.gnutls import (
    AL_FATAL,
    AL_WARNING,
    ALPN_MANDATORY,
    CERT_REQUIRE,
    CRD_CERTIFICATE,
    INT_MAX,
    NAME_DNS,
    SFLAGS_SESSION_TICKET,
    SHUT_WR,
    Alert,
    Code,
    Datum,
    Init,
    alert_name,
    check,
    datum_bytes,
    error_name,
    ffi,
    library,
    text,
)
from mitigation.tls.identity import Identity
from mitigation.tls.records import LONGEST_MESSAGE
from mitigation.tls.verification import Refusal, ip_address, peer_certificate, verify

ALPN: Final = b"coap"  # RFC 8323, section 8.2
RETRANSMISSION: Final = 1000  # ms, first timeout of a flight (RFC 6347, section 4.2.4.1)
_BUFFER_SIZE: Final = 65536
_buffer = ffi.new("unsigned char[]", _BUFFER_SIZE)
_view = ffi.buffer(_buffer)
_from_handle: Final = ffi.from_handle
_memmove: Final = ffi.memmove


class Session:
    """Handle of a gnutls_session_t. Never call `close` from within one of its callbacks.

    `record` is the one DTLS record offered to the engine, `stream` what a TLS peer sent; `asked` turns true when
    the engine wanted more than there was; `pushed` collects its output, one element per record or write.
    """

    __slots__ = (
        "_handle",
        "_keep",
        "asked",
        "credentials",
        "datagram",
        "ended",
        "name",
        "pointer",
        "pushed",
        "record",
        "refusal",
        "server",
        "stream",
    )

    def __init__(
        self,
        credentials: Credentials,
        *,
        server: bool,
        datagram: bool,
        name: str | None = None,
        ticket: bytes | None = None,
        prestate: Any = None,
    ) -> None:
        self.credentials = credentials
        self.server = server
        self.datagram = datagram
        self.name = name
        self.record: bytes | None = None
        self.stream = bytearray()
        self.ended = False
        self.asked = False
        self.pushed: list[bytes] = []
        self.refusal: Refusal | None = None
        made = ffi.new("void **")
        role = Init.SERVER if server else Init.CLIENT | Init.FORCE_CLIENT_CERT
        check(library().gnutls_init(made, role | Init.NONBLOCK | Init.NO_SIGNAL | (Init.DATAGRAM if datagram else 0)))
        self.pointer: Any = made[0]
        self._handle = ffi.new_handle(self)
        loaded = credentials.loaded
        priority = credentials.dtls_priority if datagram else credentials.tls_priority
        self._keep: list[Any] = [loaded, priority]
        self._connect_callbacks()
        check(library().gnutls_priority_set(self.pointer, priority))
        check(library().gnutls_credentials_set(self.pointer, CRD_CERTIFICATE, loaded.pointer))
        self._set_up_transport(prestate)
        if server:
            self._set_up_server()
        else:
            self._set_up_client(ticket)

    def handshake(self) -> int:
        code: int = library().gnutls_handshake(self.pointer)
        return code

    def receive(self) -> tuple[int, bytes]:
        """(return code, plaintext); the plaintext is empty unless the code is positive."""
        code: int = library().gnutls_record_recv(self.pointer, _buffer, _BUFFER_SIZE)
        return code, (_view[0:code] if code > 0 else b"")

    def send(self, data: bytes) -> int:
        code: int = library().gnutls_record_send(self.pointer, data, len(data))
        return code

    def say_goodbye(self) -> None:
        """Push a close_notify."""
        library().gnutls_bye(self.pointer, SHUT_WR)

    def alert(self, alert: Alert) -> None:
        """Push a fatal alert; `no_renegotiation` is a warning by nature."""
        level = AL_WARNING if alert is Alert.NO_RENEGOTIATION else AL_FATAL
        library().gnutls_alert_send(self.pointer, level, alert)

    def alert_for(self, code: int) -> None:
        """Push the alert that fits a failed call: what the verification found, or what libgnutls suggests."""
        if self.refusal is not None:
            self.alert(self.refusal.alert)
        elif code == Code.NO_CERTIFICATE_FOUND:
            self.alert(Alert.HANDSHAKE_FAILURE)  # RFC 5246, section 7.4.6
        elif code not in (Code.FATAL_ALERT_RECEIVED, Code.TIMEDOUT, Code.PREMATURE_TERMINATION):
            library().gnutls_alert_send_appropriate(self.pointer, code)

    def verify(self) -> Refusal | None:
        """Why the peer is not accepted; remembered in `refusal`."""
        self.refusal = verify(
            self.pointer,
            server=self.server,
            name=self.name,
            require_key_usage=self.credentials.require_key_usage,
        )
        return self.refusal

    def identity(self) -> Identity:
        """:raises ValueError: when what the peer showed is no certificate."""
        return Identity.from_certificate(peer_certificate(self.pointer) or b"")

    @property
    def is_resumed(self) -> bool:
        return bool(library().gnutls_session_is_resumed(self.pointer))

    @property
    def version(self) -> str:
        """As in "DTLS1.2"."""
        return text(library().gnutls_protocol_get_name(library().gnutls_protocol_get_version(self.pointer)))

    @property
    def cipher(self) -> str:
        """As in "AES-128-GCM"."""
        return text(library().gnutls_cipher_get_name(library().gnutls_cipher_get(self.pointer)))

    @property
    def application_protocol(self) -> bytes | None:
        found = ffi.new("gnutls_datum_t *")
        return datum_bytes(found) if library().gnutls_alpn_get_selected_protocol(self.pointer, found) == 0 else None

    @property
    def data_mtu(self) -> int:
        size: int = library().gnutls_dtls_get_data_mtu(self.pointer)
        return size

    @property
    def retransmission_due(self) -> float:
        """Seconds until `handshake` should be called again though nothing came."""
        milliseconds: int = library().gnutls_dtls_get_timeout(self.pointer)
        return milliseconds / 1000

    @property
    def received_alert(self) -> str:
        return alert_name(library().gnutls_alert_get(self.pointer))

    def ticket(self) -> bytes | None:
        """What `ticket=` of a later session takes; None until the server has sent one."""
        if not library().gnutls_session_get_flags(self.pointer) & SFLAGS_SESSION_TICKET:
            return None
        found = ffi.new("gnutls_datum_t *")
        if library().gnutls_session_get_data2(self.pointer, found) < 0:
            return None
        data = datum_bytes(found)
        library().gnutls_free(found.data)
        return data

    def close(self) -> None:
        """Free the session; calling it twice does no harm."""
        if self.pointer is not None:
            pointer, self.pointer = self.pointer, None
            library().gnutls_deinit(pointer)
            self._handle = None  # breaks the cycle, so that no garbage collection is needed
            self._keep.clear()

    def _connect_callbacks(self) -> None:
        engine = library()
        engine.gnutls_session_set_ptr(self.pointer, self._handle)
        engine.gnutls_transport_set_ptr(self.pointer, self._handle)
        engine.gnutls_transport_set_pull_function(
            self.pointer, _pull_record_callback if self.datagram else _pull_stream_callback
        )
        engine.gnutls_transport_set_pull_timeout_function(
            self.pointer, _wait_record_callback if self.datagram else _wait_stream_callback
        )
        engine.gnutls_transport_set_push_function(self.pointer, PUSH)
        engine.gnutls_session_set_verify_function(self.pointer, _verify_callback)

    def _set_up_transport(self, prestate: Any) -> None:
        library().gnutls_handshake_set_max_packet_length(self.pointer, 2 * LONGEST_MESSAGE)
        if not self.datagram:
            offered = Datum(ALPN)
            check(library().gnutls_alpn_set_protocols(self.pointer, offered.pointer, 1, ALPN_MANDATORY))
            return
        library().gnutls_dtls_set_mtu(self.pointer, self.credentials.datagram_mtu)
        # The total is out of reach on purpose: with any real value a late repeat of Finished kills a good session
        # (-319), above INT_MAX every handshake fails. The half-open limit is kept by the connection.
        library().gnutls_dtls_set_timeouts(self.pointer, RETRANSMISSION, INT_MAX)
        if prestate is not None:
            library().gnutls_dtls_prestate_set(self.pointer, prestate)

    def _set_up_server(self) -> None:
        library().gnutls_certificate_server_set_request(self.pointer, CERT_REQUIRE)
        # No list of CAs: a client of another CA then shows its certificate and hears why it is refused.
        library().gnutls_certificate_send_x509_rdn_sequence(self.pointer, 1)
        key = self.credentials.ticket_key
        if key is not None:
            self._keep.append(key)
            check(library().gnutls_session_ticket_enable_server(self.pointer, key.pointer))

    def _set_up_client(self, ticket: bytes | None) -> None:
        if self.name is not None and ip_address(self.name) is None:  # RFC 6066, section 3: no literals in SNI
            host = self.name.encode("idna")
            check(library().gnutls_server_name_set(self.pointer, NAME_DNS, host, len(host)))
        if ticket:  # one that cannot be read, or is too old, leads to a full handshake
            library().gnutls_session_set_data(self.pointer, ticket, len(ticket))


def failure(session: Session, code: int) -> tuple[str, str | None]:
    """(what went wrong in words, the peer's alert or None) for a negative return code."""
    if session.refusal is not None:
        return f"the certificate is refused: {session.refusal.reason}", None
    if code == Code.FATAL_ALERT_RECEIVED:
        alert = session.received_alert
        return f"the peer sent a fatal alert: {alert}", alert
    if code in (Code.NO_CERTIFICATE_FOUND, Code.CERTIFICATE_REQUIRED):
        return "the peer shows no certificate", None
    return error_name(code), None


def _pull_record(pointer: Any, buffer: Any, size: int) -> int:
    session = _from_handle(pointer)
    record = session.record
    if record is None:
        session.asked = True
        ffi.errno = errno.EAGAIN
        return -1
    session.record = None
    length = min(len(record), size)
    _memmove(buffer, record, length)
    return length


def _wait_record(pointer: Any, milliseconds: int) -> int:
    session = _from_handle(pointer)
    if session.record is None:
        session.asked = True
        return 0
    return 1


def _pull_stream(pointer: Any, buffer: Any, size: int) -> int:
    session = _from_handle(pointer)
    stream = session.stream
    if not stream:
        session.asked = True
        if session.ended:
            return 0
        ffi.errno = errno.EAGAIN
        return -1
    taken = bytes(stream[:size])
    del stream[: len(taken)]
    _memmove(buffer, taken, len(taken))
    return len(taken)


def _wait_stream(pointer: Any, milliseconds: int) -> int:
    session = _from_handle(pointer)
    if session.stream or session.ended:
        return 1
    session.asked = True
    return 0


def _push(pointer: Any, buffer: Any, size: int) -> int:
    _from_handle(pointer).pushed.append(ffi.buffer(buffer, size)[:])
    return size


def _verify(pointer: Any) -> int:
    session = _from_handle(library().gnutls_session_get_ptr(pointer))
    return 0 if session.verify() is None else int(Code.CERTIFICATE_ERROR)


# One C function each for the whole process; they find their session by its handle.
_pull_record_callback: Final[Any] = ffi.callback("ssize_t(void *, void *, size_t)", _pull_record, error=-1)
_wait_record_callback: Final[Any] = ffi.callback("int(void *, unsigned int)", _wait_record, error=-1)
_pull_stream_callback: Final[Any] = ffi.callback("ssize_t(void *, void *, size_t)", _pull_stream, error=-1)
_wait_stream_callback: Final[Any] = ffi.callback("int(void *, unsigned int)", _wait_stream, error=-1)
PUSH: Final[Any] = ffi.callback("ssize_t(void *, const void *, size_t)", _push, error=-1)
_verify_callback: Final[Any] = ffi.callback("int(void *)", _verify, error=int(Code.CERTIFICATE_ERROR))
