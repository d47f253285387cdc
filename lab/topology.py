"""Four network namespaces and three links, made for one test or one show and always taken down again.

    attacker --- router --- victim
    clients  ---/

Every prefix is routed whole to its namespace, so a program may use any address of it, and raw packets may carry any
source at all. Nothing leaves these namespaces. Needs root.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
ROUTER_MAC = "02:00:5e:00:53:01"
HOST_MAC = "02:00:5e:00:53:02"
UPLINK = "uplink"  # of every namespace but the router
TIMEOUT = 60.0

VICTIM4, VICTIM6 = "198.51.100.7", "2001:db8:100::7"
ATTACKER4, ATTACKER6 = "203.0.113.9", "2001:db8:bad:a000::9"
CLIENT4, CLIENT6 = "192.0.2.9", "2001:db8:bad:c000::9"

_numbers = itertools.count()


@dataclass(frozen=True)
class Site:
    role: str
    prefix4: str
    prefix6: str
    preferred4: str
    preferred6: str


SITES = (
    Site("attacker", "203.0.113.0/24", "2001:db8:bad:a000::/52", ATTACKER4, ATTACKER6),
    Site("clients", "192.0.2.0/24", "2001:db8:bad:c000::/52", CLIENT4, CLIENT6),
    Site("victim", "198.51.100.0/24", "2001:db8:100::/48", VICTIM4, VICTIM6),
)


class Namespace:
    """Runs programs inside; what it started and still runs is ended with the lab, by its own process id."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *command: str, text: str | None = None, timeout: float = TIMEOUT) -> str:
        """Output of the command; CalledProcessError with its words when it fails."""
        done = subprocess.run(
            self._inside(command), input=text, capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._inside(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._started.append(process)
        return process

    def start_module(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """A module of this tree that prints `ready` once it is; returns after that."""
        process = self.start(sys.executable, "-m", module, *arguments)
        assert process.stdout is not None
        if (line := process.stdout.readline()) != "ready\n":
            raise RuntimeError(f"{module} said {line!r} instead of ready")
        return process

    def end_all(self) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
                continue
            process.kill()
            process.communicate()
        self._started.clear()

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]


class Topology:
    """A context manager; names are unique to this process and instance, so labs may run beside each other."""

    def __init__(self, prefix: str = "dots") -> None:
        tag = f"{prefix}-{os.getpid()}-{next(_numbers)}"
        self.attacker = Namespace(f"{tag}-attacker")
        self.clients = Namespace(f"{tag}-clients")
        self.router = Namespace(f"{tag}-router")
        self.victim = Namespace(f"{tag}-victim")

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        return self.attacker, self.clients, self.router, self.victim

    def __enter__(self) -> Topology:
        try:
            self._build()
        except BaseException:
            self.take_down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.take_down()

    def take_down(self) -> None:
        for namespace in self.namespaces:
            namespace.end_all()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace.name], capture_output=True, timeout=TIMEOUT, check=False)

    def _build(self) -> None:
        for namespace in self.namespaces:
            _ip("netns", "add", namespace.name)
            _quieten(namespace)
        self.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for number, site in enumerate(SITES):
            self._link(number, site, next(one for one in self.namespaces if one.name.endswith(site.role)))

    def _link(self, number: int, site: Site, host: Namespace) -> None:
        router_end, host_end = f"to-{site.role}", UPLINK
        _ip(
            *("link", "add", router_end, "netns", self.router.name, "address", ROUTER_MAC, "type", "veth"),
            *("peer", "name", host_end, "netns", host.name, "address", HOST_MAC),
        )
        net = f"169.254.{number}"
        for namespace, device, last in ((self.router, router_end, 1), (host, host_end, 2)):
            namespace.run("ip", "link", "set", device, "addrgenmode", "none")
            namespace.run("ip", "address", "add", f"{net}.{last}/30", "dev", device)
            namespace.run("ip", "address", "add", f"fe80::{last}/64", "dev", device, "nodad")
            namespace.run("ip", "link", "set", device, "up")
        self.router.run("ip", "route", "add", site.prefix4, "via", f"{net}.2")
        self.router.run("ip", "-6", "route", "add", site.prefix6, "via", "fe80::2", "dev", router_end)
        host.run("ip", "route", "add", "local", site.prefix4, "dev", "lo")
        host.run("ip", "-6", "route", "add", "local", site.prefix6, "dev", "lo")
        # An address of the prefix has to be there for the kernel to prefer it as source.
        host.run("ip", "address", "add", f"{site.preferred4}/32", "dev", "lo")
        host.run("ip", "address", "add", f"{site.preferred6}/128", "dev", "lo", "nodad")
        host.run("ip", "route", "add", "default", "via", f"{net}.1", "src", site.preferred4)
        host.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", host_end, "src", site.preferred6)


def why_impossible() -> str | None:
    """A sentence when this machine or this user cannot run a lab."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "nft"):
        if subprocess.run(["which", program], capture_output=True, timeout=TIMEOUT, check=False).returncode:
            return f"the program {program} is not installed"
    return None


def _quieten(namespace: Namespace) -> None:
    """No source checks, no redirects, no router discovery: only our own packets are on the links."""
    namespace.run("ip", "link", "set", "lo", "up")
    namespace.run(
        "sysctl",
        "-qw",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.default.send_redirects=0",
        "net.ipv6.ip_nonlocal_bind=1",  # IPv6 does not take a local route as leave to bind
        "net.ipv6.conf.default.accept_ra=0",
        "net.ipv6.conf.default.router_solicitations=0",
    )


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=TIMEOUT)
