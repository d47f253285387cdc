"""Who asks too much is refused, then not heard, and costs the others nothing (RFC 9132, section 11)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from aiocoap import GET, PUT, Code, Message
from coap_requests import FakePipe, request

from mitigation.exceptions import Ignored, Unavailable
from mitigation.signal_channel import limits as module
from mitigation.signal_channel.book import Identity
from mitigation.signal_channel.dispatcher import Dispatcher
from mitigation.signal_channel.limits import MESSAGES, PAUSE, REFUSALS, Limits
from mitigation.signal_channel.resources.heartbeat import Heartbeat

ALICE, MALLORY = 1, 2


@dataclass(eq=False)
class Session:
    session_id: int
    paused: list[float] = field(default_factory=list)

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(10, 50, clock)


def opened(limits: Limits, client: int, number: int) -> Session:
    session = Session(number)
    limits.opened(session, client)
    return session


def served(limits: Limits, session: Session, count: int) -> int:
    """How many of so many requests at once are taken."""
    taken = 0
    for _ in range(count):
        try:
            limits.take(session)
        except (Unavailable, Ignored):
            continue
        taken += 1
    return taken


@pytest.mark.rows("SIG-SEC-001", "SIG-MIT-023")
def test_a_client_has_its_burst_and_then_its_rate(limits: Limits, clock: Clock) -> None:
    session = opened(limits, MALLORY, 1)

    assert served(limits, session, 200) == 50
    clock.now += 2
    assert served(limits, session, 200) == 20
    clock.now += 3600
    assert served(limits, session, 200) == 50


@pytest.mark.rows("SIG-SEC-001")
def test_all_sessions_of_a_client_share_and_those_of_another_do_not(limits: Limits) -> None:
    first, second, other = opened(limits, MALLORY, 1), opened(limits, MALLORY, 2), opened(limits, ALICE, 3)

    assert served(limits, first, 40) + served(limits, second, 40) == 50
    limits.closed(first)
    assert served(limits, opened(limits, MALLORY, 4), 40) == 0, "nor does a new session bring new tokens"
    assert served(limits, other, 40) == 40
    assert not other.paused


def test_refusals_say_when_and_end_in_silence(limits: Limits) -> None:
    session = opened(limits, MALLORY, 1)
    served(limits, session, 50)

    for _ in range(int(REFUSALS)):
        with pytest.raises(Unavailable) as refused:
            limits.take(session)
        assert refused.value.retry_after == limits.retry_after == 3
    assert not session.paused
    with pytest.raises(Ignored):
        limits.take(session)

    (pause,) = session.paused
    assert 0.5 * PAUSE < pause < 1.5 * PAUSE


@pytest.mark.rows("SIG-SEC-001")
def test_heartbeats_do_not_count_and_are_limited_by_themselves(limits: Limits) -> None:
    session = opened(limits, MALLORY, 1)
    served(limits, session, 200)

    for _ in range(50):
        limits.take(session, heartbeat=True)
    with pytest.raises((Unavailable, Ignored)):
        limits.take(session, heartbeat=True)


def test_a_client_that_only_says_nonsense_is_not_listened_to_for_long(limits: Limits, clock: Clock) -> None:
    session, other = opened(limits, MALLORY, 1), opened(limits, ALICE, 2)

    heard = sum(limits.hears(session) for _ in range(2_000))

    assert heard == MESSAGES * 50
    assert session.paused
    assert limits.hears(other)
    assert served(limits, session, 10) == 10, "messages are not requests"


def test_a_session_that_is_gone_costs_nothing_and_idle_accounts_are_forgotten(
    limits: Limits, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY", 10)
    empty = opened(limits, 0, 0)
    served(limits, empty, 50)
    limits.closed(empty)
    for number in range(1, 100):
        limits.closed(opened(limits, number, number))

    assert len(limits) <= 11
    assert served(limits, opened(limits, 0, 200), 50) == 0, "whoever has used its tokens is remembered"
    clock.now += 60
    for number in range(300, 320):
        limits.closed(opened(limits, number, number))
    assert len(limits) <= 11
    assert limits.hears(empty)


SOMEBODY = Identity(1, 1, 1, "alice", "a.example", datetime.now(UTC), datetime.now(UTC) + timedelta(days=1))


class NeverReached:
    methods = (Code.GET, Code.PUT)
    needs_identity = True

    async def render(self, request: Message, identity: Identity | None, pipe: object) -> Message:
        raise AssertionError("the body must not be looked at")


@pytest.mark.rows("SIG-SEC-001", "SIG-MIT-023")
async def test_a_refusal_is_503_with_max_age_before_the_body_is_looked_at(limits: Limits) -> None:
    dispatcher = Dispatcher({"mitigate": NeverReached(), "hb": Heartbeat()}, lambda _: SOMEBODY, limits)
    message = request(PUT, "mitigate", "cuid=c", "mid=1", payload=b"\xff not CBOR at all")
    message.remote.pause = lambda seconds: None  # type: ignore[attr-defined]
    limits.opened(message.remote, MALLORY)
    served(limits, message.remote, 50)  # type: ignore[arg-type]

    refused = FakePipe(message)
    await dispatcher.render_to_pipe(refused)  # type: ignore[arg-type]
    silent = FakePipe(message)
    for _ in range(int(REFUSALS)):
        silent = FakePipe(message)
        await dispatcher.render_to_pipe(silent)  # type: ignore[arg-type]

    assert (refused.answer.code, refused.answer.opt.max_age) == (Code.SERVICE_UNAVAILABLE, 3)
    assert refused.answer.payload
    assert silent.answer.opt.no_response == 26
    beat = FakePipe(request(PUT, "hb", payload=bytes.fromhex("a11831a11833f5")))
    await dispatcher.render_to_pipe(beat)  # type: ignore[arg-type]
    assert beat.answer.code is Code.CHANGED
    absent = request(GET, "nosuch")
    absent.remote = message.remote
    nobody = FakePipe(absent)
    await dispatcher.render_to_pipe(nobody)  # type: ignore[arg-type]
    assert nobody.answer.opt.no_response == 26, "what does not exist costs as much as what does"
