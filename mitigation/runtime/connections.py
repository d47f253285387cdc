"""How long a process keeps its database connections."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created


def close_after_each_job() -> None:
    """For processes that serve HTTP: each request has a thread of its own, and a thread that ends closes nothing.

    Elsewhere the threads are few and live as long as the process (the writer, Channels' one thread for jobs, Celery's
    pool), so they keep their connections, which is what makes a request cheap on PostgreSQL.
    """
    connections.settings["default"]["CONN_MAX_AGE"] = 0


def wait_at_most(seconds: float) -> None:
    """For a lock that somebody else holds, on every connection of this process from now on."""
    connection_created.connect(lambda connection, **_: be_impatient(connection, seconds), weak=False)


def be_impatient(connection: Any, seconds: float) -> None:
    """On this connection: other processes may wait for a lock for longer than a client waits for us."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")
        else:
            cursor.execute(f"SET lock_timeout = {seconds * 1000:.0f}")
