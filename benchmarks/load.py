"""Runs the generator (`load.c`) against a server, and reads how much of its core the server used meanwhile."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import CUID, Server

HERE = Path(__file__).resolve().parent
BINARY = HERE / "bin" / "load"


class Failed(Exception):
    """The generator got no figure; the text says why."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians over the runs. Latencies in milliseconds; `cpu_us` is what the server used for one operation."""

    per_second: float
    lowest: float
    highest: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float
    generator_core: float
    operations: int
    repeats: int
    failed: int
    resumed: int
    codes: dict[str, int]


def build() -> None:
    """Compile the generator where it is older than its source. Raises OSError or CalledProcessError."""
    BINARY.parent.mkdir(exist_ok=True)
    if not BINARY.exists() or BINARY.stat().st_mtime < (HERE / "load.c").stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", str(BINARY), str(HERE / "load.c"), "-lgnutls"], check=True)


def measure(server: Server, mode: str, **values: object) -> Figure:
    """Run the generator to its end; `values` are those of load.c. Raises Failed."""
    with started(server, mode, **values) as process:
        assert process.stdout is not None
        found: list[dict[str, Any]] = []
        began = 0.0
        for line in process.stdout:
            used, said = server.cpu_seconds(), json.loads(line)
            if "begin" in said:
                began = used
            elif "operations" in said:
                found.append({**said, "server_cpu": used - began})
        _, errors = process.communicate()
    if process.returncode or not found:
        raise Failed(errors.strip() or f"the generator ended with {process.returncode}")
    return _medians(found)


@contextmanager
def started(server: Server, mode: str, **values: object) -> Iterator[subprocess.Popen[str]]:
    """The running generator; ended with the block."""
    words = {
        "port": server.port,
        "cert": server.files / "cert.pem",
        "key": server.files / "key.pem",
        "cuid": CUID,
        **values,
    }
    command = [str(BINARY), mode, *(f"{name}={value}" for name, value in words.items())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def _medians(runs: list[dict[str, Any]]) -> Figure:
    def median(name: str) -> float:
        return float(statistics.median(run[name] for run in runs))

    rates = [run["per_second"] for run in runs]
    return Figure(
        per_second=median("per_second"),
        lowest=min(rates),
        highest=max(rates),
        p50_ms=median("p50_ms"),
        p99_ms=median("p99_ms"),
        max_ms=median("max_ms"),
        cpu_us=statistics.median(1e6 * run["server_cpu"] / max(run["operations"], 1) for run in runs),
        generator_core=max(run["generator_core"] for run in runs),
        operations=sum(run["operations"] for run in runs),
        repeats=sum(run["repeats"] for run in runs),
        failed=sum(run["failed"] for run in runs),
        resumed=sum(run["resumed"] for run in runs),
        codes=runs[-1]["codes"],
    )


def pin_to_others(core: int) -> list[int]:
    """Keep this process and whatever it starts off the server's core; returns the cores used."""
    rest = sorted(os.sched_getaffinity(0) - {core}) or [core]
    os.sched_setaffinity(0, rest)
    return rest
