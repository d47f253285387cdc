"""Bodies in blocks (RFC 7959, section 2.5)."""

from __future__ import annotations

import pytest
from aiocoap import PUT, Message
from coap_requests import FakeRemote, request

from mitigation.exceptions import IncompleteBody, MalformedRequest, TooLarge
from mitigation.signal_channel import blocks as module
from mitigation.signal_channel.blocks import EXCHANGE_LIFETIME, Blocks

BODY = bytes(range(256)) * 3


def block(
    number: int, *, size: int = 64, body: bytes = BODY, session: int = 1, path: str = "mid=1", **options: object
) -> Message:
    start = number * size
    more = start + size < len(body)
    exponent = size.bit_length() - 5
    message = request(
        PUT, "mitigate", "cuid=c", path, payload=body[start : start + size], block1=(number, more, exponent), **options
    )
    message.remote = FakeRemote(session_id=session)
    return message


@pytest.mark.rows("SIG-BLK-006", "SIG-BLK-007", "SIG-ERR-006")
@pytest.mark.parametrize("size", [16, 32, 64, 512])
def test_the_blocks_make_the_whole_and_nothing_is_kept(size: int) -> None:
    blocks = Blocks()
    taken = [blocks.take(block(number, size=size)) for number in range(-(-len(BODY) // size))]

    assert taken[-1] == BODY
    assert set(taken[:-1]) <= {None}
    assert len(blocks) == 0


def test_a_body_without_blocks_is_itself() -> None:
    assert Blocks().take(request(PUT, "mitigate", payload=b"x")) == b"x"


@pytest.mark.rows("SIG-BLK-007", "SIG-ERR-014")
def test_a_missing_block_is_408() -> None:
    blocks = Blocks()
    with pytest.raises(IncompleteBody):
        blocks.take(block(1))
    blocks.take(block(0))
    with pytest.raises(IncompleteBody):
        blocks.take(block(2))
    with pytest.raises(IncompleteBody):
        blocks.take(block(1, session=2))
    assert blocks.take(block(1)) is None


@pytest.mark.rows("SIG-BLK-008")
def test_an_unfinished_body_is_forgotten_in_time() -> None:
    now = [0.0]
    blocks = Blocks(lambda: now[0])
    blocks.take(block(0))
    now[0] = EXCHANGE_LIFETIME + 1

    with pytest.raises(IncompleteBody):
        blocks.take(block(1))
    assert len(blocks) == 0


@pytest.mark.rows("SIG-BLK-009", "SIG-SEC-016")
def test_beginning_again_replaces_and_the_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_BODIES", 10)
    blocks = Blocks()
    for number in range(1000):
        blocks.take(block(0, path=f"mid={number}"))
    blocks.take(block(0, path="mid=999"))

    assert len(blocks) == 10
    assert blocks.take(block(1, path="mid=999")) is None


@pytest.mark.rows("SIG-ERR-017", "SIG-SEC-016")
def test_a_body_that_grows_too_large_is_413() -> None:
    blocks = Blocks()
    huge = b"x" * 20_000
    with pytest.raises(TooLarge):
        for number in range(20):
            blocks.take(block(number, size=1024, body=huge))
    assert len(blocks) == 0


@pytest.mark.rows("SIG-BLK-013")
def test_if_none_match_stands_on_the_first_block_only() -> None:
    blocks = Blocks()
    blocks.take(block(0, if_none_match=True))
    with pytest.raises(MalformedRequest):
        blocks.take(block(1, if_none_match=True))


def test_a_short_block_in_the_middle_is_refused() -> None:
    message = block(0)
    message.payload = message.payload[:-1]
    with pytest.raises(MalformedRequest):
        Blocks().take(message)


@pytest.mark.rows("SIG-BLK-014")
def test_a_bert_message_holds_several_blocks_of_1024() -> None:
    blocks = Blocks()
    body = bytes(range(256)) * 12

    def bert(number: int, payload: bytes, *, more: bool) -> Message:
        return request(PUT, "mitigate", "cuid=c", "mid=1", payload=payload, block1=(number, more, 7))

    assert blocks.take(bert(0, body[:2048], more=True)) is None
    with pytest.raises(MalformedRequest):
        blocks.take(bert(2, body[2048:2500], more=True))
    assert blocks.take(bert(2, body[2048:], more=False)) == body
