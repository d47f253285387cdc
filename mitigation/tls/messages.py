"""CoAP messages on the wire, over datagrams (RFC 7252, section 3) and over streams (RFC 8323, section 3.2).

aiocoap's own decoder lets format errors pass that must be answered with a Reset or an Abort; this one does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from aiocoap import Message
from aiocoap.message import Direction
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import Type

from mitigation.tls.remotes import DOTS_TUNING

VERSION: Final = 1
LONGEST_TOKEN: Final = 8
PAYLOAD_MARKER: Final = 0xFF
_TYPES: Final = tuple(Type)


class FormatError(Exception):
    """The bytes are no CoAP message. `mid` is set when they came confirmable, so that a Reset can answer them."""

    def __init__(self, reason: str, mid: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mid = mid


class UnknownVersion(FormatError):
    """To be ignored without a word (RFC 7252, section 3)."""


def decode_datagram(data: bytes, remote: Any) -> Any:
    """The aiocoap Message in a datagram.

    :raises FormatError: with `mid` when a Reset is due.
    """
    if len(data) < 4:
        raise UnknownVersion("shorter than a header")
    first = data[0]
    if first >> 6 != VERSION:
        raise UnknownVersion("unknown version")
    mid = data[2] << 8 | data[3]
    rejectable = mid if first & 0x30 == 0 else None
    length = first & 0x0F
    if length > LONGEST_TOKEN or 4 + length > len(data):
        raise FormatError("bad token length", rejectable)
    if data[1] == 0 and len(data) > 4:
        raise FormatError("an Empty message that is not empty", rejectable)
    message = Message(code=data[1], _mid=mid, _token=data[4 : 4 + length], transport_tuning=DOTS_TUNING)
    message.mtype = _TYPES[first >> 4 & 3]
    return _finish(message, data, 4 + length, remote, rejectable)


def encode_datagram(message: Any) -> bytes:
    encoded: bytes = message.encode()
    return encoded


def decode_frame(frame: bytes, remote: Any) -> Any:
    """The aiocoap Message in one whole frame of a stream.

    :raises FormatError: when the connection must be aborted.
    """
    _, start, length = frame_layout(frame) or (0, 0, 0)
    if length > LONGEST_TOKEN:
        raise FormatError("bad token length")
    message = Message(code=frame[start - 1], _token=frame[start : start + length], transport_tuning=DOTS_TUNING)
    return _finish(message, frame, start + length, remote, None)


def encode_frame(message: Any) -> bytes:
    body = message.opt.encode()
    if message.payload:
        body += b"\xff" + message.payload
    nibble, extended = _length_fields(len(body))
    head = bytes((nibble << 4 | len(message.token),)) + extended + bytes((message.code,))
    encoded: bytes = head + message.token + body
    return encoded


def frame_layout(data: bytes | bytearray) -> tuple[int, int, int] | None:
    """(size of the whole frame, where its token starts, token length); None when the length is not all there yet."""
    if not data:
        return None
    length, token = data[0] >> 4, data[0] & 0x0F
    size = {13: 1, 14: 2, 15: 4}.get(length, 0)
    if len(data) < 1 + size:
        return None
    if size:
        length = int.from_bytes(data[1 : 1 + size], "big") + {1: 13, 2: 269, 4: 65805}[size]
    start = 2 + size
    return start + token + length, start, token


def options(message: Any) -> Iterator[tuple[int, bytes]]:
    """(number, raw value) of each option."""
    for option in message.opt.option_list():
        yield int(option.number), option.encode()


def _length_fields(length: int) -> tuple[int, bytes]:
    if length < 13:
        return length, b""
    if length < 269:
        return 13, (length - 13).to_bytes(1, "big")
    if length < 65805:
        return 14, (length - 269).to_bytes(2, "big")
    return 15, (length - 65805).to_bytes(4, "big")


def _finish(message: Any, data: bytes, position: int, remote: Any, mid: int | None) -> Any:
    try:
        message.payload = _decode_options(message.opt, data, position)
    except ValueError as error:  # an IndexError cannot happen, a UnicodeDecodeError is a ValueError
        raise FormatError(str(error), mid) from None
    message.remote = remote
    message.direction = Direction.INCOMING
    return message


def _decode_options(target: Any, data: bytes, position: int) -> bytes:
    """Fill `target`, return the payload.

    :raises ValueError: for reserved nibbles, a marker without payload, or text that is not UTF-8.
    """
    number, end = 0, len(data)
    while position < end:
        first = data[position]
        if first == PAYLOAD_MARKER:
            if position + 1 == end:
                raise ValueError("a payload marker without payload")
            return data[position + 1 :]
        delta, position_after = _extended(first >> 4, data, position + 1)
        length, start = _extended(first & 0x0F, data, position_after)
        position = start + length
        if position > end:
            raise ValueError("an option longer than the message")
        number += delta
        if number > 0xFFFF:
            raise ValueError("an option number above 65535")
        target.add_option(_option_number(number).create_option(decode=data[start:position]))
    return b""


def _extended(nibble: int, data: bytes, position: int) -> tuple[int, int]:
    if nibble < 13:
        return nibble, position
    if nibble == 15:
        raise ValueError("a reserved option nibble")
    size = nibble - 12
    if position + size > len(data):
        raise ValueError("an option cut short")
    value = int.from_bytes(data[position : position + size], "big")
    return value + (13 if size == 1 else 269), position + size


@lru_cache(maxsize=256)
def _option_number(number: int) -> Any:
    return OptionNumber(number)
