"""Who watches which mitigation, and when each is told (RFC 9132, section 4.4.2.1; RFC 7641).

Keyed by client, cdid, cuid and mid (None: the whole list): one change wakes only those it concerns. An observer is
told at most once in NOTIFICATION_GAP, always the newest state, and again in each period while active.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiocoap import Code, Message
from aiocoap.numbers.types import NON
from aiocoap.pipe import Pipe

from mitigation.protocol.constants import NOTIFICATION_GAP, NOTIFICATION_PERIOD
from mitigation.signal_channel.representation import notification

Key = tuple[int, str, str, int | None]

# Beyond these GET is answered without Observe, and the client polls. A session must keep room for other requests: the
# token layer takes 256 at once.
MAXIMUM_PER_CLIENT = 1_024
MAXIMUM_PER_SESSION = 128


@dataclass(frozen=True, slots=True)
class State:
    """What there is to tell: a body, whether it is worth repeating, and whether anything will ever follow."""

    payload: bytes
    is_active: bool
    is_final: bool  # the thing observed is gone: one 4.04 without Observe follows, then nothing


Read = Callable[[], Awaitable[State]]
Told = Callable[[Message, bytes], None]  # a notification, and the whole body that it is the first block of


class Observers:
    """All observations of one signal worker. `period` in seconds, by default NOTIFICATION_PERIOD."""

    def __init__(self, period: float | None = None) -> None:
        self.period = NOTIFICATION_PERIOD if period is None else period
        self._by_key: dict[Key, set[Observation]] = {}
        self._of_client: Counter[int] = Counter()
        self._of_session: Counter[int] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def has_room(self, client_id: int, session_id: int) -> bool:
        return (
            self._of_client.get(client_id, 0) < MAXIMUM_PER_CLIENT
            and self._of_session.get(session_id, 0) < MAXIMUM_PER_SESSION
        )

    def watches(self, key: Key) -> bool:
        """Whether anybody observes just this."""
        return key in self._by_key

    def wake(self, client_id: int, cdid: str, cuid: str, mid: int) -> None:
        """This mitigation changed: its observers and those of the list are due."""
        for key in ((client_id, cdid, cuid, mid), (client_id, cdid, cuid, None)):
            for observation in self._by_key.get(key, ()):
                observation.changed.set()

    def dismiss(self, say: Mapping[int, Callable[[], Message]]) -> set[int]:
        """By session: what its observers are told last, without Observe. Returns the sessions that have observers."""
        found = set()
        for watching in self._by_key.values():
            for observation in watching:
                last = say.get(observation.session_id)
                if last is not None:
                    observation.last_word = last
                    observation.changed.set()
                    found.add(observation.session_id)
        return found

    async def serve(self, key: Key, pipe: Pipe, first: Message, read: Read, told: Told = lambda *_: None) -> None:
        """Answer the registration and stay until the peer loses interest or nothing more will come.

        Ends by cancellation when the peer cancels, answers RST, registers the same token again or its session ends.
        """
        observation = Observation(pipe, read, told, self.period)
        self._add(key, observation)
        try:
            await observation.run(first)
        finally:
            self._remove(key, observation)

    def _add(self, key: Key, observation: Observation) -> None:
        self._by_key.setdefault(key, set()).add(observation)
        self._of_client[key[0]] += 1
        self._of_session[observation.session_id] += 1

    def _remove(self, key: Key, observation: Observation) -> None:
        watching = self._by_key[key]
        watching.discard(observation)
        if not watching:
            del self._by_key[key]
        for count, owner in ((self._of_client, key[0]), (self._of_session, observation.session_id)):
            count[owner] -= 1
            if not count[owner]:
                del count[owner]


class Observation:
    """One registration."""

    def __init__(self, pipe: Pipe, read: Read, told: Told, period: float) -> None:
        self._pipe = pipe
        self._read = read
        self._told = told
        self._period = period
        self.session_id: int = pipe.request.remote.session_id
        self.changed = asyncio.Event()
        self.last_word: Callable[[], Message] | None = None
        # Seconds of the monotonic clock fit RFC 7641's rule (under 2^23 in 256 s) and grow over re-registrations.
        self._number = int(time.monotonic()) & 0xFFFFFF

    async def run(self, first: Message) -> None:
        first.opt.observe = self._next_number()
        self._pipe.add_response(first, is_last=False)
        wait = self._period
        while True:
            await asyncio.sleep(NOTIFICATION_GAP)
            try:
                await asyncio.wait_for(self.changed.wait(), wait)
                periodic = False
            except TimeoutError:
                periodic = True
            self.changed.clear()
            if self.last_word is not None:
                self._send(self.last_word(), is_last=True)
                return
            state = await self._read()
            if state.is_final:
                self._finish(state)
                return
            if not periodic or state.is_active:
                self._tell(state.payload)
            wait = self._period - NOTIFICATION_GAP

    def _tell(self, payload: bytes) -> None:
        message = notification(
            payload,
            number=self._next_number(),
            max_age=int(self._period),
            largest_exponent=self._pipe.request.remote.maximum_block_size_exp,
        )
        self._told(message, payload)
        self._send(message, is_last=False)

    def _finish(self, state: State) -> None:
        if state.payload:
            self._tell(state.payload)
        gone = Message(code=Code.NOT_FOUND, payload=b"this mitigation has ended")
        self._send(gone, is_last=True)

    def _send(self, message: Message, *, is_last: bool) -> None:
        # Always NON, whatever the library would choose (RFC 9132, section 4.4.2.1); TCP has no message types.
        if self._pipe.request.remote.transport == "udp":
            message.mtype = NON
        self._pipe.add_response(message, is_last=is_last)

    def _next_number(self) -> int:
        self._number = (self._number + 1) & 0xFFFFFF
        return self._number
