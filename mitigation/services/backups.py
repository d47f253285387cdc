"""A server in one sealed file: its keys, its authority with certificates and revocation list, and all rows.

    sealed( tar( manifest, keys/..., pki/..., demo/..., database ) )

A restore happens whole: everything is unsealed and checked beside the home first; then rows and files change together,
and what was there is put back when anything fails. Should the machine stop in that moment, a mark in the home says so.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from django.db import transaction

from mitigation.exceptions import StorageRefused
from mitigation.models import Change, EnforcementPoint, Session
from mitigation.pki.authority import open_authority
from mitigation.pki.home import Home
from mitigation.pki.sealing import Opener, Sealer
from mitigation.services import certificates, dumps
from mitigation.services.dump_file import Header, Progress, silent
from mitigation.services.units import unit_of_work

FORMAT, VERSION = "dots-backup", 1
_KEPT = ("keys", "pki", "demo")  # directories of the home that cannot be made anew
_MANIFEST, _DATABASE = "manifest.json", "database"
_PREFIX = ".unsealed-"


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup holds. `rows` of the database, `files` of the home."""

    rows: int
    files: int


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A backup whose every octet is proven, beside the home that it may become."""

    directory: Path
    made_at: str


def backup(out: BinaryIO, home: Home, passphrase: bytes, *, now: datetime, progress: Progress = silent) -> Made:
    """Write a backup; the server may go on working. Raises StorageRefused before `manage.py init`."""
    if not home.authority_key.exists():
        raise StorageRefused(f"there is nothing to back up in {home.root}; `manage.py init` makes a server")
    with tempfile.TemporaryFile(dir=home.root) as database:  # nameless, and where the rows lie anyway
        header = dumps.dump(database, scratch=home.root, now=now, progress=progress)
        with Sealer(out, passphrase) as sealer, tarfile.open(fileobj=sealer, mode="w|") as tar:
            manifest = {"format": FORMAT, "version": VERSION, "made_at": now.isoformat()}
            _add(tar, _MANIFEST, io.BytesIO(json.dumps(manifest).encode()))
            with home.locked():
                files = [path for name in _KEPT for path in _files(home.root / name)]
                for path in files:
                    with path.open("rb") as content:
                        _add(tar, path.relative_to(home.root).as_posix(), content)
            _add(tar, _DATABASE, database)
    return Made(header.total, len(files))


@contextmanager
def unsealed(source: BinaryIO, home: Home, passphrase: bytes) -> Iterator[Unsealed]:
    """Open and check a whole backup into a private directory in the home, which is gone after the block.

    Raises StorageRefused, and then nothing is different from before.
    """
    existed = home.root.exists()
    try:
        with home.locked(), tempfile.TemporaryDirectory(prefix=_PREFIX, dir=home.root) as name:
            directory = Path(name)
            if not home.restoring.exists():  # else they hold what a restore that was cut off has moved aside
                _remove_leftovers(home, but=directory)
            _extract(source, directory, passphrase)
            yield Unsealed(directory, _manifest(directory))
    except BaseException:
        if not existed:
            shutil.rmtree(home.root, ignore_errors=True)
        raise


def restore(
    found: Unsealed, home: Home, *, actor: str, now: datetime, replace: bool = False, progress: Progress = silent
) -> Header:
    """Make this server the one of the backup, or change nothing. Raises StorageRefused.

    A home with keys or a database with rows is refused unless `replace`. Nobody holds a point or a session of the
    server that was, and the revocation list is signed anew, since that of the backup may have run out.
    """
    if not replace:
        refuse_unless_empty(home)
    with _files_of(found, home) as put_in_place, transaction.atomic():
        with (found.directory / _DATABASE).open("rb") as database:
            header = dumps.load(database, replace=replace, progress=progress)
        _begin_anew(found, actor=actor, now=now)
        put_in_place()
        certificates.publish_revocations(open_authority(home), now=now)
    return header


def refuse_unless_empty(home: Home) -> None:
    """Raises StorageRefused when the home has any key or certificate."""
    there = [name for name in _KEPT if _files(home.root / name)]
    if there:
        raise StorageRefused(f"{home.root} is not empty ({', '.join(there)}); --replace replaces what is there")


def _begin_anew(found: Unsealed, *, actor: str, now: datetime) -> None:
    with unit_of_work(now) as unit:
        EnforcementPoint.objects.update(lease_holder="", leased_until=None)
        unit.rules_are_stale()
        for session_id in Session.objects.live().values_list("pk", flat=True):
            unit.tell(Change.Topic.SESSION, session_id)
        Session.objects.live().update(closed_at=now, close_reason="restored from a backup")
        unit.audit(
            door="command", actor=actor, action="restore", subject="server", after={"backup-made-at": found.made_at}
        )


# -- files ------------------------------------------------------------------------------------------------------------


def _files(directory: Path) -> list[Path]:
    """Files below, hidden ones (half-written) left out; what is a link here is a file in the backup."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))


def _remove_leftovers(home: Home, *, but: Path) -> None:
    for path in home.root.glob(f"{_PREFIX}*"):
        if path != but:
            shutil.rmtree(path)


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = content.seek(0, os.SEEK_END)
    entry.mode = 0o644 if name.endswith(".pem") and not name.endswith("key.pem") else 0o600
    content.seek(0)
    tar.addfile(entry, content)


def _extract(source: BinaryIO, directory: Path, passphrase: bytes) -> None:
    reader = io.BufferedReader(Opener(source, passphrase), 1 << 20)
    try:
        with tarfile.open(fileobj=reader, mode="r|") as tar:
            for entry in tar:
                if not entry.isfile():
                    raise StorageRefused(f"the backup holds {entry.name}, which is no file")
                tar.extract(entry, directory, filter="data")
        while reader.read(1 << 20):  # only the end proves that nothing is missing
            pass
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise StorageRefused(f"the backup is not as this server writes them: {error}") from None


def _manifest(directory: Path) -> str:
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
        if manifest["format"] != FORMAT or not (directory / _DATABASE).exists() or not (directory / "keys").is_dir():
            raise StorageRefused("this is not a backup of this server")
        if manifest["version"] != VERSION:
            raise StorageRefused(f"this backup has format version {manifest['version']}, and {VERSION} is understood")
        return str(manifest["made_at"])
    except (OSError, ValueError, KeyError, TypeError):
        raise StorageRefused("this is not a backup of this server") from None


class _Swap:
    """Directories of the home exchanged for those of a backup, and back again if need be."""

    def __init__(self, found: Unsealed, home: Home) -> None:
        self._from = found.directory
        self._home = home
        self._aside = found.directory / "replaced"
        self._moved: list[tuple[Path, Path]] = []

    def __call__(self) -> None:
        for path in _files(self._from):
            _sync(path)
        self._home.restoring.touch()
        self._aside.mkdir()
        for name in _KEPT:
            ours, theirs = self._home.root / name, self._from / name
            if ours.exists():
                self._move(ours, self._aside / name)
            if theirs.exists():
                theirs.chmod(0o700)
                self._move(theirs, ours)
        _sync(self._home.root)

    def undo(self) -> None:
        for source, target in reversed(self._moved):
            target.rename(source)
        self._moved.clear()
        self._home.restoring.unlink(missing_ok=True)

    def done(self) -> None:
        self._home.restoring.unlink(missing_ok=True)
        _sync(self._home.root)
        _remove_leftovers(self._home, but=self._from)

    def _move(self, source: Path, target: Path) -> None:
        source.rename(target)
        self._moved.append((source, target))


@contextmanager
def _files_of(found: Unsealed, home: Home) -> Iterator[_Swap]:
    """Yields what puts the files in place; should the block fail after that, what was there is put back."""
    swap = _Swap(found, home)
    try:
        yield swap
    except BaseException:
        swap.undo()
        raise
    swap.done()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
