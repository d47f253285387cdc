"""From SQLite to PostgreSQL and back with the commands that operators have, also when it is much."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import rows
from tests.harness.postgres import Cluster
from tests.harness.product import ROOT, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

MANY = 100_000
LONGEST = 120.0  # seconds for one way; a few are usual


@pytest.fixture
def sqlite(tmp_path: Path) -> Product:
    product = Product(tmp_path / "sqlite", environment={"DATABASE_URL": ""})
    product.manage("init")
    return product


@pytest.fixture
def postgresql(tmp_path: Path, cluster: Cluster) -> Iterator[Product]:
    name = f"moving_{time.monotonic_ns()}"
    product = Product(tmp_path / "postgresql", environment={"DATABASE_URL": cluster.create(name)})
    product.manage("init")
    yield product
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def body(file: Path) -> bytes:
    """All lines but the first, which says when it was made."""
    return gzip.decompress(file.read_bytes()).split(b"\n", 1)[1]


def test_everything_moves_there_and_back(sqlite: Product, postgresql: Product, tmp_path: Path) -> None:
    domain = sqlite.new_domain()
    sqlite.new_client(domain, "alice")
    files = [tmp_path / name for name in ("one", "two", "three")]

    first = sqlite.manage("dump", str(files[0]), "--json").json
    postgresql.manage("load", str(files[0]))
    second = postgresql.manage("dump", str(files[1]), "--json").json
    sqlite.manage("load", "--replace", str(files[1]))
    third = sqlite.manage("dump", str(files[2]), "--json").json

    assert first["content"] == second["content"] == third["content"]
    assert body(files[0]) == body(files[1]) == body(files[2])
    assert first["rows"] > 5
    # Ids go on after those that came.
    postgresql.new_client(postgresql.new_domain(), "bob")
    assert len(postgresql.manage("client", "list", "--json").json) == 2


def test_refusals_are_sentences(sqlite: Product, postgresql: Product, tmp_path: Path) -> None:
    sqlite.new_domain()
    file = tmp_path / "dump"
    sqlite.manage("dump", str(file))
    bad = tmp_path / "bad"
    bad.write_bytes(file.read_bytes()[:-20])
    missing = Product(tmp_path / "fresh", environment={"DATABASE_URL": ""})

    def refused(product: Product, *command: str) -> str:
        done = product.manage(*command, check=False)
        assert done.status == 1
        assert "Traceback" not in done.err
        return done.err

    assert "truncated, altered or damaged" in refused(postgresql, "load", str(bad))
    assert "not a dump" in refused(postgresql, "load", str(postgresql.home / "pki" / "ca.pem"))
    assert "No such file" in refused(postgresql, "load", str(tmp_path / "nowhere"))
    assert "is not empty" in refused(sqlite, "load", str(file))
    missing.home.mkdir()
    assert "run `manage.py init` first" in refused(missing, "load", str(file))
    assert "cannot be used" in refused(missing, "dump", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert postgresql.manage("domain", "list", "--json").json == []


def test_nothing_is_loaded_beside_a_running_server(cluster: Cluster, tmp_path: Path) -> None:
    """Also not from another machine, where only the database can tell."""
    url = cluster.create("beside")
    elsewhere = Product(tmp_path / "elsewhere", environment={"DATABASE_URL": url})
    file = tmp_path / "dump"
    with running(environment={"DATABASE_URL": url, "DOTS_DRIVER": "dryrun"}) as server:
        server.manage("dump", str(file))

        refused = elsewhere.manage("load", "--replace", str(file), check=False)

        assert refused.status == 1
        assert "other connections of this server use the database; stop it first" in refused.err
    until(lambda: elsewhere.manage("load", "--replace", str(file), check=False).status == 0, what="the load")


@pytest.mark.django_db(transaction=True)
def test_a_hundred_thousand_rows_move_in_reasonable_time(sqlite: Product, postgresql: Product, tmp_path: Path) -> None:
    rows.fill_every_table()
    rows.fill_with_samples(MANY)
    first = tmp_path / "first"
    took: dict[str, float] = {}

    def timed(what: str, product: Product, *command: str) -> Any:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *command, "--json"],
            cwd=ROOT,
            env=product.environment,
            capture_output=True,
            text=True,
            timeout=2 * LONGEST,
            check=True,
        )
        took[what] = time.monotonic() - began
        return json.loads(done.stdout), done.stderr

    _dump_from_here(first)
    _, told = timed("into SQLite", sqlite, "load", str(first))
    from_sqlite, _ = timed("out of SQLite", sqlite, "dump", str(tmp_path / "second"))
    timed("into PostgreSQL", postgresql, "load", str(tmp_path / "second"))
    from_postgresql, _ = timed("out of PostgreSQL", postgresql, "dump", str(tmp_path / "third"))

    print(f"{MANY:,} rows, {first.stat().st_size:,} octets: {', '.join(f'{k} {v:.1f} s' for k, v in took.items())}")
    assert from_sqlite["rows"] > MANY
    assert from_sqlite == from_postgresql | {"file": from_sqlite["file"]}
    assert body(first) == body(tmp_path / "third")
    assert max(took.values()) < LONGEST
    if took["into SQLite"] > 5:
        assert " rows loaded" in told or " rows checked" in told


def _dump_from_here(file: Path) -> None:
    from mitigation.services import dumps

    with file.open("wb") as out:
        dumps.dump(out, scratch=file.parent, now=rows.NOW)
