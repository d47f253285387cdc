"""Who is sent to another server, in memory: asked on each request while anything stands (RFC 9132, section 4.6).

A domain under attack is not sent away (RFC 8612, SIG-005), so what stands for it waits for the end of the attack.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable

from aiocoap import Code, Message

from mitigation.exceptions import Redirected
from mitigation.models import Redirection
from mitigation.protocol.paths import resource_name
from mitigation.signal_channel.book import Identity

GRACE = 10.0  # seconds from the first 5.03 to the end of the session: an answer that got lost may be asked for again


class Redirections:
    """`busy` reads which of some domains are under attack. Session ids are those of the transport."""

    def __init__(
        self, busy: Callable[[Collection[int]], Awaitable[set[int]]], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._busy = busy
        self._monotonic = monotonic
        self._standing: dict[int | None, Redirected] = {}  # by domain; None: all others
        self._told: dict[int, float] = {}  # sessions that got a 5.03, and when first

    def __bool__(self) -> bool:
        return bool(self._standing)

    def load(self) -> None:
        """Read the database."""
        self._standing = {
            row.domain_id: Redirected(row.alt_server, addresses=tuple(row.alt_server_record), ttl=row.ttl)
            for row in Redirection.objects.all()
        }

    async def check(self, request: Message, identity: Identity) -> None:
        """Raises Redirected for a request that another server is to take."""
        found = self._of(identity)
        if found is None:
            self._told.pop(request.remote.session_id, None)
            return
        # Without a lifetime it concerns the request for mitigation alone, and the session goes on.
        if not found.ttl and (request.code != Code.PUT or resource_name(request.opt.uri_path) != "mitigate"):
            return
        if await self._busy({identity.domain_id}):
            return
        if found.ttl:
            self._note(request.remote.session_id)
        raise found

    async def due(self, sessions: Iterable[tuple[int, Identity]]) -> dict[int, Redirected]:
        """Of these sessions, those to be told without being asked."""
        if not self._standing:
            self._told.clear()
            return {}
        named = [(session_id, one.domain_id, self._of(one)) for session_id, one in sessions]
        lasting = [(session_id, pk, found) for session_id, pk, found in named if found is not None and found.ttl]
        busy = await self._busy({pk for _, pk, _ in lasting})
        return {session_id: found for session_id, pk, found in lasting if pk not in busy}

    def sent_away(self, session_id: int) -> None:
        """It was told by a notification."""
        self._note(session_id)

    def is_told(self, session_id: int) -> bool:
        return session_id in self._told

    def is_over(self, session_id: int) -> bool:
        """Whether the session has been told long enough ago to be closed (RFC 8811, section 3.2.2)."""
        at = self._told.get(session_id)
        return at is not None and self._monotonic() - at > GRACE

    def closed(self, session_id: int) -> None:
        self._told.pop(session_id, None)

    def _note(self, session_id: int) -> None:
        self._told.setdefault(session_id, self._monotonic())

    def _of(self, identity: Identity) -> Redirected | None:
        return self._standing.get(identity.domain_id, self._standing.get(None))
