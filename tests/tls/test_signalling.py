"""CoAP over a stream: what comes first, what is answered, what aborts (RFC 8323)."""

from __future__ import annotations

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import ABORT, CSM, EMPTY, GET, PING, PONG, RELEASE

from mitigation.tls.messages import decode_frame, encode_frame, frame_layout, options
from mitigation.tls.signalling import BASE_MESSAGE_SIZE, OUR_MESSAGE_SIZE, Channel

CSM_FRAME = b"\x00\xe1"
GET_FRAME = encode_frame(Message(code=GET, _token=b"t", uri_path=("a",)))


def said(channel: Channel) -> list[Message]:
    data, messages = channel.take_output(), []
    while data:
        size = frame_layout(data)[0]
        messages.append(decode_frame(data[:size], None))
        data = data[size:]
    return messages


def codes(channel: Channel) -> list[int]:
    return [message.code for message in said(channel)]


@pytest.fixture
def channel() -> Channel:
    made = Channel("remote")
    assert not list(made.receive(CSM_FRAME))
    return made


@pytest.mark.rows("SIG-TCP-001", "SIG-TCP-002", "SIG-TCP-003")
def test_our_settings_come_first_and_wait_for_nobody() -> None:
    channel = Channel(None)
    channel.hello()

    (csm,) = said(channel)

    assert csm.code == CSM
    assert dict(options(csm)) == {2: OUR_MESSAGE_SIZE.to_bytes(2, "big"), 4: b""}


@pytest.mark.rows("SIG-TCP-001")
@pytest.mark.parametrize("first", [GET_FRAME, b"\x00\xe2", b"\x00\xe4"])
def test_anything_before_the_peers_settings_aborts(first: bytes) -> None:
    channel = Channel(None)

    assert not list(channel.receive(first + CSM_FRAME + GET_FRAME))

    assert codes(channel) == [ABORT]
    assert "Capabilities" in channel.ended


def test_requests_come_out_whole_however_they_are_cut(channel: Channel) -> None:
    stream = (GET_FRAME + b"\x00\x00") * 3

    got = [message for byte in stream for message in channel.receive(bytes([byte]))]

    assert [message.opt.uri_path for message in got] == [("a",)] * 3
    assert {message.remote for message in got} == {"remote"}


@pytest.mark.rows("SIG-TCP-008")
def test_empty_messages_are_ignored(channel: Channel) -> None:
    assert encode_frame(Message(code=EMPTY)) == b"\x00\x00"

    assert [message.code for message in channel.receive(b"\x00\x00" + GET_FRAME + b"\x00\x00")] == [GET]
    assert channel.ended is None and not channel.take_output()


@pytest.mark.rows("SIG-TCP-009")
def test_a_ping_is_answered_with_its_token(channel: Channel) -> None:
    list(channel.receive(encode_frame(Message(code=PING, _token=b"4444"))))

    (pong,) = said(channel)
    assert (pong.code, pong.token) == (PONG, b"4444")


@pytest.mark.rows("SIG-TCP-010")
@pytest.mark.parametrize("code", [CSM, PING, PONG, RELEASE, ABORT])
def test_an_unknown_critical_option_aborts(channel: Channel, code: int) -> None:
    frame = b"\x20" + bytes([code]) + b"\x11x"  # option 1

    assert not list(channel.receive(frame + GET_FRAME))

    (abort,) = said(channel)
    assert abort.code == ABORT and b"option 1" in abort.payload
    assert dict(options(abort)) == ({2: b"\x01"} if code == CSM else {})


def test_an_unknown_elective_option_does_not(channel: Channel) -> None:
    assert not list(channel.receive(b"\x20\xe2\x61x"))

    assert codes(channel) == [PONG]


@pytest.mark.rows("SIG-TCP-003")
def test_the_peers_message_size_is_learned_and_may_change(channel: Channel) -> None:
    assert channel.peer_message_size == BASE_MESSAGE_SIZE

    list(channel.receive(b"\x30\xe1\x22\x02\x00"))
    assert channel.peer_message_size == 512
    list(channel.receive(b"\x30\xe1\x22\x20\x00"))
    assert channel.peer_message_size == 8192


@pytest.mark.rows("SIG-TCP-003", "SIG-TCP-013")
@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\x09\x01" + b"t" * 9, "token length"),
        (b"\x0f", "token length"),
        (b"\x20\x01\xf1a", "nibble"),
        (b"\x10\x01\xff", "marker"),
        (b"\xe0\xff\xff\x01", "Max-Message-Size"),
        (b"\xf0\xff\xff\xff\xff\x01", "Max-Message-Size"),
        (b"\x00\xe9", "signalling code"),
    ],
)
def test_what_cannot_be_understood_aborts_with_a_reason(channel: Channel, frame: bytes, reason: str) -> None:
    assert not list(channel.receive(frame + GET_FRAME))

    (abort,) = said(channel)
    assert abort.code == ABORT and reason in abort.payload.decode()
    assert channel.ended is not None


@pytest.mark.rows("SIG-TCP-018")
def test_a_release_is_noticed_behind_the_requests_before_it(channel: Channel) -> None:
    got = [message.code for message in channel.receive(GET_FRAME + b"\x00\xe4")]

    assert got == [GET]
    assert channel.released and channel.ended is None


def test_an_abort_of_the_peer_ends_the_channel_without_an_answer(channel: Channel) -> None:
    assert not list(channel.receive(encode_frame(Message(code=ABORT, payload=b"I give up")) + GET_FRAME))

    assert channel.ended == "the peer aborted: I give up"
    assert not channel.take_output()
