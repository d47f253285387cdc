"""One `up` a DOTS_HOME, and never beside what a killed one has left behind.

Two locks, which end with whoever holds them, however that happens. The first belongs to `up` alone. The second is
handed to every child: it is free again when the last of them is gone, and only then are ports, bus and database ours.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

LOOK_EVERY = 0.1  # seconds


class Instance:
    """The locks in `run`; both are kept until this process ends."""

    def __init__(self, run: Path) -> None:
        self._up = _open(run / "up.lock")
        self._children = _open(run / "children.lock")

    @property
    def descriptor(self) -> int:
        """For every child to inherit."""
        return self._children

    def claim(self) -> bool:
        """Whether no other `up` is there."""
        return _lock(self._up)

    def wait_for_remnants(self, *, within: float) -> bool:
        """Until the children of an `up` that was killed have ended by themselves; whether they have, within seconds."""
        deadline = time.monotonic() + within
        while not _lock(self._children):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY)
        return True


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
