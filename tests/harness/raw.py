"""Messages of one session with the type, Message ID and token that a test chooses; nothing is answered by itself."""

from __future__ import annotations

import itertools
import queue
import time
from typing import Any

from aiocoap import Code, Message
from aiocoap.numbers.types import ACK, NON, RST, Type

from mitigation.tls.messages import encode_frame
from tests.harness.wire import PATIENCE, Peer


class Raw:
    """Takes over what a peer receives: from then on the peer's own verbs get no answers."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._arrived: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._mids = itertools.count(40_000)
        interface = peer.remote.interface
        if peer.transport == "udp":
            interface.message_layer.dispatch_message = self._arrived.put
        else:
            interface.token_layer.process_response = self._arrived.put

    def mitigate(self, mid: int | None = None) -> str:
        return f"mitigate/cuid={self._peer.cuid}" + ("" if mid is None else f"/mid={mid}")

    def send(
        self,
        code: Code | int,
        path: str,
        payload: bytes = b"",
        *,
        token: bytes,
        kind: Type = NON,
        mid: int | None = None,
        **options: Any,
    ) -> int:
        """Send one request; returns its Message ID."""
        message = self._peer.message(Code(code), path, payload, **options)
        message.token = token
        if self._peer.transport == "tcp":
            self._peer.send_bytes(encode_frame(message))
            return 0
        message.mtype, message.mid = kind, next(self._mids) if mid is None else mid
        self._peer.send_bytes(message.encode())
        return int(message.mid)

    def reset(self, message: Message) -> None:
        """Reject what was received."""
        self._peer.send_bytes(bytes((0x40 | RST << 4, 0)) + int(message.mid).to_bytes(2, "big"))

    def next(self, token: bytes, *, within: float = PATIENCE) -> Message:
        """The next response under this token; AssertionError when none comes. Others, and the server's own, are dropped."""
        message = self.next_or_none(token, within=within)
        assert message is not None, f"nothing came under token {token.hex()}"
        return message

    def next_or_none(self, token: bytes, *, within: float) -> Message | None:
        deadline = time.monotonic() + within
        while True:
            try:
                message = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if message.code.is_response() and message.token == token:
                return message

    def next_empty(self, mid: int, *, within: float = PATIENCE) -> Message:
        """The ACK or RST to this Message ID."""
        deadline = time.monotonic() + within
        while True:
            message = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            if message.mtype in (ACK, RST) and message.mid == mid:
                return message
