"""/.well-known/dots/mitigate: PUT, GET with Observe, DELETE (RFC 9132, section 4.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Protocol

from aiocoap import Code, Message
from aiocoap.pipe import Pipe
from channels.db import database_sync_to_async

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Mitigation
from mitigation.protocol import messages, paths
from mitigation.protocol.constants import CONTENT_FORMAT
from mitigation.protocol.early_filters import is_reserved
from mitigation.protocol.messages import Content
from mitigation.services.mitigations import Granted, Outcome, Refused, Submission, Withdrawal
from mitigation.signal_channel import options, reports
from mitigation.signal_channel.blocks import Blocks, with_block1
from mitigation.signal_channel.book import Identity
from mitigation.signal_channel.observers import Observers, State
from mitigation.signal_channel.representation import Snapshots, content
from mitigation.signal_channel.statuses import Key, Statuses


class Writer(Protocol):
    """Commits requests together and answers each after its commit."""

    async def submit(self, item: Submission | Withdrawal) -> Outcome | None: ...


class Mitigate:
    """The mitigation resource."""

    methods = (Code.GET, Code.PUT, Code.DELETE)
    needs_identity = True

    def __init__(self, writer: Writer, observers: Observers, statuses: Statuses, now: Callable[[], datetime]) -> None:
        self._writer = writer
        self._observers = observers
        self._statuses = statuses
        self._now = now
        self._blocks = Blocks()
        self._snapshots = Snapshots()

    @property
    def sizes(self) -> dict[str, int]:
        """How much is remembered of unfinished transfers."""
        return {"unfinished bodies": len(self._blocks), "snapshots": len(self._snapshots)}

    async def render(self, request: Message, identity: Identity | None, pipe: Pipe) -> Message | None:
        assert identity is not None  # the dispatcher refuses others
        if request.code == Code.PUT:
            return await self._put(request, identity)
        if request.code == Code.GET:
            return await self._get(request, identity, pipe)
        return await self._delete(request, identity)

    async def _put(self, request: Message, identity: Identity) -> Message:
        client_id, path = _asked_by(request, identity)
        payload = self._blocks.take(request)
        if payload is None:
            return with_block1(Message(code=Code.CONTINUE), request)
        wanted = messages.decode_mitigation(payload, path)
        submission = Submission(
            client_id,
            wanted,
            if_match=bool(request.opt.if_match),
            if_none_match=bool(request.opt.if_none_match),
        )
        outcome = await self._writer.submit(submission)
        self._statuses.forget(client_id, wanted.cdid, wanted.cuid, wanted.mid)
        if isinstance(outcome, Refused):
            raise outcome.error
        assert isinstance(outcome, Granted)
        answer = Message(
            code=Code.CREATED if outcome.created else Code.CHANGED,
            payload=messages.encode_grant(outcome.mid, outcome.lifetime, outcome.conflict),
            content_format=CONTENT_FORMAT,
        )
        return with_block1(answer, request)

    async def _delete(self, request: Message, identity: Identity) -> Message:
        client_id, path = _asked_by(request, identity)
        if path.cuid is None or path.mid is None:
            raise MalformedRequest("the path lacks " + ("cuid" if path.cuid is None else "mid"))
        await self._writer.submit(Withdrawal(client_id, path.cuid, path.mid, path.cdid or ""))
        self._statuses.forget(client_id, path.cdid or "", path.cuid, path.mid)
        return Message(code=Code.DELETED)

    async def _get(self, request: Message, identity: Identity, pipe: Pipe) -> Message | None:
        options.check_accept(request)
        client_id, path = _asked_by(request, identity)
        if path.cuid is None:
            raise MalformedRequest("the path lacks cuid")
        if (begun := self._snapshots.find(request)) is not None:
            return content(request, begun, max_age=int(self._observers.period))
        key = (client_id, path.cdid or "", path.cuid, path.mid)
        found = await self._statuses.find(key)
        if not found.rows:
            raise NotFound("there is no such mitigation" if path.mid is not None else "there is no mitigation")
        part = _part_asked_for(request)
        payload = found.encode(now=self._now(), part=part)
        answer = content(request, payload, max_age=int(self._observers.period))
        self._snapshots.keep(request, answer, payload)
        if not self._wants_to_observe(request, identity):
            return answer
        # The rest of a long notification is fetched by GET, block by block, and must be of the same state.
        keep = partial(self._snapshots.keep, request)
        await self._observers.serve(key, pipe, answer, lambda: self._state(key, part), keep)
        return None

    def _wants_to_observe(self, request: Message, identity: Identity) -> bool:
        later_block = request.opt.block2 is not None and request.opt.block2.block_number > 0
        has_room = self._observers.has_room(identity.client_id, request.remote.session_id)
        return request.opt.observe == 0 and not later_block and has_room

    async def _state(self, key: Key, part: Content) -> State:
        """What an observer is told now. The last word on one mitigation is its final status, then 4.04."""
        found = await self._statuses.find(key)
        if found.rows:
            active = any(_is_worth_repeating(mitigation) for mitigation in found.rows)
            return State(found.encode(now=self._now(), part=part), is_active=active, is_final=False)
        ended = await database_sync_to_async(reports.ended)(*key)
        payload = reports.encode(ended, now=self._now(), content=part) if ended else b""
        return State(payload, is_active=False, is_final=True)


def _asked_by(request: Message, identity: Identity) -> tuple[int, paths.Path]:
    """The client and the path; cdid counts only from a gateway that is trusted to send it (RFC 9132, section 4.4.1.2).

    A cdid that is declared equivalent to another gateway's is taken for that one.
    """
    path = paths.parse(request.opt.uri_path)
    if is_reserved(path.cuid):
        raise MalformedRequest("this cuid is kept for filters of the early draft; choose another one")
    if not identity.is_gateway:
        return identity.client_id, replace(path, cdid=None)
    client_id, cdid = identity.equivalents.get(path.cdid or "", (identity.client_id, path.cdid))
    return client_id, replace(path, cdid=cdid)


def _is_worth_repeating(mitigation: Mitigation) -> bool:
    """While active; and a preconfigured request that gave way tells status 7 four times before 8 (Table 3)."""
    return mitigation.is_active or mitigation.rearms


def _part_asked_for(request: Message) -> Content:
    """Uri-Query c=c, c=n or c=a; anything else is ignored, as by a server without that support (section 4.4.2)."""
    for query in request.opt.uri_query:
        name, _, value = query.partition("=")
        if name == "c" and value in {part.value for part in Content}:
            return Content(value)
    return Content.ALL
