"""Requests that were received already, and what was answered (RFC 7252, section 4.5). Bounded in every direction."""

from __future__ import annotations

from collections import deque
from typing import Final

PER_PEER: Final = 64
IN_TOTAL: Final = 100_000
SLACK: Final = 1_000  # dead entries that are not worth a tidy-up


class Received:
    """One request's Message ID, until it may be used again. `answer` is the encoded reply to repeat."""

    __slots__ = ("answer", "expires", "is_live", "mid", "store", "table")

    def __init__(self, mid: int, expires: float, table: dict[int, Received], store: Duplicates) -> None:
        self.mid = mid
        self.expires = expires
        self.table = table
        self.store = store
        self.is_live = True
        self.answer: bytes | None = None

    def forget(self) -> None:
        if self.is_live:
            self.is_live = False
            self.table.pop(self.mid, None)
            self.store.live -= 1


class Duplicates:
    """All peers' recent Message IDs. Each peer owns its table; this keeps their number and their age in bounds.

    One queue in order of arrival replaces a timer per message. A busy peer pushes out its own entries, not those of
    others: only live ones count towards the total.
    """

    def __init__(self, *, lifetime: float, per_peer: int = PER_PEER, in_total: int = IN_TOTAL) -> None:
        self.live = 0
        self._lifetime = lifetime
        self._per_peer = per_peer
        self._in_total = in_total
        self._queue: deque[Received] = deque()

    def __len__(self) -> int:
        """How many entries take memory, dead ones that wait to be tidied up included."""
        return len(self._queue)

    def remember(self, table: dict[int, Received], mid: int, now: float) -> None:
        """Note a new request in its peer's table; the oldest one makes room."""
        if len(table) >= self._per_peer:
            table[next(iter(table))].forget()
        entry = Received(mid, now + self._lifetime, table, self)
        table[mid] = entry
        self._queue.append(entry)
        self.live += 1
        while self.live > self._in_total:
            self._queue.popleft().forget()
        if len(self._queue) > 2 * self.live + SLACK:
            self._queue = deque(entry for entry in self._queue if entry.is_live)

    def sweep(self, now: float) -> None:
        """Forget what has lived for its lifetime."""
        while self._queue and self._queue[0].expires <= now:
            self._queue.popleft().forget()
