"""`python -m benchmarks`: what the signal channel does in a second, how long it takes, and what it costs.

The signal worker runs alone on the first core, with its bus; SQLite lies on a real disk, PostgreSQL in a cluster of its
own. The generator (`load.c`) runs on the other cores, and its share of a core is printed, so that it can be seen not to
be the bottleneck. libcoap's server has its turn in the same run. These machines are shared: the server's own CPU time
for a request hardly depends on the neighbours, rates and latencies do.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import load, machine, rows, soak
from benchmarks.load import Failed, Figure
from benchmarks.servers import ROOT, Installation, Server, home, libcoap
from benchmarks.tables import Results, Table, codes, milliseconds, rate, spread

NAMES = ("handshakes", "get", "put", "observe", "expiry", "memory")
FIRST = 100_001  # the first mid of those that are active; lower ones ask for the same addresses, and are refused
NEW = 4_000_000  # from here on requests are new
ASKED = {1_000: 1_700, 10_000: 1_700, 100_000: 1_300}  # PUT/s that are promised, by active mitigations
PUT_HEADS = ("request", "sessions", "/s", "lowest to highest", "p50 ms", "p99 ms", "CPU us", "generator", "answers")


class Bench:
    """One run over one database."""

    def __init__(
        self, options: argparse.Namespace, results: Results, database: str, installation: Installation
    ) -> None:
        self.options = options
        self.results = results
        self.database = database
        self.installation = installation

    def wants(self, name: str) -> bool:
        return name in self.options.only

    def run(self) -> None:
        """What was asked for, one after the other; a part without a figure says why, and the next begins."""
        # What no database has a part in is measured once.
        engine = self.database == "SQLite" and any(map(self.wants, ("handshakes", "get", "memory")))
        for wanted, part in (
            (engine, self._engine),
            (self.wants("put") or self.wants("memory"), self._put),
            (self.wants("observe"), self._observe),
            (self.wants("expiry"), self._expiry),
        ):
            if not wanted:
                continue
            try:
                part()
            except Failed as reason:
                print(f"no figure: {reason}")

    # -- without a database

    def _engine(self) -> None:
        self.installation.rows("fill", str(FIRST), str(self.options.active[0]))
        with self.installation.worker() as server, libcoap(server.files, self.installation.core) as other:
            if self.wants("handshakes"):
                self._beside(server, other, "Handshakes, mutual certificates", [("full", 50), ("resumed", 50)])
            if self.wants("get"):
                one = [("get", number) for number in self.options.sessions]
                self._beside(server, other, "GET, one of 1,000 mitigations from the cache", one)
                self._beside(server, None, "GET of all mitigations, first block", [("list", 100)])
            if self.wants("memory"):
                self._memory(server)

    def _beside(self, server: Server, other: Server | None, title: str, cases: list[tuple[str, int]]) -> None:
        heads = ("kind", "sessions", "/s", "lowest to highest", "p50 ms", "p99 ms", "CPU us", "generator")
        table = self.results.table(title, *heads, "libcoap /s", "its CPU us", "ratio")
        for mode, sessions in cases:
            values = {"first": FIRST, "mids": self.options.active[0]}
            mine = self._measure(server, mode, sessions, **values)
            theirs = self._measure_other(other, mode, sessions, **values) if other is not None else None
            table.add(
                *(mode, str(sessions), rate(mine), spread(mine), milliseconds(mine.p50_ms), milliseconds(mine.p99_ms)),
                *(f"{mine.cpu_us:.0f}", f"{mine.generator_core:.2f}", rate(theirs)),
                *((f"{theirs.cpu_us:.0f}", f"{mine.per_second / theirs.per_second:.2f}") if theirs else ("-", "-")),
            )

    def _measure_other(self, other: Server, mode: str, sessions: int, **values: object) -> Figure | None:
        """libcoap's figure, or None where it does not open so many sessions; ours stands without it."""
        try:
            return self._measure(other, mode, sessions, **values)
        except Failed as reason:
            print(f"no figure of libcoap: {reason}")
            return None

    def _memory(self, server: Server) -> None:
        table = self.results.table("Memory of the signal worker", "of", "number", "kB each", "kB before")
        load.measure(server, "get", sessions=100, first=FIRST, mids=100)  # whatever is made once is made now

        number, before = 500 if self.options.quick else 2_000, server.resident_kb()
        with load.started(server, "hold", sessions=number, first=FIRST) as process:
            assert process.stdout is not None
            process.stdout.readline()
            each = (server.resident_kb() - before) / number
        table.add("an idle DTLS session, after one GET", f"{number:,}", f"{each:.1f}", f"{before:,}")
        self.results.figures["session kB"] = each

        number, before = self.options.active[0], server.resident_kb()
        load.measure(server, "get", sessions=10, first=FIRST, mids=number, seconds=self.options.seconds)
        each = max(0, server.resident_kb() - before) / number
        table.add("a mitigation that was asked for", f"{number:,}", f"{each:.1f}", f"{before:,}")
        self.results.figures["mitigation kB"] = each

    # -- PUT

    def _put(self) -> None:
        filled = self.options.active[0] if self._is_filled() else 0
        sizes = [int(self.installation.rows("bytes"))]
        for active in self.options.active:
            self.installation.rows("fill", str(FIRST + filled), str(active - filled))
            sizes.append(int(self.installation.rows("bytes")))
            with self.installation.worker() as server:
                if self.wants("put"):
                    self._put_at(server, active)
            self.installation.rows("remove", str(NEW))
            filled = active
        if self.wants("memory"):
            table = self.results.table(f"Size of the database, {self.database}", "of", "number", "octets each")
            each = (sizes[-1] - sizes[1]) / max(1, self.options.active[-1] - self.options.active[0])
            table.add("an active mitigation with its history", f"{self.options.active[-1]:,}", f"{each:,.0f}")
            self.results.figures[f"mitigation octets, {self.database}"] = each

    def _is_filled(self) -> bool:
        return self.database == "SQLite" and bool({"handshakes", "get", "memory"} & set(self.options.only))

    def _put_at(self, server: Server, active: int) -> None:
        table = self.results.table(f"Durable PUT, {active:,} active mitigations, {self.database}", *PUT_HEADS)
        known = {"first": FIRST, "mids": active}
        new = NEW
        for sessions in self.options.sessions:
            self._put_row(table, f"refresh, {active:,} active", server, sessions, **known)
        for sessions in self.options.sessions if active == self.options.active[0] else [100]:
            self._put_row(table, f"new, {active:,} active", server, sessions, first=new, mids=4_000_000)
            new += 1_000_000
        lower = {"first": 1, "mids": min(active, 100_000), "shift": FIRST - 1}
        self._put_row(table, f"conflict, {active:,} active", server, 100, **lower)
        # What a client waits at the promised rate, rather than at the highest.
        asked = {"rate": ASKED[active]}
        self._put_row(table, f"refresh at {ASKED[active]:,}/s, {active:,} active", server, 100, **known, **asked)
        self._put_row(
            table, f"new at {ASKED[active]:,}/s, {active:,} active", server, 100, first=new, mids=4_000_000, **asked
        )

    def _put_row(self, table: Table, name: str, server: Server, sessions: int, **values: int) -> None:
        try:
            figure = self._measure(server, "put", sessions, name=f"{name}, {self.database}", **values)
        except Failed as reason:
            table.add(name.rpartition(", ")[0], str(sessions), *["-"] * 6, f"no figure: {reason}")
            return
        table.add(
            *(name.rpartition(", ")[0], str(sessions), rate(figure), spread(figure)),
            *(milliseconds(figure.p50_ms), milliseconds(figure.p99_ms), f"{figure.cpu_us:.0f}"),
            *(f"{figure.generator_core:.2f}", codes(figure)),
        )

    # -- being told

    def _observe(self) -> None:
        number = 200 if self.options.quick else 1_000
        self.installation.rows("remove", str(NEW))
        self.installation.rows("remove", "0")
        self.installation.rows("fill", str(FIRST), "1")
        heads = ("what", "observers told", "p50 ms", "p99 ms", "last ms", "CPU us each")
        table = self.results.table(f"Notifications, from the answer to the PUT, {self.database}", *heads)
        with self.installation.worker() as server:
            figure = self._measure(server, "observe", number, name=f"observe, {self.database}", first=FIRST)
            table.add(f"one mitigation, {number:,} observers", *self._told(figure, number))

    def _expiry(self) -> None:
        number, lead = (200, 8) if self.options.quick else (1_000, 16)
        heads = ("what", "observers told", "p50 ms", "p99 ms", "last ms", "CPU us each")
        title = f"Notifications, from the end of the lifetime, {self.database}"
        table = self.results.table(title, *heads)
        found = []
        for _ in range(min(self.options.runs, 3)):
            with self.installation.worker(lifecycle=True) as server:
                at = self.installation.rows("ending", str(number), str(lead)).strip()
                values = {"first": rows.ENDING, "mids": number, "at": at}
                found.append(load.measure(server, "expire", sessions=number, **values))
            self.installation.rows("remove", str(rows.ENDING))
        figure = sorted(found, key=lambda one: one.max_ms)[len(found) // 2]
        self.results.keep(f"expiry, {self.database}", figure)
        table.add(f"{number:,} mitigations end in one instant", *self._told(figure, number))

    @staticmethod
    def _told(figure: Figure, number: int) -> tuple[str, ...]:
        told = figure.operations
        each = f"{told / number:.2f} each" if told % number else "all"
        return each, *map(milliseconds, (figure.p50_ms, figure.p99_ms, figure.max_ms)), f"{figure.cpu_us:.0f}"

    def _measure(self, server: Server, mode: str, sessions: int, *, name: str = "", **values: object) -> Figure:
        runs, seconds = self.options.runs, self.options.seconds
        figure = load.measure(server, mode, sessions=sessions, runs=runs, seconds=seconds, **values)
        self.results.keep(f"{name or mode}, {sessions} sessions, {server.name}", figure)
        return figure


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and directories go with us
    began = time.monotonic()
    load.build()
    core = min(os.sched_getaffinity(0))
    rest = load.pin_to_others(core)
    print(f"{options.runs} runs of {options.seconds:g} s each, server on core {core}, everything else on {rest}")
    before = machine.describe(options.directory)
    print(before)
    results = Results()
    for kind in options.databases:
        with _installation(kind, core, options) as installation:
            try:
                if options.soak:
                    soak.run(installation, options.soak, results)
                else:
                    Bench(options, results, kind, installation).run()
            except Failed as reason:
                sys.exit(f"no figure: {reason}")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes\n\n{before}; {os.getloadavg()[1]:.1f} at the end\n")
    for table in results.tables:
        print(table.markdown() if options.markdown else table.text(), end="\n\n")
    if options.json:
        print(json.dumps(results.figures, indent=2))


@contextmanager
def _installation(kind: str, core: int, options: argparse.Namespace) -> Iterator[Installation]:
    with home(options.directory) as directory:
        if kind == "SQLite":
            yield Installation(directory, core)
            return
        from tests.harness import postgres  # here: without PostgreSQL everything else can still be measured

        if postgres.binaries() is None:
            sys.exit("PostgreSQL is not installed (apt install postgresql); --database sqlite does without")
        with postgres.cluster() as cluster:
            yield Installation(directory, core, database=cluster.create("bench"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=NAMES, help="measure this alone; may be repeated")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--runs", type=int, help="of each measurement; medians are shown (5)")
    parser.add_argument("--seconds", type=float, help="of each run (2)")
    parser.add_argument("--quick", action="store_true", help="one run, fewer cases: a few minutes")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="load for so long; does memory stay flat?")
    parser.add_argument("--directory", help="where the databases lie; not on a memory file system")
    parser.add_argument("--json", action="store_true", help="all figures as JSON at the end")
    parser.add_argument("--markdown", action="store_true", help="the tables as in docs/benchmarks.md")
    options = parser.parse_args()
    options.only = options.only or NAMES
    options.runs = options.runs or (1 if options.quick else 5)
    options.seconds = options.seconds or (1.5 if options.quick else 2.0)
    options.sessions = (1, 100) if options.quick else (1, 100, 1_000)
    options.active = (1_000, 10_000) if options.quick else (1_000, 10_000, 100_000)
    options.databases = {"sqlite": ["SQLite"], "postgres": ["PostgreSQL"], "both": ["SQLite", "PostgreSQL"]}[
        options.database
    ]
    if options.directory is None and (ROOT / "var").is_dir():
        options.directory = str(ROOT / "var")
    return options


if __name__ == "__main__":
    main()
