"""A server is lost and comes back from its backup: its clients notice nothing but the pause, and the rules return."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import databases
from tests.harness.environment import PRIVATE_NETWORK
from tests.harness.product import Domain, Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

OLD_TABLE, NEW_TABLE = "dots_backed", "dots_restored"


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery staple\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def old(passphrase: Path) -> Iterator[Product]:
    with running(environment={"DOTS_NFT_TABLE": OLD_TABLE, "DOTS_BACKUP_PASSPHRASE_FILE": str(passphrase)}) as product:
        yield product


def new_server(home: Path, passphrase: Path) -> Product:
    """Another machine. A server on PostgreSQL comes back on SQLite here, to show that a backup may move."""
    environment = {"DOTS_NFT_TABLE": NEW_TABLE, "DOTS_BACKUP_PASSPHRASE_FILE": str(passphrase)}
    if databases.on_postgres():
        environment["DATABASE_URL"] = ""
    return Product(home, environment=environment)


def rules(table: str, target: str) -> int:
    done = subprocess.run(["nft", "list", "table", "inet", table], capture_output=True, text=True, check=False)
    return len(re.findall(rf'comment "[^"]*{re.escape(target)}', done.stdout))


def enforced(product: Product, target: str, table: str) -> bool:
    (row,) = product.mitigations()
    if not PRIVATE_NETWORK:  # not root: a dry run, which has no rules to come back
        return bool(row["status"] == "exceeded")
    return bool(row["status"] == "mitigated" and rules(table, target) > 0)


def test_a_restored_server_serves_its_clients_and_converges(old: Product, passphrase: Path, tmp_path: Path) -> None:
    domain = old.new_domain()
    alice, eve = old.new_client(domain, "alice"), old.new_client(domain, "eve")
    mid = str(old.client(alice, "mitigate", domain.host).json["scope"][0]["mid"])
    until(lambda: enforced(old, domain.host, OLD_TABLE), within=15, what="rules at the old server")
    old.manage("certificate", "revoke", eve.serial)
    file = tmp_path / "server.backup"

    made = old.manage("backup", str(file), "--json").json

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["files"] >= 9
    assert b"alice" not in file.read_bytes()
    old.manage("domain", "add", "after.example", "--prefix", "192.0.2.0/24")
    old.stop()
    if PRIVATE_NETWORK:
        subprocess.run(["nft", "delete", "table", "inet", OLD_TABLE], check=True)

    new = new_server(tmp_path / "new", passphrase)
    restored = new.manage("restore", str(file), "--json").json
    assert restored["rows"] == made["rows"]
    new.start()
    try:
        check_that_it_is_the_same(new, domain, alice, eve, mid)
    finally:
        new.stop()


def check_that_it_is_the_same(new: Product, domain: Domain, alice: Files, eve: Files, mid: str) -> None:
    until(lambda: enforced(new, domain.host, NEW_TABLE), within=15, what="rules at the new server")
    for transport in ("udp", "tcp"):
        found = new.client(alice, "status", "--mid", mid, transport=transport)
        assert found.status == 0, found.out + found.err
        assert found.json["scope"][0]["target-prefix"] == [f"{domain.host}/32"]
        assert new.client(eve, "status", "--patience", "3", transport=transport).status != 0
    assert new.client(alice, "mitigate", domain.host, "--mid", mid).json["code"] == "2.04"
    later = new.client(alice, "mitigate", domain.host6)
    assert later.json["code"] == "2.01"
    assert later.json["scope"][0]["mid"] > int(mid)
    assert [one["name"] for one in new.manage("domain", "list", "--json").json] == [domain.name]
    assert new.manage("doctor", check=False).status == 0
    assert new.manage("client", "add", "carol", "--domain", domain.name, "--out", str(new.home / "carol")).status == 0


def test_refusals_are_sentences_and_change_nothing(old: Product, passphrase: Path, tmp_path: Path) -> None:
    domain = old.new_domain()
    file = tmp_path / "server.backup"
    old.manage("backup", str(file))
    new = new_server(tmp_path / "new", passphrase)
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect horse battery")
    wrong.chmod(0o600)
    unguarded = tmp_path / "unguarded"
    unguarded.write_text("correct horse battery staple")
    unguarded.chmod(0o644)
    short = tmp_path / "short"
    short.write_text("short")
    short.chmod(0o600)
    damaged = tmp_path / "damaged.backup"
    damaged.write_bytes(file.read_bytes()[:-7])

    def refused(product: Product, *command: str, secret: Path | None = passphrase) -> str:
        product.environment["DOTS_BACKUP_PASSPHRASE_FILE"] = str(secret or "")
        done = product.manage(*command, check=False)
        assert done.status == 1
        assert "Traceback" not in done.err
        assert "horse" not in done.out + done.err
        return done.err

    assert "the passphrase is wrong" in refused(new, "restore", str(file), secret=wrong)
    assert "truncated, altered or damaged" in refused(new, "restore", str(damaged))
    assert "not a backup of this server" in refused(new, "restore", str(passphrase))
    assert "No such file" in refused(new, "restore", str(tmp_path / "nowhere"))
    assert "can be read by others" in refused(new, "restore", str(file), secret=unguarded)
    assert "nobody to ask" in refused(new, "restore", str(file), secret=None)
    assert "cannot be read" in refused(new, "restore", str(file), secret=tmp_path / "nowhere")
    assert not new.home.exists()
    assert "at least 12 characters" in refused(old, "backup", str(tmp_path / "other"), secret=short)
    assert "not empty" in refused(old, "restore", str(file))
    assert "the server is running; stop it first" in refused(old, "restore", str(file), "--replace")
    assert "the server is running; stop it first" in refused(old, "load", str(file), "--replace")
    assert not (tmp_path / "other").exists()
    assert [one["name"] for one in old.manage("domain", "list", "--json").json] == [domain.name]

    (new.home / "x").mkdir(parents=True)
    (new.home / ".restoring").touch()
    for command in ("init", "up"):
        assert "was cut off; `manage.py restore FILE --replace` does it again" in refused(new, command)
    assert "a restore was cut off" in new.manage("doctor", check=False).out
