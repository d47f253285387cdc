"""Live sessions as rows, for operators: written behind the event loop's back."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, IntegrityError

from mitigation.runtime import clock
from mitigation.runtime.threads import writing
from mitigation.services import sessions
from mitigation.signal_channel.book import Identity
from mitigation.tls import Remote

LINGER = 0.05  # seconds that the first of several waits for others: a transaction costs more than a handshake
LARGEST = 500

log = logging.getLogger(__name__)

_News = tuple[Remote, Identity | str]  # whose session opened, or why it closed


def worker_name() -> str:
    """The same for every life of this worker, so that a new one can tidy up after the last."""
    return f"{socket.gethostname()[:48]}:{settings.DOTS_SIGNAL_PORT}"


class SessionRows:
    """Rows of live sessions, written behind the loop's back: a handshake never waits for the database."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[_News] = asyncio.Queue()
        self._row_of: dict[int, int] = {}

    async def start(self) -> list[int]:
        """Closes what an earlier life of this worker left open; returns the clients that had a session then."""
        return await writing(sessions.close_all_of)(worker_name(), reason="worker restarted", now=clock.now())

    def opened(self, remote: Remote, identity: Identity) -> None:
        self._queue.put_nowait((remote, identity))

    def closed(self, remote: Remote, reason: str) -> None:
        self._queue.put_nowait((remote, reason))

    async def run(self) -> None:
        while True:
            first = await self._queue.get()
            await asyncio.sleep(LINGER)
            batch = [first]
            while len(batch) < LARGEST and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._note(batch)

    async def _note(self, batch: list[_News]) -> None:
        try:
            await self._note_opened([(remote, what) for remote, what in batch if isinstance(what, Identity)])
            await self._note_closed([(remote, what) for remote, what in batch if isinstance(what, str)])
        except IntegrityError as error:  # a client that was deleted meanwhile: the others can still be noted
            if len(batch) > 1:
                for one in batch:
                    await self._note([one])
            else:
                log.warning("session %d was not noted: %s", batch[0][0].session_id, error)
        except DatabaseError as error:
            log.warning("%d sessions were not noted: %s", len(batch), error)
        except Exception:
            log.exception("%d sessions were not noted", len(batch))

    async def _note_opened(self, opened: list[tuple[Remote, Identity]]) -> None:
        opened = [(remote, identity) for remote, identity in opened if remote.session_id not in self._row_of]
        if opened:
            rows = await writing(sessions.open_sessions)([_opened(*one) for one in opened], now=clock.now())
            self._row_of |= {remote.session_id: row for (remote, _), row in zip(opened, rows, strict=True)}

    async def _note_closed(self, closed: list[tuple[Remote, str]]) -> None:
        of_row = ((self._row_of.pop(remote.session_id, None), reason) for remote, reason in closed)
        if reasons := {row: reason for row, reason in of_row if row is not None}:
            await writing(sessions.close_sessions)(reasons, now=clock.now())

    async def note_heard(self, remotes: Iterable[Remote]) -> None:
        """When something last came, for operators; written once in a heartbeat's interval."""
        now, monotonic = clock.now(), time.monotonic()
        heard = {
            self._row_of[remote.session_id]: now - timedelta(seconds=monotonic - remote.last_heard)
            for remote in remotes
            if remote.session_id in self._row_of
        }
        try:
            await writing(sessions.note_heard)(heard, now=now)
        except DatabaseError as error:
            log.warning("who was heard from was not noted: %s", error)

    async def close_all(self, reason: str) -> None:
        self._row_of.clear()
        await writing(sessions.close_all_of)(worker_name(), reason=reason, now=clock.now())


def _opened(remote: Remote, identity: Identity) -> sessions.Opened:
    peer = f"[{remote.peer[0]}]:{remote.peer[1]}" if ":" in remote.peer[0] else f"{remote.peer[0]}:{remote.peer[1]}"
    return sessions.Opened(
        client_id=identity.client_id,
        credential_id=identity.credential_id,
        worker=worker_name(),
        transport=remote.transport,
        peer=peer,
        version=remote.version,
        cipher=remote.cipher,
        resumed=remote.resumed,
    )
