"""Tells open pages that something changed.

The web process calls `hub.changed` with what it reads from the change cursor; each websocket consumer is a listener.
While anybody listens the hub also ticks: a page that hears nothing for ten seconds knows that it is no longer live,
and what depends on time alone (rates that fall to nothing, a late session) is painted too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

TICK = 2.0  # seconds

log = logging.getLogger(__name__)


class Listener(Protocol):
    def notice(self) -> None:
        """Something may have changed. Called on the event loop; returns at once."""


class Hub:
    """One per web process, used on its event loop alone."""

    def __init__(self) -> None:
        # Grows whenever what was rendered before may be old.
        self.generation = 0
        self._listeners: set[Listener] = set()
        self._ticking: asyncio.Task[None] | None = None

    async def changed(self, changes: Iterable[tuple[str, int]]) -> None:
        """(topic, object id) in commit order, topics as in `models.Change.Topic`. Nothing changed: nobody is woken."""
        if any(True for _ in changes):
            self.wake()

    def wake(self) -> None:
        self.generation += 1
        for listener in tuple(self._listeners):
            listener.notice()

    def join(self, listener: Listener) -> None:
        self._listeners.add(listener)
        self.generation += 1  # a page that comes now never gets what was rendered before it was
        loop = asyncio.get_running_loop()
        if self._ticking is None or self._ticking.done() or self._ticking.get_loop() is not loop:
            self._ticking = loop.create_task(self._tick(), name="live ticks")

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    @property
    def is_idle(self) -> bool:
        return not self._listeners

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.wake()


hub = Hub()
