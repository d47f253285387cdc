"""Requests that were received already, and what was answered (RFC 7252, section 4.5). Bounded in every direction."""

from __future__ import annotations

from collections import deque
from typing import Final

PER_PEER: Final = 64
IN_TOTAL: Final = 100_000


class Received:
    """One request's Message ID, until it may be used again. `answer` is the encoded reply to repeat."""

    __slots__ = ("answer", "expires", "mid", "table")

    def __init__(self, mid: int, expires: float, table: dict[int, Received]) -> None:
        self.mid = mid
        self.expires = expires
        self.table = table
        self.answer: bytes | None = None


class Duplicates:
    """All peers' recent Message IDs. Each peer owns its table; this keeps their number and their age in bounds.

    One queue in order of arrival replaces a timer per message.
    """

    def __init__(self, *, lifetime: float, per_peer: int = PER_PEER, in_total: int = IN_TOTAL) -> None:
        self._lifetime = lifetime
        self._per_peer = per_peer
        self._in_total = in_total
        self._queue: deque[Received] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def remember(self, table: dict[int, Received], mid: int, now: float) -> None:
        """Note a new request in its peer's table; the oldest one makes room."""
        if len(table) >= self._per_peer:
            del table[next(iter(table))]
        entry = Received(mid, now + self._lifetime, table)
        table[mid] = entry
        self._queue.append(entry)
        if len(self._queue) > self._in_total:
            self._forget(self._queue.popleft())

    def sweep(self, now: float) -> None:
        """Forget what has lived for its lifetime."""
        while self._queue and self._queue[0].expires <= now:
            self._forget(self._queue.popleft())

    def _forget(self, entry: Received) -> None:
        if entry.table.get(entry.mid) is entry:
            del entry.table[entry.mid]
