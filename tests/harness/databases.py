"""A database for each instance of the product, in whatever cluster this run was given; SQLite needs none."""

from __future__ import annotations

import atexit
import itertools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

_numbers = itertools.count(1)


def on_postgres() -> bool:
    """Whether this run tests the product on PostgreSQL (`make test-postgres`)."""
    return bool(os.environ.get("DATABASE_URL"))


def own_environment() -> dict[str, str]:
    """What an instance's processes see of a database that nobody else uses; dropped when the tests end."""
    if not on_postgres():
        return {}
    url = os.environ["DATABASE_URL"]
    name = f"dots_product_{os.getpid()}_{next(_numbers)}"
    _execute(f'CREATE DATABASE "{name}"')
    atexit.register(_execute, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    return {"DATABASE_URL": urlsplit(url)._replace(path=f"/{quote(name)}").geturl()}


def end_other_sessions() -> None:
    """Threads that outlive their tests keep connections; a database with any cannot be dropped."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def query(home: Path, url: str, text: str, values: Sequence[object], *, change: bool = False) -> list[tuple[Any, ...]]:
    """Rows of an instance's database, past its own code; `?` stands for a value, and JSON comes as text."""
    if not url:
        mode = "rw" if change else "ro"
        found = sqlite3.connect(f"file:{home / 'db.sqlite3'}?mode={mode}", uri=True, timeout=20)
        with closing(found) as connection, connection:
            return list(connection.execute(text, values))
    import psycopg
    from psycopg.types.string import TextLoader

    with psycopg.connect(_for_libpq(url), cursor_factory=psycopg.ClientCursor) as connection:
        connection.read_only = not change
        connection.adapters.register_loader("jsonb", TextLoader)
        cursor = connection.execute(text.replace("%", "%%").replace("?", "%s"), values)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


@contextmanager
def held(home: Path, url: str) -> Iterator[None]:
    """Another program keeps everybody else from writing: by SQLite's one lock, or the locks of all domains."""
    if not url:
        with closing(sqlite3.connect(home / "db.sqlite3", timeout=20, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        return
    import psycopg

    with psycopg.connect(_for_libpq(url)) as connection:
        connection.execute("SELECT 1 FROM mitigation_domain FOR UPDATE")
        connection.execute("SELECT 1 FROM mitigation_changecounter FOR UPDATE")
        yield
        connection.rollback()


def _for_libpq(url: str) -> str:
    return url.replace("postgres://", "postgresql://", 1)


def _execute(statement: str) -> None:
    """In the database that every cluster has."""
    import psycopg

    where = urlsplit(os.environ["DATABASE_URL"])._replace(path="/postgres").geturl()
    with psycopg.connect(_for_libpq(where), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
