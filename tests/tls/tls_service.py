"""A small CoAP service on loopback, on both transports, that keeps a diary."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiocoap
from aiocoap import Message
from aiocoap.numbers.codes import CHANGED, CONTENT, GET, NOT_FOUND, PUT
from aiocoap.numbers.constants import Reliable, Unreliable

from mitigation import tls
from mitigation.tls import CloseReason, Credentials, Identity, Listeners, Remote


async def eventually(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


class Site:
    """/a answers, PUT /a stores, /watch notifies when told to, /slow waits, /big is too big, /who names the peer."""

    def __init__(self) -> None:
        self.value = b"hello"
        self.changed = asyncio.Condition()
        self.watchers = 0
        self.release = asyncio.Event()
        self.requests: list[Any] = []

    async def render_to_pipe(self, pipe: Any) -> None:
        request = pipe.request
        self.requests.append(request)
        path = request.opt.uri_path
        if path == ("watch",) and request.opt.observe == 0:
            await self._watch(pipe)
        elif path == ("slow",):
            await self.release.wait()
            pipe.add_response(Message(code=CONTENT, payload=b"at last"), is_last=True)
        elif path == ("who",):
            pipe.add_response(Message(code=CONTENT, payload=request.remote.identity.subject.encode()), is_last=True)
        elif path == ("big",):
            pipe.add_response(Message(code=CONTENT, payload=b"x" * 20000), is_last=True)
        elif path not in (("a",), ("watch",), ("hb",)):
            pipe.add_response(Message(code=NOT_FOUND, payload=b"no such thing"), is_last=True)
        elif request.code == PUT:
            self.value = request.payload
            pipe.add_response(Message(code=CHANGED), is_last=True)
        else:
            pipe.add_response(Message(code=CONTENT, payload=self.value), is_last=True)

    async def change(self, value: bytes) -> None:
        async with self.changed:
            self.value = value
            self.changed.notify_all()

    async def _watch(self, pipe: Any) -> None:
        number = 1
        self.watchers += 1
        try:
            while True:
                message = Message(code=CONTENT, payload=self.value, observe=number, transport_tuning=Unreliable())
                pipe.add_response(message, is_last=False)
                number += 1
                async with self.changed:
                    await self.changed.wait()
        finally:
            self.watchers -= 1


@dataclass
class Service:
    """A running server and what happened to it."""

    context: Any
    site: Site
    credentials: Credentials
    udp: list[tuple[str, int]]
    tcp: list[tuple[str, int]]
    listeners: Listeners = None
    opened: list[Remote] = field(default_factory=list)
    closed: list[tuple[Remote, CloseReason]] = field(default_factory=list)
    asked: list[Identity] = field(default_factory=list)
    welcome: Callable[[Identity], bool] = lambda identity: True

    def address(self, transport: str, number: int = 0) -> tuple[str, int]:
        return (self.udp if transport == "udp" else self.tcp)[number]


@asynccontextmanager
async def serving(credentials: Credentials, *hosts: str, **limits: int) -> AsyncIterator[Service]:
    """Serve on free ports of the addresses given."""
    site = Site()
    context = aiocoap.Context(serversite=site)
    udp = [tls.open_udp(host, 0) for host in hosts or ("127.0.0.1",)]
    tcp = [tls.open_tcp(host, 0) for host in hosts or ("127.0.0.1",)]
    service = Service(
        context,
        site,
        credentials,
        [sock.getsockname()[:2] for sock in udp],
        [sock.getsockname()[:2] for sock in tcp],
    )

    def authorise(identity: Identity) -> bool:
        service.asked.append(identity)
        return service.welcome(identity)

    service.listeners = await tls.listen(
        context,
        credentials,
        udp_sockets=udp,
        tcp_sockets=tcp,
        authorise=authorise,
        opened=service.opened.append,
        closed=lambda remote, reason: service.closed.append((remote, reason)),
        **limits,
    )
    try:
        yield service
    finally:
        await service.listeners.close()
        await context.shutdown()


@dataclass
class Caller:
    """A client context with a site of its own, for requests in both directions."""

    context: Any
    site: Site
    credentials: Credentials
    closed: list[tuple[Remote, CloseReason]] = field(default_factory=list)

    async def connect(self, service: Service, transport: str, *, number: int = 0, **kwargs: Any) -> Remote:
        host, port = service.address(transport, number)
        host = kwargs.pop("host", host)
        kwargs.setdefault("credentials", self.credentials)
        kwargs.setdefault("server_name", "server.example")
        return await tls.connect(
            self.context,
            host,
            port,
            transport=transport,
            closed=lambda remote, reason: self.closed.append((remote, reason)),
            **kwargs,
        )


@asynccontextmanager
async def calling(credentials: Credentials) -> AsyncIterator[Caller]:
    site = Site()
    context = aiocoap.Context(serversite=site)
    try:
        yield Caller(context, site, credentials)
    finally:
        if context.request_interfaces:
            await context.shutdown()


async def ask(context: Any, remote: Remote, *path: str, code: Any = GET, reliable: bool = True, **kwargs: Any) -> Any:
    """One request and its response."""
    message = request_to(remote, *path, code=code, reliable=reliable, **kwargs)
    async with asyncio.timeout(10):
        return await context.request(message, handle_blockwise=False).response


def request_to(remote: Remote, *path: str, code: Any = GET, reliable: bool = True, **kwargs: Any) -> Message:
    tuning = Reliable() if reliable else Unreliable()
    message = Message(code=code, uri_path=path, transport_tuning=tuning, **kwargs)
    message.remote = remote
    return message


def silent_udp() -> socket.socket:
    """A bound socket that never answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock
