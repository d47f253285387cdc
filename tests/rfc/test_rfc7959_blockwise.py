"""Block-wise transfer (RFC 7959; RFC 8323, section 6) of mitigation requests and statuses, as clients see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
import scenes
from conftest import Join

from tests.harness.product import Cast, Product
from tests.harness.raw import Raw
from tests.harness.wire import PUT, Peer, Reply, scope

LARGEST = 16_384  # octets of a body
BERT = 7  # the size exponent


def long(cast: Cast, count: int = 60, **more: Any) -> bytes:
    """Many prefixes, in an armed request, so that equipment has nothing to do."""
    return scope(*(scenes.only(cast, number) for number in range(1, count + 1)), k45=False, **more)


def block(peer: Peer, body: bytes, number: int, *, exponent: int = 4, mid: int = 1, **options: Any) -> Reply:
    """PUT one block of a body."""
    size = 16 << exponent
    start = number * size
    more = start + size < len(body)
    return peer.put(mid, body[start : start + size], block1=(number, more, exponent), **options)


def blocks(body: bytes, exponent: int = 4) -> Iterator[int]:
    return iter(range(-(-len(body) // (16 << exponent))))


# -- Block2


@pytest.mark.rows("SIG-BLK-001")
def test_what_fits_has_no_block_option(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    assert alice.get(1).message.opt.block2 is None


@pytest.mark.rows("SIG-BLK-001")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_what_does_not_fit_begins_with_block_0(join: Join, cast: Cast, transport: str) -> None:
    alice = join("alice", transport=transport)
    body = long(cast, 200)
    for number in blocks(body, 6):
        last = block(alice, body, number, exponent=6)
    assert last.code == "2.01"

    first = alice.get(1)
    parts = [first.payload]
    while first.message.opt.block2.more:
        first = alice.get(1, block2=(len(parts), False, first.message.opt.block2.size_exponent))
        parts.append(first.payload)

    assert len(parts) > 2
    assert len(cbor2.loads(b"".join(parts))[1][2][0][6]) == 200


@pytest.mark.rows("SIG-BLK-002")
@pytest.mark.parametrize("exponent", range(7))
def test_a_wished_size_in_the_first_request_is_used(alice: Peer, cast: Cast, exponent: int) -> None:
    for mid in range(1, 46):
        alice.put(mid, scope(scenes.only(cast, mid), k45=False))

    answer = alice.get(block2=(0, False, exponent))

    assert answer.message.opt.block2 == (0, True, exponent)
    assert len(answer.payload) == 16 << exponent


@pytest.mark.rows("SIG-BLK-003")
def test_m_in_a_request_is_ignored(alice: Peer, cast: Cast) -> None:
    alice.put(1, long(cast, 30, lifetime=86_000))

    answers = [alice.get(1, block2=(1, more, 2)) for more in (False, True)]

    assert answers[0].payload == answers[1].payload
    assert answers[0].message.opt.block2 == answers[1].message.opt.block2


@pytest.mark.rows("SIG-BLK-001")
def test_a_block_past_the_end_is_4_00(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refused = alice.get(1, block2=(99, False, 2))

    assert refused.code == "4.00"
    assert "past the end" in refused.diagnostic


@pytest.mark.rows("SIG-BLK-005", "SIG-ERR-007")
def test_size_exponent_7_over_udp_is_4_00(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    for refused in (alice.get(1, block2=(0, False, 7)), alice.put(2, long(cast), block1=(0, False, 7))):
        assert refused.code == "4.00"
        assert "exponent 7" in refused.diagnostic
    assert alice.get(2).code == "4.04"


@pytest.mark.rows("SIG-BLK-005")
def test_the_server_never_sends_it_over_udp(alice: Peer, cast: Cast) -> None:
    alice.put(1, long(cast, 60))
    for mid in range(2, 32):
        alice.put(mid, scope(scenes.only(cast, 100 + mid), k45=False))

    assert alice.get().message.opt.block2.size_exponent <= 6


@pytest.mark.rows("SIG-BLK-012")
def test_size2_is_given_to_whoever_asks(alice: Peer, cast: Cast) -> None:
    alice.put(1, long(cast, 30))

    first = alice.get(1, block2=(0, False, 4), size2=0)

    assert first.message.opt.size2 > len(first.payload)
    assert alice.get(1, block2=(0, False, 4)).message.opt.size2 is None


# -- Block1


@pytest.mark.rows("SIG-BLK-006", "SIG-BLK-007", "SIG-ERR-006", "SIG-ERR-001")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("exponent", [0, 2, 4, 6])
def test_2_31_for_each_block_but_the_last(join: Join, cast: Cast, transport: str, exponent: int) -> None:
    alice = join("alice", transport=transport)
    body = long(cast, 25 if exponent < 2 else 180)

    replies = [block(alice, body, number, exponent=exponent) for number in blocks(body, exponent)]

    assert [reply.code for reply in replies] == ["2.31"] * (len(replies) - 1) + ["2.01"]
    for number, reply in enumerate(replies):
        assert reply.message.opt.block1.block_number == number
    assert all(reply.payload == b"" for reply in replies[:-1])
    assert replies[-1].scope == {5: 1, 14: 600}


@pytest.mark.rows("SIG-BLK-007")
def test_nothing_is_done_before_the_last_block(alice: Peer, cast: Cast) -> None:
    body = long(cast)
    *before, last = blocks(body)
    for number in before:
        assert block(alice, body, number).code == "2.31"
        assert alice.get(1).code == "4.04"

    assert block(alice, body, last).code == "2.01"
    assert alice.get(1, block2=(0, False, 6)).code == "2.05"


@pytest.mark.rows("SIG-BLK-007", "SIG-ERR-014")
def test_a_missing_block_is_4_08(alice: Peer, cast: Cast) -> None:
    body = long(cast)
    assert block(alice, body, 0).code == "2.31"

    refused = block(alice, body, 2)

    assert refused.code == "4.08"
    assert "missing" in refused.diagnostic
    assert alice.get(1).code == "4.04"


@pytest.mark.rows("SIG-BLK-008", "SIG-BLK-007", "SIG-ERR-014")
def test_a_last_block_of_what_is_not_remembered_is_4_08(alice: Peer, join: Join, cast: Cast) -> None:
    """That a body is dropped after 223 s is shown by tests/signal_channel/test_blocks.py, with a clock of its own."""
    body = long(cast)
    *before, last = blocks(body)
    for number in before:
        block(alice, body, number)

    assert block(join("alice"), body, last).code == "4.08"  # of another session
    assert block(alice, body, last, mid=2).code == "4.08"  # of another resource
    assert block(alice, body, last).code == "2.01"
    assert block(alice, body, last).code == "4.08"  # of what was handled


@pytest.mark.rows("SIG-BLK-009")
def test_beginning_again_replaces_what_was_begun(alice: Peer, cast: Cast) -> None:
    first, second = long(cast, 60), long(cast, 61, lifetime=900)
    for number in (0, 1):
        block(alice, first, number)

    replies = [block(alice, second, number) for number in blocks(second)]

    assert replies[-1].code == "2.01"
    assert replies[-1].scope[14] == 900


@pytest.mark.rows("SIG-BLK-009")
def test_the_memory_for_unfinished_bodies_is_bounded(
    alice: Peer, bob: Peer, mallory: Peer, cast: Cast, product: Product
) -> None:
    body = long(cast)[:256]
    raws = [Raw(one) for one in (alice, bob, mallory)]
    for mid in range(1, 401):
        for raw in raws:
            token = mid.to_bytes(2, "big")
            raw.send(PUT, raw.mitigate(mid), body, token=token, block1=(0, True, 4))
            assert raw.next(token).code.dotted == "2.31"

    assert scenes.remembered(product, "unfinished bodies") == 1_024


@pytest.mark.rows("SIG-BLK-012", "SIG-ERR-017")
def test_too_large_a_body_is_4_13_with_the_size_that_is_taken(alice: Peer) -> None:
    body = b"\x00" * (2 * LARGEST)
    code, number = "2.31", 0
    while code == "2.31":
        answer = block(alice, body, number, exponent=6)
        code, number = answer.code, number + 1

    assert code == "4.13"
    assert (number - 1) * 1024 == LARGEST
    assert answer.message.opt.size1 == LARGEST
    assert str(LARGEST) in answer.diagnostic
    assert block(alice, body, number, exponent=6).code == "4.08"


@pytest.mark.rows("SIG-BLK-012", "SIG-ERR-017")
def test_a_size_that_is_announced_as_too_large_is_4_13_at_once(alice: Peer) -> None:
    refused = block(alice, b"\x00" * 1_048_576, 0, exponent=6, size1=1_048_576)

    assert refused.code == "4.13"
    assert refused.message.opt.size1 == LARGEST


@pytest.mark.rows("SIG-BLK-013", "SIG-ERR-007")
def test_if_none_match_beyond_the_first_block_is_4_00(alice: Peer, cast: Cast) -> None:
    body = long(cast)
    assert block(alice, body, 0, if_none_match=True).code == "2.31"

    refused = block(alice, body, 1, if_none_match=True)

    assert refused.code == "4.00"
    assert "If-None-Match" in refused.diagnostic


@pytest.mark.rows("SIG-BLK-007", "SIG-ERR-007")
@pytest.mark.parametrize("octets", [0, 255, 257])
def test_a_block_that_is_not_of_its_size_is_4_00(alice: Peer, cast: Cast, octets: int) -> None:
    refused = alice.put(1, long(cast)[:octets], block1=(0, True, 4))

    assert refused.code == "4.00"
    assert "block" in refused.diagnostic


# -- BERT


@pytest.mark.rows("SIG-BLK-014", "SIG-BLK-005")
def test_over_tcp_several_blocks_come_in_one_message(join: Join, cast: Cast) -> None:
    alice = join("alice", transport="tcp")
    body = long(cast, 250)
    assert len(body) > 3_072

    first = alice.put(1, body[:2_048], block1=(0, True, BERT))
    last = alice.put(1, body[2_048:], block1=(2, False, BERT))

    assert (first.code, first.message.opt.block1) == ("2.31", (0, True, BERT))
    assert (last.code, last.scope) == ("2.01", {5: 1, 14: 600})


@pytest.mark.rows("SIG-BLK-014")
def test_over_tcp_a_bert_message_that_is_no_multiple_of_1024_is_4_00(join: Join, cast: Cast) -> None:
    refused = join("alice", transport="tcp").put(1, long(cast, 250)[:1_500], block1=(0, True, BERT))

    assert refused.code == "4.00"


@pytest.mark.rows("SIG-BLK-014")
def test_whoever_asks_for_bert_gets_blocks_of_1024_from_the_right_place(join: Join, cast: Cast) -> None:
    alice = join("alice", transport="tcp")
    body = long(cast, 250, lifetime=86_000)
    alice.put(1, body[:2_048], block1=(0, True, BERT))
    alice.put(1, body[2_048:], block1=(2, False, BERT))
    parts, more = [], True
    while more:
        reply = alice.get(1, block2=(len(parts), False, BERT))
        assert reply.message.opt.block2.size_exponent == 6
        parts.append(reply.payload)
        more = reply.message.opt.block2.more

    assert len(parts) > 2
    assert len(cbor2.loads(b"".join(parts))[1][2][0][6]) == 250
