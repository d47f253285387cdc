"""What clients ask for again and again, in memory: live mitigations, and the bodies made of them.

A client reads its own writes: whoever writes says `forget` after the commit and before the answer. What others change
(the enforcer, an operator, another worker) is forgotten when the change cursor tells, within a second at most.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime

from mitigation.models import Mitigation
from mitigation.protocol.messages import Content
from mitigation.signal_channel import reports

Key = tuple[int, str, str, int | None]  # client, cdid, cuid, mid; None: the whole list

MAXIMUM_ENTRIES = 20_000

Rows = dict[Key, list[Mitigation]]
Read = Callable[[Key], Awaitable[list[Mitigation]]]


@dataclass(slots=True)
class Entry:
    """Rows as they were read, with the bodies encoded from them: one a part, good for the second they were made in.

    Many may look at the same rows at once, and a lifetime counts in seconds.
    """

    rows: list[Mitigation]
    bodies: dict[Content, tuple[int, bytes]] = field(default_factory=dict)

    def encode(self, *, now: datetime, part: Content) -> bytes:
        second = int(now.timestamp())
        known = self.bodies.get(part)
        if known is None or known[0] != second:
            known = self.bodies[part] = second, reports.encode(self.rows, now=now, content=part)
        return known[1]


class Statuses:
    """A bounded cache over `read`; the least recently asked gives way."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        # What is being read now, for all that ask meanwhile; what is forgotten meanwhile is read anew by the next.
        self._reading: dict[Key, asyncio.Future[Entry]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def find(self, key: Key) -> Entry:
        """What is live under this key now; an entry without rows where nothing is."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return entry
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.ensure_future(self._read_one(key))
            reading.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(reading)  # who gives up leaves the others waiting

    async def renew(self, keys: Collection[Key], read: Callable[[Collection[Key]], Awaitable[Rows]]) -> None:
        """Read these anew with one query, for many that will ask at once."""
        promised: dict[Key, asyncio.Future[Entry]] = {key: asyncio.get_running_loop().create_future() for key in keys}
        self._reading |= promised
        try:
            rows = await read(keys)
        except Exception as error:
            for key, future in promised.items():
                future.set_exception(error)
                self._keep(key, future)
            raise
        for key, future in promised.items():
            future.set_result(Entry(rows.get(key, [])))
            self._keep(key, future)

    def forget(self, client_id: int, cdid: str, cuid: str, mid: int) -> None:
        """This mitigation changed: it, and the list it stands in, are read anew when next asked for."""
        for key in ((client_id, cdid, cuid, mid), (client_id, cdid, cuid, None)):
            self._entries.pop(key, None)
            self._reading.pop(key, None)

    async def _read_one(self, key: Key) -> Entry:
        return Entry(await self._read(key))

    def _keep(self, key: Key, done: asyncio.Future[Entry]) -> None:
        """Unless it was forgotten meanwhile: then these rows may be older than the change."""
        failed = done.cancelled() or done.exception() is not None
        if self._reading.get(key) is not done:
            return
        del self._reading[key]
        if failed:
            return
        self._entries[key] = done.result()
        if len(self._entries) > MAXIMUM_ENTRIES:
            self._entries.popitem(last=False)
