"""Bodies that arrive in blocks (RFC 7959, section 2.5): put together, bounded, and handled once they are whole."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from aiocoap import Message

from mitigation.exceptions import IncompleteBody, MalformedRequest, TooLarge
from mitigation.protocol.body import MAXIMUM_OCTETS

EXCHANGE_LIFETIME = 223.0  # seconds, with the transmission parameters of RFC 9132
MAXIMUM_BODIES = 1_024  # unfinished ones of all sessions; the oldest gives way

_Key = tuple[int, tuple[str, ...]]  # session and path: a new transfer to the same resource replaces the old one


@dataclass(slots=True)
class _Body:
    began: float
    octets: bytearray = field(default_factory=bytearray)


class Blocks:
    """Unfinished bodies of one resource."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._unfinished: OrderedDict[_Key, _Body] = OrderedDict()

    def __len__(self) -> int:
        return len(self._unfinished)

    def take(self, request: Message) -> bytes | None:
        """The whole body once it is there, None while more is to come.

        Raises IncompleteBody for a block without those before it, TooLarge, and MalformedRequest for a block that
        is not of its size, or If-None-Match beyond the first block (section 2.10).
        """
        block = request.opt.block1
        if block is None:
            return bytes(request.payload)
        if request.opt.if_none_match and block.block_number:
            raise MalformedRequest("If-None-Match beyond the first block")
        if not block.is_valid_for_payload_size(len(request.payload)) or (block.more and not request.payload):
            raise MalformedRequest(f"{len(request.payload)} octets are no block of {block.size}")
        key = (request.remote.session_id, tuple(request.opt.uri_path))
        body = self._begin(key) if block.block_number == 0 else self._known(key, block.start)
        body.octets += request.payload
        announced = request.opt.size1 or 0
        if max(len(body.octets), announced) > MAXIMUM_OCTETS:
            del self._unfinished[key]
            raise TooLarge(f"the body is larger than {MAXIMUM_OCTETS} octets; send several requests")
        if block.more:
            return None
        del self._unfinished[key]
        return bytes(body.octets)

    def _begin(self, key: _Key) -> _Body:
        self._unfinished.pop(key, None)
        self._forget_old()
        body = self._unfinished[key] = _Body(self._monotonic())
        return body

    def _known(self, key: _Key, start: int) -> _Body:
        self._forget_old()
        body = self._unfinished.get(key)
        if body is None or len(body.octets) != start:
            raise IncompleteBody("blocks before this one are missing; begin again with the first")
        return body

    def _forget_old(self) -> None:
        limit = self._monotonic() - EXCHANGE_LIFETIME
        while self._unfinished:
            key, body = next(iter(self._unfinished.items()))
            if body.began > limit and len(self._unfinished) < MAXIMUM_BODIES:
                return
            del self._unfinished[key]


def with_block1(answer: Message, request: Message) -> Message:
    """The answer to a block says which one it answers (RFC 7959, section 2.3)."""
    if request.opt.block1 is not None:
        answer.opt.block1 = request.opt.block1
    return answer
