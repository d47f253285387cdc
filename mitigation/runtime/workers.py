"""What Celery workers do besides tasks: look by themselves once a second, so that a lost task costs one second.

Which looks a worker does follows from the queues it was started with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from celery.signals import beat_init, worker_ready
from django.db import DatabaseError, connection

from mitigation.runtime import clock, loops

PERIOD = 1.0  # seconds

log = logging.getLogger(__name__)


def install(app: Celery) -> None:
    """Give workers of this application their own look."""
    app.steps["worker"].add(OwnLook)
    worker_ready.connect(_ready)
    beat_init.connect(_ready)


def _ready(**_: Any) -> None:
    loops.say_ready()


class OwnLook(bootsteps.StartStopStep):
    """One thread beside the pool."""

    requires = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, worker: Any) -> None:
        looks = list(_looks_of(worker.app.amqp.queues.consume_from))
        if looks:
            self._thread = threading.Thread(target=self._run, args=(looks,), name="own-look", daemon=True)
            self._thread.start()

    def stop(self, worker: Any) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=3)

    def _run(self, looks: list[Callable[[], None]]) -> None:
        while not self._stop.wait(PERIOD):
            for look in looks:
                try:
                    look()
                except DatabaseError as error:
                    log.error("own look failed, again in a second: %s", error)
                    connection.close()
                except Exception:
                    log.exception("own look failed; again in a second")
                    connection.close()


def _looks_of(queues: Any) -> list[Callable[[], None]]:
    looks: list[Callable[[], None]] = []
    if "lifecycle" in queues:
        looks.append(_Expire())
    prefix = "enforcement."
    for name in queues:
        if name.startswith(prefix):
            looks.append(_Enforce(name.removeprefix(prefix)))
    return looks


class _Expire:
    """Lifetimes end by the clock; when somebody has set it by seconds, none ends until the new time has held."""

    HELD = 60.0  # seconds

    def __init__(self) -> None:
        self._jumped_at: float | None = None

    def __call__(self) -> None:
        from mitigation.services import mitigations

        if clock.clock.jumped():
            self._wait()
            return
        self._jumped_at = None
        while mitigations.expire(now=clock.now()):
            pass

    def _wait(self) -> None:
        if self._jumped_at is None:
            self._jumped_at = time.monotonic()
            log.error("the wall clock jumped by %.0f s; no lifetime ends for %.0f s", clock.clock.drift(), self.HELD)
        elif time.monotonic() - self._jumped_at > self.HELD:
            clock.clock.follow()


class _Enforce:
    """One point's own look: reconcile when dirty or due, else read counters."""

    def __init__(self, point: str) -> None:
        self._point = point

    def __call__(self) -> None:
        from mitigation.tasks.enforcement import look

        look(self._point)
