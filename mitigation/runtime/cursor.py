"""Reads what changed, in commit order: the mechanism behind every "look now" of a long-lived process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from channels.db import database_sync_to_async
from django.db import DatabaseError

from mitigation.models import Change
from mitigation.services.news import latest

PERIOD = 1.0  # seconds between two looks without a hint
BATCH = 5_000

Changes = Sequence[tuple[str, int]]  # (topic, id of the object), oldest first

log = logging.getLogger(__name__)


def since(number: int) -> tuple[int, list[tuple[str, int]]]:
    """Changes after `number`, and the number to go on from."""
    rows = list(
        Change.objects.filter(number__gt=number).order_by("number").values_list("number", "topic", "object_id")[:BATCH]
    )
    return (rows[-1][0] if rows else number), [(topic, object_id) for _, topic, object_id in rows]


class Cursor:
    """Calls `heard` with what changed: soon after a hint, and once a second in any case."""

    def __init__(self, heard: Callable[[Changes], Awaitable[None]]) -> None:
        self._heard = heard
        self._number = 0
        self._hint = asyncio.Event()

    def hint(self) -> None:
        """Somebody says that there is news. Cheap, and harmless when wrong."""
        self._hint.set()

    async def start(self) -> None:
        """Begin at what is committed now: whoever calls reads the rows themselves after this."""
        self._number = await database_sync_to_async(latest)()

    async def run(self) -> None:
        """For ever, until cancelled. A database that is away is waited for."""
        while True:
            try:
                await self._look()
            except DatabaseError as error:
                log.warning("changes cannot be read: %s", error)
            try:
                await asyncio.wait_for(self._hint.wait(), PERIOD)
            except TimeoutError:
                continue
            finally:
                self._hint.clear()

    async def _look(self) -> None:
        while True:
            number, changes = await database_sync_to_async(since)(self._number)
            if changes:
                await self._heard(changes)  # where this fails the same changes come again: none may be missed
            self._number = number
            if len(changes) < BATCH:
                return
