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
from django.conf import settings
from django.db import DatabaseError, connection

from mitigation.resolver import Resolver
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
    """One thread a look, beside the pool: a resolver that is slow must not hold up the end of a lifetime."""

    requires = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, worker: Any) -> None:
        for look in _looks_of(worker.app.amqp.queues.consume_from):
            name = f"look-{type(look).__name__.strip('_').lower()}"
            self._threads.append(threading.Thread(target=self._run, args=(look,), name=name, daemon=True))
            self._threads[-1].start()

    def stop(self, worker: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=3)

    def _run(self, look: Callable[[], None]) -> None:
        while not self._stop.wait(PERIOD):
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
        looks += [_Expire(), _Resolve()]
    prefix = "enforcement."
    for name in queues:
        if name.startswith(prefix):
            loops.tune_garbage_collection()  # what is known of many rules is looked through again and again otherwise
            looks.append(_Enforce(name.removeprefix(prefix)))
    return looks


class _Expire:
    """Lifetimes end by the clock; when somebody has set it by seconds, none ends until the new time has held."""

    HELD = 60.0  # seconds

    def __init__(self) -> None:
        self._jumped_at: float | None = None

    def __call__(self) -> None:
        from mitigation.services import escalation, mitigations

        if clock.clock.jumped():
            self._wait()
            return
        self._jumped_at = None
        while mitigations.expire(now=clock.now()):
            pass
        while escalation.revert_due(now=clock.now()):
            pass

    def _wait(self) -> None:
        if self._jumped_at is None:
            self._jumped_at = time.monotonic()
            log.error("the wall clock jumped by %.0f s; no lifetime ends for %.0f s", clock.clock.drift(), self.HELD)
        elif time.monotonic() - self._jumped_at > self.HELD:
            clock.clock.follow()


class _Resolve:
    """Names of targets are resolved when they are new and when their answer has run out."""

    def __init__(self) -> None:
        self._resolver = Resolver(settings.DOTS_RESOLVERS, ca=settings.DOTS_RESOLVER_CA, dnssec=settings.DOTS_DNSSEC)

    def __call__(self) -> None:
        from mitigation.services import names

        while names.resolve_due(self._resolver.resolve, clock=clock.now):
            pass


class _Enforce:
    """One point's own look: reconcile when dirty or due, else read counters."""

    def __init__(self, point: str) -> None:
        self._point = point

    def __call__(self) -> None:
        from mitigation.tasks.enforcement import look

        look(self._point)
