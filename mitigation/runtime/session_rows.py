"""Live sessions as rows, for operators: written behind the event loop's back."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError

from mitigation.runtime import clock
from mitigation.runtime.threads import writing
from mitigation.services import sessions
from mitigation.signal_channel.book import Identity
from mitigation.tls import Remote

log = logging.getLogger(__name__)


def worker_name() -> str:
    """The same for every life of this worker, so that a new one can tidy up after the last."""
    return f"{socket.gethostname()[:48]}:{settings.DOTS_SIGNAL_PORT}"


class SessionRows:
    """Rows of live sessions, written behind the loop's back: a handshake never waits for the database."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, Remote, object]] = asyncio.Queue()
        self._row_of: dict[int, int] = {}

    async def start(self) -> list[int]:
        """Closes what an earlier life of this worker left open; returns the clients that had a session then."""
        return await writing(sessions.close_all_of)(worker_name(), reason="worker restarted", now=clock.now())

    def opened(self, remote: Remote, identity: Identity) -> None:
        self._queue.put_nowait(("opened", remote, identity))

    def closed(self, remote: Remote, reason: str) -> None:
        self._queue.put_nowait(("closed", remote, reason))

    async def run(self) -> None:
        while True:
            what, remote, detail = await self._queue.get()
            try:
                if isinstance(detail, Identity):
                    self._row_of[remote.session_id] = await writing(self._open)(remote, detail)
                elif (row := self._row_of.pop(remote.session_id, None)) is not None:
                    await writing(self._close)(row, str(detail))
            except DatabaseError as error:
                log.warning("session %s was not noted as %s: %s", remote.session_id, what, error)
            except Exception:
                log.exception("session %s was not noted as %s", remote.session_id, what)

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

    @staticmethod
    def _open(remote: Remote, identity: Identity) -> int:
        peer = f"[{remote.peer[0]}]:{remote.peer[1]}" if ":" in remote.peer[0] else f"{remote.peer[0]}:{remote.peer[1]}"
        opened = sessions.Opened(
            client_id=identity.client_id,
            credential_id=identity.credential_id,
            worker=worker_name(),
            transport=remote.transport,
            peer=peer,
            version=remote.version,
            cipher=remote.cipher,
            resumed=remote.resumed,
        )
        return sessions.open_session(opened, now=clock.now())

    @staticmethod
    def _close(row: int, reason: str) -> None:
        now = clock.now()
        sessions.close_session(row, reason=reason, last_heard_at=now, now=now)
