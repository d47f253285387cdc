"""`python -m benchmarks.enforcement`: the enforcer at size, and how long each of its transactions keeps others waiting.

Mitigations of one address each are rows of a database of its own, and rules of an nftables table in a network namespace
of its own; needs root. Every step is the enforcer's: reconcile and count of `mitigation.services.enforcement`.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mitigation.drivers.nftables import NftablesDriver

ROOT = Path(__file__).resolve().parent.parent
FIRST = int(ipaddress.ip_address("10.0.0.0"))
LOADED_AT_ONCE = 500


@dataclass
class Transactions:
    """How long each write transaction held its lock, in seconds, and how many statements there were in all."""

    held: list[float] = field(default_factory=list)
    statements: int = 0

    def figures(self) -> dict[str, Any]:
        longest = max(self.held, default=0.0)
        return {
            "transactions": len(self.held),
            "longest_ms": round(longest * 1000, 1),
            "held_ms": round(sum(self.held) * 1000, 1),
            "statements": self.statements,
        }


@contextmanager
def watched() -> Iterator[Transactions]:
    """From the moment at which BEGIN has the lock until COMMIT is through."""
    from django.db import connection

    seen, began = Transactions(), [0.0]

    def statement(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        seen.statements += 1
        result = execute(sql, *rest)
        if sql.startswith("BEGIN"):
            began[0] = time.perf_counter()
        return result

    commit = connection._commit

    def committed() -> None:
        commit()
        seen.held.append(time.perf_counter() - began[0])

    connection._commit = committed
    try:
        with connection.execute_wrapper(statement):
            yield seen
    finally:
        del connection._commit


# Takes the write lock of the database again and again, as a PUT does, and prints how long it waited each time.
BYSTANDER = """
import sqlite3, sys, time
other = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
while True:
    began = time.perf_counter()
    other.execute("BEGIN IMMEDIATE")
    waited = time.perf_counter() - began
    other.execute("ROLLBACK")
    print(waited, flush=True)
    time.sleep(0.05)
"""


@contextmanager
def bystander(database: Path) -> Iterator[list[float]]:
    """Seconds for which somebody else had to wait for the lock meanwhile; the list is full after the block."""
    waits: list[float] = []
    command = [sys.executable, "-c", BYSTANDER, str(database)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it runs
    try:
        yield waits
    finally:
        process.terminate()
        waits += [float(line) for line in process.stdout.read().splitlines()]
        process.wait(timeout=20)


class Enforcer:
    """One point with the real driver."""

    def __init__(self, driver: NftablesDriver, database: Path, client_id: int, point_id: int) -> None:
        from mitigation.services import enforcement

        self.driver, self.database = driver, database
        self._client_id, self._point_id = client_id, point_id
        self._mid = 0
        self._standing = enforcement.Standing()

    def ask(self, count: int) -> None:
        """So many more mitigations, each of an address of its own."""
        from django.utils import timezone

        from mitigation.protocol.scope import MitigationRequest, Scope, parse_target_prefix
        from mitigation.services.mitigations import Submission, submit_many

        for start in range(0, count, LOADED_AT_ONCE):
            batch = []
            for _ in range(min(LOADED_AT_ONCE, count - start)):
                self._mid += 1
                # Every other address, so that neighbours are not put together.
                address = ipaddress.ip_address(FIRST + 2 * self._mid)
                scope = Scope(target_prefix=(parse_target_prefix(f"{address}/32"),))
                wanted = MitigationRequest(cuid="bench", mid=self._mid, scope=scope, lifetime=86_400)
                batch.append(Submission(self._client_id, wanted))
            submit_many(batch, now=timezone.now())

    def reconcile(self, *, full: bool = True) -> None:
        from django.utils import timezone

        from mitigation.services import enforcement

        enforcement.reconcile(
            self._point_id, self.driver, holder="bench", clock=timezone.now, standing=self._standing, full=full
        )

    def follow(self) -> None:
        """As after a request: only what changed."""
        self.reconcile(full=False)

    def count(self) -> None:
        from django.utils import timezone

        from mitigation.services import enforcement

        enforcement.count(self._point_id, self.driver, clock=timezone.now, written=self._standing.written)

    def end(self, count: int) -> None:
        """The last so many, at once."""
        from django.utils import timezone

        from mitigation.models import Mitigation
        from mitigation.services import mitigations

        for pk in Mitigation.objects.live().order_by("-pk").values_list("pk", flat=True)[:count]:
            mitigations.stop(pk, actor="bench", reason="", now=timezone.now())


@contextmanager
def a_newcomer(enforcer: Enforcer) -> Iterator[list[float]]:
    """Asks for one more once the first rules are loaded, and notes after how many seconds it was told to stand."""
    from mitigation.models import Mitigation

    really, came, waited = enforcer.driver.apply, [0.0], []

    def look() -> None:
        if came[0] and not waited and Mitigation.objects.latest("pk").installed_at:
            waited.append(time.perf_counter() - came[0])

    def apply(*rules: Any) -> None:
        look()
        really(*rules)
        if not came[0]:
            came[0] = time.perf_counter()
            enforcer.ask(1)

    enforcer.driver.apply = apply  # type: ignore[method-assign]  # as it was, after this
    try:
        yield waited
        look()
    finally:
        enforcer.driver.apply = really  # type: ignore[method-assign]


def measure(enforcer: Enforcer, size: int, already: int) -> dict[str, Any]:
    """All steps at `size` mitigations, of which `already` are there."""
    from mitigation.drivers.base import Counter

    found: dict[str, Any] = {}

    def step(name: str, work: Callable[[], None]) -> None:
        with bystander(enforcer.database) as waits, watched() as seen:
            began = time.perf_counter()
            work()
            took = time.perf_counter() - began
        found[name] = {"seconds": round(took, 3), **seen.figures()}
        found[name]["others_waited_ms"] = round(max(waits, default=0.0) * 1000, 1)
        print(
            f"{size:7,}  {name:24} {took:7.3f} s  {len(seen.held):4} transactions,"
            f" longest {max(seen.held, default=0) * 1000:7.1f} ms, {sum(seen.held):6.3f} s in all,"
            f" {seen.statements:6} statements; another waited {max(waits, default=0) * 1000:7.1f} ms at most",
            flush=True,
        )

    enforcer.ask(size - already - 2)
    with a_newcomer(enforcer) as waited:
        step(f"reconcile, {size - already - 1:,} new", enforcer.reconcile)
    found["newcomer waited"] = waited
    if waited:  # where there was more than one part
        print(f"{size:7,}  one that came meanwhile waited {waited[0]:.3f} s", flush=True)
    step("reconcile, no change", enforcer.reconcile)
    enforcer.ask(1)
    step("follow, one more", enforcer.follow)
    enforcer.ask(1)
    step("follow, another", enforcer.follow)
    enforcer.end(1)
    step("follow, one less", enforcer.follow)
    step("count, first", enforcer.count)
    step("count, nothing moved", enforcer.count)
    really, extra = enforcer.driver.counters, [0]

    def moving() -> list[Counter]:
        extra[0] += 10
        return [Counter(one.key, one.epoch, one.packets + extra[0], one.octets + extra[0]) for one in really()]

    enforcer.driver.counters = moving  # type: ignore[method-assign]  # counters move without an attack
    step("count, all moved", enforcer.count)
    step("count, all moved again", enforcer.count)
    enforcer.driver.counters = really  # type: ignore[method-assign]  # as they were
    return found


@contextmanager
def enforcer_of_its_own(home: Path, namespace: str) -> Iterator[Enforcer]:
    """Database, domain, client and point; the driver in `namespace`. Sets up Django: once a process."""
    os.environ.pop("DATABASE_URL", None)
    os.environ |= {"DOTS_HOME": str(home), "DJANGO_SETTINGS_MODULE": "dotsweb.settings", "DOTS_LOG_LEVEL": "ERROR"}
    import django

    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    from mitigation.drivers.nftables import NftablesDriver
    from mitigation.models import Domain, EnforcementPoint
    from mitigation.runtime import loops
    from mitigation.services import domains

    loops.tune_garbage_collection()
    call_command("migrate", verbosity=0)
    now = timezone.now()
    domains.add_domain("bench", prefixes=["10.0.0.0/8"], fqdns=[], actor="bench", now=now)
    Domain.objects.update(maximum_mitigations=2**31 - 1)
    client = domains.add_client("bench", domain="bench", actor="bench", now=now)
    point = EnforcementPoint.objects.create(name="bench", driver="nftables", enforces=True, counts=True)
    driver = NftablesDriver(runtime_dir=home / "locks", netns=namespace, timeout=120)
    try:
        yield Enforcer(driver, home / "db.sqlite3", client.pk, point.pk)
    finally:
        driver.close()


@contextmanager
def namespace_of_its_own() -> Iterator[str]:
    name = f"dots-bench-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enforcement", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000], help="mitigations, ascending")
    parser.add_argument("--directory", default=None, help="where the database lies; not a memory file system")
    parser.add_argument("--json", action="store_true", help="all figures as JSON at the end")
    options = parser.parse_args()
    directory = options.directory or (str(ROOT / "var") if (ROOT / "var").is_dir() else None)
    results, already = {}, 0
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix="dots-bench-") as home,
        namespace_of_its_own() as namespace,
        enforcer_of_its_own(Path(home), namespace) as enforcer,
    ):
        for size in options.sizes:
            results[size] = measure(enforcer, size, already)
            already = size
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
