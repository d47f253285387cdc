"""CoAP's message layer over datagrams: types, Message IDs, duplicates, retransmission (RFC 7252, section 4).

aiocoap's own manager searches all exchanges of all peers at every step and keeps every message as an object with a
timer; here each session carries its own state, so that the cost of a message does not grow with the number of peers.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from aiocoap import Message, error, interfaces
from aiocoap.numbers.codes import EMPTY, INTERNAL_SERVER_ERROR
from aiocoap.numbers.types import ACK, CON, NON, RST

from mitigation.tls.duplicates import Duplicates, Received
from mitigation.tls.errors import NotOpen, TooLarge
from mitigation.tls.messages import encode_datagram
from mitigation.tls.remotes import DOTS_TUNING

NON_LIFETIME: Final = 121.0  # s, with the DOTS defaults
EXCHANGE_LIFETIME: Final = 223.0
SWEEP_INTERVAL: Final = 5.0
BACKLOG: Final = 64
REMEMBERED_NON: Final = 64
SHORTEST_NON_REPEAT: Final = 3.0  # RFC 9132, section 4.4

Monitor = Callable[..., None]


class Exchange:
    """A confirmable message under way, or a non-confirmable request that is repeated."""

    __slots__ = ("data", "interval", "left", "message", "mid", "monitor", "timer")

    def __init__(self, message: Any, data: bytes, monitor: Monitor | None, interval: float, left: int) -> None:
        self.message = message
        self.mid: int = message.mid
        self.data = data
        self.monitor = monitor
        self.interval = interval
        self.left = left
        self.timer: Any = None


class PeerState:
    """What the message layer knows of one session; Message IDs of the two directions never meet."""

    __slots__ = ("backlog", "exchanges", "next_mid", "owed", "received", "repeats", "told")

    def __init__(self) -> None:
        self.next_mid = random.randrange(0x10000)
        self.received: dict[int, Received] = {}
        self.exchanges: dict[int, Exchange] = {}
        self.repeats: dict[bytes, Exchange] = {}  # token -> NON request repeated until it is answered
        self.backlog: list[tuple[Any, Monitor | None]] = []  # hardly ever used; an empty deque takes 600 octets
        self.owed: dict[bytes, int] = {}  # token -> Message ID of a request still to be acknowledged
        self.told: dict[int, Monitor] = {}  # Message ID of a NON we sent -> whom its Reset concerns

    def take_mid(self) -> int:
        while True:
            mid, self.next_mid = self.next_mid, self.next_mid + 1 & 0xFFFF
            if mid not in self.exchanges:
                return mid


class MessageLayer(interfaces.TokenInterface, interfaces.MessageManager):  # type: ignore[misc]
    """Between the token layer and the DTLS transport. `message_interface` is set right after construction."""

    def __init__(self, token_layer: Any) -> None:
        self.token_layer = token_layer
        self.log = token_layer.log
        self.loop = token_layer.loop
        self.statistics: Counter[str] = Counter()
        self.message_interface: Any = None
        self._confirmable = Duplicates(lifetime=EXCHANGE_LIFETIME)
        self._non_confirmable = Duplicates(lifetime=NON_LIFETIME)
        self._sweeper: Any = None
        self._owed: deque[tuple[float, Any, bytes, int]] = deque()  # in order: the delay is the same for all
        self._acknowledger: Any = None

    @property
    def client_credentials(self) -> Any:
        return self.token_layer.client_credentials

    @property
    def remembered(self) -> int:
        """Received Message IDs that are kept, of all sessions."""
        return len(self._confirmable) + len(self._non_confirmable)

    async def shutdown(self) -> None:
        for timer in (self._sweeper, self._acknowledger):
            if timer is not None:
                timer.cancel()
        await self.message_interface.shutdown()

    async def fill_or_recognize_remote(self, message: Any) -> bool:
        recognized: bool = await self.message_interface.recognize_remote(message.remote)
        return recognized

    # -- incoming --------------------------------------------------------------------------------------------------

    def dispatch_message(self, message: Any) -> None:
        """Take one decoded message through the layer."""
        code, kind, state = message.code, message.mtype, message.remote.messages
        if code.is_request():
            if kind is CON or kind is NON:
                self._receive_request(message, state)
        elif code.is_response():
            if kind is not RST:
                self._receive_response(message, state)
        elif kind is ACK or kind is RST:
            if code is EMPTY:
                self._settle(message, state)
        elif kind is CON:  # a ping, or a reserved code class (RFC 7252, sections 4.2 and 4.3)
            self.reject(message.remote, message.mid)

    def reject(self, remote: Any, mid: int) -> None:
        """Answer a confirmable message that cannot be processed with a Reset."""
        self.statistics["resets sent"] += 1
        self._transmit_empty(remote, RST, mid)

    def dispatch_error(self, exception: Exception, remote: Any) -> None:
        """The session is gone: nothing of it is retransmitted, answered or waited for."""
        state = remote.messages
        for exchange in (*state.exchanges.values(), *state.repeats.values()):
            self._cancel(exchange)
        state.exchanges.clear()
        state.repeats.clear()
        state.backlog.clear()
        state.owed.clear()
        state.told.clear()
        for entry in list(state.received.values()):
            entry.forget()
        self.token_layer.dispatch_error(exception, remote)

    def _receive_request(self, message: Any, state: PeerState) -> None:
        mid = message.mid
        known = state.received.get(mid)
        if known is not None:
            self._receive_duplicate(message, known)
            return
        store = self._confirmable if message.mtype is CON else self._non_confirmable
        store.remember(state.received, mid, self.loop.time())
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP_INTERVAL, self._sweep)
        if message.mtype is CON:
            self._owe_acknowledgement(message, state)
        self.token_layer.process_request(message)

    def _receive_duplicate(self, message: Any, known: Received) -> None:
        """A repeated CON gets the same answer again, a repeated NON none (RFC 7252, section 4.5)."""
        self.statistics["duplicates"] += 1
        if message.mtype is CON and known.answer is not None:
            self._transmit(message.remote, known.answer)

    def _receive_response(self, message: Any, state: PeerState) -> None:
        if message.mtype is ACK:
            self._settle(message, state)
        expected = self.token_layer.process_response(message)
        if message.mtype is CON and expected:
            self._transmit_empty(message.remote, ACK, message.mid)
        elif not expected and (message.mtype is CON or (message.mtype is NON and message.opt.observe is not None)):
            self.reject(message.remote, message.mid)  # also how an observer is told that nobody listens (RFC 7641, 3.6)

    def _settle(self, message: Any, state: PeerState) -> None:
        """An ACK or RST ends the exchange of its Message ID; a RST may also concern a NON (RFC 7641, section 4.5)."""
        exchange = state.exchanges.pop(message.mid, None)
        if exchange is None:
            monitor = state.told.pop(message.mid, None) if message.mtype is RST else None
        else:
            self._cancel(exchange)
            monitor = exchange.monitor if message.mtype is RST else None
        if monitor is not None:
            self.statistics["resets received"] += 1
            monitor()
        if exchange is not None:
            self._continue_backlog(message.remote, state)

    # -- outgoing --------------------------------------------------------------------------------------------------

    def send_message(self, message: Any, messageerror_monitor: Monitor | None) -> Callable[[], None] | None:
        """Send a request or a response; the callable returned stops what would still be repeated."""
        remote = message.remote
        state: PeerState = remote.messages
        if message.code.is_response() and not self._place_response(message, state):
            return None
        if message.mtype is None:
            message.mtype = self._choose_type(message)
        if message.mtype is CON and state.exchanges:  # NSTART is 1
            return self._postpone(message, messageerror_monitor, state)
        return self._send_now(message, messageerror_monitor, state)

    def _place_response(self, message: Any, state: PeerState) -> bool:
        """Piggyback a response on the acknowledgement that is owed, if one is; False when nothing is to be sent."""
        silent = (message.opt.no_response or 0) & 1 << message.code.class_ - 1
        message.opt.no_response = None
        message.mid = state.owed.pop(message.token, None)
        if message.mid is None:
            return not silent
        if silent:
            self._answer_empty(message.remote, state, message.mid)
            return False
        message.mtype = ACK
        return True

    def _choose_type(self, message: Any) -> Any:
        reliable = message.transport_tuning.reliability
        if reliable is None:
            reliable = message.request is None or message.request.mtype is not NON
        return CON if reliable else NON

    def _postpone(self, message: Any, monitor: Monitor | None, state: PeerState) -> Callable[[], None] | None:
        if len(state.backlog) >= BACKLOG:
            self.statistics["backlog overflows"] += 1
            if monitor is not None:
                self.loop.call_soon(monitor)
            return None
        entry = (message, monitor)
        state.backlog.append(entry)
        return lambda: self._withdraw(entry, state)

    def _withdraw(self, entry: tuple[Any, Monitor | None], state: PeerState) -> None:
        if entry in state.backlog:
            state.backlog.remove(entry)
        exchange = state.exchanges.get(entry[0].mid)
        if exchange is not None and exchange.message is entry[0]:
            self._abandon(exchange, state)

    def _send_now(self, message: Any, monitor: Monitor | None, state: PeerState) -> Callable[[], None] | None:
        if message.mid is None:
            message.mid = state.take_mid()
        data = encode_datagram(message)
        if message.mtype is ACK:
            self._keep_answer(state, message.mid, data)
        elif monitor is not None and message.mtype is NON and _may_be_reset(message):
            self._remember_non(state, message.mid, monitor)
        if not self._transmit_message(message, data):
            if monitor is not None and message.code.is_request():
                self.loop.call_soon(monitor, error.NetworkError("the message does not fit, or the session is closed"))
            return None
        if message.mtype is CON:
            return self._begin_exchange(message, data, monitor, state)
        if message.mtype is NON and message.code.is_request():
            return self._begin_repeats(message, monitor, state)
        return None

    def _transmit_message(self, message: Any, data: bytes) -> bool:
        try:
            message.remote.send_bytes(data)
        except TooLarge as too_large:
            self.statistics["too large"] += 1
            self.log.error("a message to %r is not sent: %s", message.remote, too_large)
            if message.code.is_response():
                self._send_substitute(message)
            return False
        except NotOpen:
            return False
        return True

    def _send_substitute(self, message: Any) -> None:
        """A response that fits in place of one that does not: the peer must not wait for ever."""
        short = Message(
            code=INTERNAL_SERVER_ERROR,
            payload=b"the response does not fit one datagram",
            _mid=message.mid,
            _mtype=message.mtype if message.mtype is ACK else NON,
            _token=message.token,
        )
        data = encode_datagram(short)
        if message.mtype is ACK:
            self._keep_answer(message.remote.messages, message.mid, data)
        self._transmit(message.remote, data)

    # -- exchanges -------------------------------------------------------------------------------------------------

    def _begin_exchange(
        self, message: Any, data: bytes, monitor: Monitor | None, state: PeerState
    ) -> Callable[[], None]:
        tuning = message.remote.tuning
        timeout = tuning.ACK_TIMEOUT * random.uniform(1, tuning.ACK_RANDOM_FACTOR)
        exchange = Exchange(message, data, monitor, timeout, tuning.MAX_RETRANSMIT)
        state.exchanges[message.mid] = exchange
        exchange.timer = self.loop.call_later(timeout, self._retransmit, exchange)
        return lambda: self._abandon(exchange, state)

    def _retransmit(self, exchange: Exchange) -> None:
        remote = exchange.message.remote
        if not exchange.left:
            self._give_up(exchange, remote)
            return
        exchange.left -= 1
        exchange.interval *= 2
        self.statistics["retransmissions"] += 1
        self._transmit(remote, exchange.data)
        exchange.timer = self.loop.call_later(exchange.interval, self._retransmit, exchange)

    def _give_up(self, exchange: Exchange, remote: Any) -> None:
        """Only this message failed; whether the session is alive is for its heartbeat to find out."""
        self.statistics["exchanges timed out"] += 1
        state = remote.messages
        state.exchanges.pop(exchange.mid, None)
        if exchange.monitor is not None:
            exchange.monitor(error.ConRetransmitsExceeded("no acknowledgement after all retransmissions"))
        self._continue_backlog(remote, state)

    def _abandon(self, exchange: Exchange, state: PeerState) -> None:
        """Nobody waits for this exchange any more; the next one may begin."""
        if state.exchanges.get(exchange.mid) is exchange:
            del state.exchanges[exchange.mid]
            self._cancel(exchange)
            self._continue_backlog(exchange.message.remote, state)

    def _continue_backlog(self, remote: Any, state: PeerState) -> None:
        while state.backlog and not state.exchanges and remote.is_open:
            message, monitor = state.backlog.pop(0)
            self._send_now(message, monitor, state)

    def _begin_repeats(self, message: Any, monitor: Monitor | None, state: PeerState) -> Callable[[], None] | None:
        """Repeat a NON request under the same token with new Message IDs until it is answered, if it asks for that."""
        interval = getattr(message.transport_tuning, "NON_REPEAT", None)
        if interval is None:
            return None
        interval = max(interval, SHORTEST_NON_REPEAT)
        exchange = Exchange(message, b"", monitor, interval, 0)
        state.repeats[message.token] = exchange
        exchange.timer = self.loop.call_later(interval, self._repeat, exchange, state)
        return lambda: self._end_repeats(exchange, state)

    def _repeat(self, exchange: Exchange, state: PeerState) -> None:
        message = exchange.message
        message.mid = state.take_mid()
        self.statistics["repeats"] += 1
        if exchange.monitor is not None:
            self._remember_non(state, message.mid, exchange.monitor)
        self._transmit(message.remote, encode_datagram(message))
        exchange.timer = self.loop.call_later(exchange.interval, self._repeat, exchange, state)

    def _end_repeats(self, exchange: Exchange, state: PeerState) -> None:
        self._cancel(exchange)
        if state.repeats.get(exchange.message.token) is exchange:
            del state.repeats[exchange.message.token]

    def _cancel(self, exchange: Exchange) -> None:
        if exchange.timer is not None:
            exchange.timer.cancel()
            exchange.timer = None

    # -- small change ----------------------------------------------------------------------------------------------

    def _owe_acknowledgement(self, message: Any, state: PeerState) -> None:
        state.owed[message.token] = message.mid
        self._owed.append((self.loop.time() + DOTS_TUNING.EMPTY_ACK_DELAY, message.remote, message.token, message.mid))
        if self._acknowledger is None:
            self._acknowledger = self.loop.call_at(self._owed[0][0], self._acknowledge_late)

    def _acknowledge_late(self) -> None:
        """Acknowledge what was not answered in time; the response follows in a message of its own (5.2.2)."""
        now = self.loop.time()
        while self._owed and self._owed[0][0] <= now:
            _, remote, token, mid = self._owed.popleft()
            if remote.messages.owed.get(token) == mid:
                del remote.messages.owed[token]
                self._answer_empty(remote, remote.messages, mid)
        self._acknowledger = self.loop.call_at(self._owed[0][0], self._acknowledge_late) if self._owed else None

    def _answer_empty(self, remote: Any, state: PeerState, mid: int) -> None:
        self._keep_answer(state, mid, self._transmit_empty(remote, ACK, mid))

    def _transmit_empty(self, remote: Any, kind: Any, mid: int) -> bytes:
        data = bytes((0x40 | kind << 4, 0, mid >> 8, mid & 0xFF))
        self._transmit(remote, data)
        return data

    def _transmit(self, remote: Any, data: bytes) -> None:
        try:
            remote.send_bytes(data)
        except (NotOpen, TooLarge) as refusal:
            self.log.debug("nothing is sent to %r: %s", remote, refusal)

    def _keep_answer(self, state: PeerState, mid: int, data: bytes) -> None:
        entry = state.received.get(mid)
        if entry is not None:
            entry.answer = data

    def _remember_non(self, state: PeerState, mid: int, monitor: Monitor) -> None:
        if len(state.told) >= REMEMBERED_NON:
            del state.told[next(iter(state.told))]
        state.told[mid] = monitor

    def _sweep(self) -> None:
        now = self.loop.time()
        self._confirmable.sweep(now)
        self._non_confirmable.sweep(now)
        busy = len(self._confirmable) or len(self._non_confirmable)
        self._sweeper = self.loop.call_later(SWEEP_INTERVAL, self._sweep) if busy else None


def _may_be_reset(message: Any) -> bool:
    """Whether a Reset to this NON would change anything: requests and notifications, not answers that end an exchange.

    Each one remembered keeps its request alive.
    """
    return message.code.is_request() or message.opt.observe is not None
