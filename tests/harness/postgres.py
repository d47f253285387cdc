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
from urllib.parse import quote

from tests.harness.waiting import until

USER = "dots"
# Has a password, so that tests can get it wrong; everybody else is let in: the socket's directory is private.
GUARDED_USER, GUARDED_PASSWORD = "guarded", "s3cret/with:signs@and?more"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def binaries() -> Path | None:
    """Where initdb and postgres are; None without PostgreSQL. Debian keeps them off PATH, by version."""
    for directory in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


@contextmanager
def cluster() -> Iterator[Path]:
    """A running cluster for as long as the block lasts; yields the directory of its socket.

    PostgreSQL refuses to run as root, so then everything of it is user postgres's. What is acknowledged is synced to
    disk as in production.
    """
    programs = binaries()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed: apt install postgresql")
    base = Path(tempfile.mkdtemp(prefix="dots-pg-", dir="/tmp"))  # a short path: it is a unix socket's
    try:
        owner = _owner()
        if owner is not None:
            # Ours by the group: root's processes that gave up their capabilities are not let in by being root.
            os.chown(base, owner.pw_uid, os.getegid())
            base.chmod(0o750)
        data = base / "data"
        command = [str(programs / "initdb"), "-D", str(data), "-U", USER, "-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run([*command, "-A", "trust", "--no-instructions"], check=True, capture_output=True, **_as(owner))
        _configure(data, base)
        with (base / "log").open("w") as log:
            process = subprocess.Popen(
                [str(programs / "postgres"), "-D", str(data)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; they end it
                preexec_fn=_die_with_parent(),
                **_as(owner),
            )
        try:
            until(lambda: _answers(base) or process.poll() is not None, within=30, what="PostgreSQL")
            if process.poll() is not None:
                raise RuntimeError("PostgreSQL did not start:\n" + (base / "log").read_text())
            execute(base, f"CREATE ROLE {GUARDED_USER} LOGIN PASSWORD '{GUARDED_PASSWORD}'")
            yield base
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nobody reads it again
            process.wait(timeout=20)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def url(directory: Path, name: str, *, user: str = USER, password: str = "") -> str:
    """DATABASE_URL of a database in the cluster."""
    who = f"{user}:{quote(password, safe='')}" if password else user
    return f"postgres://{who}@/{name}?host={quote(str(directory), safe='/')}"


def execute(directory: Path, statement: str) -> None:
    """One statement, outside a transaction, in the database that every cluster has."""
    import psycopg

    with psycopg.connect(host=str(directory), user=USER, dbname="postgres", autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def _configure(data: Path, socket_directory: Path) -> None:
    with (data / "postgresql.conf").open("a") as file:
        file.write(
            f"listen_addresses = ''\nunix_socket_directories = '{socket_directory}'\nfsync = on\n"
            "synchronous_commit = on\nmax_connections = 200\nshared_buffers = 64MB\nmax_wal_size = 512MB\n"
        )
    rules = data / "pg_hba.conf"
    rules.write_text(f"local all {GUARDED_USER} scram-sha-256\nlocal all all trust\n")


def _answers(directory: Path) -> bool:
    import psycopg

    try:
        execute(directory, "SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def _owner() -> pwd.struct_passwd | None:
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def _as(owner: pwd.struct_passwd | None) -> dict[str, object]:
    if owner is None:
        return {"cwd": "/"}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": "/"}


def _die_with_parent() -> Callable[[], None]:
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def main(command: list[str]) -> int:
    with cluster() as directory:
        environment = {**os.environ, "DATABASE_URL": url(directory, "dots")}
        process = subprocess.Popen(command, env=environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, frame: process.send_signal(got))
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
