"""What the figures were measured on, without saying whose it is."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

SYNCS = 50


def describe(directory: str | None) -> str:
    """One paragraph: processor, memory, versions, what a sync of the disk takes, and what else the machine does."""
    processor = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "?")
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    kernel = platform.release().partition("-")[0]
    return (
        f"{os.cpu_count()} cores of {processor}, {memory / 1024**2:.0f} GB, Linux {kernel}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; 4 kB are on disk after "
        f"{sync_milliseconds(directory):.1f} ms; load average {os.getloadavg()[1]:.1f} over the last five minutes"
    )


def sync_milliseconds(directory: str | None) -> float:
    """Median of what one write and fdatasync takes."""
    found = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - began)
    return 1e3 * statistics.median(found)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
