"""/.well-known/v1/filter: the filters of draft-reddy-dots-transport-05, section 6.1, in JSON; off unless set.

The draft leaves the version out of the paths of GET and DELETE. For what it does not say the codes are those of its
signals (section 5.2).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from aiocoap import Code, Message
from aiocoap.pipe import Pipe
from django.db import DatabaseError

from mitigation.exceptions import MalformedRequest, Unavailable
from mitigation.protocol import early_filters as forms
from mitigation.protocol.constants import JSON
from mitigation.protocol.early_filters import EarlyFilter
from mitigation.protocol.edits import Taken
from mitigation.services.tree_writing import OverQuota
from mitigation.signal_channel import options
from mitigation.signal_channel.blocks import Blocks, with_block1
from mitigation.signal_channel.book import Identity
from mitigation.signal_channel.representation import Snapshots, content

WITH_VERSION = (".well-known", "v1", "filter")
WITHOUT_VERSION = (".well-known", "filter")
RETRY_AFTER = 5  # seconds, while the database takes nothing
MAX_AGE = 1  # seconds: lifetimes count down


class Store(Protocol):
    def __call__(self, client_id: int, wanted: EarlyFilter, *, now: datetime) -> Awaitable[int]: ...


class Remove(Protocol):
    def __call__(self, client_id: int, policy_id: int, *, now: datetime) -> Awaitable[None]: ...


class Shown(Protocol):
    def __call__(self, client_id: int, policy_id: int | None, *, now: datetime) -> Awaitable[list[dict[str, Any]]]: ...


class EarlyFilters:
    """One of the two paths; the three verbs are those of services.early_filters, awaited."""

    needs_identity = True

    def __init__(
        self,
        methods: Sequence[Code],
        *,
        store: Store,
        remove: Remove,
        shown: Shown,
        now: Callable[[], datetime],
    ) -> None:
        self.methods = methods
        self._store = store
        self._remove = remove
        self._shown = shown
        self._now = now
        self._blocks = Blocks()
        self._snapshots = Snapshots()

    async def render(self, request: Message, identity: Identity | None, pipe: Pipe) -> Message:
        assert identity is not None  # the dispatcher refuses others
        options.check_content_format(request, JSON)
        options.check_accept(request, JSON)
        payload = self._blocks.take(request)
        if payload is None:
            return with_block1(Message(code=Code.CONTINUE), request)
        try:
            return with_block1(await self._answer(request, identity.client_id, payload), request)
        except (Taken, OverQuota) as error:
            return Message(code=Code.CONFLICT, payload=str(error).encode())
        except DatabaseError as error:
            raise Unavailable("nothing can be stored or read now", retry_after=RETRY_AFTER) from error

    async def _answer(self, request: Message, client_id: int, payload: bytes) -> Message:
        if request.code == Code.GET:
            return await self._get(request, client_id, payload)
        if not payload:
            raise MalformedRequest("the request has no body")
        body = forms.read(payload)
        if request.code == Code.DELETE:
            await self._remove(client_id, forms.parse_policy_id(body), now=self._now())
            return Message(code=Code.DELETED)
        lifetime = await self._store(client_id, forms.parse(body), now=self._now())
        answer = json.dumps({**body, "lifetime": lifetime}).encode()
        return Message(code=Code.CREATED, payload=answer, content_format=JSON)

    async def _get(self, request: Message, client_id: int, payload: bytes) -> Message:
        if (begun := self._snapshots.find(request)) is not None:
            return content(request, begun, max_age=MAX_AGE, content_format=JSON)
        policy_id = forms.parse_policy_id(forms.read(payload)) if payload else None
        found = await self._shown(client_id, policy_id, now=self._now())
        representation = json.dumps({"policy-data": found}).encode()
        answer = content(request, representation, max_age=MAX_AGE, content_format=JSON)
        self._snapshots.keep(request, answer, representation)
        return answer
