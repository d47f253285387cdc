"""Says "do this soon" to the workers, after the commit. A task is a hint: workers look at the rows anyway."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Full, Queue

from django.db import transaction

log = logging.getLogger(__name__)

# Publishing waits for the bus; a bus that is away must not hold up whoever has just committed. So one thread sends,
# and what does not fit in its short queue is dropped: the workers' own look, once a second, finds the work.
_outbox: Queue[Callable[[], object]] = Queue(maxsize=16)
_started = threading.Lock()


def reconcile_soon() -> None:
    """Have every enforcement point that is dirty brought to what the rows want."""
    transaction.on_commit(lambda: _send(_reconcile))


def _reconcile() -> None:
    from mitigation.models import EnforcementPoint  # inside: this module is imported by the verbs of those rows
    from mitigation.tasks.enforcement import reconcile  # the one upward import

    for point in EnforcementPoint.objects.filter(enabled=True):
        reconcile.apply_async(args=[point.pk], queue=point.queue, expires=30)


def _send(job: Callable[[], object]) -> None:
    if _started.acquire(blocking=False):
        threading.Thread(target=_deliver, name="dispatch", daemon=True).start()
    try:
        _outbox.put_nowait(job)
    except Full:
        log.debug("outbox full; the workers will look by themselves")


def _deliver() -> None:
    from django.db import connection

    while True:
        job = _outbox.get()
        try:
            job()
        except Exception as error:  # noqa: BLE001  see above: a lost hint is no loss
            log.debug("no task sent: %s", error)
        finally:
            connection.close()
