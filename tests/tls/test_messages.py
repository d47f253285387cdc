"""CoAP messages on the wire: what is understood, and what is refused how."""

from __future__ import annotations

import pytest
from aiocoap import Message
from aiocoap.message import Direction
from aiocoap.numbers.codes import GET
from aiocoap.numbers.types import CON, NON
from hypothesis import given
from hypothesis import strategies as st

from mitigation.tls.messages import (
    FormatError,
    UnknownVersion,
    decode_datagram,
    decode_frame,
    encode_datagram,
    encode_frame,
    frame_layout,
)


def test_a_request_comes_out_as_it_went_in() -> None:
    sent = Message(code=GET, _mid=7, _mtype=NON, _token=b"tokn", uri_path=(".well-known", "dots"), payload=b"body")

    got = decode_datagram(encode_datagram(sent), "remote")

    assert (got.code, got.mid, got.mtype, got.token, got.payload) == (GET, 7, NON, b"tokn", b"body")
    assert got.opt.uri_path == (".well-known", "dots")
    assert got.remote == "remote" and got.direction is Direction.INCOMING


CON_HEAD, NON_HEAD = b"\x40\x01\x12\x34", b"\x50\x01\x12\x34"
MALFORMED = {
    "token of 9": lambda first: bytes([first | 9]) + b"\x01\x12\x34" + b"t" * 9,
    "token of 15": lambda first: bytes([first | 15]) + b"\x01\x12\x34" + b"t" * 15,
    "token cut short": lambda first: bytes([first | 8]) + b"\x01\x12\x34" + b"t" * 7,
    "marker without payload": lambda first: bytes([first]) + b"\x01\x12\x34\xb1a\xff",
    "reserved delta": lambda first: bytes([first]) + b"\x01\x12\x34\xf1a",
    "reserved length": lambda first: bytes([first]) + b"\x01\x12\x34\xbfa",
    "option cut short": lambda first: bytes([first]) + b"\x01\x12\x34\xb5ab",
    "extended delta cut short": lambda first: bytes([first]) + b"\x01\x12\x34\xe1\x01",
    "option beyond 65535": lambda first: bytes([first]) + b"\x01\x12\x34\xe0\xff\xff\xe0\xff\xff",
    "Empty with token": lambda first: bytes([first | 1]) + b"\x00\x12\x34t",
    "Empty with payload": lambda first: bytes([first]) + b"\x00\x12\x34\xffx",
    "text that is not UTF-8": lambda first: bytes([first]) + b"\x01\x12\x34\xb2\xff\xfe",
}


@pytest.mark.rows("SIG-COA-025")
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_rejected_when_confirmable(name: str) -> None:
    for head, mid in ((CON_HEAD, 0x1234), (NON_HEAD, None)):
        with pytest.raises(FormatError) as refused:
            decode_datagram(MALFORMED[name](head[0]), None)
        assert refused.value.mid == mid
        assert not isinstance(refused.value, UnknownVersion)


@pytest.mark.rows("SIG-COA-025")
@pytest.mark.parametrize("data", [b"", b"\x40\x01\x12", b"\x00\x01\x12\x34", b"\x80\x01\x12\x34", b"\xc0\x01\x12\x34"])
def test_an_unknown_version_is_ignored_without_a_word(data: bytes) -> None:
    with pytest.raises(UnknownVersion) as ignored:
        decode_datagram(data, None)
    assert ignored.value.mid is None


@pytest.mark.rows("SIG-COA-025")
@given(st.binary(max_size=64))
def test_whatever_comes_is_a_message_or_a_format_error(data: bytes) -> None:
    for head in (b"", CON_HEAD, NON_HEAD):
        try:
            message = decode_datagram(head + data, None)
        except FormatError:
            continue
        assert decode_datagram(_again(message), None).opt.option_list


def _again(message: Message) -> bytes:
    copy = message.copy()
    copy.direction = Direction.OUTGOING
    return encode_datagram(copy)


@pytest.mark.rows("SIG-TCP-006")
@pytest.mark.parametrize("size", [0, 1, 12, 13, 14, 268, 269, 270, 65804, 65805, 65806])
def test_frames_of_every_length_field_come_out_as_they_went_in(size: int) -> None:
    sent = Message(code=GET, _token=b"12345678", payload=b"x" * max(0, size - 1))

    frame = encode_frame(sent)
    got = decode_frame(frame, None)

    assert frame_layout(frame) == (len(frame), len(frame) - 8 - (size if size > 1 else 0), 8)
    assert (got.code, got.token, got.payload) == (GET, b"12345678", sent.payload)


@pytest.mark.rows("SIG-TCP-006")
def test_a_frame_has_neither_type_nor_message_id() -> None:
    assert encode_frame(Message(code=GET, _token=b"t", _mtype=CON, _mid=9)) == b"\x01\x01t"


@given(st.binary(max_size=40))
def test_a_length_is_known_as_soon_as_its_bytes_are_there(data: bytes) -> None:
    whole = frame_layout(data + bytes(5))
    assert whole is not None
    for end in range(6):
        known = frame_layout((data + bytes(5))[:end])
        assert known is None or known == whole


@pytest.mark.rows("SIG-TCP-013")
@pytest.mark.parametrize("frame", [b"\x09\x01" + b"t" * 9, b"\x20\x01\xb1", b"\x10\x01\xff", b"\x20\x01\xf1a"])
def test_a_malformed_frame_is_an_error(frame: bytes) -> None:
    with pytest.raises(FormatError):
        decode_frame(frame, None)
