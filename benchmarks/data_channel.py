"""`python -m benchmarks.data_channel`: what the data channel does in a second, also beside 10,000 entries of filters.

The server runs alone on the first core, with SQLite on a real disk; the client, one connection a thread, on the others.
It is written in Python: its share of a core is printed, so that it can be seen not to be the bottleneck.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import load
from benchmarks.servers import CUID, Installation, Server, home
from benchmarks.tables import Results

MODULE = "ietf-dots-data-channel"
TOP = f"/restconf/data/{MODULE}:dots-data"
MINE = f"{TOP}/dots-client={CUID}"
MEDIA_TYPE = "application/yang-data+json"
HEADS = ("request", "connections", "/s", "lowest to highest", "p50 ms", "p99 ms", "CPU us", "client's core")
LISTS, ENTRIES = 10, 1_000

Request = tuple[str, str, Any]


@dataclass
class Connection:
    server: Server

    def __post_init__(self) -> None:
        context = ssl.create_default_context(cafile=str(self.server.files / "ca.pem"))
        context.load_cert_chain(self.server.files / "cert.pem", self.server.files / "key.pem")
        self._http = http.client.HTTPSConnection("localhost", self.server.port, context=context, timeout=60)

    def ask(self, request: Request) -> int:
        method, path, body = request
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": MEDIA_TYPE} if content else {}
        self._http.request(method, path, body=content, headers=headers)
        answer = self._http.getresponse()
        answer.read()
        return answer.status


class Bench:
    def __init__(self, server: Server, results: Results, *, runs: int, seconds: float) -> None:
        self._server = server
        self._results = results
        self._runs = runs
        self._seconds = seconds
        self._numbers = itertools.count(1)

    def run(self) -> None:
        first = Connection(self._server)
        assert first.ask(("POST", TOP, {f"{MODULE}:dots-client": [{"cuid": CUID}]})) == 201
        assert first.ask(("PUT", f"{MINE}/aliases/alias=one", self._alias("one"))) == 201
        table = self._results.table("Data channel, SQLite", *HEADS)
        for connections in (1, 8):
            self._row(table, "GET an alias", connections, lambda: ("GET", f"{MINE}/aliases/alias=one", None))
            self._row(table, "PUT an alias", connections, self._put_alias)
        self._row(table, "PUT a filter of 3 entries", 8, self._put_acl)
        first.ask(("DELETE", f"{MINE}/acls", None))
        for number in range(LISTS):
            assert first.ask(("PUT", f"{MINE}/acls/acl=l{number}", self._acl(f"l{number}", ENTRIES))) == 201
        table = self._results.table(f"Data channel, {LISTS * ENTRIES:,} entries of filters, SQLite", *HEADS)
        self._row(table, "POST one more entry", 1, self._post_ace)
        one = f"{MINE}/acls/acl=l0/aces/ace=a5?content=config"
        self._row(table, "GET one entry", 1, lambda: ("GET", one, None))
        self._row(table, "GET a list of 1,000", 1, lambda: ("GET", f"{MINE}/acls/acl=l1", None))
        self._row(table, "GET all", 1, lambda: ("GET", f"{MINE}/acls", None))

    def _row(self, table: Any, what: str, connections: int, make: Callable[[], Request]) -> None:
        rates, latencies = [], []
        busy, client = self._server.cpu_seconds(), time.process_time()
        began, asked = time.monotonic(), 0
        for _ in range(self._runs):
            found = self._burst(connections, make)
            rates.append(len(found) / self._seconds)
            latencies += found
            asked += len(found)
        took = time.monotonic() - began
        latencies.sort()
        table.add(
            *(what, str(connections), f"{median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}"),
            *(f"{1000 * latencies[len(latencies) // 2]:.1f}", f"{1000 * latencies[int(0.99 * len(latencies))]:.0f}"),
            f"{1e6 * (self._server.cpu_seconds() - busy) / asked:.0f}",
            f"{(time.process_time() - client) / took:.2f}",
        )

    def _burst(self, connections: int, make: Callable[[], Request]) -> list[float]:
        """Seconds that each request took, of as many as there is time for."""
        found: list[float] = []
        deadline = time.monotonic() + self._seconds

        def ask() -> None:
            connection = Connection(self._server)
            while (start := time.monotonic()) < deadline:
                status = connection.ask(make())
                assert status in (200, 201, 204), status
                found.append(time.monotonic() - start)

        threads = [threading.Thread(target=ask) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    # -- requests

    def _alias(self, name: str) -> dict[str, Any]:
        return {f"{MODULE}:alias": [{"name": name, "target-prefix": ["10.0.0.1/32"], "target-protocol": [6, 17]}]}

    def _put_alias(self) -> Request:
        name = f"alias-{next(self._numbers) % 500}"
        return "PUT", f"{MINE}/aliases/alias={name}", self._alias(name)

    def _put_acl(self) -> Request:
        name = f"filter-{next(self._numbers) % 500}"
        return "PUT", f"{MINE}/acls/acl={name}", self._acl(name, 3)

    def _post_ace(self) -> Request:
        return "POST", f"{MINE}/acls/acl=l9/aces", {f"{MODULE}:ace": [self._ace(100_000 + next(self._numbers))]}

    def _acl(self, name: str, entries: int) -> dict[str, Any]:
        aces = [self._ace(number) for number in range(entries)]
        kind = "ietf-access-control-list:ipv4-acl-type"
        return {f"{MODULE}:acl": [{"name": name, "type": kind, "aces": {"ace": aces}}]}

    @staticmethod
    def _ace(number: int) -> dict[str, Any]:
        source = f"192.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"
        ip = {"source-ipv4-network": source, "destination-ipv4-network": "10.0.0.0/24"}
        ports = {"destination-port-range-or-operator": {"port": number % 60_000}}
        actions = {"forwarding": "ietf-access-control-list:drop"}
        return {"name": f"a{number}", "matches": {"ipv4": ip, "udp": ports}, "actions": actions}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_channel", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--directory", default=None, help="where the database lies; not a memory file system")
    parser.add_argument("--markdown", action="store_true", help="the tables as they stand in docs/benchmarks.md")
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    load.pin_to_others(core)
    results = Results()
    with home(options.directory) as directory:
        installation = Installation(directory, core)
        with installation.data_door() as server:
            Bench(server, results, runs=options.runs, seconds=options.seconds).run()
    for table in results.tables:
        print("\n" + (table.markdown() if options.markdown else table.text()))


if __name__ == "__main__":
    main()
