"""A logged-in operator, and a server on loopback for the browser."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime

import pytest
import uvicorn
from dashboard_browser import NAME, PASSWORD, Served
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import Client
from django.utils import timezone

# Pictures are taken on demand, by PICTURES=1; they are no tests.
collect_ignore = [] if os.environ.get("PICTURES") else ["test_dashboard_pictures.py"]


@pytest.fixture
def now() -> datetime:
    return timezone.now()


@pytest.fixture
def operator(db: None) -> User:
    return get_user_model().objects.create_user(NAME, password=PASSWORD, is_staff=True)


@pytest.fixture
def viewer(db: None) -> Client:
    """Logged in, and may look only."""
    client = Client()
    client.force_login(get_user_model().objects.create_user("viewer", password=PASSWORD))
    return client


@pytest.fixture
def admin(db: None) -> Client:
    """Logged in, and may change policies."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("admin", password=PASSWORD))
    return client


@pytest.fixture
def browser_client(operator: User) -> Client:
    """Django's test client, logged in."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    return client


@pytest.fixture
def read_beside_writers(transactional_db: None) -> Iterator[None]:
    """Threads share the test's database in memory, where a reader would otherwise lock a table against the writer."""
    connection_created.connect(_read_uncommitted)
    _read_uncommitted(connection)
    yield
    connection_created.disconnect(_read_uncommitted)


def _read_uncommitted(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute("PRAGMA read_uncommitted = 1")


@pytest.fixture
def served(read_beside_writers: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    # Playwright's synchronous interface runs a loop in this thread, which Django would take for our own.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
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
    loop.close()
