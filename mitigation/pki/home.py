"""Where keys and certificates lie under DOTS_HOME, and how their files are written: whole or not at all, 0600."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one instance."""

    root: Path

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def secret(self) -> Path:
        """Django's signing key."""
        return self.keys / "secret"

    @property
    def ticket(self) -> Path:
        """Session-ticket key, 64 octets: shared by workers, so that a client resumes on any of them."""
        return self.keys / "ticket"

    @property
    def cookie(self) -> Path:
        """DTLS cookie key, 16 octets."""
        return self.keys / "cookie"

    @property
    def kek(self) -> Path:
        """Key-encrypting key: the passphrase of the authority's key."""
        return self.keys / "kek"

    @property
    def authority_key(self) -> Path:
        return self.keys / "ca"

    @property
    def authority_certificate(self) -> Path:
        return self.root / "pki" / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        return self.root / "pki" / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.keys / "server"

    @property
    def revocation_list(self) -> Path:
        return self.root / "pki" / "crl.pem"

    @property
    def trusted_authorities(self) -> Path:
        """Certificates of authorities besides our own, and their revocation lists; absent while there are none."""
        return self.root / "pki" / "trusted.pem"

    @property
    def trusted_revocations(self) -> Path:
        return self.root / "pki" / "trusted-crl.pem"

    @property
    def run(self) -> Path:
        """Sockets and locks."""
        return self.root / "run"

    @property
    def panic(self) -> Path:
        """Left by `manage.py panic`, which must work without a database; the enforcer minds it and takes it away."""
        return self.root / "panic"

    @property
    def restoring(self) -> Path:
        """Exists while files and rows may not fit together: during a restore, and after one that was cut off."""
        return self.root / ".restoring"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time makes keys."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def write_private(path: Path, content: bytes) -> None:
    """Readable by the owner only from the first octet on; the old content stays until the new one is complete."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _replace(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _replace(path, content, 0o644)


def random_key(octets: int) -> bytes:
    return secrets.token_bytes(octets)


def _replace(path: Path, content: bytes, mode: int) -> None:
    with replacing(path, mode) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and leaves no trace when it does not."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
