"""A DOTS client: one session with a server, and what can be asked over it (RFC 9132, section 4.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import aiocoap
from aiocoap import Code, Message
from aiocoap.numbers.types import NON
from aiocoap.pipe import Pipe

from mitigation.exceptions import DotsError, MalformedRequest
from mitigation.protocol import messages
from mitigation.protocol.constants import CONTENT_FORMAT, PORT
from mitigation.protocol.paths import Path
from mitigation.protocol.scope import MitigationRequest
from mitigation.tls import Credentials, Remote, connect
from mitigation.tls.remotes import DotsTuning

Transport = Literal["udp", "tcp"]


class Declined(DotsError):
    """The server said no: `code` such as "4.00", and its diagnostic or conflict."""

    def __init__(self, code: str, diagnostic: str, entries: list[dict[str, Any]]) -> None:
        super().__init__(f"{code} {diagnostic}".rstrip())
        self.code = code
        self.diagnostic = diagnostic
        self.entries = entries


class NoAnswer(DotsError):
    """The session is up but nothing came back in time."""


class _Repeated(DotsTuning):
    """A request that is sent again every three seconds until it is answered (RFC 9132, section 4.4)."""

    NON_REPEAT = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: `code` such as "2.01", and the entries of its body under RFC names."""

    code: str
    entries: list[dict[str, Any]]


class DotsClient:
    """Use `open_client`."""

    def __init__(self, context: aiocoap.Context, remote: Remote, *, cuid: str, patience: float) -> None:
        self._context = context
        self._remote = remote
        self._patience = patience
        self.cuid = cuid

    @property
    def session(self) -> Remote:
        """The (D)TLS session below."""
        return self._remote

    async def mitigate(self, request: MitigationRequest) -> Answer:
        """Ask for a mitigation, or refresh it by asking again. Raises Declined or NoAnswer."""
        body = messages.encode_mitigation(request)
        return await self._ask(Code.PUT, Path("mitigate", cuid=request.cuid, mid=request.mid), body)

    async def status(self, mid: int | None = None) -> Answer:
        """One mitigation, or all of this cuid. Raises Declined (4.04: there is none) or NoAnswer."""
        return await self._ask(Code.GET, Path("mitigate", cuid=self.cuid, mid=mid))

    async def withdraw(self, mid: int) -> Answer:
        """Withdraw one; the server ends it after a grace period. Raises Declined or NoAnswer."""
        return await self._ask(Code.DELETE, Path("mitigate", cuid=self.cuid, mid=mid))

    async def observe(self, mid: int | None = None) -> AsyncIterator[Answer]:
        """The state now, and again whenever it changes; ends when the server says that it is gone."""
        path = Path("mitigate", cuid=self.cuid, mid=mid)
        message = self._message(Code.GET, path, b"")
        message.opt.observe = 0
        request = self._context.request(message, handle_blockwise=False)
        first = await self._wait(request.response)
        # aiocoap's own iteration keeps the newest only: the last status would be lost to the 4.04 that follows it.
        told: asyncio.Queue[Message | None] = asyncio.Queue()
        request.observation.register_callback(told.put_nowait, _suppress_deprecation=True)
        request.observation.register_errback(lambda error: told.put_nowait(None), _suppress_deprecation=True)
        try:
            yield await self._complete(Code.GET, path, b"", first)
            while (notification := await told.get()) is not None and notification.code.is_successful():
                yield await self._complete(Code.GET, path, b"", notification)
        finally:
            if not request.observation.cancelled:
                request.observation.cancel()

    async def _ask(self, code: Code, path: Path, body: bytes = b"") -> Answer:
        return await self._complete(code, path, body, await self._request(self._message(code, path, body)))

    async def _complete(self, code: Code, path: Path, body: bytes, first: Message) -> Answer:
        """The whole of which `first` may be the first block."""
        payload = first.payload
        while first.opt.block2 is not None and first.opt.block2.more:  # fetch the rest block by block
            more = self._message(code, path, b"")
            size = first.opt.block2.size_exponent
            more.opt.block2 = (len(payload) >> (size + 4), False, size)
            following = await self._request(more)
            if following.opt.etag != first.opt.etag:  # it changed meanwhile: from the beginning
                return await self._ask(code, path, body)
            payload += following.payload
            first = following
        return self._success(first, payload)

    async def _request(self, message: Message) -> Message:
        request = self._context.request(message, handle_blockwise=False)
        return await self._wait(request.response)

    async def _wait(self, response: Any) -> Message:
        try:
            return await asyncio.wait_for(response, self._patience)
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._patience:g} s") from None
        except aiocoap.error.Error as error:
            raise NoAnswer(f"the session ended: {error}") from None

    def _message(self, code: Code, path: Path, body: bytes) -> Message:
        message = Message(code=code, uri_path=path.as_segments(), payload=body, transport_tuning=_Repeated())
        if body:
            message.opt.content_format = CONTENT_FORMAT
        if self._remote.transport == "udp":
            message.mtype = NON  # mitigation requests are never confirmable (RFC 9132, section 4.4)
        message.remote = self._remote
        return message

    def _success(self, message: Message, payload: bytes | None = None) -> Answer:
        content = message.payload if payload is None else payload
        if message.code.is_successful():
            return Answer(message.code.dotted, messages.decode_reports(content) if content else [])
        if message.opt.content_format == CONTENT_FORMAT:
            raise Declined(message.code.dotted, message.code.name_printable, messages.decode_reports(content))
        raise Declined(message.code.dotted, content.decode(errors="replace"), [])


class _OwnResources:
    """What the server may ask of us: heartbeats (RFC 9132, section 4.7)."""

    async def render_to_pipe(self, pipe: Pipe) -> None:
        pipe.add_response(self._answer(pipe.request), is_last=True)

    def _answer(self, request: Message) -> Message:
        if tuple(request.opt.uri_path) != (".well-known", "dots", "hb"):
            return Message(code=Code.NOT_FOUND, payload=b"a DOTS client has /hb only")
        if request.code != Code.PUT:
            return Message(code=Code.METHOD_NOT_ALLOWED, payload=b"hb takes PUT only")
        try:
            messages.decode_heartbeat(request.payload)
        except MalformedRequest as refusal:
            return Message(code=Code.BAD_REQUEST, payload=str(refusal).encode())
        return Message(code=Code.CHANGED)


@asynccontextmanager
async def open_client(
    host: str,
    port: int = PORT,
    *,
    credentials: Credentials,
    cuid: str,
    transport: Transport = "udp",
    server_name: str | None = None,
    patience: float = 15.0,
) -> AsyncIterator[DotsClient]:
    """A session for as long as the block lasts. `patience` in seconds, for the session and for each answer.

    Raises tls.NoConnection.
    """
    context = aiocoap.Context(serversite=_OwnResources(), loggername="mitigation.client")
    try:
        remote = await connect(
            context,
            host,
            port,
            transport=transport,
            credentials=credentials,
            server_name=server_name,
            timeout=patience,
        )
        yield DotsClient(context, remote, cuid=cuid, patience=patience)
    finally:
        if context.request_interfaces:  # without any, when nothing was reached, aiocoap waits for nothing and fails
            await context.shutdown()
