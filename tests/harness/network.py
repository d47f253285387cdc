"""A network namespace of this test run's own: what tests send and which rules they install touches nothing else."""

from __future__ import annotations

import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def enter_private() -> bool:
    """Move this process, and all it starts, into a new namespace with loopback up; False where that is not allowed.

    Must run before any thread is started: a namespace is a property of each thread.
    """
    if os.geteuid() != 0 or _libc.unshare(CLONE_NEWNET) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return True
