"""Who is told, when, and until when (RFC 9132, section 4.4.2.1; RFC 7641)."""

from __future__ import annotations

import asyncio

import pytest
from aiocoap import GET, Code, Message
from aiocoap.numbers.types import NON
from coap_requests import FakePipe, FakeRemote, request

from mitigation.protocol.constants import TOLD_FOUR_TIMES
from mitigation.signal_channel import observers as module
from mitigation.signal_channel.observers import Observers, State

KEY = (1, "", "c", 7)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules a hundred times faster."""
    monkeypatch.setattr(module, "NOTIFICATION_GAP", 0.03)
    monkeypatch.setattr(module, "NOTIFICATION_PERIOD", 0.3)


class Watched:
    """One observation of a thing whose state the test sets."""

    def __init__(
        self, observers: Observers, *, key: tuple[int, str, str, int | None] = KEY, transport: str = "udp"
    ) -> None:
        message = request(GET, "mitigate", "cuid=c", "mid=7", observe=0)
        message.remote = FakeRemote(transport=transport)
        self.pipe = FakePipe(message)
        self.state = State(b"one", is_active=True, is_final=False)
        first = Message(code=Code.CONTENT, payload=b"one")
        self.task = asyncio.ensure_future(observers.serve(key, self.pipe, first, self._read))  # type: ignore[arg-type]

    async def _read(self) -> State:
        return self.state

    async def told(self, count: int, within: float = 2.0) -> list[bytes]:
        async with asyncio.timeout(within):
            while len(self.pipe.sent) < count:
                self.pipe.arrived.clear()
                await self.pipe.arrived.wait()
        return [message.payload for message, _ in self.pipe.sent]

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.rows("SIG-OBS-002", "SIG-OBS-003", "SIG-OBS-006", "SIG-COA-005")
async def test_a_change_is_told_with_a_higher_number_and_never_confirmable() -> None:
    observers = Observers()
    watched = Watched(observers)
    await watched.told(1)

    watched.state = State(b"two", is_active=True, is_final=False)
    observers.wake(*KEY)

    assert await watched.told(2) == [b"one", b"two"]
    (first, _), (second, _) = watched.pipe.sent
    assert second.opt.observe > first.opt.observe
    assert second.mtype is NON
    await watched.end()


@pytest.mark.rows("SIG-OBS-004", "SIG-OBS-005")
async def test_a_burst_is_told_once_with_the_latest_state() -> None:
    observers = Observers()
    watched = Watched(observers)
    await watched.told(1)

    for number in range(50):
        watched.state = State(b"%d" % number, is_active=True, is_final=False)
        observers.wake(*KEY)

    assert await watched.told(2) == [b"one", b"49"]
    await watched.end()


@pytest.mark.rows("SIG-OBS-024", "SIG-OBS-003")
async def test_the_state_is_repeated_while_active_and_only_then() -> None:
    observers = Observers()
    watched = Watched(observers)

    await watched.told(3)
    watched.state = State(b"quiet", is_active=False, is_final=False)
    count = len(watched.pipe.sent)
    with pytest.raises(TimeoutError):
        await watched.told(count + 1, within=0.8)
    await watched.end()


@pytest.mark.rows("SIG-OBS-024", "SIG-LIF-011", "SIG-LIF-012")
async def test_what_lasts_three_and_a_half_periods_is_told_four_times() -> None:
    observers = Observers()
    watched = Watched(observers)
    await watched.told(1)
    three = State(b"three", is_active=True, is_final=False)
    eight = State(b"eight", is_active=False, is_final=False)

    def become(state: State) -> None:
        watched.state = state
        observers.wake(*KEY)

    become(three)
    lasting = TOLD_FOUR_TIMES * module.NOTIFICATION_PERIOD
    asyncio.get_running_loop().call_later(module.NOTIFICATION_GAP + lasting, become, eight)

    assert await watched.told(6, within=5) == [b"one", *[b"three"] * 4, b"eight"]
    await watched.end()


@pytest.mark.rows("SIG-OBS-008", "SIG-OBS-009")
async def test_the_last_words_are_the_final_state_and_404_without_observe() -> None:
    observers = Observers()
    watched = Watched(observers)
    await watched.told(1)

    watched.state = State(b"six", is_active=False, is_final=True)
    observers.wake(*KEY)
    await asyncio.wait_for(watched.task, 2)

    assert [(m.code, m.payload, last) for m, last in watched.pipe.sent[1:]] == [
        (Code.CONTENT, b"six", False),
        (Code.NOT_FOUND, b"this mitigation has ended", True),
    ]
    assert watched.pipe.answer.opt.observe is None
    assert len(observers) == 0


@pytest.mark.rows("SIG-OBS-019", "SIG-URI-018")
async def test_only_those_concerned_are_told() -> None:
    observers = Observers()
    one, the_list = Watched(observers), Watched(observers, key=(1, "", "c", None))
    mallory = Watched(observers, key=(2, "", "c", 7))
    await asyncio.gather(one.told(1), the_list.told(1), mallory.told(1))

    observers.wake(*KEY)

    await asyncio.gather(one.told(2), the_list.told(2))
    assert len(mallory.pipe.sent) == 1
    for watched in (one, the_list, mallory):
        await watched.end()


@pytest.mark.rows("SIG-OBS-014", "SIG-OBS-021")
async def test_an_observation_that_is_cancelled_leaves_nothing() -> None:
    observers = Observers()
    watched = Watched(observers)
    await watched.told(1)
    assert len(observers) == 1

    await watched.end()

    assert len(observers) == 0
    assert observers.has_room(1, 1)


@pytest.mark.rows("SIG-OBS-012", "SIG-SEC-016")
async def test_a_client_has_room_for_so_many_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_PER_CLIENT", 2)
    observers = Observers()
    watching = [Watched(observers), Watched(observers, key=(1, "", "c", None))]
    await asyncio.gather(*(watched.told(1) for watched in watching))

    assert not observers.has_room(1, 1)
    assert observers.has_room(2, 2)
    for watched in watching:
        await watched.end()


@pytest.mark.rows("SIG-OBS-012")
async def test_a_session_keeps_room_for_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_PER_SESSION", 1)
    observers = Observers()
    watched = Watched(observers)
    await watched.told(1)

    assert not observers.has_room(1, watched.pipe.request.remote.session_id)
    assert observers.has_room(1, 2)
    await watched.end()
    assert observers.has_room(1, watched.pipe.request.remote.session_id)


async def test_tcp_has_no_message_types() -> None:
    observers = Observers()
    watched = Watched(observers, transport="tcp")
    await watched.told(2)

    assert watched.pipe.answer.mtype is None
    await watched.end()
