"""Says "look now" to the other processes, after the commit.

A hint carries no news: every process reads the change cursor once a second anyway. So a hint that is lost, late or
repeated changes nothing but the wait, and no error here ever reaches the caller.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from channels.layers import get_channel_layer
from django.db import transaction

GROUP = "changes"

log = logging.getLogger(__name__)


class _Hinter:
    """One event loop of its own per process: `async_to_sync` for each send is two to three times slower.

    Hints that come while one is under way are folded into one more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = False

    def hint(self) -> None:
        with self._lock:
            if self._waiting:
                return
            self._waiting = True
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="hints", daemon=True).start()
            loop = self._loop
        asyncio.run_coroutine_threadsafe(self._send(), loop)

    async def _send(self) -> None:
        with self._lock:
            self._waiting = False
        layer = get_channel_layer()
        if layer is None:
            return
        try:
            await asyncio.wait_for(layer.group_send(GROUP, {"type": "changes.hint"}), timeout=2)
        except Exception as error:  # noqa: BLE001  a bus that is away must not disturb what is committed
            log.debug("no hint sent: %s", error)


_hinter = _Hinter()


def hint_on_commit() -> None:
    """After the running transaction commits (at once when there is none), wake whoever reads the change cursor."""
    transaction.on_commit(_hinter.hint)
