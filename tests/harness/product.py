"""The product as its users have it: `manage.py up` with state in memory, its commands, its clients."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import databases
from tests.harness.console import ROOT, Console
from tests.harness.waiting import until

_numbers = itertools.count(1)

MAKE_CASTS = """
from pathlib import Path
from django.conf import settings
from mitigation.pki.authority import open_authority
from mitigation.pki.certificates import describe
from mitigation.pki.home import Home, write_private, write_public
from mitigation.services import certificates, domains
home = Home(settings.DOTS_HOME)
authority = open_authority(home)
result = []
how = dict(actor="tests", now=now)
for one in wanted:
    domains.add_domain(one["domain"], prefixes=one["prefixes"], fqdns=one["fqdns"], **how)
    for role in one["clients"]:
        name = role + "." + one["domain"]
        issued = certificates.issue(domains.add_client(name, domain=one["domain"], **how), authority, **how)
        files = Path(out) / name
        write_private(files / "key.pem", issued.key_pem)
        write_public(files / "cert.pem", issued.certificate_pem)
        write_public(files / "ca.pem", home.authority_certificate.read_bytes())
        result.append((name, describe(issued.certificate_pem).serial))
"""


@dataclass(frozen=True)
class Domain:
    """A domain that one test has for itself: a /24 and a /64 that overlap with nobody's."""

    name: str
    prefix: str
    prefix6: str
    host: str
    host6: str


@dataclass(frozen=True)
class Files:
    """PEM files of one client."""

    name: str
    serial: str
    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def cert(self) -> Path:
        return self.directory / "cert.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"


@dataclass(frozen=True)
class Cast:
    """A domain with two clients, and mallory, a client of a domain of her own."""

    domain: Domain
    alice: Files
    bob: Files
    mallory: Files


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Product:
    """One running instance. `environment` adds to what its processes see."""

    def __init__(
        self, home: Path, *, environment: dict[str, str] | None = None, demo: bool = False, namespace: str = ""
    ) -> None:
        self.home = home
        self._inside = ["ip", "netns", "exec", namespace] if namespace else []
        ports = _free_ports(3)
        self.signal_port, self.web_port, self.data_port = ports
        self.environment = {
            **os.environ,
            "DOTS_HOME": str(home),
            "DOTS_BIND": "127.0.0.1,::1",
            "DOTS_SIGNAL_PORT": str(self.signal_port),
            "DOTS_WEB_PORT": str(self.web_port),
            "DOTS_DATA_PORT": str(self.data_port),
            # Two instances in one network namespace need two tables: whoever comes second enforces nothing.
            **({} if namespace else {"DOTS_NFT_TABLE": f"dots_{self.signal_port}"}),
            "PYTHONUNBUFFERED": "1",
            "XDG_STATE_HOME": str(home / "client-state"),
            **({} if environment and "DATABASE_URL" in environment else databases.own_environment()),
            **(environment or {}),
        }
        self.lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._demo = demo
        self._console: Console | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    # -- running

    def start(self, *, within: float = 60.0) -> None:
        command = [*self._inside, sys.executable, str(ROOT / "manage.py"), "up", *(["--demo"] if self._demo else [])]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        until(lambda: self._ready() or self._ended(), within=within, what="the product being ready")
        if not self._ready():
            raise AssertionError("the product did not start:\n" + self.log())

    def stop(self) -> float:
        """Ctrl-C; returns the seconds it took until the process was gone."""
        import time

        if self._console is not None:
            self._console.close()
            self._console = None
        if self._process is None:
            return 0.0
        began = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=20)
        if self._listener is not None:
            self._listener.join(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return time.monotonic() - began

    def log(self) -> str:
        return "\n".join(self.lines[-200:])

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def _ready(self) -> bool:
        return any("| ready after" in line for line in self.lines)

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    # -- commands

    def page(self, path: str) -> str:
        """HTML of a dashboard page, as the demo's login gets it."""
        password = (self.home / "demo" / "password").read_text().strip()
        base = f"http://127.0.0.1:{self.web_port}"
        reader = [sys.executable, "-m", "tests.harness.dashboard", base, "operator", password, path]
        return self._run([*self._inside, *reader], check=True).out

    def manage(self, *arguments: str, check: bool = True) -> Result:
        """`manage.py ...` of this instance."""
        return self._run([*self._inside, sys.executable, str(ROOT / "manage.py"), *arguments], check=check)

    def client(
        self,
        files: Files,
        verb: str,
        *arguments: str,
        transport: str = "udp",
        server: str = "localhost",
        namespace: str = "",
    ) -> Result:
        """`python -m mitigation.client VERB ... --json`, in another namespace where one is named."""
        command = ["ip", "netns", "exec", namespace] if namespace else []
        command += [sys.executable, "-m", "mitigation.client", verb, *arguments, "--json"]
        command += ["--server", f"{server}:{self.signal_port}", "--server-name", "localhost", "--transport", transport]
        command += ["--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key)]
        return self._run(command, check=False)

    def _run(self, command: list[str], *, check: bool) -> Result:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return Result(done.returncode, done.stdout, done.stderr)

    @property
    def console(self) -> Console:
        """A process that is kept, until the product stops: a command takes milliseconds there."""
        if self._console is None:
            self._console = Console(self.environment, inside=self._inside)
        return self._console

    # -- cast

    def new_domain(self) -> Domain:
        """A domain nobody else has; numbers go up for the whole run."""
        domain = _next_domain()
        self.console.manage("domain", "add", domain.name, "--prefix", domain.prefix, "--prefix", domain.prefix6)
        return domain

    def new_client(self, domain: Domain, role: str) -> Files:
        """A client of the domain with a certificate of its own."""
        name = f"{role}.{domain.name}"
        out = self.home / "clients" / name
        # A process of its own: it takes as long to end as the signal channel needs to hear of the new client.
        added = self.manage("client", "add", name, "--domain", domain.name, "--out", str(out), "--json").json
        return Files(name, added["serial"], out)

    def new_casts(self, count: int) -> list[Cast]:
        """Several casts at once."""
        domains = [_next_domain() for _ in range(count)]
        clients = self.home / "clients"
        wanted = [
            {"domain": one.name, "prefixes": [one.prefix, one.prefix6], "fqdns": [one.name], "clients": roles}
            for domain in domains
            for one, roles in ((domain, ["alice", "bob"]), (_next_domain(), ["mallory"]))
        ]
        made = self.console.run(MAKE_CASTS, wanted=wanted, out=str(clients))
        roles = [Files(name, serial, clients / name) for name, serial in made]
        trios = zip(domains, roles[0::3], roles[1::3], roles[2::3], strict=True)
        return [Cast(*trio) for trio in trios]

    def table(self) -> str:
        """The rules that stand in its nftables table, as `nft list` has them at one moment."""
        command = [*self._inside, "nft", "list", "table", "inet", self.environment["DOTS_NFT_TABLE"]]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def mitigations(self) -> list[dict[str, Any]]:
        return list(json.loads(self.console.manage("mitigation", "list", "--json")))

    def mitigation(self, number: int) -> dict[str, Any]:
        return dict(json.loads(self.console.manage("mitigation", "show", str(number), "--json")))


def _next_domain() -> Domain:
    number = next(_numbers)
    prefix = f"10.{100 + number // 256}.{number % 256}"
    prefix6 = f"2001:db8:{number:x}::"
    return Domain(
        name=f"domain-{number}.example",
        prefix=f"{prefix}.0/24",
        prefix6=f"{prefix6}/64",
        host=f"{prefix}.7",
        host6=f"{prefix6}7",
    )


@contextlib.contextmanager
def running(*, environment: dict[str, str] | None = None, demo: bool = False, namespace: str = "") -> Iterator[Product]:
    """An instance for as long as the block lasts; what it leaves behind is an error."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    home = Path(tempfile.mkdtemp(prefix="dots-", dir=base))
    product = Product(home, environment=environment, demo=demo, namespace=namespace)
    try:
        product.start()
        yield product
    finally:
        product.stop()
        shutil.rmtree(home, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("127.0.0.1", 0))
            found.append(probe.getsockname()[1])
        return found
