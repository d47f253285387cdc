"""coaps+tcp as aiocoap sees it: one token interface per context, for listeners and for connections of a client."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from aiocoap import Message, error, interfaces
from aiocoap.numbers.codes import INTERNAL_SERVER_ERROR

from mitigation.tls.errors import NotOpen, TooLarge
from mitigation.tls.events import CloseReason
from mitigation.tls.messages import encode_frame
from mitigation.tls.remotes import Remote

log = logging.getLogger(__name__)


class Closable(Protocol):
    """A listener: whoever owns sockets."""

    def close(self) -> None: ...


class Releasable(Protocol):
    """A connection, established or not."""

    @property
    def remote(self) -> Remote | None: ...

    def release(self, reason: CloseReason) -> None: ...


class StreamInterface(interfaces.TokenInterface):  # type: ignore[misc]
    """What the token layer of one aiocoap context sees of TLS; connections and listeners register here."""

    def __init__(self, token_layer: Any) -> None:
        self.token_layer = token_layer
        self.statistics: Counter[str] = Counter()
        self.owners: set[Closable] = set()
        self.connections: set[Releasable] = set()
        self.half_open: set[Releasable] = set()  # those of them whose handshake is not complete

    def send_message(self, message: Any, messageerror_monitor: Callable[..., None] | None) -> None:
        """Reliable transport: there is nothing to repeat and nobody to tell that a message was bad."""
        if message.code.is_response():
            silent = (message.opt.no_response or 0) & 1 << message.code.class_ - 1
            message.opt.no_response = None
            if silent:
                return
        try:
            message.remote.send_bytes(encode_frame(message))
        except TooLarge as too_large:
            self._refuse(message, too_large)
        except NotOpen as closed:
            if message.code.is_request():
                raise error.NetworkError(str(closed)) from closed

    async def fill_or_recognize_remote(self, message: Any) -> bool:
        return isinstance(message.remote, Remote) and getattr(message.remote, "interface", None) is self

    async def shutdown(self) -> None:
        for owner in list(self.owners):
            owner.close()
        for protocol in list(self.connections):
            protocol.release(CloseReason.SHUTDOWN)

    def _refuse(self, message: Any, too_large: TooLarge) -> None:
        self.statistics["too large"] += 1
        if message.code.is_request():
            raise error.NetworkError(str(too_large)) from too_large
        log.error("a message to %r is not sent: %s", message.remote, too_large)
        short = Message(code=INTERNAL_SERVER_ERROR, payload=b"the response is too large", _token=message.token)
        message.remote.send_bytes(encode_frame(short))
