"""What clients ask for again and again, in memory: live mitigations, and the bodies made of them.

A client reads its own writes: whoever writes says `forget` after the commit and before the answer. What others change
(the enforcer, an operator, another worker) is forgotten when the change cursor tells, within a second at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from mitigation.models import Mitigation
from mitigation.protocol.messages import Content
from mitigation.signal_channel import reports

Key = tuple[int, str, str, int | None]  # client, cdid, cuid, mid; None: the whole list

MAXIMUM_ENTRIES = 20_000

Read = Callable[[Key], Awaitable[list[Mitigation]]]


@dataclass(slots=True)
class Entry:
    """Rows as they were read, with the bodies encoded from them: one a part, good while no lifetime counts down."""

    rows: list[Mitigation]
    bodies: dict[Content, tuple[tuple[int, ...], bytes]] = field(default_factory=dict)

    def encode(self, *, now: datetime, part: Content) -> bytes:
        left = tuple(row.remaining(now) for row in self.rows)
        known = self.bodies.get(part)
        if known is not None and known[0] == left:
            return known[1]
        body = reports.encode(self.rows, now=now, content=part)
        self.bodies[part] = (left, body)
        return body


class Statuses:
    """A bounded cache over `read`; the least recently asked gives way."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._forgotten = 0  # counts up with each `forget`, so that a read that began before one is not kept

    def __len__(self) -> int:
        return len(self._entries)

    async def find(self, key: Key) -> Entry:
        """What is live under this key now; an entry without rows where nothing is."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return entry
        began = self._forgotten
        entry = Entry(await self._read(key))
        # Something was forgotten meanwhile: these rows may be older than that change, and are for this answer only.
        if self._forgotten == began:
            self._entries[key] = entry
            if len(self._entries) > MAXIMUM_ENTRIES:
                self._entries.popitem(last=False)
        return entry

    def forget(self, client_id: int, cdid: str, cuid: str, mid: int) -> None:
        """This mitigation changed: it, and the list it stands in, are read anew when next asked for."""
        for key in ((client_id, cdid, cuid, mid), (client_id, cdid, cuid, None)):
            self._entries.pop(key, None)
        self._forgotten += 1
