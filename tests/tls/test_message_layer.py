"""Types, Message IDs, duplicates, retransmission, Resets: over a wire that only takes notes, under a loop whose clock
the test moves."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from aiocoap import Message, error
from aiocoap.numbers.codes import CHANGED, CONTENT, EMPTY, GET, INTERNAL_SERVER_ERROR, PUT, TOO_MANY_REQUESTS
from aiocoap.numbers.constants import TransportTuning
from aiocoap.numbers.types import ACK, CON, NON, RST
from aiocoap.pipe import Pipe

from mitigation.tls import NotOpen, TooLarge
from mitigation.tls.message_layer import MessageLayer, PeerState
from mitigation.tls.messages import decode_datagram
from mitigation.tls.remotes import DOTS_TUNING, DotsTuning
from mitigation.tls.token_layer import OPEN_REQUESTS, TokenLayer


class Timer:
    def __init__(self, when: float, callback: Callable[..., None], arguments: tuple[object, ...]) -> None:
        self._when, self.callback, self.arguments, self.cancelled = when, callback, arguments, False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as the layers use."""

    def __init__(self) -> None:
        self.now = 100.0
        self._queue: list[tuple[float, int, Timer]] = []
        self._count = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *arguments: object) -> Timer:
        timer = Timer(when, callback, arguments)
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, timer))
        return timer

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: object) -> Timer:
        return self.call_at(self.now + delay, callback, *arguments)

    def call_soon(self, callback: Callable[..., None], *arguments: object) -> Timer:
        return self.call_at(self.now, callback, *arguments)

    def pass_(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            when, _, timer = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            if not timer.cancelled:
                timer.callback(*timer.arguments)
        self.now = end

    @property
    def timers(self) -> int:
        return sum(not timer.cancelled for _, _, timer in self._queue)


class Peer:
    """A remote that takes notes."""

    is_multicast = is_multicast_locally = False
    is_open = True
    maximum_block_size_exp = 6
    tuning = DOTS_TUNING

    def __init__(self) -> None:
        self.messages = PeerState()
        self.outgoing: dict = {}
        self.incoming: dict = {}
        self.wire: list[bytes] = []
        self.limit = 1195

    def send_bytes(self, data: bytes) -> None:
        if not self.is_open:
            raise NotOpen("closed")
        if len(data) > self.limit:
            raise TooLarge("too large")
        self.wire.append(data)

    @property
    def sent(self) -> list[Message]:
        return [decode_datagram(data, None) for data in self.wire]


class Stack:
    """Message layer, token layer, and a site that keeps its pipes until the test answers."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.pipes: list[Pipe] = []
        context = SimpleNamespace(
            log=logging.getLogger("stack"), loop=self.loop, client_credentials=None, render_to_pipe=self.pipes.append
        )
        self.tokens = TokenLayer(context)
        self.layer = MessageLayer(self.tokens)
        self.tokens.token_interface = self.layer

    def receive(self, peer: Peer, data: bytes) -> None:
        self.layer.dispatch_message(decode_datagram(data, peer))

    def request(self, peer: Peer, **kwargs: object) -> list[Pipe.Event]:
        """Begin a request of ours; the list fills with its events."""
        message = Message(code=PUT, uri_path=("hb",), **kwargs)
        message.remote = peer
        pipe, events = Pipe(message, self.tokens.log), []
        pipe.on_event(lambda event: events.append(event) or not event.is_last)
        self.tokens.request(pipe)
        return events


@pytest.fixture
def stack() -> Stack:
    return Stack()


@pytest.fixture
def peer() -> Peer:
    return Peer()


def header(kind: int, code: int, mid: int, token: bytes = b"") -> bytes:
    return bytes([0x40 | kind << 4 | len(token), code, mid >> 8, mid & 0xFF]) + token


def answer(pipe: Pipe, *, last: bool = True, **kwargs: object) -> None:
    pipe.add_response(Message(code=CONTENT, payload=b"body", **kwargs), is_last=last)


# -- requests of the peer ---------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-COA-002", "SIG-COA-029")
def test_an_answer_in_time_rides_on_the_acknowledgement(stack: Stack, peer: Peer) -> None:
    stack.receive(peer, header(CON, GET, 7, b"tok"))
    answer(stack.pipes[0])

    (sent,) = peer.sent
    assert (sent.mtype, sent.mid, sent.token, sent.payload) == (ACK, 7, b"tok", b"body")
    stack.loop.pass_(10)
    assert len(peer.wire) == 1


@pytest.mark.rows("SIG-COA-012")
def test_a_late_answer_follows_an_empty_acknowledgement_in_a_message_of_its_own(stack: Stack, peer: Peer) -> None:
    stack.receive(peer, header(CON, GET, 7, b"tok"))
    stack.loop.pass_(1)
    (empty,) = peer.sent
    assert (empty.mtype, empty.code, empty.mid) == (ACK, EMPTY, 7)

    answer(stack.pipes[0])
    late = peer.sent[1]
    assert (late.mtype, late.token) == (CON, b"tok")

    stack.receive(peer, header(ACK, EMPTY, late.mid))
    stack.loop.pass_(60)
    assert len(peer.wire) == 2


@pytest.mark.rows("SIG-COA-001", "SIG-COA-016")
def test_a_non_confirmable_request_gets_a_non_confirmable_answer(stack: Stack, peer: Peer) -> None:
    for mid in range(3):
        stack.receive(peer, header(NON, GET, mid, b"t%d" % mid))
        answer(stack.pipes[-1])

    assert [sent.mtype for sent in peer.sent] == [NON] * 3
    assert len({sent.mid for sent in peer.sent}) == 3


@pytest.mark.rows("SIG-COA-014")
def test_a_repeated_confirmable_request_is_worked_on_once_and_answered_alike(stack: Stack, peer: Peer) -> None:
    stack.receive(peer, header(CON, GET, 7, b"tok"))
    stack.receive(peer, header(CON, GET, 7, b"tok"))
    assert len(stack.pipes) == 1 and not peer.wire

    answer(stack.pipes[0])
    stack.receive(peer, header(CON, GET, 7, b"tok"))

    assert len(stack.pipes) == 1
    assert peer.wire[0] == peer.wire[1]


@pytest.mark.rows("SIG-COA-014")
def test_a_repeated_non_confirmable_request_is_ignored_until_its_id_may_be_used_again(stack: Stack, peer: Peer) -> None:
    stack.receive(peer, header(NON, GET, 7, b"tok"))
    answer(stack.pipes[0])
    stack.receive(peer, header(NON, GET, 7, b"tok"))
    assert len(peer.wire) == len(stack.pipes) == 1

    stack.loop.pass_(130)
    stack.receive(peer, header(NON, GET, 7, b"tok"))

    assert len(stack.pipes) == 2


def test_two_peers_may_use_the_same_id_and_token(stack: Stack, peer: Peer) -> None:
    other = Peer()
    stack.receive(peer, header(CON, GET, 7, b"tok"))
    stack.receive(other, header(CON, GET, 7, b"tok"))

    for pipe in stack.pipes:
        answer(pipe)

    assert len(stack.pipes) == 2 and len(peer.wire) == len(other.wire) == 1


def test_a_request_of_ours_and_one_of_theirs_may_have_the_same_id(stack: Stack, peer: Peer) -> None:
    """A peer's duplicate must not be taken for, or trip over, an exchange of ours."""
    events = stack.request(peer)
    mid = peer.sent[0].mid

    stack.receive(peer, header(CON, GET, mid, b"tok"))
    answer(stack.pipes[0])
    stack.receive(peer, header(CON, GET, mid, b"tok"))
    stack.receive(peer, header(ACK, CHANGED, mid, peer.sent[0].token))

    assert [sent.mtype for sent in peer.sent] == [CON, ACK, ACK]
    assert [event.message.code for event in events] == [CHANGED]


@pytest.mark.rows("SIG-COA-025")
def test_pings_and_reserved_codes_are_answered_with_a_reset_when_confirmable(stack: Stack, peer: Peer) -> None:
    for code in (EMPTY, 0x20, 0xC1, 0xE1):
        stack.receive(peer, header(CON, code, code))
        stack.receive(peer, header(NON, code, code + 1))

    assert [(sent.mtype, sent.code, sent.mid) for sent in peer.sent] == [
        (RST, EMPTY, code) for code in (0, 0x20, 0xC1, 0xE1)
    ]
    assert not stack.pipes


def test_a_response_that_does_not_fit_becomes_one_that_does(stack: Stack, peer: Peer) -> None:
    stack.receive(peer, header(CON, GET, 7, b"tok"))
    stack.receive(peer, header(NON, GET, 8, b"tik"))

    for pipe in stack.pipes:
        pipe.add_response(Message(code=CONTENT, payload=b"x" * 1300), is_last=True)

    assert [(sent.mtype, sent.token, sent.code) for sent in peer.sent] == [
        (ACK, b"tok", INTERNAL_SERVER_ERROR),
        (NON, b"tik", INTERNAL_SERVER_ERROR),
    ]
    assert all(len(data) < 100 for data in peer.wire)


def test_unanswered_requests_of_one_session_are_limited(stack: Stack, peer: Peer) -> None:
    for number in range(OPEN_REQUESTS + 1):
        stack.receive(peer, header(NON, GET, number, b"%d" % number))

    assert len(stack.pipes) == OPEN_REQUESTS
    assert [sent.code for sent in peer.sent] == [TOO_MANY_REQUESTS]


# -- observers --------------------------------------------------------------------------------------------------------


def observe(stack: Stack, peer: Peer, ended: list[str]) -> Pipe:
    stack.receive(peer, header(NON, GET, 7, b"obs") + b"\x60")
    pipe = stack.pipes[-1]
    pipe.on_interest_end(lambda: ended.append("observation"))
    answer(pipe, last=False, observe=1)
    return pipe


@pytest.mark.rows("SIG-OBS-015", "SIG-COA-005")
def test_a_reset_to_a_non_confirmable_notification_ends_the_observation(stack: Stack, peer: Peer) -> None:
    ended: list[str] = []
    pipe = observe(stack, peer, ended)
    for number in range(2, 5):
        answer(pipe, last=False, observe=number, transport_tuning=DotsTuning())
    assert [sent.mtype for sent in peer.sent] == [NON] * 4 and not ended

    stack.receive(peer, header(RST, EMPTY, peer.sent[2].mid))

    assert ended == ["observation"]
    assert not peer.incoming


def test_only_so_many_notifications_are_remembered(stack: Stack, peer: Peer) -> None:
    ended: list[str] = []
    pipe = observe(stack, peer, ended)
    for number in range(2, 300):
        answer(pipe, last=False, observe=number)

    assert len(peer.messages.told) == 64
    stack.receive(peer, header(RST, EMPTY, peer.sent[0].mid))
    assert not ended
    stack.receive(peer, header(RST, EMPTY, peer.sent[-1].mid))
    assert ended


def test_a_request_that_was_answered_is_not_kept(stack: Stack, peer: Peer) -> None:
    for mid in range(10):
        stack.receive(peer, header(NON, GET, mid, b"%d" % mid))
        answer(stack.pipes.pop())

    assert not peer.messages.told and not peer.incoming


@pytest.mark.rows("SIG-OBS-010")
def test_a_second_registration_under_the_same_token_replaces_the_first(stack: Stack, peer: Peer) -> None:
    ended: list[str] = []
    observe(stack, peer, ended)
    stack.receive(peer, header(NON, GET, 8, b"obs") + b"\x60")

    assert ended == ["observation"]
    assert len(peer.incoming) == 1


@pytest.mark.rows("SIG-OBS-013")
def test_a_notification_nobody_waits_for_is_rejected(stack: Stack, peer: Peer) -> None:
    stack.receive(peer, header(NON, CONTENT, 9, b"gone") + b"\x61\x05")
    stack.receive(peer, header(NON, CONTENT, 10, b"gone"))

    assert [(sent.mtype, sent.mid) for sent in peer.sent] == [(RST, 9)]


# -- our requests -----------------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-COA-009")
def test_a_confirmable_request_is_sent_four_times_with_doubling_pauses(stack: Stack, peer: Peer) -> None:
    events, times, began = stack.request(peer), [], stack.loop.now
    peer.wire.clear()
    original = peer.send_bytes
    peer.send_bytes = lambda data: times.append(stack.loop.now - began) or original(data)

    stack.loop.pass_(100)

    assert len(times) == 3 and len(set(peer.wire)) == 1
    assert 2 <= times[0] <= 3
    assert times[1] - times[0] == pytest.approx(2 * times[0])
    assert times[2] - times[1] == pytest.approx(4 * times[0])
    assert isinstance(events[0].exception, error.ConRetransmitsExceeded)
    assert peer.is_open and not peer.messages.exchanges


def test_tuning_is_the_sessions_own(stack: Stack, peer: Peer) -> None:
    class Patient(DotsTuning):
        ACK_TIMEOUT, MAX_RETRANSMIT, ACK_RANDOM_FACTOR = 10.0, 1, 1.0

    peer.tuning = Patient()
    stack.request(peer)

    stack.loop.pass_(9.9)
    assert len(peer.wire) == 1
    stack.loop.pass_(100)
    assert len(peer.wire) == 2


@pytest.mark.rows("SIG-COA-011")
def test_a_second_confirmable_request_waits_for_the_first(stack: Stack, peer: Peer) -> None:
    one, two = stack.request(peer), stack.request(peer)
    assert len(peer.wire) == 1

    stack.receive(peer, header(ACK, CHANGED, peer.sent[0].mid, peer.sent[0].token))
    assert one and len(peer.wire) == 2
    stack.receive(peer, header(ACK, CHANGED, peer.sent[1].mid, peer.sent[1].token))

    assert two and stack.loop.timers == 0


def test_non_confirmable_requests_do_not_wait(stack: Stack, peer: Peer) -> None:
    stack.request(peer)

    stack.request(peer, transport_tuning=unreliable())
    stack.request(peer, transport_tuning=unreliable())

    assert [sent.mtype for sent in peer.sent] == [CON, NON, NON]


def unreliable(repeat: float | None = None) -> TransportTuning:
    tuning = DotsTuning()
    tuning.reliability = False
    tuning.NON_REPEAT = repeat
    return tuning


@pytest.mark.rows("SIG-COA-006", "SIG-COA-007", "SIG-COA-015")
def test_a_non_confirmable_request_is_repeated_under_its_token_until_answered(stack: Stack, peer: Peer) -> None:
    events = stack.request(peer, transport_tuning=unreliable(repeat=1.0))
    stack.loop.pass_(2.9)
    assert len(peer.wire) == 1
    stack.loop.pass_(6.2)
    assert len(peer.wire) == 4
    assert len({sent.token for sent in peer.sent}) == 1
    assert len({sent.mid for sent in peer.sent}) == 4

    stack.receive(peer, header(NON, CHANGED, 1, peer.sent[0].token))
    stack.loop.pass_(60)

    assert [event.message.code for event in events] == [CHANGED]
    assert len(peer.wire) == 4


@pytest.mark.rows("SIG-COA-015")
def test_tokens_are_random_and_long(stack: Stack, peer: Peer) -> None:
    for _ in range(50):
        stack.request(peer, transport_tuning=unreliable())

    tokens = {sent.token for sent in peer.sent}
    assert len(tokens) == 50 and {len(token) for token in tokens} == {8}


@pytest.mark.rows("SIG-COA-013")
def test_a_separate_response_is_acknowledged_and_its_repeat_rejected(stack: Stack, peer: Peer) -> None:
    events = stack.request(peer)
    token = peer.sent[0].token
    stack.receive(peer, header(ACK, EMPTY, peer.sent[0].mid))
    assert not events

    for _ in range(2):
        stack.receive(peer, header(CON, CHANGED, 77, token))

    assert len(events) == 1
    assert [(sent.mtype, sent.mid) for sent in peer.sent[1:]] == [(ACK, 77), (RST, 77)]


def test_a_response_that_overtakes_the_acknowledgement_stops_the_retransmission(stack: Stack, peer: Peer) -> None:
    stack.request(peer)
    stack.receive(peer, header(CON, CHANGED, 77, peer.sent[0].token))

    stack.loop.pass_(60)

    assert [sent.mtype for sent in peer.sent] == [CON, ACK]
    assert not peer.messages.exchanges


@pytest.mark.parametrize("tuning", [None, unreliable()])
def test_a_reset_fails_the_request_it_answers(stack: Stack, peer: Peer, tuning: TransportTuning | None) -> None:
    events = stack.request(peer, transport_tuning=tuning)

    stack.receive(peer, header(RST, EMPTY, peer.sent[0].mid))

    assert isinstance(events[0].exception, error.MessageError)
    assert not peer.outgoing


def test_a_request_that_does_not_fit_fails(stack: Stack, peer: Peer) -> None:
    events = stack.request(peer, payload=b"x" * 1300)
    stack.loop.pass_(0)

    assert isinstance(events[0].exception, error.NetworkError)
    assert not peer.wire and not peer.messages.exchanges


def test_a_backlog_is_limited(stack: Stack, peer: Peer) -> None:
    all_events = [stack.request(peer) for _ in range(70)]
    stack.loop.pass_(0)

    assert sum(bool(events) for events in all_events) == 5
    assert len(peer.messages.backlog) == 64


# -- the end of a session ---------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-TCP-015", "SIG-TLS-031")
def test_the_end_of_a_session_ends_everything_of_it_and_nothing_else(stack: Stack, peer: Peer) -> None:
    other, ended = Peer(), []
    observe(stack, peer, ended)
    stack.receive(peer, header(CON, GET, 9, b"open"))
    mine = [stack.request(peer), stack.request(peer), stack.request(peer, transport_tuning=unreliable(repeat=5))]
    theirs = stack.request(other)
    sent = len(peer.wire)

    peer.is_open = False
    stack.layer.dispatch_error(error.RemoteServerShutdown("gone"), peer)
    stack.loop.pass_(1)

    assert all(isinstance(events[0].exception, error.RemoteServerShutdown) for events in mine)
    assert ended == ["observation"]
    assert not peer.incoming and not peer.outgoing
    assert len(peer.wire) == sent
    assert not theirs and len(other.messages.exchanges) == 1
    stack.loop.pass_(300)
    assert stack.loop.timers == 0


def test_an_answer_to_a_session_that_is_gone_goes_nowhere(stack: Stack, peer: Peer) -> None:
    stack.receive(peer, header(CON, GET, 9, b"open"))
    peer.is_open = False

    answer(stack.pipes[0])

    assert not peer.wire


def test_the_cost_of_ending_one_session_does_not_grow_with_the_others(stack: Stack) -> None:
    """Exchanges and observations of 4,000 peers: ending one touches one."""
    peers = [Peer() for _ in range(4000)]
    for each in peers:
        stack.request(each)
    touched = []
    for each in peers:
        each.messages = Watched(each.messages, touched)

    stack.layer.dispatch_error(error.NetworkError("gone"), peers[17])

    assert set(touched) == {peers[17].messages.name}


class Watched:
    """Tells who was looked at."""

    def __init__(self, state: PeerState, touched: list[int]) -> None:
        self._state, self._touched, self.name = state, touched, id(state)

    def __getattr__(self, name: str) -> object:
        self._touched.append(self.name)
        return getattr(self._state, name)


def test_one_timer_serves_all_acknowledgements(stack: Stack) -> None:
    peers = [Peer() for _ in range(100)]
    for each in peers:
        stack.receive(each, header(CON, GET, 1, b"t"))

    assert stack.loop.timers <= 2  # this one, and the sweep of Message IDs
    stack.loop.pass_(1)

    assert all([sent.mtype for sent in each.sent] == [ACK] for each in peers)
