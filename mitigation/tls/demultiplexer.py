"""Many DTLS associations behind few sockets: which datagram belongs to whom. No socket and no clock here.

An association is known by the path its datagrams take: the socket, the peer's address and port, and the local address
that was asked. Nothing is remembered of a peer before it has shown a cookie that only its address could have received
(RFC 6347, section 4.2.1).
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any, Final, NamedTuple, Protocol

from mitigation.tls.cookies import verify_cookie
from mitigation.tls.credentials import Credentials
from mitigation.tls.datagram_connection import DatagramConnection
from mitigation.tls.errors import EngineError
from mitigation.tls.events import Closed, CloseReason, HandshakeCompleted, PlaintextReceived
from mitigation.tls.gnutls import Alert
from mitigation.tls.identity import Identity
from mitigation.tls.records import APPLICATION_DATA, RECORD_HEADER, client_random, is_client_hello, is_epoch_zero

log = logging.getLogger(__name__)

HALF_OPEN: Final = 2_000
SESSIONS: Final = 50_000
HELLO_PATIENCE: Final = 2.0  # s; a handshake that did not get past its hello gives way to another hello after this
FLIGHT_PATIENCE: Final = 15.0  # s; one whose peer has answered us gives way after this much silence
EVICTABLE: Final = 5.0  # s; at the limit, who did not get past the hello for this long makes room


class Path(NamedTuple):
    """`local` is opaque: what the socket needs to answer from the address that was asked; empty when it is bound."""

    socket: Any
    peer: tuple[Any, ...]
    local: bytes

    def cookie_bytes(self) -> bytes:
        """Equal on every worker that serves the same address."""
        return repr((self.peer[:2], self.local)).encode()


class Association:
    """One DTLS association, half-open or live. `owner` is free for whoever listens to it."""

    __slots__ = (
        "completed",
        "connection",
        "due",
        "heard_at",
        "opened_at",
        "owner",
        "path",
        "paused_until",
        "progress_at",
        "random",
    )

    def __init__(self, connection: DatagramConnection, path: Path, random: bytes, now: float) -> None:
        self.connection = connection
        self.path = path
        self.random = random
        self.opened_at = now
        self.heard_at = now
        self.progress_at = now
        self.completed: HandshakeCompleted | None = None
        self.due: float | None = None
        self.paused_until = now  # what comes before is dropped unread: its peer says too much
        self.owner: Any = None

    def is_stuck(self, now: float) -> bool:
        """Whether another hello may take the place of this half-open handshake."""
        patience = FLIGHT_PATIENCE if self.connection.progressed else HELLO_PATIENCE
        return now - self.progress_at >= patience


class Listener(Protocol):
    """Who is told. None of these may block; `authorise` decides on every handshake, full or resumed."""

    def transmit(self, path: Path, datagram: bytes) -> None: ...

    def authorise(self, identity: Identity) -> bool: ...

    def opened(self, association: Association) -> None: ...

    def received(self, association: Association, data: bytes) -> None: ...

    def closed(self, association: Association, reason: CloseReason, detail: str) -> None: ...


class Demultiplexer:
    """The table of associations of one process."""

    def __init__(
        self, credentials: Credentials, listener: Listener, *, half_open: int = HALF_OPEN, sessions: int = SESSIONS
    ) -> None:
        self.credentials = credentials
        self.statistics: Counter[str] = Counter()
        self._listener = listener
        self._most_half_open = half_open
        self._most_sessions = sessions
        self._live: dict[Path, Association] = {}
        self._half_open: dict[Path, Association] = {}  # beside a live one on the same path, if need be; oldest first
        self._timers: list[tuple[float, int, Association]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def half_open(self) -> int:
        return len(self._half_open)

    def associations(self) -> Iterator[Association]:
        """The live ones; the table may change while you look."""
        return iter(list(self._live.values()))

    def receive_datagram(self, data: bytes, path: Path, *, now: float) -> None:
        if len(data) <= RECORD_HEADER:
            self.statistics["stray datagrams"] += 1
            return
        live = self._live.get(path)
        if live is not None and data[0] == APPLICATION_DATA:
            if now < live.paused_until:
                self.statistics["datagrams of paused sessions"] += 1
            else:
                self._feed(live, data, now)
        elif is_client_hello(data):
            self._receive_hello(data, path, now)
        else:
            self._receive_other(data, path, live, now)

    def send(self, association: Association, data: bytes) -> None:
        """Encrypt and transmit one message.

        :raises TooLarge: above the data MTU.
        :raises NotOpen: when the association is not live.
        """
        connection = association.connection
        connection.send(data)
        for datagram in connection.datagrams_to_send():
            self._listener.transmit(association.path, datagram)

    def cut(self, association: Association, reason: CloseReason, *, alert: Alert | None = None) -> None:
        """End a live association with close_notify, or with a fatal alert; the listener is told."""
        if self._live.get(association.path) is not association:
            return
        if alert is None:
            association.connection.close()
        else:
            association.connection.abort(alert)
        self._transmit(association)
        self._end(association, reason, "cut by this end")

    def close(self) -> None:
        """End everything: live associations with close_notify."""
        for association in self.associations():
            self.cut(association, CloseReason.SHUTDOWN)
        for association in self._half_open.values():
            association.connection.close()
        self._half_open.clear()
        self._timers.clear()

    def get_timer(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def on_timer(self, now: float) -> None:
        """Give every association that is due its time."""
        while self._timers and self._timers[0][0] <= now:
            due, _, association = heapq.heappop(self._timers)
            if association.due != due:
                continue
            association.due = None
            if association.connection.closed:
                continue
            association.connection.on_timer(now)
            self._settle(association, now)

    # -- hellos ----------------------------------------------------------------------------------------------------

    def _receive_hello(self, hello: bytes, path: Path, now: float) -> None:
        half, live, random = self._half_open.get(path), self._live.get(path), client_random(hello)
        if half is not None and half.random == random:
            self._feed(half, hello, now)
        elif live is not None and live.random == random:
            self.statistics["late hellos"] += 1
        else:
            self._receive_new_hello(hello, path, random, now)

    def _receive_new_hello(self, hello: bytes, path: Path, random: bytes, now: float) -> None:
        proof, reply = verify_cookie(self.credentials, path.cookie_bytes(), hello)
        live = self._live.get(path)
        for other in (live, self._half_open.get(path)):
            if other is not None:
                other.connection.pause_repeating(now)
        if proof is None:
            self.statistics["hellos without cookie"] += 1
            if reply is not None and len(reply) <= len(hello):
                self._listener.transmit(path, reply)
            return
        if not self._has_room(path, now):
            return
        try:
            connection = DatagramConnection(self.credentials, server=True, now=now, prestate=proof)
        except EngineError as error:
            self.statistics["engine failures"] += 1
            log.error("no DTLS session can be made: %s", error)
            return
        if live is not None:
            live.connection.stop_repeating()
        association = Association(connection, path, random, now)
        self._half_open[path] = association
        self.statistics["handshakes begun"] += 1
        self._feed(association, hello, now)

    def _has_room(self, path: Path, now: float) -> bool:
        """Whether one more handshake may begin, ending a stuck one for it if that is what it takes."""
        half = self._half_open.get(path)
        if half is not None:
            if not half.is_stuck(now):
                self.statistics["hellos during a handshake"] += 1  # an old hello may carry a good cookie
                return False
            self._drop(half, "superseded")
            return True
        if len(self._live) >= self._most_sessions and path not in self._live:
            self.statistics["refused: too many sessions"] += 1
            return False
        if len(self._half_open) >= self._most_half_open and not self._evict(now):
            self.statistics["refused: too many handshakes"] += 1
            return False
        return True

    def _evict(self, now: float) -> bool:
        oldest = next(iter(self._half_open.values()))
        if oldest.connection.progressed or now - oldest.opened_at < EVICTABLE:
            return False
        self._drop(oldest, "evicted")
        return True

    def _drop(self, association: Association, why: str) -> None:
        self._half_open.pop(association.path, None)
        association.connection.close()
        self.statistics[f"handshakes {why}"] += 1

    # -- everything else -------------------------------------------------------------------------------------------

    def _receive_other(self, data: bytes, path: Path, live: Association | None, now: float) -> None:
        half = self._half_open.get(path)
        if half is None and live is None:
            self.statistics["stray datagrams"] += 1
            return
        if live is not None and (half is None or not is_epoch_zero(data)):
            self._feed(live, data, now)
        if half is not None and self._half_open.get(path) is half:
            self._feed(half, data, now)

    def _feed(self, association: Association, data: bytes, now: float) -> None:
        association.connection.receive_datagram(data, now=now)
        self._settle(association, now)

    def _settle(self, association: Association, now: float) -> None:
        """Pass on what the engine has to say, in order: events, datagrams, the next timer."""
        connection = association.connection
        ended: Closed | None = None
        while (event := connection.next_event()) is not None:
            if isinstance(event, PlaintextReceived):
                association.heard_at = now
                self._listener.received(association, event.data)
            elif isinstance(event, HandshakeCompleted):
                self._promote(association, event, now)
            else:
                ended = event
        if connection.closed:
            self._transmit(association)
            if ended is not None:
                self._end(association, ended.reason, ended.detail)
            return
        if association.completed is None and self._transmit(association):
            association.progress_at = now
        else:
            self._transmit(association)
        self._schedule(association)

    def _transmit(self, association: Association) -> bool:
        datagrams = association.connection.datagrams_to_send()
        for datagram in datagrams:
            self._listener.transmit(association.path, datagram)
        return bool(datagrams)

    def _promote(self, association: Association, completed: HandshakeCompleted, now: float) -> None:
        """Ask whether this peer is welcome; only now does an older association on the same path give way."""
        association.completed = completed
        allowed = False
        try:
            allowed = self._listener.authorise(completed.identity)
        finally:
            self._half_open.pop(association.path, None)
            if not allowed:
                association.connection.abort(Alert.ACCESS_DENIED)
        if not allowed:
            self.statistics["handshakes refused"] += 1
            log.info("%s from %s is refused after the handshake", completed.identity.subject, association.path.peer[0])
            return
        self.statistics["handshakes resumed" if completed.resumed else "handshakes completed"] += 1
        old = self._live.get(association.path)
        if old is not None:
            old.connection.close()  # what it would still say is for a peer that has forgotten its keys
            self._end(old, CloseReason.REPLACED, "the same address and port completed a new handshake")
        association.opened_at = association.heard_at = now
        self._live[association.path] = association
        self._listener.opened(association)

    def _end(self, association: Association, reason: CloseReason, detail: str) -> None:
        if self._half_open.get(association.path) is association:
            del self._half_open[association.path]
            self.statistics["handshakes timed out" if reason is CloseReason.TIMED_OUT else "handshakes failed"] += 1
            log.info("no handshake with %s: %s", association.path.peer[0], detail)
        elif self._live.get(association.path) is association:
            del self._live[association.path]
            self.statistics[f"sessions closed: {reason}"] += 1
            self._listener.closed(association, reason, detail)

    def _schedule(self, association: Association) -> None:
        """Timers are lazy: one that moved to a later time finds that out when it fires."""
        due = association.connection.get_timer()
        if due is not None and (association.due is None or due < association.due):
            association.due = due
            heapq.heappush(self._timers, (due, next(self._number), association))
