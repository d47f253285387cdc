"""A private PostgreSQL cluster: made in a temporary directory, on a unix socket, gone afterwards.

`python -m tests.harness.postgres COMMAND...` runs a command with DATABASE_URL set to one.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.harness.waiting import until

USER = "dots"
# Has a password, so that tests can get it wrong; everybody else is let in: the socket's directory is private.
GUARDED_USER, GUARDED_PASSWORD = "guarded", "s3cret/with:signs@and?more"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def binaries() -> Path | None:
    """Where initdb and postgres are; None without PostgreSQL. Debian keeps them off PATH, by version."""
    for directory in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True):
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


class Cluster:
    """One cluster with everything of it in `base`. What is acknowledged is synced to disk, as in production."""

    def __init__(self, base: Path, programs: Path) -> None:
        self.base = base
        self._programs = programs
        self._owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        if self._owner is not None:
            # Ours by the group: root's processes that gave up their capabilities are not let in by being root.
            os.chown(self.base, self._owner.pw_uid, os.getegid())
            self.base.chmod(0o750)
        data = self.base / "data"
        command = [str(self._programs / "initdb"), "-D", str(data), "-U", USER, "-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run([*command, "-A", "trust", "--no-instructions"], check=True, capture_output=True, **self._as())
        with (data / "postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self.base}'\nfsync = on\n"
                "synchronous_commit = on\nmax_connections = 200\nshared_buffers = 64MB\nmax_wal_size = 512MB\n"
            )
        (data / "pg_hba.conf").write_text(f"local all {GUARDED_USER} scram-sha-256\nlocal all all trust\n")

    def start(self) -> None:
        with (self.base / "log").open("a") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.base / "data")],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; they end it
                preexec_fn=_die_with_parent(),
                **self._as(),
            )
        until(lambda: self._answers() or self._has_ended(), within=30, what="PostgreSQL")
        if self._has_ended():
            raise RuntimeError("PostgreSQL did not start:\n" + (self.base / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT at once; SIGINT in good order, with every session cut."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)

    def restart(self) -> None:
        self.stop(signal.SIGINT)
        self.start()

    def url(self, name: str, user: str = USER, password: str = "") -> str:
        """DATABASE_URL of a database in the cluster."""
        who = f"{user}:{quote(password, safe='')}" if password else user
        return f"postgres://{who}@/{name}?host={quote(str(self.base), safe='/')}"

    def create(self, name: str, *, owner: str = USER) -> str:
        """A new database; returns its DATABASE_URL, for the user that needs no password."""
        self.execute(f'CREATE DATABASE "{name}" OWNER {owner}')
        return self.url(name)

    def execute(self, statement: str) -> Any:
        """One statement outside a transaction, in the database that every cluster has; the first value it returns."""
        import psycopg

        with psycopg.connect(host=str(self.base), user=USER, dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchone()[0] if cursor.description else None

    def _answers(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _as(self) -> dict[str, Any]:
        if self._owner is None:
            return {"cwd": "/"}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": [], "cwd": "/"}


def _version(directory: Path) -> float:
    try:
        return float(directory.parent.name)
    except ValueError:
        return 0.0


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster for as long as the block lasts."""
    programs = binaries()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed: apt install postgresql")
    base = Path(tempfile.mkdtemp(prefix="dots-pg-", dir="/tmp"))  # a short path: a unix socket lies in it
    made = Cluster(base, programs)
    try:
        made.make()
        made.start()
        made.execute(f"CREATE ROLE {GUARDED_USER} LOGIN PASSWORD '{GUARDED_PASSWORD}'")
        yield made
    finally:
        made.stop()
        shutil.rmtree(base, ignore_errors=True)


def _die_with_parent() -> Callable[[], None]:
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def main(command: list[str]) -> int:
    with cluster() as running:
        environment = {**os.environ, "DATABASE_URL": running.url("dots")}
        process = subprocess.Popen(command, env=environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, frame: process.send_signal(got))
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
