"""A logged-in operator, and a server on loopback for the browser."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

import pytest
import uvicorn
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.test import Client
from django.utils import timezone

from mitigation.dashboard.live import hub

NAME, PASSWORD = "noc-desk-2", "a long enough password"


@pytest.fixture
def now() -> datetime:
    return timezone.now()


@pytest.fixture
def operator(db: None) -> User:
    return get_user_model().objects.create_user(NAME, password=PASSWORD)


@pytest.fixture
def browser_client(operator: User) -> Client:
    """Django's test client, logged in."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    return client


@dataclass
class Served:
    """The dashboard on a real socket, with its own event loop in a thread."""

    url: str
    loop: asyncio.AbstractEventLoop

    def changed(self, *changes: tuple[str, int]) -> None:
        """What the web process does when the change cursor moves."""
        asyncio.run_coroutine_threadsafe(hub.changed(changes), self.loop).result(timeout=5)


@pytest.fixture
def served(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    # Playwright's synchronous interface runs a loop in this thread, which Django would take for our own.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    connection_created.connect(_read_beside_writers)
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA read_uncommitted = 1")
    server = uvicorn.Server(
        uvicorn.Config("dotsweb.asgi:application", port=0, lifespan="off", log_level="warning", ws="websockets-sansio")
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),), name="dashboard", daemon=True)
    thread.start()
    deadline = threading.Event()
    while not server.started and thread.is_alive():
        deadline.wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", loop)
    server.should_exit = True
    thread.join(timeout=10)
    connection_created.disconnect(_read_beside_writers)


def _read_beside_writers(connection: object, **_: object) -> None:
    """Threads share the test's database in memory, where a reader would otherwise lock a table against the writer."""
    if connection.vendor == "sqlite":  # type: ignore[attr-defined]
        with closing(connection.connection.cursor()) as cursor:  # type: ignore[attr-defined]
            cursor.execute("PRAGMA read_uncommitted = 1")


__all__ = ["connections"]
