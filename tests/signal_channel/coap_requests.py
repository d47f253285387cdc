"""CoAP messages and pipes without sockets: what a resource sees, and what it sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiocoap import Code, Message
from aiocoap.numbers.types import CON, NON


@dataclass(eq=False)
class FakeRemote:
    """A session of a client; the parts that resources look at."""

    transport: str = "udp"
    maximum_block_size_exp: int = 6
    session_id: int = 1

    def as_response_address(self) -> FakeRemote:
        return self


@dataclass(eq=False)
class FakePipe:
    """Collects what was answered."""

    request: Message
    sent: list[tuple[Message, bool]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def add_response(self, message: Message, is_last: bool = False) -> None:
        self.sent.append((message, is_last))
        self.arrived.set()

    @property
    def answer(self) -> Message:
        return self.sent[-1][0]


def request(code: Code, *segments: str, payload: bytes = b"", confirmable: bool = False, **options: Any) -> Message:
    """A request under /.well-known/dots; `options` as aiocoap names them."""
    message = Message(
        code=code,
        uri_path=(".well-known", "dots", *segments),
        payload=payload,
        _mtype=CON if confirmable else NON,
        _token=b"t",
        **options,
    )
    message.remote = FakeRemote()
    return message
