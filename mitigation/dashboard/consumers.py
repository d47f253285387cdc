"""The one websocket: a page says what it shows, and gets the parts of it that change."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from mitigation.dashboard import formats
from mitigation.dashboard.live import hub
from mitigation.dashboard.painting import Snapshot, Watch, digest, find, painter

UNAUTHENTICATED = 4401
# Shortest time between two paints, in seconds; what happens meanwhile is folded into the next.
PAINT_GAP = 0.25
# A rendering that is slow rests longer, so that open pages never take more than a part of the process.
RESTING, LONGEST_REST = 3.0, 4.0
# How soon a logout or a locked account ends the feed, in seconds.
RECHECK = 10.0
LONGEST_ADDRESS = 2000

log = logging.getLogger(__name__)


class LiveConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Receives {"watch": "/path?query"}; sends ticks and paints (see docs/dashboard.md)."""

    # No channel layer: what changed arrives through the hub, so a bus that is away does not stop live pages.
    channel_layer_alias = None

    async def connect(self) -> None:
        await self.accept()
        self._painting: asyncio.Task[None] | None = None
        if not self.scope["user"].is_authenticated:
            # Accepted first: a refused handshake reaches scripts without its code.
            await self.close(code=UNAUTHENTICATED)
            return
        self._watch: Watch | None = None
        self._sent: dict[str, bytes] = {}
        self._orders: dict[str, list[str]] = {}
        self._states: dict[str, tuple[str, str, bool]] = {}
        self._news = asyncio.Event()
        self._checked_at = time.monotonic()
        hub.join(self)
        self._painting = asyncio.create_task(self._paint_forever(), name="live paints")

    async def disconnect(self, code: int) -> None:
        hub.leave(self)
        if self._painting is not None:
            self._painting.cancel()
            with suppress(asyncio.CancelledError):
                await self._painting

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_: Any) -> None:
        try:
            await self.receive_json(json.loads(text_data or ""))
        except ValueError:
            return

    async def receive_json(self, content: Any, **_: Any) -> None:
        address = content.get("watch") if isinstance(content, dict) else None
        if self._painting is None or not isinstance(address, str) or len(address) > LONGEST_ADDRESS:
            return
        parts = urlsplit(address)
        self._watch = find(parts.path, parts.query)
        self._sent.clear()
        self._orders.clear()
        self._states = {}
        self._news.set()

    def notice(self) -> None:
        self._news.set()

    async def _paint_forever(self) -> None:
        """Ends when the page may no longer see anything; the socket is then closed."""
        while True:
            await self._news.wait()
            self._news.clear()
            started = time.monotonic()
            try:
                if not await self._may_still_see():
                    await self.close(code=UNAUTHENTICATED)
                    return
                await self.send_json(await self._news_since_last())
            except Exception:
                # Not even a tick goes out: the page then says itself that it is no longer live.
                log.exception("a live update could not be rendered")
            took = time.monotonic() - started
            await asyncio.sleep(min(max(PAINT_GAP - took, RESTING * took), LONGEST_REST))

    async def _news_since_last(self) -> dict[str, Any]:
        watch = self._watch
        snapshot = await painter.snapshot(watch) if watch is not None else None
        if snapshot is None or watch is not self._watch:
            return {"at": formats.milliseconds(timezone.now())}
        return {"at": snapshot.at, **self._difference(snapshot)}

    def _difference(self, snapshot: Snapshot) -> dict[str, Any]:
        digests = {key: digest(html) for key, html in snapshot.parts.items()}
        parts = {key: snapshot.parts[key] for key, value in digests.items() if self._sent.get(key) != value}
        lists = {name: keys for name, keys in snapshot.lists.items() if self._orders.get(name) != keys}
        said = [
            {"text": sentence, "urgent": broken}
            for key, (word, sentence, broken) in snapshot.states.items()
            if self._states and self._states.get(key, ("",))[0] != word
        ]
        news: dict[str, Any] = {"layout": snapshot.layout}
        if parts or lists or not self._sent:
            news |= {"parts": parts, "lists": lists, "versions": dict(snapshot.versions)}
        if said:
            news["said"] = said
        self._sent, self._orders, self._states = digests, dict(snapshot.lists), dict(snapshot.states)
        return news

    async def _may_still_see(self) -> bool:
        if time.monotonic() - self._checked_at < RECHECK:
            return True
        self._checked_at = time.monotonic()
        session = self.scope.get("session")
        key = getattr(session, "session_key", None)
        return bool(await database_sync_to_async(_is_logged_in)(key, self.scope["user"].pk))


def _is_logged_in(session_key: str | None, user_id: int) -> bool:
    """Read again from the database: the session of the handshake knows nothing of a logout or a new password."""
    store = SessionStore(session_key)
    user = get_user_model().objects.filter(pk=user_id, is_active=True).first()
    if user is None or store.get(SESSION_KEY) != str(user_id):
        return False
    return constant_time_compare(store.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash())
