"""Bodies of requests: bounded before they are read, strict JSON (RFC 7951 on RFC 7493), one member at the top."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from rest_framework.request import Request

from mitigation.data_channel import errors
from mitigation.data_channel.renderers import MEDIA_TYPE, NOT_STORED
from mitigation.protocol import strict_json
from mitigation.protocol.nodes import MODULE, Node
from mitigation.protocol.trees import INVALID, UNKNOWN

MAXIMUM_OCTETS = 4 * 1024 * 1024
PATIENCE = 1.0  # seconds for the rest of a body that is not taken

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]


class Limited:
    """An ASGI application that refuses a body over the limit: by its announced length, or as soon as it is passed."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if _announced(scope["headers"]) > MAXIMUM_OCTETS:
            await _refuse(receive, send)
            return
        taken = 0
        refused = False

        async def counted() -> Message:
            nonlocal taken, refused
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAXIMUM_OCTETS and not refused:
                refused = True
                await _refuse(receive, send)
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        await self._application(scope, counted, unless_refused)


def _announced(headers: list[tuple[bytes, bytes]]) -> int:
    text = next((value for name, value in headers if name == b"content-length"), b"0")
    return int(text) if text.isdigit() else 0


async def _refuse(receive: Receive, send: Send) -> None:
    """Answer at once, then let the peer finish for a moment: cut off amid its body it would never read the answer."""
    found = errors.body("too-big", f"a body has at most {MAXIMUM_OCTETS:,} octets", kind="transport")
    payload = json.dumps(found).encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"cache-control", NOT_STORED.encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": payload, "more_body": True})
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_drain(receive), PATIENCE)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    taken = 0
    while taken <= MAXIMUM_OCTETS:
        message = await receive()
        taken += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def read(request: Request) -> Any:
    """The JSON value. Raises BadMessage."""
    octets = request._request.body
    if not octets:
        raise errors.BadMessage("the request has no body", tag=INVALID)
    media_type = request.content_type.partition(";")[0].strip().lower()
    if media_type != MEDIA_TYPE:
        raise errors.BadMessage(f"a body is {MEDIA_TYPE}", tag=INVALID, http_status=415)
    try:
        return strict_json.loads(octets)
    except ValueError as error:
        raise errors.BadMessage(str(error)) from None


def only_member(value: Any) -> tuple[str, Any]:
    """The one member at the top of a body, without the name of its module. Raises BadMessage."""
    if not isinstance(value, Mapping) or len(value) != 1:
        raise errors.BadMessage("a body is an object with one member: the node that is meant", tag=INVALID)
    ((name, held),) = value.items()
    module, colon, bare = name.rpartition(":")
    if not colon or module != MODULE:
        sentence = f"the member at the top of a body begins with {MODULE}:, {name[:60]!r} does not"
        raise errors.BadMessage(sentence, tag=UNKNOWN)
    return bare, held


def named(node: Node, value: Any) -> dict[str, Any]:
    """An answer's body: the node under its name, with that of its module (RFC 7951, section 4)."""
    return {f"{node.module}:{node.name}": value}
