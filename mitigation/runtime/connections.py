"""How long a process keeps its database connections."""

from __future__ import annotations

from django.db import connections


def close_after_each_job() -> None:
    """For processes that serve HTTP: each request has a thread of its own, and a thread that ends closes nothing.

    Elsewhere the threads are few and live as long as the process (the writer, Channels' one thread for jobs, Celery's
    pool), so they keep their connections, which is what makes a request cheap on PostgreSQL.
    """
    connections.settings["default"]["CONN_MAX_AGE"] = 0
