"""A mixed load for minutes: does the memory of the signal worker stay flat?"""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks import load
from benchmarks.servers import Installation
from benchmarks.tables import Results

FIRST, ACTIVE = 100_001, 1_000
POINTS = 10  # in the table
FLAT = 0.03  # growth from a fifth of the time to its end that still counts as flat


def run(installation: Installation, seconds: float, results: Results) -> None:
    """PUT, GET and handshakes together; resident memory at ten moments."""
    installation.rows("fill", str(FIRST), str(ACTIVE))
    known = {"first": FIRST, "mids": ACTIVE, "seconds": seconds + 30}
    table = results.table(
        f"Memory over {seconds:g} s of PUT, GET and handshakes", "seconds", "resident MB", "core used"
    )
    with installation.worker() as server, ExitStack() as stack:
        stack.enter_context(load.started(server, "put", sessions=50, **known))
        stack.enter_context(load.started(server, "get", sessions=50, **known))
        stack.enter_context(load.started(server, "resumed", sessions=5, seconds=seconds + 30))
        began, used = time.monotonic(), server.cpu_seconds()
        resident = []
        for point in range(1, POINTS + 1):
            time.sleep(max(0.0, began + seconds * point / POINTS - time.monotonic()))
            resident.append(server.resident_kb())
            core = (server.cpu_seconds() - used) / (time.monotonic() - began)
            table.add(f"{seconds * point / POINTS:.0f}", f"{resident[-1] / 1024:.1f}", f"{core:.2f}")
    growth = resident[-1] / resident[POINTS // 5 - 1] - 1
    print(f"{'flat' if growth < FLAT else 'NOT flat'}: {growth:+.1%} from a fifth of the time to the end")
    results.figures["soak"] = {"resident kB": resident, "growth": growth}
