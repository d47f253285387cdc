"""Backup and restore: the same server comes back, or nothing is changed."""

from __future__ import annotations

import io
import stat
import tarfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from django.db import OperationalError, connection

from mitigation.exceptions import StorageRefused
from mitigation.models import Audit, Client, Domain, EnforcementPoint, Session
from mitigation.pki import sealing
from mitigation.pki.authority import initialise, open_authority
from mitigation.pki.home import Home, write_private
from mitigation.pki.sealing import Sealer
from mitigation.services import backups, certificates, domains, dumps, enforcement, sessions
from tests.harness import rows

pytestmark = pytest.mark.django_db(transaction=True)

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_LOG2_N", 10)


@pytest.fixture
def home(tmp_path: Path, now: datetime, transactional_db: None) -> Home:
    """A server with a client, a revoked certificate, a session, and a point that somebody works on."""
    made = Home(tmp_path / "old")
    initialise(made, names=["localhost"], addresses=["127.0.0.1"], now=now)
    write_private(made.root / "demo" / "client" / "key.pem", b"a client's key")
    domains.add_domain("a.example", prefixes=["198.51.100.0/24"], actor="test", now=now)
    alice = domains.add_client("alice", domain="a.example", actor="test", now=now)
    authority = open_authority(made)
    for _ in range(2):
        certificates.issue(alice, authority, actor="test", now=now)
    first, second = alice.credentials.order_by("pk")
    certificates.revoke(first.serial, reason="test", actor="test", now=now)
    certificates.publish_revocations(authority, now=now)
    opened = sessions.Opened(alice.pk, second.pk, "host:4646", "udp", "192.0.2.1:5", "DTLS1.2", "AES", False)
    sessions.open_sessions([opened], now=now)
    point = EnforcementPoint.objects.create(name="local", driver="nftables", enforces=True)
    assert enforcement.lease(point.pk, holder="elsewhere:1", now=now)
    return made


def backup(home: Home, now: datetime) -> bytes:
    out = io.BytesIO()
    backups.backup(out, home, PASSPHRASE, now=now)
    return out.getvalue()


def restore(content: bytes, home: Home, now: datetime, *, passphrase: bytes = PASSPHRASE, replace: bool = True) -> None:
    with backups.unsealed(io.BytesIO(content), home, passphrase) as found:
        backups.restore(found, home, actor="test", now=now, replace=replace)


def files(home: Home) -> dict[str, bytes]:
    """Everything but the lock: a restore that fails leaves nothing else either."""
    found = {path.relative_to(home.root).as_posix(): path for path in home.root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".lock"}


def counts() -> dict[str, int]:
    return {name: model._base_manager.count() for name, model in dumps.tables().items()}


def test_keys_certificates_and_rows_come_back(home: Home, tmp_path: Path, now: datetime) -> None:
    before, later = files(home), now + timedelta(days=40)
    content = backup(home, now)
    Domain.objects.all().delete()

    new = Home(tmp_path / "new")
    restore(content, new, later)

    after = files(new)
    assert {name: found for name, found in after.items() if name != "pki/crl.pem"} == {
        name: found for name, found in before.items() if name != "pki/crl.pem"
    }
    for path in [*new.keys.iterdir(), new.root / "demo" / "client" / "key.pem"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for directory in (new.root, new.keys):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert open_authority(new).certificate == open_authority(home).certificate
    assert Client.objects.get().name == "alice"


def test_the_revocation_list_is_fresh_and_whole(home: Home, tmp_path: Path, now: datetime) -> None:
    later = now + timedelta(days=40)  # that of the backup has run out
    content = backup(home, now)

    new = Home(tmp_path / "new")
    restore(content, new, later)

    published = x509.load_pem_x509_crl(new.revocation_list.read_bytes())
    assert published.next_update_utc is not None
    assert published.next_update_utc > later
    revoked = Client.objects.get().credentials.revoked().get()
    assert [f"{entry.serial_number:x}" for entry in published] == [revoked.serial]


def test_nobody_holds_what_the_server_that_was_held(home: Home, tmp_path: Path, now: datetime) -> None:
    content = backup(home, now)
    wanted = EnforcementPoint.objects.get().wanted

    restore(content, Home(tmp_path / "new"), now)

    point = EnforcementPoint.objects.get()
    assert point.wanted > wanted
    assert enforcement.lease(point.pk, holder="here:1", now=now)
    assert not Session.objects.live().exists()
    assert Session.objects.get().close_reason == "restored from a backup"
    noted = Audit.objects.first()
    assert noted is not None
    assert (noted.action, noted.actor) == ("restore", "test")


def test_a_wrong_passphrase_is_said_plainly_and_changes_nothing(home: Home, tmp_path: Path, now: datetime) -> None:
    content = backup(home, now)
    new, rows_before, files_before = Home(tmp_path / "new"), counts(), files(home)

    for target in (new, home):
        with pytest.raises(StorageRefused, match="the passphrase is wrong"):
            restore(content, target, now, passphrase=b"incorrect horse")

    assert not new.root.exists()
    assert (counts(), files(home)) == (rows_before, files_before)


def test_an_altered_or_truncated_backup_changes_nothing(home: Home, tmp_path: Path, now: datetime) -> None:
    content = backup(home, now)
    rows.add_domain(204)
    new, rows_before, files_before = Home(tmp_path / "new"), counts(), files(home)
    altered = [bytearray(content) for _ in range(3)]
    for bad, place in zip(altered, (40, len(content) // 2, len(content) - 1), strict=True):
        bad[place] ^= 1

    for bad in [*map(bytes, altered), content[:-1], content[: len(content) // 2], content + b"\0", b"", b"nonsense"]:
        for target in (new, home):
            with pytest.raises(StorageRefused):
                restore(bad, target, now)

    assert not new.root.exists()
    assert (counts(), files(home)) == (rows_before, files_before)


def test_what_is_there_is_only_replaced_when_asked(home: Home, tmp_path: Path, now: datetime) -> None:
    content = backup(home, now)
    other = Home(tmp_path / "other")
    initialise(other, names=["localhost"], addresses=[], now=now)
    theirs = files(other)

    with pytest.raises(StorageRefused, match=r"other is not empty \(keys, pki\); --replace"):
        restore(content, other, now, replace=False)
    with pytest.raises(StorageRefused, match="the database is not empty"):
        restore(content, Home(tmp_path / "new"), now, replace=False)
    assert files(other) == theirs

    restore(content, other, now)
    assert files(other)["keys/ca"] == files(home)["keys/ca"]
    assert not [path for path in other.root.iterdir() if path.name.startswith(".") and path.name != ".lock"]


@pytest.mark.parametrize("where", ["publish_revocations", "commit"])
def test_a_failure_in_the_last_moment_puts_everything_back(
    home: Home, tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    content = backup(home, now)
    other = Home(tmp_path / "other")
    initialise(other, names=["localhost"], addresses=[], now=now)
    rows.add_domain(205)
    rows_before, files_before = counts(), files(other)

    def fails(*_: Any, **__: Any) -> None:
        assert other.authority_key.read_bytes() == home.authority_key.read_bytes()  # it is in place by now
        assert other.restoring.exists()
        raise OperationalError("no space left on device")

    if where == "commit":
        monkeypatch.setattr(connection, "commit", fails)
    else:
        monkeypatch.setattr(certificates, where, fails)
    with pytest.raises(OperationalError, match="no space"):
        restore(content, other, now)
    monkeypatch.undo()

    assert (counts(), files(other)) == (rows_before, files_before)


def test_a_restore_that_was_cut_off_is_done_again(home: Home, tmp_path: Path, now: datetime) -> None:
    content = backup(home, now)
    other = Home(tmp_path / "other")
    initialise(other, names=["localhost"], addresses=[], now=now)
    moved_aside = other.root / ".unsealed-x" / "replaced"
    moved_aside.mkdir(parents=True)
    other.keys.rename(moved_aside / "keys")
    other.restoring.touch()

    with pytest.raises(StorageRefused, match="passphrase"):
        restore(content, other, now, passphrase=b"wrong")
    assert (moved_aside / "keys" / "ca").exists()
    restore(content, other, now)

    assert open_authority(other).certificate == open_authority(home).certificate
    assert not other.restoring.exists()
    assert not moved_aside.exists()


def test_a_sealed_archive_of_something_else_is_refused(home: Home, tmp_path: Path, now: datetime) -> None:
    def sealed(*entries: tarfile.TarInfo) -> bytes:
        out = io.BytesIO()
        with Sealer(out, PASSPHRASE) as sealer, tarfile.open(fileobj=sealer, mode="w|") as tar:
            for entry in entries:
                tar.addfile(entry, io.BytesIO(b"x" * entry.size))
        return out.getvalue()

    link, outside = tarfile.TarInfo("keys/ca"), tarfile.TarInfo("../outside")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
    outside.size = 5
    new = Home(tmp_path / "new")

    for bad, words in ((sealed(), "not a backup"), (sealed(link), "no file"), (sealed(outside), "not as this server")):
        with pytest.raises(StorageRefused, match=words):
            restore(bad, new, now)

    assert not new.root.exists()
    assert not (tmp_path / "outside").exists()


def test_there_is_nothing_to_back_up_before_init(tmp_path: Path, now: datetime, transactional_db: None) -> None:
    with pytest.raises(StorageRefused, match="nothing to back up"):
        backup(Home(tmp_path), now)


def test_a_backup_shows_nothing_of_what_it_holds(home: Home, now: datetime) -> None:
    content = backup(home, now)

    for known in (home.kek.read_bytes(), b"a.example", b"alice", b"BEGIN", b"manifest"):
        assert known not in content
