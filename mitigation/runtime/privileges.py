"""Capabilities of child processes: only the enforcer keeps one, and only what nftables needs."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
CAP_NET_ADMIN = 12

_libc = ctypes.CDLL(None, use_errno=True)


def may_administer_network() -> bool:
    """Whether this process has CAP_NET_ADMIN in effect."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False


def last_capability() -> int:
    try:
        return int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    except (OSError, ValueError):
        return 40


def before_exec(*, keep: frozenset[int]) -> Callable[[], None]:
    """For a child between fork and exec: die with the parent, and give up every capability but `keep`.

    What is dropped from the bounding set does not come back by exec, also for root.
    """
    parent = os.getpid()
    dropped = [number for number in range(last_capability() + 1) if number not in keep]
    is_root = os.geteuid() == 0

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        if is_root:
            for number in dropped:
                _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)

    return prepare
