"""`python -m benchmarks.flood`: how long a client waits for its answers while others flood the server.

The signal worker runs alone, pinned to the first core, with its ordinary limits; generators (`flood.c`) run on the
other cores. The client asks 20 times a second, a PUT or a GET, and its latencies are counted from when each was due.
Under spoofed hellos it asks 100 times a second, in rounds that alternate with quiet ones, so that the p99 of each round
is of hundreds of requests and a neighbour's noise falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import load
from benchmarks.servers import CUID, Installation, Server, home

HERE = Path(__file__).resolve().parent
BINARY = HERE / "bin" / "flood"


def build() -> None:
    """Compile the generator where it is older than its source. Raises OSError or CalledProcessError."""
    BINARY.parent.mkdir(exist_ok=True)
    if not BINARY.exists() or BINARY.stat().st_mtime < (HERE / "flood.c").stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", str(BINARY), str(HERE / "flood.c"), "-lgnutls"], check=True)


def hellos(port: int, *, rate: int, seconds: float) -> subprocess.Popen[str]:
    """Start spoofed ClientHellos from all over 127.0.0.0/8."""
    return _start("hellos", port, rate, seconds)


def requests(
    mode: str, port: int, *, rate: int, seconds: float, files: Path, sessions: int, cuid: str, prefix: str
) -> subprocess.Popen[str]:
    """Start "get", "put" or "beat" requests of the client whose cert.pem and key.pem lie in `files`."""
    credentials = [str(files / "cert.pem"), str(files / "key.pem")]
    return _start(mode, port, rate, seconds, *credentials, str(sessions), cuid, prefix)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end: what was sent, what was answered, latencies in milliseconds."""
    out, _ = process.communicate(timeout=120)
    if process.returncode:
        raise RuntimeError(f"the generator ended with {process.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found


def _start(mode: str, port: int, rate: int, seconds: float, *words: str) -> subprocess.Popen[str]:
    command = [str(BINARY), mode, "127.0.0.1", str(port), str(rate), str(seconds), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="quiet and flooded with hellos, in turn")
    parser.add_argument("--directory", default=None, help="where the database lies; not a memory file system")
    options = parser.parse_args()
    build()
    core = min(os.sched_getaffinity(0))
    load.pin_to_others(core)
    limits = {"DOTS_CLIENT_RATE": "150", "DOTS_CLIENT_BURST": "500"}
    with home(options.directory) as directory:
        installation = Installation(directory, core, **limits)
        mallory = installation.add_client("mallory")
        with installation.worker() as server:
            _measure(server, mallory, options.seconds)
            for rate in (10_000, 30_000):
                for mode in ("put", "get"):
                    _compare(server, mode, rate, seconds=options.seconds, rounds=options.rounds)
            print(f"resident memory {server.resident_kb() / 1024:.0f} MB")


def _measure(server: Server, mallory: Path, seconds: float) -> None:
    _show("quiet", server, seconds)
    for mode, rate, sessions in (("put", 2_000, 1), ("put", 10_000, 20), ("get", 10_000, 20), ("beat", 10_000, 20)):
        flood = requests(
            mode,
            server.port,
            rate=rate,
            seconds=2 * seconds + 2,
            files=mallory,
            sessions=sessions,
            cuid="mallory",
            prefix="10.9.9.9/32",
        )
        _show(f"{rate} {mode} a second over {sessions} sessions", server, seconds)
        found = result(flood)
        print(f"{'':44} the flood: {found['sent']} sent, answers {found['codes']}")


def _compare(server: Server, mode: str, rate: int, *, seconds: float, rounds: int) -> None:
    """The same client, quiet and under hellos in turn: medians over the rounds, and what the hellos made of them."""
    found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    used = []
    for _ in range(rounds):
        found[False].append(_ask(server, mode, 100, seconds))
        before = server.cpu_seconds()
        flood = hellos(server.port, rate=rate, seconds=seconds + 2)
        found[True].append(_ask(server, mode, 100, seconds))
        used.append((server.cpu_seconds() - before) / seconds)
        result(flood)
    lost = sum(one["sent"] - one["answered"] for one in found[True])
    print(f"{rate} spoofed hellos a second, {mode.upper()}, {rounds} rounds; server {median(used):.2f} core")
    for name in ("p50_ms", "p99_ms"):
        quiet, flooded = (median(one[name] for one in found[key]) for key in (False, True))
        print(f"{'':10} {name[:3]}  {quiet:6.2f} -> {flooded:6.2f} ms, {flooded / quiet:.2f} times", flush=True)
    if lost:
        print(f"{'':10} {lost} unanswered")


def _ask(server: Server, mode: str, rate: int, seconds: float) -> dict[str, Any]:
    """The modest client's turn."""
    return result(
        requests(
            mode,
            server.port,
            rate=rate,
            seconds=seconds,
            files=server.files,
            sessions=1,
            cuid=CUID,
            prefix="10.0.0.1/32",
        )
    )


def _show(what: str, server: Server, seconds: float) -> None:
    for mode in ("put", "get"):
        found = _ask(server, mode, 20, seconds)
        lost = found["sent"] - found["answered"]
        figures = f"p50 {found['p50_ms']:7.2f} ms  p99 {found['p99_ms']:7.2f} ms  longest {found['max_ms']:7.2f} ms"
        print(f"{what:44} {mode.upper()}  {figures}" + (f"  {lost} unanswered" if lost else ""), flush=True)


if __name__ == "__main__":
    main()
