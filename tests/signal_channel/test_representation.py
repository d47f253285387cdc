"""Long answers come in blocks, each with the ETag of the whole (RFC 7959; RFC 9132, section 4.4.2)."""

from __future__ import annotations

import pytest
from aiocoap import GET, Code, Message
from coap_requests import FakeRemote, request

from mitigation.exceptions import MalformedRequest
from mitigation.signal_channel import options
from mitigation.signal_channel.representation import Snapshots, content, notification

BODY = bytes(range(256)) * 12


def get(**options: object) -> Message:
    return request(GET, "mitigate", "cuid=c", **options)


@pytest.mark.rows("SIG-GET-009", "SIG-GET-010", "SIG-BLK-001", "SIG-BLK-002", "SIG-BLK-011", "SIG-COA-027")
@pytest.mark.parametrize("exponent", [1, 2, 6])
def test_blocks_of_the_size_asked_for_make_the_whole(exponent: int) -> None:
    size = 1 << (exponent + 4)
    collected = b""
    etags = set()
    while True:
        answer = content(get(block2=(len(collected) // size, False, exponent)), BODY, max_age=30)
        collected += answer.payload
        etags.add(answer.opt.etag)
        assert len(answer.payload) <= size
        assert answer.opt.block2.size_exponent == exponent
        if not answer.opt.block2.more:
            break

    assert collected == BODY
    assert len(etags) == 1


@pytest.mark.rows("SIG-BLK-001", "SIG-GET-016")
def test_a_long_answer_begins_with_block_0_unasked_and_a_short_one_has_none() -> None:
    long = content(get(), BODY, max_age=30)
    short = content(get(), b"short", max_age=30)

    assert tuple(long.opt.block2) == (0, True, 6)
    assert len(long.payload) == 1024
    assert (short.payload, short.opt.block2, short.opt.max_age) == (b"short", None, 30)


@pytest.mark.rows("SIG-BLK-003")
def test_the_more_bit_of_a_request_is_ignored() -> None:
    assert content(get(block2=(1, True, 2)), BODY, max_age=1).payload == BODY[64:128]


@pytest.mark.rows("SIG-BLK-012")
def test_the_size_is_told_when_asked_for() -> None:
    assert content(get(size2=0), BODY, max_age=1).opt.size2 == len(BODY)


def test_a_block_past_the_end_is_refused() -> None:
    with pytest.raises(MalformedRequest):
        content(get(block2=(999, False, 6)), BODY, max_age=1)


@pytest.mark.rows("SIG-BLK-005")
def test_the_reserved_size_is_refused() -> None:
    with pytest.raises(MalformedRequest):
        options.check(get(block2=(0, False, 7)))


@pytest.mark.rows("SIG-ERR-003", "SIG-BLK-004")
def test_an_etag_validates_but_never_in_the_middle() -> None:
    etag = content(get(), BODY, max_age=1).opt.etag

    assert content(get(etags=[etag]), BODY, max_age=1).code is Code.VALID
    assert content(get(etags=[b"other"]), BODY, max_age=1).code is Code.CONTENT
    middle = content(get(etags=[etag], block2=(1, False, 6)), BODY, max_age=1)
    assert (middle.code, middle.payload) == (Code.CONTENT, BODY[1024:2048])


@pytest.mark.rows("SIG-BLK-010", "SIG-OBS-017", "SIG-OBS-020")
def test_a_notification_carries_the_first_block_only() -> None:
    message = notification(BODY, number=7, max_age=30, largest_exponent=5)

    assert (message.opt.observe, message.opt.max_age) == (7, 30)
    assert tuple(message.opt.block2) == (0, True, 5)
    assert message.payload == BODY[:512]


@pytest.mark.rows("SIG-GET-010", "SIG-BLK-004")
def test_later_blocks_go_on_with_the_body_the_first_was_of() -> None:
    snapshots = Snapshots()
    first = get(block2=(0, False, 2))
    snapshots.keep(first, content(first, BODY, max_age=1), BODY)

    assert snapshots.find(get(block2=(0, False, 2))) is None
    assert snapshots.find(get(block2=(3, False, 2))) == BODY
    assert snapshots.find(get(block2=(3, False, 2), uri_query=("c=n",))) is None
    assert snapshots.find(get()) is None


@pytest.mark.rows("SIG-SEC-016")
def test_bodies_are_forgotten_in_time_and_bounded() -> None:
    now = [0.0]
    snapshots = Snapshots(lambda: now[0])
    for session in range(2000):
        message = get(block2=(0, False, 2))
        message.remote = FakeRemote(session_id=session)
        snapshots.keep(message, content(message, BODY, max_age=1), BODY)
    assert len(snapshots) == 1024

    now[0] = 1000.0
    assert snapshots.find(message) is None
    late = get(block2=(1, False, 2))
    late.remote = FakeRemote(session_id=1999)
    assert snapshots.find(late) is None
    assert len(snapshots) == 0


def test_a_body_that_fits_is_not_kept() -> None:
    snapshots = Snapshots()
    message = get()
    snapshots.keep(message, content(message, b"short", max_age=1), b"short")

    assert len(snapshots) == 0
