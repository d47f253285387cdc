"""One process per table and network namespace.

Two instances on one machine would each remove what they do not know. The lock is a flock: it is gone with its
process, however that ends. The file is never deleted, since that would let two holders lock two files of one name.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mitigation.exceptions import DriverError


class TableLock:
    """Held from `acquire` until `release` or the end of the process; acquiring again is harmless."""

    def __init__(self, runtime_dir: Path, table: str) -> None:
        self.runtime_dir = runtime_dir
        self.table = table
        self._file: int | None = None
        self._namespace: int | None = None

    def acquire(self, namespace: int) -> None:
        """`namespace` is the inode of the network namespace. Raises DriverError that says who holds the table."""
        if self._file is not None and self._namespace == namespace:
            return
        self.release()
        path = self.runtime_dir / f"nft-{namespace}-{self.table}.lock"
        try:
            self.runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DriverError(f"the lock {path} cannot be opened: {error.strerror}", retryable=False) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 100).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise DriverError(
                f"table {self.table} in this network namespace is already driven by {holder}; "
                "stop it, or give this server a table of its own with DOTS_NFT_TABLE"
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()}\n".encode())
        self._file, self._namespace = file, namespace

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
