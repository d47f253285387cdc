"""`python -m benchmarks`: handshakes, GET and durable PUT of the signal channel, with libcoap's server beside.

The signal worker runs alone, pinned to the first core, with SQLite on a real disk; the generator (`load.c`) runs on the
other cores, and its share of a core is printed, so that it can be seen not to be the bottleneck. Ours and libcoap's
turns alternate in one run. These machines are shared: quote medians and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LOAD = HERE / "bin" / "load"
PORT, LIBCOAP_PORT = 24646, 24650
CUID = "bench"


@dataclass(frozen=True)
class Server:
    """A running server to load: who it is, where, with which files."""

    name: str
    port: int
    files: Path
    pid: int

    def resident_kb(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The generator got no figure; the text says why."""


def main() -> None:
    options = _options()
    build()
    cores = sorted(os.sched_getaffinity(0))
    rest = cores[1:] or cores
    print(f"{options.runs} runs of {options.seconds:g} s each, server on core {cores[0]}, generator on {rest}")
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="dots-bench-") as home,
        ours(Path(home), cores[0]) as server,
        libcoap(server.files, cores[0]) as other,
    ):
        results = measure(server, other, options)
    if options.json:
        print(json.dumps(results, indent=2))


def build() -> None:
    LOAD.parent.mkdir(exist_ok=True)
    if not LOAD.exists() or LOAD.stat().st_mtime < (HERE / "load.c").stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", str(LOAD), str(HERE / "load.c"), "-lgnutls"], check=True)


def measure(server: Server, other: Server | None, options: argparse.Namespace) -> dict[str, Any]:
    """Every figure, ours and libcoap's in turn."""
    results: dict[str, Any] = {}

    def row(name: str, one: Server, mode: str, sessions: int, mids: tuple[int, int] = (1, 1)) -> dict[str, Any]:
        found = [load(one, mode, sessions, options.seconds, mids) for _ in range(options.runs)]
        figure = _summary(found)
        results[f"{name}, {one.name}"] = figure
        _print(f"{name}, {one.name}", figure)
        return figure

    def pair(name: str, mode: str, sessions: int) -> None:
        mine = row(name, server, mode, sessions)
        if other is not None:
            try:
                theirs = row(name, other, mode, sessions)
            except Failed as reason:
                results[f"{name}, {other.name}"] = None
                print(f"{name + ', ' + other.name:52} no figure: {reason}")
                return
            print(f"{'':42} ratio {mine['per_second'] / max(theirs['per_second'], 0.1):.2f}")

    pair("full handshakes", "full", 50)
    pair("resumed handshakes", "resumed", 50)
    # One mitigation for GET to find; libcoap's server answers 4.04 for the path, which costs it no less.
    load(server, "put", 1, 0.5, (1, 1))
    pair("GET, 1 session", "get", 1)
    pair("GET, 100 sessions", "get", 100)
    before = server.resident_kb()
    row("durable PUT refresh of 1,000, 100 sessions", server, "put", 100, (1000, 1000))
    row("durable PUT refresh of 1,000, 1 session", server, "put", 1, (1000, 1000))
    row("durable PUT new, 100 sessions", server, "put", 100, (100_000, 10_000_000))
    after = server.resident_kb()
    results["resident memory, kB"] = {"before PUT": before, "after": after}
    print(f"resident memory of the signal worker: {before / 1024:.0f} MB before the PUTs, {after / 1024:.0f} MB after")
    return results


def load(server: Server, mode: str, sessions: int, seconds: float, mids: tuple[int, int]) -> dict[str, Any]:
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[1:] or [0]))
    command = ["taskset", "-c", cores, str(LOAD), mode, "127.0.0.1", str(server.port)]
    command += [str(server.files / "cert.pem"), str(server.files / "key.pem"), str(sessions), str(seconds)]
    command += [CUID, str(mids[0]), str(mids[1])]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    found["server_cpu"] = server.cpu_seconds() - before
    return found


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def median(name: str) -> float:
        return statistics.median(run[name] for run in runs)

    rates = [run["per_second"] for run in runs]
    return {
        "per_second": median("per_second"),
        "lowest": min(rates),
        "highest": max(rates),
        "p50_ms": median("p50_ms"),
        "p99_ms": median("p99_ms"),
        "generator_core": max(run["generator_core"] for run in runs),
        "repeats": sum(run["repeats"] for run in runs),
        "failed": sum(run["failed"] for run in runs),
        "codes": runs[-1]["codes"],
    }


def _print(name: str, figure: dict[str, Any]) -> None:
    text = f"{name:52} {figure['per_second']:8.0f}/s ({figure['lowest']:.0f} to {figure['highest']:.0f})"
    text += (
        f"  p50 {figure['p50_ms']:.2f} ms  p99 {figure['p99_ms']:.1f} ms  generator {figure['generator_core']:.2f} core"
    )
    if figure["repeats"] or figure["failed"]:
        text += f"  repeats {figure['repeats']} failed {figure['failed']}"
    print(text + (f"  {figure['codes']}" if figure["codes"] else ""), flush=True)


# -- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def ours(home: Path, core: int, **settings: str) -> Iterator[Server]:
    """The signal worker alone, pinned, with a dry-run point, a domain of 10.0.0.0/8 and `settings` of its own."""
    environment = {
        **os.environ,
        "DOTS_HOME": str(home),
        "DOTS_BIND": "127.0.0.1",
        "DOTS_SIGNAL_PORT": str(PORT),
        "DOTS_DRIVER": "dryrun",
        "DOTS_LOG_LEVEL": "WARNING",
        "DOTS_CLIENT_RATE": "1000000",  # the one client of a benchmark asks all that there is
        "DOTS_CLIENT_BURST": "1000000",
        "DJANGO_SETTINGS_MODULE": "dotsweb.settings",
        **settings,
    }
    manage = [sys.executable, str(ROOT / "manage.py")]
    subprocess.run([*manage, "init"], env=environment, cwd=ROOT, check=True, capture_output=True)
    subprocess.run(
        [*manage, "domain", "add", "bench", "--prefix", "10.0.0.0/8"],
        env=environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [*manage, "client", "add", "bench", "--domain", "bench", "--out", str(home / "client")],
        env=environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    raise_quota = "from mitigation.models import Domain; Domain.objects.update(maximum_mitigations=2**31 - 1)"
    subprocess.run([*manage, "shell", "-c", raise_quota], env=environment, cwd=ROOT, check=True, capture_output=True)
    command = ["taskset", "-c", str(core), *manage, "runsignal"]
    with _running(command, environment, lambda: _listens(PORT)) as process:
        yield Server("this server", PORT, home / "client", process.pid)


@contextmanager
def libcoap(files: Path, core: int) -> Iterator[Server | None]:
    """libcoap's example server with the same kind of certificate; None where it is not installed."""
    tool = shutil.which("coap-server-gnutls") or shutil.which("coap-server")
    if tool is None:
        print("libcoap's coap-server is not installed (apt install libcoap3-bin): no figures beside ours")
        yield None
        return
    command = ["taskset", "-c", str(core), tool, "-A", "127.0.0.1", "-p", str(LIBCOAP_PORT - 1), "-v", "0"]
    command += ["-c", str(files / "cert.pem"), "-j", str(files / "key.pem"), "-C", str(files / "ca.pem"), "-n"]
    with _running(command, dict(os.environ), lambda: _listens(LIBCOAP_PORT)) as process:
        yield Server("libcoap", LIBCOAP_PORT, files, process.pid)


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[-1]} did not start")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def _listens(port: int) -> bool:
    wanted = f":{port:04X} "
    return any(wanted in line for line in Path("/proc/net/udp").read_text().splitlines())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--directory", default=None, help="where the database lies; not a memory file system")
    parser.add_argument("--json", action="store_true", help="all figures as JSON at the end")
    options = parser.parse_args()
    if options.directory is None:
        options.directory = str(ROOT / "var") if (ROOT / "var").is_dir() else None
    return options


if __name__ == "__main__":
    main()
