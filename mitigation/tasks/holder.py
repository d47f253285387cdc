"""Who holds a lease, told so that a successor on the same machine can see that its holder is dead.

Without that, an enforcer that was killed would keep its point until the lease runs out, half a minute without new
rules in the middle of an attack.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Host, process namespace, process id and when it was started: never the same for two processes."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def is_dead(holder: str) -> bool:
    """Whether the process is known to be gone; what ran elsewhere is never known to be."""
    machine, _, process = holder.rpartition(":")[0].rpartition(":")
    if machine != _machine() or not process.isdecimal():
        return False
    return _started(int(process)) != holder.rpartition(":")[2]


def _machine() -> str:
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    return f"{socket.gethostname()[:24]}:{namespace}"


def _started(process: int) -> str:
    """In clock ticks since the machine was; empty for a process that is not there."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
