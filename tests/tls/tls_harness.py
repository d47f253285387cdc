"""A client and a server engine on one virtual wire, under one virtual clock. No socket, no sleep, no randomness.

libgnutls keeps its own retransmission timer; its test suite replaces the clock behind it by an exported hook, and so
do we: whatever time the harness says, the library believes.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cffi

from mitigation.tls import Credentials
from mitigation.tls.cookies import verify_cookie
from mitigation.tls.datagram_connection import DatagramConnection
from mitigation.tls.events import Closed, CloseReason, HandshakeCompleted, PlaintextReceived
from mitigation.tls.gnutls import SONAME
from mitigation.tls.records import client_random, is_client_hello

_ffi = cffi.FFI()
_ffi.cdef(
    """
struct timespec { long tv_sec; long tv_nsec; };
void _gnutls_global_set_gettime_function(void (*)(struct timespec *));
"""
)


class Clock:
    """Seconds as the engines and libgnutls see them."""

    now = 1000.0


@_ffi.callback("void(struct timespec *)")
def _virtual(moment: object) -> None:
    moment.tv_sec, moment.tv_nsec = int(Clock.now), int(Clock.now % 1 * 1e9)


@_ffi.callback("void(struct timespec *)")
def _real(moment: object) -> None:
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    moment.tv_sec, moment.tv_nsec = divmod(now, 1_000_000_000)


_library = _ffi.dlopen(SONAME)


@contextmanager
def virtual_time() -> Iterator[type[Clock]]:
    _library._gnutls_global_set_gettime_function(_virtual)
    try:
        yield Clock
    finally:
        _library._gnutls_global_set_gettime_function(_real)


Fate = Callable[[str, int, bytes], list[float]]
"""(sender, number of the datagram of that sender, datagram) -> extra delay of each copy that arrives."""


def perfect(sender: str, number: int, datagram: bytes) -> list[float]:
    return [0.0]


@dataclass
class Wire:
    """One client, one server, a link with 5 ms latency, and what became of them.

    The server side keeps the rule of the real one: a cookie before any state. Once connected the client says `ping`
    until the server has echoed it, so that a wire is only `connected` when data went both ways.
    """

    server_credentials: Credentials
    client_credentials: Credentials
    fate: Fate = perfect
    ticket: bytes | None = None
    name: str = "server.example"
    latency: float = 0.005
    limit: float = 70.0
    talk: bool = True

    server: DatagramConnection | None = None
    events: list[tuple[str, object]] = field(default_factory=list)
    sent: dict[str, list[bytes]] = field(default_factory=lambda: {"client": [], "server": []})
    echoed: bool = False
    connected_at: float | None = None

    def __post_init__(self) -> None:
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._random = b""
        self._timer: dict[str, float | None] = {"client": None, "server": None}
        self.began = Clock.now
        self.client = DatagramConnection(
            self.client_credentials, server=False, now=Clock.now, name=self.name, ticket=self.ticket
        )
        self._after("client")

    # -- the outside -----------------------------------------------------------------------------------------------

    def run(self, until: Callable[[Wire], bool] | None = None, *, limit: float | None = None) -> Wire:
        """Let time pass until `until` holds (default: the echo came), nothing is left to happen, or the limit."""
        done = until or (lambda wire: wire.echoed)
        end = Clock.now + (self.limit if limit is None else limit)
        while self._queue and self._queue[0][0] <= end and not done(self):
            moment, _, action = heapq.heappop(self._queue)
            Clock.now = max(Clock.now, moment)
            action()
        return self

    def at(self, moment: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (moment, self._count, action))

    def inject(self, receiver: str, datagram: bytes) -> None:
        """Let a datagram arrive now, whoever made it."""
        self._arrive(receiver, datagram)

    def happened(self, kind: type) -> list[tuple[str, object]]:
        return [(end, event) for end, event in self.events if isinstance(event, kind)]

    @property
    def elapsed(self) -> float:
        return Clock.now - self.began

    def close(self) -> None:
        self._queue.clear()
        self.client.close()
        if self.server is not None:
            self.server.close()

    # -- the inside ------------------------------------------------------------------------------------------------

    def _transmit(self, sender: str, datagram: bytes) -> None:
        number = len(self.sent[sender])
        self.sent[sender].append(datagram)
        receiver = "server" if sender == "client" else "client"
        for delay in self.fate(sender, number, datagram):
            self.at(Clock.now + self.latency + delay, lambda: self._arrive(receiver, datagram))

    def _arrive(self, receiver: str, datagram: bytes) -> None:
        if receiver == "client":
            if not self.client.closed:
                self.client.receive_datagram(datagram, now=Clock.now)
                self._after("client")
            return
        hello = is_client_hello(datagram)
        if hello and (self.server is None or client_random(datagram) != self._random):
            proof, reply = verify_cookie(self.server_credentials, b"path", datagram)
            if proof is None:
                if reply is not None:
                    self._transmit("server", reply)
                return
            self.server = DatagramConnection(self.server_credentials, server=True, now=Clock.now, prestate=proof)
            self._random = client_random(datagram)
        elif hello and self.server is not None and self.server.established:
            return
        if self.server is not None and not self.server.closed:
            self.server.receive_datagram(datagram, now=Clock.now)
            self._after("server")

    def _after(self, end: str) -> None:
        connection = self.client if end == "client" else self.server
        assert connection is not None
        while (event := connection.next_event()) is not None:
            self.events.append((end, event))
            self._react(end, connection, event)
        for datagram in connection.datagrams_to_send():
            self._transmit(end, datagram)
        due = connection.get_timer()
        self._timer[end] = due
        if due is not None:
            self.at(due, lambda: self._tick(end, due))

    def _react(self, end: str, connection: DatagramConnection, event: object) -> None:
        if isinstance(event, HandshakeCompleted) and end == "client":
            self.connected_at = Clock.now
            if self.talk:
                self.at(Clock.now, self._ping)
        elif isinstance(event, PlaintextReceived) and end == "server":
            if not connection.closed:
                connection.send(b"pong" + event.data)
        elif isinstance(event, PlaintextReceived):
            self.echoed = True

    def _ping(self, number: int = 0) -> None:
        if self.echoed or self.client.closed or number > 20:
            return
        self.client.send(b"ping")
        self._after("client")
        self.at(Clock.now + min(2 * 1.5**number, 6), lambda: self._ping(number + 1))

    def _tick(self, end: str, due: float) -> None:
        connection = self.client if end == "client" else self.server
        if self._timer[end] != due or connection is None or connection.closed:
            return
        connection.on_timer(Clock.now)
        self._after(end)


def closed_reasons(wire: Wire, end: str) -> list[CloseReason]:
    return [event.reason for who, event in wire.happened(Closed) if who == end]
