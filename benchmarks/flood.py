"""`python -m benchmarks.flood`: how long a client waits for its answers while others flood the server.

The signal worker runs alone, pinned to the first core, with its ordinary limits; generators (`flood.c`) run on the
other cores. The client asks 20 times a second, a PUT or a GET, and its latencies are counted from when each was due.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
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
    parser.add_argument("--directory", default=None, help="where the database lies; not a memory file system")
    options = parser.parse_args()
    build()
    core = min(os.sched_getaffinity(0))
    load.pin_to_others(core)
    limits = {"DOTS_CLIENT_RATE": "100", "DOTS_CLIENT_BURST": "500"}
    with home(options.directory) as directory:
        installation = Installation(directory, core, **limits)
        mallory = installation.add_client("mallory")
        with installation.worker() as server:
            _measure(server, mallory, options.seconds)


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
    for rate in (10_000, 30_000):
        flood, before = hellos(server.port, rate=rate, seconds=2 * seconds + 2), server.cpu_seconds()
        _show(f"{rate} spoofed hellos a second", server, seconds)
        used = (server.cpu_seconds() - before) / (2 * seconds)
        found = result(flood)
        print(f"{'':44} {found['sent'] - found['unsent']} sent, server {used:.2f} core")
    _show("quiet again", server, seconds)
    print(f"resident memory {server.resident_kb() / 1024:.0f} MB")


def _show(what: str, server: Server, seconds: float) -> None:
    for mode in ("put", "get"):
        found = result(
            requests(
                mode,
                server.port,
                rate=20,
                seconds=seconds,
                files=server.files,
                sessions=1,
                cuid=CUID,
                prefix="10.0.0.1/32",
            )
        )
        lost = found["sent"] - found["answered"]
        figures = f"p50 {found['p50_ms']:7.2f} ms  p99 {found['p99_ms']:7.2f} ms  longest {found['max_ms']:7.2f} ms"
        print(f"{what:44} {mode.upper()}  {figures}" + (f"  {lost} unanswered" if lost else ""), flush=True)


if __name__ == "__main__":
    main()
