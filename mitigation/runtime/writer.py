"""Group commit: requests of a few milliseconds share one transaction, and each is answered after its commit."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from django.db import DatabaseError, InterfaceError, OperationalError, connection

from mitigation.exceptions import Unavailable
from mitigation.runtime import clock
from mitigation.runtime.connections import be_impatient
from mitigation.services import locks, mitigations
from mitigation.services.mitigations import Outcome, Submission, Withdrawal
from mitigation.services.units import unit_of_work

LINGER = 0.004  # seconds a batch waits for company: the best 99th percentile was measured at 4 to 5 ms
LARGEST = 512
WAITING = 4_096  # beyond this a request is refused rather than answered late

# Seconds that a batch waits for the database's lock. A client says its request again after 3 s (RFC 9132, section 4.4)
# and should have heard by then that it cannot be stored now; no transaction of ours holds the lock for so long.
PATIENCE = 2.5
RETRY_AFTER = 5  # seconds, the Max-Age of that answer

log = logging.getLogger(__name__)

Item = Submission | Withdrawal
_Waiting = tuple[Item, "asyncio.Future[Outcome | None]"]


class Writer:
    """One thread with one database connection; `submit` may be awaited from the loop that started it."""

    def __init__(self, *, now: Callable[[], Any] = clock.now) -> None:
        self._now = now
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.batches = 0
        self.items = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, then end."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    async def submit(self, item: Item) -> Outcome | None:
        """Returns after the commit: the outcome of a Submission, None for a Withdrawal.

        Raises Unavailable when the database cannot take it now; then nothing of the request stands.
        """
        if self._queue.qsize() > WAITING:
            raise Unavailable("too many requests wait", retry_after=5)
        answer: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._queue.put((item, answer))
        return await answer

    def _run(self) -> None:
        try:
            while (batch := self._collect()) is not None:
                self._write(batch)
        finally:
            connection.close()

    def _collect(self) -> list[_Waiting] | None:
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        time.sleep(LINGER)
        while len(batch) < LARGEST:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._queue.put(None)
                break
            batch.append(item)
        return batch

    def _write(self, batch: list[_Waiting]) -> None:
        self.batches += 1
        self.items += len(batch)
        try:
            outcomes = self._commit([item for item, _ in batch])
        except (OperationalError, InterfaceError) as error:  # locked, full, gone: the same for all, now and behind
            self._refuse([*batch, *self._waiting()], error)
        except Exception as error:  # noqa: BLE001  the boundary of the writer thread: every waiter gets an answer
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            log.warning("a batch of %d did not commit (%s); each alone now", len(batch), type(error).__name__)
            for waiting in batch:
                self._write([waiting])
        else:
            self._loop.call_soon_threadsafe(_resolve, batch, outcomes)

    def _commit(self, items: Sequence[Item]) -> list[Outcome | None]:
        outcomes: list[Outcome | None] = []
        connection.close_if_unusable_or_obsolete()  # a database that was restarted meanwhile costs no request
        if connection.connection is None:
            be_impatient(connection, PATIENCE)
        with unit_of_work(self._now()) as unit:
            locks.domains_of_clients(item.client_id for item in items)  # all at once: the runs below come in any order
            for kind, run in groupby(items, type):
                same = list(run)
                if kind is Submission:
                    outcomes += mitigations.submit_many(same, now=unit.now)  # type: ignore[arg-type]
                else:
                    mitigations.withdraw_many(same, now=unit.now)  # type: ignore[arg-type]
                    outcomes += [None] * len(same)
        return outcomes

    def _waiting(self) -> list[_Waiting]:
        """Everything in the queue, but for the word to end."""
        found = []
        while not self._queue.empty():
            item = self._queue.get()
            if item is None:
                self._queue.put(None)
                break
            found.append(item)
        return found

    def _refuse(self, batch: list[_Waiting], error: Exception) -> None:
        log.error("%d requests not stored, and refused: %s", len(batch), error)
        connection.close()  # the next batch begins with a fresh connection
        for _, answer in batch:
            refusal = Unavailable("the server cannot store the request now; ask again", retry_after=RETRY_AFTER)
            self._loop.call_soon_threadsafe(_reject, answer, refusal)

    def _fail(self, waiting: _Waiting, error: Exception) -> None:
        if isinstance(error, DatabaseError):
            self._refuse([waiting], error)
            return
        log.error("not written", exc_info=error)
        self._loop.call_soon_threadsafe(_reject, waiting[1], error)


def _resolve(batch: list[_Waiting], outcomes: list[Outcome | None]) -> None:
    for (_, answer), outcome in zip(batch, outcomes, strict=True):
        if not answer.done():
            answer.set_result(outcome)


def _reject(answer: asyncio.Future[Outcome | None], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
