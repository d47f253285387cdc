"""Says "look now" to the other processes, after the commit.

A hint carries no news: every process reads the change cursor once a second anyway. So a hint that is lost, late or
repeated changes nothing but the wait, and no error here ever reaches the caller.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading

from channels.layers import get_channel_layer
from django.db import transaction

GROUP = "changes"
GAP = 0.1  # seconds between two hints of a process

log = logging.getLogger(__name__)


class _Hinter:
    """One thread with an event loop of its own a process: `async_to_sync` for each send is two to three times slower.

    Hints that come while one is under way, or soon after it, are folded into one more.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted = False
        self._ending = False

    def hint(self) -> None:
        with self._condition:
            self._wanted = True
            self._condition.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
                self._thread.start()
                # A short command sends its hint before it ends; and a thread that is cut off at exit aborts a process.
                atexit.register(self._end)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while self._wait():
                runner.run(_send())
                self._rest()

    def _wait(self) -> bool:
        """Until there is something to send (True) or nothing more will come (False)."""
        with self._condition:
            self._condition.wait_for(lambda: self._wanted or self._ending)
            wanted, self._wanted = self._wanted, False
            return wanted

    def _rest(self) -> None:
        """Each hint has every process look: not as often as a busy writer commits."""
        with self._condition:
            self._condition.wait_for(lambda: self._ending, timeout=GAP)

    def _end(self) -> None:
        with self._condition:
            self._ending = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(timeout=3)


async def _send() -> None:
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
