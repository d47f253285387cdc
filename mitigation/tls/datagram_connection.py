"""One end of a DTLS association, without a socket: the rules that a lossy path and a hostile neighbour taught."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Final

from mitigation.tls import epoch_zero
from mitigation.tls.connection import Connection
from mitigation.tls.credentials import Credentials
from mitigation.tls.errors import NotOpen, TooLarge
from mitigation.tls.events import CloseReason, PlaintextReceived
from mitigation.tls.gnutls import Alert, Code, alert_name, error_name, library
from mitigation.tls.records import (
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    is_client_hello,
    is_epoch_zero,
    split,
)
from mitigation.tls.session import Session

_MANY: Final = 64  # calls of the engine for one record; it settles after two or three


class DatagramConnection(Connection):
    """One end of a DTLS association.

    A server end is made with the `prestate` of a verified cookie and is then given the hello that carried it; a client
    end has its first hello ready to send at once. `name` is the host a client wants to reach, `ticket` what
    `session_ticket` gave it earlier. The path MTU bounds every datagram.
    """

    HALF_OPEN_LIMIT: ClassVar[float] = 75.0  # s; a client may go on for 60
    REPEATS: ClassVar[tuple[int, ...]] = (1, 3, 7, 15, 31, 47, 60)  # s after the end of the handshake
    HELD: ClassVar[int] = 4
    HELLO_GAP: ClassVar[float] = 0.5  # s
    HELLO_REPEATS: ClassVar[int] = 64
    LONGEST_BACK_OFF: ClassVar[float] = 4.0  # s between flights of a client; the engine alone would double up to 60
    ALERT_PATIENCE: ClassVar[float] = 1.0  # s
    QUIET: ClassVar[float] = 2.0  # s

    def __init__(
        self,
        credentials: Credentials,
        *,
        server: bool,
        now: float,
        name: str | None = None,
        ticket: bytes | None = None,
        prestate: Any = None,
    ) -> None:
        super().__init__(
            Session(credentials, server=server, datagram=True, name=name, ticket=ticket, prestate=prestate)
        )
        self.opened_at = now
        self.progressed = False
        self.dropped: Counter[str] = Counter()
        self._now = now
        self._mtu = credentials.datagram_mtu
        self._outgoing: list[bytes] = []
        self._hello_sequence = 0
        self._plaintext_number = 0
        self._held: list[bytes] = []
        self._flight: list[bytes] = []  # what was sent last while half-open
        self._flight_at = now
        self._hello_repeats = 0
        self._final: list[bytes] = []  # our last flight, while nothing proves that it arrived
        self._completed_at = now
        self._repeat = 0
        self._quiet_until = 0.0
        self._suspicion: tuple[float, int] | None = None  # (when to believe it, plaintext alert)
        if not server:
            self._pump(None)

    @property
    def data_mtu(self) -> int:
        """The largest plaintext that one record may carry."""
        return 0 if self.closed else self._session.data_mtu

    def receive_datagram(self, data: bytes, *, now: float) -> None:
        self._now = now
        if self.closed:
            return
        if self.established and data[0] == APPLICATION_DATA and len(data) - 13 == data[11] << 8 | data[12]:
            self._pump(data)
            return
        for record in split(data):
            if self.closed:
                return
            if self.established:
                self._receive_established(record)
            elif is_epoch_zero(record):
                self._receive_plaintext(record)
            else:
                self._receive_early(record)

    def datagrams_to_send(self) -> list[bytes]:
        """What to put on the wire now, in order; the list is handed over."""
        if not self._outgoing:
            return []
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def send(self, data: bytes) -> None:
        """Encrypt one message into one datagram.

        :raises TooLarge: above `data_mtu`.
        :raises NotOpen: before the handshake completed, and after the end.
        """
        if self.closed or not self.established:
            raise NotOpen("the DTLS association is not open")
        code = self._session.send(data)
        if code == Code.LARGE_PACKET:
            raise TooLarge(f"{len(data)} bytes do not fit the path MTU, {self.data_mtu} would")
        self._flush()
        if code < 0:
            raise NotOpen(f"the DTLS association cannot send: {error_name(code)}")

    def abort(self, alert: Alert = Alert.ACCESS_DENIED) -> None:
        """Say a fatal alert and end, in the same datagram as the last flight if that is still here: the peer then
        learns that it is refused before it believes to be connected."""
        waiting = self._outgoing[-1:]
        super().abort(alert)
        if waiting and len(self._outgoing) >= 2 and len(self._outgoing[-2]) + len(self._outgoing[-1]) <= self._mtu:
            self._outgoing[-2:] = [self._outgoing[-2] + self._outgoing[-1]]

    def pause_repeating(self, now: float) -> None:
        """Somebody, perhaps the peer, says another hello on the same path: hold repeats back that nobody asked for.

        A client that began anew would take them for answers to its own hello, and fail.
        """
        self._quiet_until = now + self.QUIET

    def stop_repeating(self) -> None:
        """The peer begins anew on the same path: our last flight would only disturb that handshake."""
        self._final = []

    def get_timer(self) -> float | None:
        """When `on_timer` must be called, on the clock of `now`; None while nothing is to be waited for."""
        if self.closed:
            return None
        if self.established:
            return max(self._completed_at + self.REPEATS[self._repeat], self._quiet_until) if self._final else None
        due = max(self._now + max(0.02, self._session.retransmission_due), self._quiet_until)
        due = min(due, self.opened_at + self.HALF_OPEN_LIMIT)
        if not self._server:
            due = min(due, self._flight_at + self.LONGEST_BACK_OFF)
        return min(due, self._suspicion[0]) if self._suspicion else due

    def on_timer(self, now: float) -> None:
        """Repeat what is due. Early and late calls are harmless."""
        self._now = now
        if self.closed:
            return
        if self.established:
            self._repeat_final_flight(now)
        elif now - self.opened_at >= self.HALF_OPEN_LIMIT:
            self._fail(CloseReason.TIMED_OUT, "the handshake took too long")
        elif now < self._quiet_until:
            return
        elif self._suspicion is not None and now >= self._suspicion[0]:
            alert = alert_name(self._suspicion[1])
            self._fail(CloseReason.ERROR, f"the peer sent a fatal alert: {alert}", alert)
        else:
            self._pump(None)
            self._limit_back_off(now)

    # -- records ---------------------------------------------------------------------------------------------------

    def _receive_established(self, record: bytes) -> None:
        """Drop what no DTLS 1.2 peer has a reason to send; RFC 6520 heartbeats above all, they abort the library."""
        if is_epoch_zero(record) and record[0] not in (HANDSHAKE, CHANGE_CIPHER_SPEC):
            self.dropped["plaintext"] += 1
        elif not CHANGE_CIPHER_SPEC <= record[0] <= APPLICATION_DATA:
            self.dropped["unknown content type"] += 1
        else:
            self._pump(record)

    def _receive_plaintext(self, record: bytes) -> None:
        if not self._hello_sequence and self._server and is_client_hello(record):
            self._hello_sequence = record[17] << 8 | record[18]
        refused = (
            epoch_zero.refuse_from_client(record, self._hello_sequence)
            if self._server
            else epoch_zero.refuse_from_server(record)
        )
        if refused is not None:
            self.dropped[refused] += 1
            self._suspect(record)
            return
        flight, is_hello = self._flight, is_client_hello(record)
        self.progressed = self.progressed or not is_hello
        self._pump(self._renumbered(record))
        if self._flight is not flight:
            self._suspicion = None
        elif is_hello and flight:
            self._repeat_flight()
        self._offer_held()

    def _renumbered(self, record: bytes) -> bytes:
        """The record with a number of ours: epoch 0 is not authenticated, so that one forged record with a high number
        would move the engine's replay window past everything the peer has still to say."""
        number, self._plaintext_number = self._plaintext_number, self._plaintext_number + 1
        return record[:5] + number.to_bytes(6, "big") + record[11:]

    def _receive_early(self, record: bytes) -> None:
        """An encrypted record while half-open: the Finished, or something that overtook the messages before it."""
        if not CHANGE_CIPHER_SPEC <= record[0] <= APPLICATION_DATA:
            self.dropped["unknown content type"] += 1
            return
        self._pump(record)
        if self.established:
            self._offer_held()
        elif not self.closed and len(self._held) < self.HELD and record not in self._held:
            self._held.append(record)

    def _offer_held(self) -> None:
        for record in self._held[:]:
            if self.closed:
                return
            self._pump(record)
        if self.established:
            self._held.clear()

    def _suspect(self, record: bytes) -> None:
        """A client remembers a plaintext alert and believes it when nothing better comes (a forger cannot hurry us)."""
        alert = epoch_zero.plaintext_alert(record)
        if alert is not None and not self._server and self._suspicion is None:
            self._suspicion = (self._now + self.ALERT_PATIENCE, alert)

    # -- engine ----------------------------------------------------------------------------------------------------

    def _pump(self, record: bytes | None) -> None:
        """Offer one record (or only time) to the engine until it asks for more than there is.

        AGAIN alone does not mean that: the engine also returns it with work left to do.
        """
        session = self._session
        session.record = record
        for _ in range(_MANY):
            session.asked = False
            settled = self._receive_step() if self.established else self._handshake_step()
            if self.closed or (settled and session.record is None):
                break
        session.record = None

    def _handshake_step(self) -> bool:
        code = self._session.handshake()
        flight = self._flush()
        if flight:
            self._flight, self._flight_at = flight, self._now
        if code == Code.SUCCESS:
            self._handshake_done(flight)
            return False
        if code in (Code.AGAIN, Code.INTERRUPTED):
            return self._session.asked
        if library().gnutls_error_is_fatal(code):
            self._fail_with(code)
        return False

    def _handshake_done(self, flight: list[bytes]) -> None:
        if not self._complete():
            return
        self._completed_at = self._now
        self._flight = []
        self._suspicion = None
        if self._server != self._session.is_resumed:  # the last flight was ours, and the peer acknowledges it by data
            self._final = flight

    def _receive_step(self) -> bool:
        session = self._session
        code, plaintext = session.receive()
        if session.pushed:
            self._flush()
        if code > 0:
            self._final = []
            self._events.append(PlaintextReceived(plaintext))
            return False
        if code == 0:
            session.say_goodbye()
            self._fail(CloseReason.PEER_CLOSED, "close_notify")
        elif code in (Code.AGAIN, Code.INTERRUPTED):
            return session.asked
        elif code in (Code.TIMEDOUT, Code.UNEXPECTED_PACKET):  # a stray record, not the end of the session
            self.dropped["unexpected record"] += 1
            return True
        elif code == Code.REHANDSHAKE:
            self._renegotiation()
            self._flush()
        elif library().gnutls_error_is_fatal(code):
            self._fail_with(code)
        return False

    def _flush(self) -> list[bytes]:
        """Move what one call of the engine pushed to the output, as few datagrams as the MTU allows.

        A GnuTLS 3.7 client stalls for ever when the server's Finished arrives between two of its polls; sent in one
        datagram with what precedes it, it cannot.
        """
        pushed = self._session.pushed
        if not pushed:
            return []
        datagrams = [pushed[0]]
        for record in pushed[1:]:
            if len(datagrams[-1]) + len(record) <= self._mtu:
                datagrams[-1] += record
            else:
                datagrams.append(record)
        pushed.clear()
        self._outgoing += datagrams
        return datagrams

    # -- repeats ---------------------------------------------------------------------------------------------------

    def _repeat_flight(self) -> None:
        """The peer repeats its hello and the engine, whose timer doubles, stays silent."""
        if self._hello_repeats < self.HELLO_REPEATS and self._now - self._flight_at >= self.HELLO_GAP:
            self._hello_repeats += 1
            self._flight_at = self._now
            self._outgoing += self._flight

    def _limit_back_off(self, now: float) -> None:
        """A client under attack cannot wait a minute for its next try."""
        waiting = not (self._server or self.established or self.closed)
        if waiting and now >= self._flight_at + self.LONGEST_BACK_OFF - 0.001:
            self._flight_at = now
            self._outgoing += self._flight

    def _repeat_final_flight(self, now: float) -> None:
        """Byte for byte, on the schedule of the peer's timers, until its first data proves that it has it."""
        if not self._final or now < max(self._completed_at + self.REPEATS[self._repeat], self._quiet_until) - 0.001:
            return
        while self._repeat < len(self.REPEATS) and now >= self._completed_at + self.REPEATS[self._repeat] - 0.001:
            self._repeat += 1
        self._outgoing += self._final
        if self._repeat == len(self.REPEATS):
            self._final = []
