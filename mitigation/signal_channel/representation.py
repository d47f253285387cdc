"""A body as an answer: ETag, and Block2 where it does not fit one datagram (RFC 7959)."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from aiocoap import Code, Message
from aiocoap.optiontypes import BlockOption

from mitigation.exceptions import MalformedRequest
from mitigation.protocol.constants import CONTENT_FORMAT


def content(request: Message, payload: bytes, *, max_age: int, content_format: int = CONTENT_FORMAT) -> Message:
    """2.05 with the block asked for, or 2.03 where the peer has this very representation (never for later blocks).

    Raises MalformedRequest for a block past the end.
    """
    etag = hashlib.sha256(payload).digest()[:8]
    asked = request.opt.block2
    if etag in request.opt.etags and (asked is None or asked.block_number == 0):
        return Message(code=Code.VALID, etag=etag, max_age=max_age)
    message = Message(code=Code.CONTENT, content_format=content_format, etag=etag, max_age=max_age)
    _put_block(message, payload, asked, request.remote.maximum_block_size_exp)
    if request.opt.size2 == 0:
        message.opt.size2 = len(payload)
    return message


def notification(payload: bytes, *, number: int, max_age: int, largest_exponent: int) -> Message:
    """2.05 with Observe; of a long body only the first block (RFC 7959, section 2.6)."""
    etag = hashlib.sha256(payload).digest()[:8]
    message = Message(code=Code.CONTENT, content_format=CONTENT_FORMAT, etag=etag, max_age=max_age, observe=number)
    _put_block(message, payload, None, largest_exponent)
    return message


def _put_block(message: Message, payload: bytes, asked: BlockOption.BlockwiseTuple | None, largest: int) -> None:
    exponent = min(largest, 6)
    number = 0
    if asked is not None:
        # A block of the asked size begins in the same place whatever size we give; 7 (BERT) counts in 1024 octets as 6.
        exponent = min(asked.size_exponent, exponent)
        number = asked.start >> (exponent + 4)
    size = 1 << (exponent + 4)
    start = number * size
    if asked is None and len(payload) <= size:
        message.payload = payload
        return
    if start and start >= len(payload):
        raise MalformedRequest(f"block {number} lies past the end of {len(payload)} octets")
    message.payload = payload[start : start + size]
    message.opt.block2 = (number, start + size < len(payload), exponent)


_Key = tuple[int, tuple[str, ...], tuple[str, ...]]  # session, path, query

KEPT = 223.0  # seconds: EXCHANGE_LIFETIME with the parameters of RFC 9132
MAXIMUM_KEPT = 1_024


class Snapshots:
    """Bodies that are being fetched block by block, as they were when the first block was.

    A status counts its lifetime down every second, so a body of a hundred small blocks would change under its reader
    for ever, each time with a new ETag.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kept: OrderedDict[_Key, tuple[float, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, request: Message) -> bytes | None:
        """The body that a request for a later block goes on with; None for a first block, or when it was forgotten."""
        if request.opt.block2 is None or request.opt.block2.block_number == 0:
            return None
        self._forget_old()
        found = self._kept.get(_key(request))
        return found[1] if found else None

    def keep(self, request: Message, answer: Message, payload: bytes) -> None:
        """Remember what `answer` is the first block of; an answer that is whole needs no memory."""
        if answer.opt.block2 is None or not answer.opt.block2.more or answer.opt.block2.block_number:
            return
        self._kept.pop(_key(request), None)
        self._forget_old()
        self._kept[_key(request)] = (self._monotonic(), payload)

    def _forget_old(self) -> None:
        limit = self._monotonic() - KEPT
        while self._kept:
            key, (at, _) = next(iter(self._kept.items()))
            if at > limit and len(self._kept) < MAXIMUM_KEPT:
                return
            del self._kept[key]


def _key(request: Message) -> _Key:
    return request.remote.session_id, tuple(request.opt.uri_path), tuple(request.opt.uri_query)
