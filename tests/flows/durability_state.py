"""What a product really holds: its processes, its rows, its rules; read past the product's own code."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitigation.runtime import bus
from tests.harness.product import Product
from tests.harness.waiting import until

ENFORCED = (1, 2, 3, 4, 5)  # statuses that want rules (RFC 9132, section 4.4.2, Table 3)
TERMINATING = 5

COMMAND_OF = {
    "signal": "manage.py runsignal",
    "web": "manage.py runweb",
    "data": "manage.py rundata",
    "enforcer": "-n enforcer.",
    "worker": "-n worker.",
    "pki": "-n pki.",
    "beat": "dotsweb beat",
    "bus": "bus.sock",
}


@dataclass(frozen=True)
class Row:
    """One mitigation as the database has it."""

    target: str
    lifetime: int
    status: int
    ending: bool


def processes(product: Product) -> dict[str, int]:
    """Process ids of the children of `up` by name; what is not running is left out."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"\) \w (\d+)", (directory / "stat").read_text())[1])  # type: ignore[index]
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, TypeError):
            continue
        if parent == product.pid:
            found |= {name: int(directory.name) for name, marker in COMMAND_OF.items() if marker in command}
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_for_restart(product: Product, names: set[str], *, lines_before: int) -> float:
    """Until `up` has said of each that it is ready again; returns when the last one was, on the monotonic clock."""

    def is_ready(name: str) -> bool:
        said = [line for line in product.lines[lines_before:] if line.lstrip().startswith(f"{name} |")]
        if name == "bus":  # somebody else's program: it says nothing
            return any("starts again" in line for line in said) and bus.answers(f"unix://{product.home}/run/bus.sock")
        return any("| ready again" in line for line in said)

    def restarted() -> bool:
        return all(is_ready(name) for name in names)

    until(restarted, within=40, what=f"{', '.join(sorted(names))} being ready again")
    return time.monotonic()


# -- rows -------------------------------------------------------------------------------------------------------------


@contextmanager
def database(product: Product) -> Iterator[Any]:
    """A connection of ours to the product's own database, without transactions unless they are begun."""
    url = product.environment.get("DATABASE_URL")
    if url:
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            yield connection
        return
    with closing(sqlite3.connect(product.home / "db.sqlite3", timeout=20, isolation_level=None)) as connection:
        yield connection


def is_sqlite(product: Product) -> bool:
    return not product.environment.get("DATABASE_URL")


@contextmanager
def locked(product: Product) -> Iterator[None]:
    """Another program holds the database's write lock; on PostgreSQL, what every transaction of ours needs."""
    with database(product) as connection:
        if is_sqlite(product):
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection.execute("BEGIN")
            connection.execute("LOCK TABLE mitigation_changecounter IN EXCLUSIVE MODE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def query(product: Product, text: str, *values: object) -> list[tuple[Any, ...]]:
    """Rows of the product's database; JSON columns as values."""
    with database(product) as connection:
        found = list(_execute(product, connection, text, values))
    return [tuple(_value(value) for value in row) for row in found]


def execute(product: Product, text: str, *values: object) -> None:
    """Change rows behind the product's back."""
    with database(product) as connection:
        _execute(product, connection, text, values)


def _execute(product: Product, connection: Any, text: str, values: tuple[object, ...]) -> Any:
    if is_sqlite(product):
        return connection.execute(text, values)
    return connection.execute(text.replace("?", "%s"), values or None)


def _value(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def rows(product: Product, cuid: str) -> dict[int, Row]:
    """Live mitigations of a cuid by mid."""
    found = query(
        product,
        "SELECT mid, scope, lifetime, status, ends_at FROM mitigation_mitigation WHERE cuid = ? AND ended_at IS NULL",
        cuid,
    )
    return {
        mid: Row(scope["target-prefix"][0], lifetime, status, ends_at is not None)
        for mid, scope, lifetime, status, ends_at in found
    }


def wanted_addresses(product: Product) -> set[str]:
    """Addresses that live mitigations want protected, whosoever they are."""
    found = query(
        product, "SELECT scope, status FROM mitigation_mitigation WHERE ended_at IS NULL AND trigger_mitigation"
    )
    return {
        str(ipaddress.ip_network(prefix).network_address)
        for scope, status in found
        if status in ENFORCED
        for prefix in scope["target-prefix"]
    }


def unproven_rules(product: Product) -> int:
    """Rule rows that were not read back from the equipment."""
    return int(query(product, "SELECT count(*) FROM mitigation_rule WHERE state != 'installed'")[0][0])


# -- rules ------------------------------------------------------------------------------------------------------------


def installed_addresses(table: str) -> set[str]:
    """Addresses that the kernel has rules for; the counters' sets are left out, they outlive their rules."""
    done = subprocess.run(["nft", "-j", "list", "table", "inet", table], capture_output=True, text=True, check=False)
    if done.returncode:
        return set()
    found: set[str] = set()
    for entry in json.loads(done.stdout)["nftables"]:
        for element, _ in entry.get("map", {}).get("elem", ()):
            found |= set(_hosts(element["elem"]["val"]["concat"][0]))
    return found


def _hosts(value: Any) -> list[str]:
    """The hosts of one address field: neighbours may have been put together into a prefix or a range."""
    if isinstance(value, str):
        return [str(ipaddress.ip_address(value))]
    if "prefix" in value:
        network = ipaddress.ip_network(f"{value['prefix']['addr']}/{value['prefix']['len']}")
        return [str(address) for address in network]
    first, last = (ipaddress.ip_address(end) for end in value["range"])
    return [str(first + offset) for offset in range(int(last) - int(first) + 1)]


def drop_table(table: str) -> None:
    subprocess.run(["nft", "delete", "table", "inet", table], check=False, capture_output=True)
