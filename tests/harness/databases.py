"""A database for each instance of the product, in whatever cluster this run was given; SQLite needs none."""

from __future__ import annotations

import atexit
import itertools
import os
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


def _execute(statement: str) -> None:
    from django.conf import settings

    settings_of: dict[str, Any] = settings.DATABASES["default"]
    import psycopg

    with psycopg.connect(
        host=settings_of["HOST"] or None,
        port=settings_of["PORT"] or None,
        user=settings_of["USER"] or None,
        password=settings_of["PASSWORD"] or None,
        dbname="postgres",
        autocommit=True,
    ) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
