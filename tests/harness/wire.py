"""A DOTS client made of bytes: every option and octet of a request is the test's own, every one of the answer is seen.

The session below is real DTLS or TLS against the running product. Bodies are written with the integer keys of RFC 9132,
section 6, so that a test shows what stands on the wire and not what our own encoder makes of it.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiocoap
import cbor2
from aiocoap import Code, Message
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import CON, NON
from aiocoap.optiontypes import OpaqueOption
from aiocoap.pipe import Pipe

from mitigation.client.identity import Files as ClientFiles
from mitigation.tls import CloseReason, Remote, connect
from mitigation.tls.client import Transport
from tests.harness.product import Files
from tests.harness.waiting import until

T = TypeVar("T")
GET, PUT, POST, DELETE = Code.GET, Code.PUT, Code.POST, Code.DELETE
DOTS = (".well-known", "dots")
CONTENT_FORMAT = 271
PATIENCE = 15.0  # seconds for any one answer


def scope(*prefixes: str, lifetime: int | None = 600, **others: Any) -> bytes:
    """The body of a mitigation request. `others` are more keys of the scope, as `k8=80` for key 8."""
    entry: dict[int, Any] = {6: list(prefixes)} if prefixes else {}
    if lifetime is not None:
        entry[14] = lifetime
    entry |= {int(name[1:]): value for name, value in others.items()}
    return cbor2.dumps({1: {2: [entry]}})


@dataclass(frozen=True)
class Reply:
    """One answer or notification. `code` as "2.01"; `at` by time.monotonic(), seconds."""

    code: str
    message: Message
    at: float

    @property
    def payload(self) -> bytes:
        return self.message.payload

    @property
    def diagnostic(self) -> str:
        """The text of a refusal; only where there is no content-format."""
        assert self.message.opt.content_format is None, self.message.opt.content_format
        return self.payload.decode()

    @property
    def body(self) -> Any:
        """The decoded CBOR; AssertionError unless it is announced as application/dots+cbor."""
        assert self.message.opt.content_format == CONTENT_FORMAT, (self.code, self.payload)
        return cbor2.loads(self.payload)

    @property
    def scopes(self) -> list[dict[int, Any]]:
        """The entries of a mitigation-scope, with integer keys."""
        return list(self.body[1][2])

    @property
    def scope(self) -> dict[int, Any]:
        """The only entry there is."""
        (only,) = self.scopes
        return only


@dataclass
class Watch:
    """An observation: everything that came, the first answer too."""

    replies: list[Reply] = field(default_factory=list)
    ended: bool = False
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _taken: int = 0

    def add(self, reply: Reply | None) -> None:
        with self._arrived:
            if reply is None:
                self.ended = True
            else:
                self.replies.append(reply)
            self._arrived.notify_all()

    def next(self, *, within: float = PATIENCE) -> Reply:
        """The next one not taken yet, in order; AssertionError when none comes."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.replies) > self._taken, within), "no notification came"
            self._taken += 1
            return self.replies[self._taken - 1]

    def until_status(self, status: int, *, within: float = 30.0) -> Reply:
        """The next notification whose only entry has this status."""
        deadline = time.monotonic() + within
        while True:
            reply = self.next(within=max(deadline - time.monotonic(), 0.01))
            if reply.code == "2.05" and reply.scope[16] == status:
                return reply


class _Answers:
    """Our side as a CoAP server: heartbeats get `hb`, and each request of the server is kept."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.hb = Code.CHANGED

    async def render_to_pipe(self, pipe: Pipe) -> None:
        self.requests.append(pipe.request)
        is_hb = tuple(pipe.request.opt.uri_path) == (*DOTS, "hb")
        pipe.add_response(Message(code=self.hb if is_hb else Code.NOT_FOUND), is_last=True)


class Peer:
    """One session of one client. Use `peer()` or the fixtures."""

    def __init__(self, files: Files, port: int, *, cuid: str = "", transport: Transport = "udp") -> None:
        self.files = files
        self.cuid = cuid or files.name  # nobody else's, as each domain has a name of its own
        self.transport = transport
        self._port = port
        self._mids = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.answers = _Answers()
        self.closed: CloseReason | None = None
        self._context = self._wait(self._make_context())
        self.remote: Remote = self._wait(self._connect())
        self._watching: list[Any] = []
        self._watches: list[Future[None]] = []

    def close(self) -> None:
        """End the session as a client that goes away does, with close_notify."""
        for request in self._watching:
            self._loop.call_soon_threadsafe(_cancel, request.observation)
        for watch in self._watches:
            watch.cancel()
        self._wait(self._context.shutdown())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    # -- the verbs of RFC 9132, section 4.4; `path` goes after /.well-known/dots

    def mid(self) -> int:
        """A mid higher than all before."""
        return next(self._mids)

    def put(self, mid: int | None = None, body: bytes = b"", *, cuid: str | None = None, **options: Any) -> Reply:
        return self.ask(PUT, self._mitigate(cuid, mid), body, **options)

    def get(self, mid: int | None = None, *, cuid: str | None = None, **options: Any) -> Reply:
        return self.ask(GET, self._mitigate(cuid, mid), **options)

    def delete(self, mid: int | None = None, *, cuid: str | None = None, **options: Any) -> Reply:
        return self.ask(DELETE, self._mitigate(cuid, mid), **options)

    def watch(self, mid: int | None = None, *, cuid: str | None = None, path: str = "", **options: Any) -> Watch:
        """GET with Observe 0; the first answer is the first of the watch. `path` instead of cuid and mid."""
        message = self.message(GET, path or self._mitigate(cuid, mid), observe=0, **options)
        watch = Watch()
        self._watches.append(asyncio.run_coroutine_threadsafe(self._watch(message, watch), self._loop))
        return watch

    def until_status(self, mid: int, status: int, *, within: float = 15.0) -> Reply:
        """Ask again until this mitigation has this status: sooner known than from notifications, which keep 3 s apart."""
        return until(lambda: self._with_status(mid, status), within=within, what=f"status {status} of mid {mid}")

    def _with_status(self, mid: int, status: int) -> Reply | None:
        reply = self.get(mid)
        return reply if reply.code == "2.05" and reply.scope[16] == status else None

    def ask(self, code: Code, path: str, payload: bytes = b"", **options: Any) -> Reply:
        """Any request; see `message` for options. AssertionError when no answer comes."""
        return self._wait(self._ask(self.message(code, path, payload, **options)))

    def message(
        self,
        code: Code,
        path: str,
        payload: bytes = b"",
        *,
        confirmable: bool = False,
        absolute: bool = False,
        raw: dict[int, bytes] | None = None,
        **options: Any,
    ) -> Message:
        """A request over this session. `path` without the prefix unless `absolute`; `options` as aiocoap names them.

        Content-Format is 271 where there is a payload unless given (None: without); `raw` adds options by number.
        """
        segments = tuple(part for part in path.split("/") if part)
        message = Message(code=code, uri_path=segments if absolute else (*DOTS, *segments), payload=payload)
        if payload:
            options.setdefault("content_format", CONTENT_FORMAT)
        for name, value in options.items():
            if value is not None:
                setattr(message.opt, name, value)
        for number, value in (raw or {}).items():
            message.opt.add_option(OpaqueOption(OptionNumber(number), value))
        if self.transport == "udp":
            message.mtype = CON if confirmable else NON
        message.remote = self.remote
        return message

    def send_bytes(self, datagram: bytes) -> None:
        """Bytes of a CoAP message as they are, inside the session."""
        self._loop.call_soon_threadsafe(self.remote.send_bytes, datagram)

    # -- inside

    def _mitigate(self, cuid: str | None, mid: int | None) -> str:
        return f"mitigate/cuid={self.cuid if cuid is None else cuid}" + ("" if mid is None else f"/mid={mid}")

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE + 5)

    async def _make_context(self) -> Any:
        return aiocoap.Context(serversite=self.answers, loggername="tests.wire")

    async def _connect(self) -> Remote:
        return await connect(
            self._context,
            "127.0.0.1",
            self._port,
            transport=self.transport,
            credentials=ClientFiles(self.files.ca, self.files.cert, self.files.key).credentials(),
            server_name="localhost",
            timeout=PATIENCE,
            closed=self._note_end,
        )

    def _note_end(self, remote: Remote, reason: CloseReason) -> None:
        self.closed = reason

    async def _ask(self, message: Message) -> Reply:
        request = self._context.request(message, handle_blockwise=False)
        answer = await asyncio.wait_for(request.response, PATIENCE)
        return _reply(answer)

    async def _watch(self, message: Message, watch: Watch) -> None:
        request = self._context.request(message, handle_blockwise=False)
        self._watching.append(request)
        answer = await asyncio.wait_for(request.response, PATIENCE)
        watch.add(_reply(answer))
        # Not by iteration, which forgets the last word when the end comes with it.
        request.observation.register_callback(
            lambda notification: watch.add(_reply(notification)), _suppress_deprecation=True
        )
        request.observation.register_errback(lambda error: watch.add(None), _suppress_deprecation=True)


def _reply(message: Message) -> Reply:
    return Reply(message.code.dotted, message, time.monotonic())


def _cancel(observation: Any) -> None:
    if not observation.cancelled:  # the server may have ended it
        observation.cancel()


@contextmanager
def peer(files: Files, port: int, *, cuid: str = "", transport: Transport = "udp") -> Iterator[Peer]:
    """A session for as long as the block lasts."""
    opened = Peer(files, port, cuid=cuid, transport=transport)
    try:
        yield opened
    finally:
        opened.close()
