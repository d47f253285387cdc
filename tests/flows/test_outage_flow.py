"""What is missing for a while is waited for: a bus away or frozen, a database that is locked, a disk that is full."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cbor2
import pytest
from durability_client import NeverDiscouraged
from durability_state import (
    COMMAND_OF,
    drop_table,
    installed_addresses,
    locked,
    processes,
    query,
    rows,
)

from mitigation.runtime import bus
from mitigation.runtime.writer import PATIENCE
from tests.harness.databases import on_postgres
from tests.harness.environment import IN_CI, PRIVATE_NETWORK
from tests.harness.libcoap import GNUTLS, Libcoap, Said
from tests.harness.product import Domain, Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

Tell = Callable[[str], None]

TABLE, SMALL_TABLE = "dots_outage", "dots_small_disk"
BUS_AWAY = float(os.environ.get("DURABILITY_BUS_AWAY", "4"))  # seconds; the promise is a minute
RATE = 20  # requests a second
DISK = 40 << 20  # octets

_MAX_AGE = re.compile(r"Max-Age:(\d+)")


def enforcing() -> bool:
    can = PRIVATE_NETWORK and shutil.which("nft") is not None
    if IN_CI and not can:
        pytest.fail("continuous integration must run as root with nftables")
    return can


def environment(table: str = TABLE) -> dict[str, str]:
    return {"DOTS_NFT_TABLE": table} if enforcing() else {"DOTS_DRIVER": "dryrun"}


@pytest.fixture(scope="module")
def lasting() -> Iterator[Product]:
    with running(environment=environment()) as product:
        yield product
    drop_table(TABLE)


def cast(product: Product) -> tuple[Domain, Files]:
    domain = product.new_domain()
    return domain, product.new_client(domain, "alice")


def put(product: Product, files: Files, cuid: str, mid: int, address: str, *, transport: str = "udp") -> Said:
    peer = Libcoap(GNUTLS, files, server="127.0.0.1", port=product.signal_port, transport=transport)
    body = cbor2.dumps({1: {2: [{6: [address], 14: 600}]}})
    return peer.ask("put", f"/mitigate/cuid={cuid}/mid={mid}", body)


def get(product: Product, files: Files, cuid: str) -> Said:
    return Libcoap(GNUTLS, files, server="127.0.0.1", port=product.signal_port).ask("get", f"/mitigate/cuid={cuid}")


# -- the bus ----------------------------------------------------------------------------------------------------------


class Bus:
    """A bus of our own, which the product is told to use: it may be away for as long as we like."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "bus.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        found = bus.binary()
        assert found is not None
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self._directory)]
        self._process = subprocess.Popen([found, *options], stdout=subprocess.DEVNULL)
        until(lambda: bus.answers(self.url), what="the bus")

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(timeout=10)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)


def test_requests_are_taken_and_enforced_while_the_bus_is_away(tmp_path: Path, tell: Tell) -> None:
    shared = Bus(tmp_path)
    shared.start()
    try:
        with running(environment={**environment(), "REDIS_URL": shared.url}) as product:
            domain, alice = cast(product)
            with NeverDiscouraged(product, domain, alice, cuid="no-bus", rate=RATE, refreshes=int(BUS_AWAY)) as client:
                until(lambda: client.count > RATE, what="requests with the bus")
                for how, go, come in (
                    ("killed", lambda: shared.signal(signal.SIGKILL), shared.start),
                    ("frozen", lambda: shared.signal(signal.SIGSTOP), lambda: shared.signal(signal.SIGCONT)),
                ):
                    before = client.count
                    go()
                    away = time.monotonic()
                    until(lambda away=away: time.monotonic() - away > BUS_AWAY / 2, within=BUS_AWAY)
                    meanwhile = until_enforced(product, "no-bus")
                    until(lambda away=away: time.monotonic() - away > BUS_AWAY, within=BUS_AWAY)
                    page = urllib.request.urlopen(f"http://127.0.0.1:{product.web_port}/login/", timeout=10)
                    count = client.count - before
                    come()
                    took = until_enforced(product, "no-bus")
                    assert page.status == 200
                    assert count > BUS_AWAY * RATE / 4
                    tell(
                        f"bus {how} for {BUS_AWAY:g} s: {count} requests answered, "
                        f"enforced after {meanwhile:.2f} s meanwhile and {took:.2f} s after its return"
                    )
                client.finish()
            assert not client.ledger.refused
            assert not [line for line in product.lines if "starts again" in line]
            assert not [line for line in product.lines if line.startswith("enforcer") and "Traceback" in line]
    finally:
        shared.signal(signal.SIGCONT)
        shared.stop()
        drop_table(TABLE)


def until_enforced(product: Product, cuid: str) -> float:
    """Until what was asked so far has its rules; in seconds."""
    began = time.monotonic()
    asked = {row.target.partition("/")[0] for row in rows(product, cuid).values()}
    if enforcing():
        until(lambda: asked <= installed_addresses(TABLE), within=5, every=0.2, what="their rules")
    return time.monotonic() - began


# -- the database -----------------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-PUT-013", "SIG-ERR-023")
def test_a_locked_database_is_said_before_clients_repeat_themselves(lasting: Product, tell: Tell) -> None:
    domain, alice = cast(lasting)
    network = domain.host.rpartition(".")[0]
    assert put(lasting, alice, "locked", 1, f"{network}.1/32").code == "2.01"
    children = len(lasting.lines)

    with locked(lasting):
        began = time.monotonic()
        refused = put(lasting, alice, "locked", 2, f"{network}.2/32")
        took = time.monotonic() - began
        began = time.monotonic()
        read = get(lasting, alice, "locked")  # with a session of its own, whose row cannot be written now
        reading = time.monotonic() - began
        over_tcp = put(lasting, alice, "locked", 3, f"{network}.3/32", transport="tcp")
        deleted = Libcoap(GNUTLS, alice, server="127.0.0.1", port=lasting.signal_port).ask(
            "delete", "/mitigate/cuid=locked/mid=1"
        )
    after = put(lasting, alice, "locked", 4, f"{network}.4/32")

    for said in (refused, over_tcp, deleted):
        assert said.code == "5.03", said.log
        assert _MAX_AGE.search(said.log), said.log
        assert b"ask again" in said.payload
    assert PATIENCE <= took < PATIENCE + 2
    assert (read.code, reading < 1.5) == ("2.05", True)
    assert after.code == "2.01"
    found = rows(lasting, "locked")
    assert found.keys() == {1, 4}
    assert not found[1].ending
    assert not query(lasting, "SELECT 1 FROM mitigation_audit WHERE subject LIKE '%/locked/2'")
    said = lasting.lines[children:]
    assert not [line for line in said if "Traceback" in line or "starts again" in line], lasting.log()
    tell(f"database locked: 5.03 after {took:.2f} s, GET meanwhile {reading:.2f} s (each with its handshake)")


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of its own for one product."""
    where = Path("/dev/shm") / f"dots-small-{os.getpid()}"
    where.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(where)], check=False)
    if done.returncode:
        where.rmdir()
        if IN_CI:
            pytest.fail("continuous integration must be able to mount a tmpfs")
        pytest.skip("a small disk needs the right to mount")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)
        where.rmdir()


def fill(path: Path) -> None:
    """Take all space there is."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


@pytest.mark.rows("SIG-PUT-013", "SIG-ERR-023")
def test_a_full_disk_is_said_and_nothing_is_half_written(tell: Tell) -> None:
    if on_postgres():
        pytest.skip("PostgreSQL keeps its files elsewhere")
    with small_disk() as where:
        product = Product(where, environment=environment(SMALL_TABLE))
        try:
            product.start()
            domain, alice = cast(product)
            network, before = domain.host.rpartition(".")[0], len(product.lines)
            answers = {1: put(product, alice, "full", 1, f"{network}.1/32")}
            fill(where / "filler")
            for mid in range(2, 40):  # free pages and the log already there take some
                answers[mid] = put(product, alice, "full", mid, f"{network}.{mid}/32")
                if answers[mid].code != "2.01":
                    break
            refused = answers[max(answers)]
            assert refused.code == "5.03", refused.log
            assert _MAX_AGE.search(refused.log), refused.log
            reading = get(product, alice, "full")
            (where / "filler").unlink()
            freed = time.monotonic()
            assert put(product, alice, "full", 100, f"{network}.100/32").code == "2.01"
            took = time.monotonic() - freed

            kept = {mid for mid, said in answers.items() if said.code == "2.01"} | {100}
            assert rows(product, "full").keys() == kept
            assert reading.code == "2.05"
            assert query(product, "PRAGMA integrity_check") == [("ok",)]
            assert query(product, "PRAGMA foreign_key_check") == []
            if enforcing():
                wanted = {f"{network}.{mid}" for mid in kept}
                until(
                    lambda: wanted <= installed_addresses(SMALL_TABLE), within=10, what="rules after the disk was full"
                )
            died = [line for line in product.lines[before:] if "starts again" in line]
            until(lambda: processes(product).keys() == COMMAND_OF.keys(), within=10, what="every process being there")
            if died:  # Celery gives up when the bus, whose log is on the same disk, refuses to write
                tell("disk full: " + "; ".join(died))
            tell(f"disk full: {len(kept) - 2} more stored, then 5.03; 2.01 again {took:.2f} s after there was room")
        finally:
            product.stop()
            drop_table(SMALL_TABLE)
