"""Servers to load: our signal worker on one core, its database and bus on the others, and libcoap's example server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT, LIBCOAP_PORT, DATA_PORT = 24646, 24650, 24643
CUID = "bench"

_MAKE_POINT = """
from mitigation.drivers.dryrun import DryRunDriver
from mitigation.runtime import clock
from mitigation.services import points
capabilities = DryRunDriver.filter_capabilities()
points.ensure_local("local", driver="dryrun", enforces=False, filter_capabilities=capabilities, now=clock.now())
"""


@dataclass(frozen=True)
class Server:
    """A running server: who it is, where, with which files of a client."""

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


class Installation:
    """A DOTS_HOME with a dry-run point, a domain of 10.0.0.0/8 and a client, both without limits."""

    def __init__(self, home: Path, core: int, *, database: str = "", **settings: str) -> None:
        self.home = home
        self.core = core
        self._environment = {
            **os.environ,
            "DOTS_HOME": str(home),
            "DOTS_BIND": "127.0.0.1",
            "DOTS_SIGNAL_PORT": str(PORT),
            "DOTS_DATA_PORT": str(DATA_PORT),
            "DOTS_DRIVER": "dryrun",
            "DOTS_LOG_LEVEL": "WARNING",
            "DOTS_CLIENT_RATE": "1000000",
            "DOTS_CLIENT_BURST": "1000000",
            "DJANGO_SETTINGS_MODULE": "dotsweb.settings",
            "DATABASE_URL": database,
            **settings,
        }
        self.manage("init")
        self.manage("domain", "add", "bench", "--prefix", "10.0.0.0/8")
        self.add_client("bench")
        self.manage(
            "shell", "-c", "from mitigation.models import Domain; Domain.objects.update(maximum_mitigations=2**31-1)"
        )

    @property
    def files(self) -> Path:
        """cert.pem, key.pem and ca.pem of the client."""
        return self.home / "bench"

    def add_client(self, name: str) -> Path:
        """One more client of the domain; returns where its files are."""
        self.manage("client", "add", name, "--domain", "bench", "--out", str(self.home / name))
        return self.home / name

    def manage(self, *words: str) -> str:
        return self._output(str(ROOT / "manage.py"), *words)

    def rows(self, *words: str) -> str:
        """`benchmarks/rows.py` on this database; what it printed."""
        return self._output("-m", "benchmarks.rows", *words)

    @contextmanager
    def worker(self, *, lifecycle: bool = False) -> Iterator[Server]:
        """The signal worker, pinned, with its bus beside it; with `lifecycle` also the worker that ends lifetimes."""
        command = ["taskset", "-c", str(self.core), sys.executable, str(ROOT / "manage.py"), "runsignal"]
        celery = [sys.executable, "-m", "celery", "--quiet", "-A", "dotsweb", "worker", "-n", "lifecycle@bench"]
        celery += ["-Q", "lifecycle", "-P", "threads", "-c", "1", "-l", "error", "--without-gossip", "--without-mingle"]
        with ExitStack() as stack:
            stack.enter_context(self._bus())
            if lifecycle:
                stack.enter_context(_running(celery, self._environment, lambda: True))
            process = stack.enter_context(_running(command, self._environment, lambda: _listens(PORT)))
            yield Server("this server", PORT, self.files, process.pid)

    @contextmanager
    def data_door(self) -> Iterator[Server]:
        """The data channel, pinned, before a dry-run point."""
        self.manage("shell", "-c", _MAKE_POINT)
        command = ["taskset", "-c", str(self.core), sys.executable, str(ROOT / "manage.py"), "rundata"]
        with _running(command, self._environment, lambda: _listens(DATA_PORT, kind="tcp")) as process:
            yield Server("the data channel", DATA_PORT, self.files, process.pid)

    @contextmanager
    def _bus(self) -> Iterator[None]:
        ask = "import json; from django.conf import settings; from mitigation.runtime import bus; "
        ask += "print(json.dumps([bus.command(settings.DOTS_HOME), str(settings.BUS_SOCKET)]))"
        command, socket = json.loads(self.manage("shell", "-v", "0", "-c", ask))
        Path(socket).unlink(missing_ok=True)
        with _running(command, self._environment, Path(socket).exists):
            yield

    def _output(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
        return done.stdout


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
def home(directory: str | None) -> Iterator[Path]:
    """A new directory in `directory`, which must not be on a memory file system; gone afterwards."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="dots-bench-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{' '.join(command)} did not start")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int, *, kind: str = "udp") -> bool:
    """A UDP socket is there or not; of TCP a closed connection of an earlier server stays in the list for a minute."""
    states = {"udp": "07", "tcp": "0A"}
    lines = [line.split() for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == states[kind] for fields in lines)
