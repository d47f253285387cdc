"""`python -m benchmarks.traffic`: packets a second through a router, with and without mitigations.

    sender --- router, with the rules --- sink

Network namespaces of this machine and veth links. `traffic.c` sends UDP packets of 46 (IPv4) or 66 octets (IPv6) from
one core, 256 flows of as many sources. A veth link does the router's work in the sender's own system calls, so a figure
is what one core sends and forwards, filters or drops: compare the rows. Its CPU time a packet hardly depends on what
else the machine does; rates do. Rules are loaded by the real driver, `shield`
for one address each, half of them IPv4. Where there are rules the kernel tracks connections, which `shield` needs to
limit UDP by source. Needs root and a C compiler.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lab.topology import ATTACKER4, ATTACKER6, ROUTER_MAC, UPLINK, VICTIM4, VICTIM6, Topology

if TYPE_CHECKING:
    from mitigation.rules.canonical import Rule

HERE = Path(__file__).resolve().parent
BINARY = HERE / "bin" / "traffic"
SOURCES = {4: ATTACKER4, 6: ATTACKER6}
SHIELDED = {4: VICTIM4, 6: VICTIM6}
ELSEWHERE = {4: "198.51.100.99", 6: "2001:db8:100::99"}  # in no scope
ORDINARY, AMPLIFYING = 2_000, 123  # source ports
HIGHEST_RATE = 1_000_000  # UDP packets a second of a source, so that what is sent is looked at and passes
# What arrives is dropped before the sink's kernel looks at it any further.
SINK = """
table inet sink {
    chain arrivals { type filter hook prerouting priority -500
        meta l4proto udp drop
    }
}
"""
# What any firewall that looks at connections costs, without a rule of ours.
TRACKED = """
table inet tracked {
    chain through { type filter hook prerouting priority 0
        ct state new accept
    }
}
"""


def build() -> None:
    """Compile the sender where it is older than its source. Raises OSError or CalledProcessError."""
    BINARY.parent.mkdir(exist_ok=True)
    if not BINARY.exists() or BINARY.stat().st_mtime < (HERE / "traffic.c").stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", str(BINARY), str(HERE / "traffic.c")], check=True)


def rules(count: int) -> list[Rule]:
    """Of so many mitigations, those of the shielded addresses among them."""
    from mitigation.rules.playbooks import render
    from mitigation.rules.scope import Scope

    policy = {"udp_rate": HIGHEST_RATE, "udp_burst": HIGHEST_RATE}
    four, six = int(ipaddress.ip_address("10.0.0.0")), int(ipaddress.ip_address("2001:db8:200::"))
    others = [ipaddress.IPv4Address(four + 2 * n) for n in range(count // 2 - 1)]
    others6 = [ipaddress.IPv6Address(six + 2 * n) for n in range(count // 2 - 1)]
    addresses = [*map(str, others), *map(str, others6), *SHIELDED.values()] if count else []
    scopes = (Scope((ipaddress.ip_network(address),)) for address in addresses)
    return [rule for scope in scopes for rule in render("shield", scope, policy).rules]


class Sending:
    """One second after the other."""

    def __init__(self, lab: Topology, seconds: float, runs: int) -> None:
        self._lab, self._seconds, self._runs = lab, seconds, runs

    def row(self, size: int, traffic: str, addresses: Mapping[int, str], port: int) -> None:
        found = [figure for family in (4, 6) for figure in self._measure(family, addresses[family], port)]
        print(f"| {size:,} | {traffic} | " + " | ".join(f"{figure:,.0f}" for figure in found) + " |", flush=True)

    def _measure(self, family: int, destination: str, port: int) -> tuple[float, ...]:
        """Medians: nanoseconds of CPU a packet, sent a second, arrived a second."""
        self._run(family, destination, port, 0.2)  # neighbours are known after it, and flows
        found = [self._run(family, destination, port, self._seconds) for _ in range(self._runs)]
        return tuple(map(median, zip(*found, strict=True)))

    def _run(self, family: int, destination: str, port: int, seconds: float) -> tuple[float, float, float]:
        before, cpu_before = self._arrived(), _cpu_of_children()
        words = (str(BINARY), UPLINK, ROUTER_MAC, SOURCES[family], destination, str(port), str(seconds))
        sent = int(self._lab.attacker.run("taskset", "-c", "0", *words))
        cpu = _cpu_of_children() - cpu_before
        time.sleep(0.05)  # what is still on its way
        return cpu / sent * 1e9, sent / seconds, (self._arrived() - before) / seconds

    def _arrived(self) -> int:
        (link,) = json.loads(self._lab.victim.run("ip", "-j", "-s", "link", "show", UPLINK))
        return int(link["stats64"]["rx"]["packets"])


def _cpu_of_children() -> float:
    """Seconds, of those that ended: starting them takes some thousandths."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(lab: Topology, sizes: Sequence[int], sending: Sending, directory: Path) -> None:
    from mitigation.drivers.base import Desired
    from mitigation.drivers.nftables import NftablesDriver

    columns = [f"IPv{family}: {what}" for family in (4, 6) for what in ("CPU ns", "sent/s", "arrived/s")]
    print(f"| mitigations | traffic | {' | '.join(columns)} |\n|---|---{'|---:' * len(columns)}|")
    for size in sizes:
        if not size:
            sending.row(size, "all", ELSEWHERE, ORDINARY)
            lab.router.run("nft", "-f", "-", text=TRACKED)
            sending.row(size, "all, connections tracked", ELSEWHERE, ORDINARY)
            lab.router.run("nft", "delete", "table", "inet", "tracked")
            continue
        driver = NftablesDriver(runtime_dir=directory, netns=lab.router.name)
        driver.apply([Desired(rule, 3600) for rule in rules(size)], ())
        sending.row(size, "in no scope", ELSEWHERE, ORDINARY)
        sending.row(size, "ordinary, in a scope", SHIELDED, ORDINARY)
        sending.row(size, "attack, in a scope", SHIELDED, AMPLIFYING)
        driver.remove_all()
        driver.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 1_000, 10_000], help="mitigations")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--runs", type=int, default=5, help="the medians are of")
    options = parser.parse_args()
    build()
    with tempfile.TemporaryDirectory() as directory, Topology("dots-bench") as lab:
        lab.victim.run("nft", "-f", "-", text=SINK)
        table(lab, options.sizes, Sending(lab, options.seconds, options.runs), Path(directory))


if __name__ == "__main__":
    main()
