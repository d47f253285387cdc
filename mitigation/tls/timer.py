"""One timer of an event loop that follows a `get_timer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Timer:
    """`set` as often as you like: a timer that moved to a later time fires early once and finds that out."""

    def __init__(self, loop: Any, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: Any = None

    def set(self, due: float | None) -> None:
        if self._handle is not None:
            if due is not None and self._handle.when() <= due:
                return  # it fires first and looks again
            self._handle.cancel()
            self._handle = None
        if due is not None:
            self._handle = self._loop.call_at(due, self._run)

    def _run(self) -> None:
        self._handle = None
        self._fire()
