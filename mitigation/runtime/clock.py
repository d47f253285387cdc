"""What time it is, for programs: wall clock anchored to the monotonic one, so that a jump of the first is noticed."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

JUMP = 5.0  # seconds between the two clocks that mean somebody set the wall clock

log = logging.getLogger(__name__)


class Clock:
    """`now` never jumps by itself; `jumped` says that the wall clock did, and `follow` accepts the new one."""

    def __init__(self) -> None:
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._wall + time.monotonic() - self._monotonic, UTC)

    def drift(self) -> float:
        """Seconds that the wall clock is ahead of ours. Slow drift is followed; a jump is left for `jumped`."""
        drift = time.time() - self.now().timestamp()
        if abs(drift) < JUMP:
            self.follow()
        return drift

    def jumped(self) -> bool:
        """Whether the wall clock was set by more than JUMP: lifetimes must not end by that."""
        return abs(self.drift()) >= JUMP

    def follow(self) -> None:
        self._wall = time.time()
        self._monotonic = time.monotonic()


clock = Clock()


def now() -> datetime:
    """UTC, of this process's clock."""
    return clock.now()


def in_seconds(seconds: float) -> datetime:
    return now() + timedelta(seconds=seconds)
