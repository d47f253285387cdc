"""Says "do this soon" to the workers, after the commit. A task is a hint: workers look at the rows anyway."""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from queue import Full, Queue

from django.db import connection, transaction

log = logging.getLogger(__name__)

# Publishing waits for the bus; a bus that is away must not hold up whoever has just committed. So one thread sends.
# What is asked while a job waits is done by that job: it looks at the rows when its turn comes.
_outbox: Queue[Callable[[], object] | None] = Queue(maxsize=1)
_GAP = 0.25  # seconds between two; the workers themselves look once a second
_starting = threading.Lock()
_sender: list[threading.Thread] = []


def reconcile_soon() -> None:
    """Have every enforcement point that is dirty brought to what the rows want."""
    transaction.on_commit(lambda: _send(_reconcile))


def _reconcile() -> None:
    from mitigation.models import EnforcementPoint  # inside: this module is imported by the verbs of those rows
    from mitigation.tasks.enforcement import reconcile  # the one upward import

    for point in EnforcementPoint.objects.filter(enabled=True):
        reconcile.apply_async(args=[point.pk], queue=point.queue, expires=30)


def _send(job: Callable[[], object]) -> None:
    with _starting:
        if not _sender:
            _sender.append(threading.Thread(target=_deliver, name="dispatch", daemon=True))
            _sender[0].start()
            atexit.register(_end)
    try:
        _outbox.put_nowait(job)
    except Full:
        log.debug("the same waits to be sent already")


def _deliver() -> None:
    while (job := _outbox.get()) is not None:
        try:
            job()
        except Exception as error:  # noqa: BLE001  see above: a lost hint is no loss
            log.debug("no task sent: %s", error)
        finally:
            connection.close()
        time.sleep(_GAP)


def _end() -> None:
    """A short command sends what it has before it ends; a thread that is cut off at exit aborts a process."""
    with contextlib.suppress(Full):
        _outbox.put(None, timeout=1)
    _sender[0].join(timeout=3)
