"""Retrieving mitigations (RFC 9132, section 4.4.2), as clients see it."""

from __future__ import annotations

import time

import cbor2
import pytest
import scenes
from conftest import Join

from tests.harness.product import Cast
from tests.harness.wire import GET, Peer, Reply, scope

CONFIGURATION = {6, 7, 8, 9, 10, 11, 12, 13, 45}
STATE = {15, 16, 17, 25, 26, 27, 28, 53}
MID, LIFETIME, STATUS = 5, 14, 16


def ask(peer: Peer, cast: Cast, mid: int = 1, **options: object) -> Reply:
    peer.put(mid, scope(scenes.only(cast), k7=[{8: 80}, {8: 443, 9: 444}], k10=[6, 17]))
    return peer.get(mid, **options)


def fill(peer: Peer, cast: Cast, count: int = 50) -> None:
    """So many mitigations that a list of them is far above one datagram; armed, so that equipment has nothing to do."""
    for number in range(1, count + 1):
        assert peer.put(number, scope(scenes.only(cast, number), k45=False)).code == "2.01"


def whole(peer: Peer, path: str = "", *, exponent: int = 6, **options: object) -> tuple[bytes, list[Reply]]:
    """The body in its blocks, as a client fetches them one by one."""
    replies: list[Reply] = []
    number, more = 0, True
    while more:
        reply = peer.ask(GET, path or f"mitigate/cuid={peer.cuid}", block2=(number, False, exponent), **options)
        replies.append(reply)
        block = reply.message.opt.block2
        assert (reply.code, block.block_number) == ("2.05", number), reply
        number, more, exponent = number + 1, block.more, block.size_exponent
    return b"".join(reply.payload for reply in replies), replies


@pytest.mark.rows("SIG-GET-001", "SIG-ERR-005")
def test_without_mid_all_with_mid_one(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast, 1)))
    alice.put(2, scope(scenes.only(cast, 2)))

    assert [one[MID] for one in alice.get().scopes] == [1, 2]
    assert alice.get(2).scope[6] == [scenes.only(cast, 2)]


@pytest.mark.rows("SIG-GET-001")
def test_a_client_sees_its_own_mitigations_only(alice: Peer, bob: Peer, mallory: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    for other in (bob, mallory):
        assert other.get().code == "4.04"
        assert other.get(1, cuid=alice.cuid).code == "4.04"


@pytest.mark.rows("SIG-GET-002", "SIG-ERR-011")
def test_an_unknown_mid_and_an_empty_list_are_4_04(alice: Peer, cast: Cast) -> None:
    assert alice.get().code == "4.04"
    alice.put(1, scope(scenes.only(cast)))

    assert alice.get(2).code == "4.04"
    assert alice.get(2).diagnostic == "there is no such mitigation"


@pytest.mark.rows("SIG-GET-003", "SIG-STA-009", "SIG-GET-008")
def test_the_body_has_a_map_for_each_with_mid_lifetime_and_status(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast, 1)))
    alice.put(2, scope(scenes.only(cast, 2), k45=False))
    body = alice.get().body

    assert set(body) == {1}
    assert set(body[1]) == {2}
    for entry in body[1][2]:
        assert {MID, LIFETIME, STATUS} <= set(entry)
        assert set(entry) <= {MID, LIFETIME} | CONFIGURATION | STATE
        assert 0 < entry[LIFETIME] <= 600


@pytest.mark.rows("SIG-GET-004")
def test_configuration_is_given_in_the_order_in_which_it_came(alice: Peer, cast: Cast) -> None:
    prefixes = [scenes.only(cast, number) for number in (9, 3, 200, 4)]
    ports = [{8: 443}, {8: 22, 9: 25}, {8: 80}]
    names = [f"{name}.{cast.domain.name}" for name in ("www", "mail", "a")]
    alice.put(1, scope(*prefixes, k7=ports, k10=[17, 6], k11=names))

    shown = alice.get(1).scope

    assert (shown[6], shown[7], shown[10], shown[11]) == (prefixes, ports, [17, 6], names)


@pytest.mark.rows("SIG-GET-005", "SIG-GET-008")
def test_c_n_is_state_without_configuration(alice: Peer, cast: Cast) -> None:
    shown = ask(alice, cast, uri_query=["c=n"]).scope

    assert not set(shown) & CONFIGURATION
    assert {MID, LIFETIME, STATUS} <= set(shown)


@pytest.mark.rows("SIG-GET-005")
def test_c_c_is_configuration_without_state(alice: Peer, cast: Cast) -> None:
    shown = ask(alice, cast, uri_query=["c=c"]).scope

    assert not set(shown) & STATE
    assert {6, 7, 10, MID} <= set(shown)


@pytest.mark.rows("SIG-GET-005")
def test_c_a_is_all_and_the_default(alice: Peer, cast: Cast) -> None:
    shown = ask(alice, cast, uri_query=["c=a"]).scope

    assert set(shown) == set(alice.get(1).scope)
    assert {6, 7, 10, MID, LIFETIME, STATUS} <= set(shown)


@pytest.mark.rows("SIG-GET-006")
@pytest.mark.parametrize("query", [["c=x"], ["z=1"], ["c"], ["c="], ["="], ["a" * 255], ["z=1", "c=x"]])
def test_other_queries_are_ignored(alice: Peer, cast: Cast, query: list[str]) -> None:
    shown = ask(alice, cast, uri_query=query).scope

    assert {6, MID, LIFETIME, STATUS} <= set(shown)


@pytest.mark.rows("SIG-GET-006")
def test_a_query_that_is_known_counts_beside_others(alice: Peer, cast: Cast) -> None:
    assert 6 not in ask(alice, cast, uri_query=["z=1", "c=n"]).scope


@pytest.mark.rows("SIG-GET-009", "SIG-BLK-001")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_list_above_one_datagram_begins_with_block_0(alice: Peer, cast: Cast, join: Join, transport: str) -> None:
    fill(alice, cast)
    reader = join("alice", transport=transport)

    first = reader.get()
    assert (first.message.opt.block2.block_number, first.message.opt.block2.more) == (0, True)
    assert len(first.payload) == 16 << first.message.opt.block2.size_exponent
    body, replies = whole(reader)
    assert len(replies) > 1
    assert [one[MID] for one in cbor2.loads(body)[1][2]] == list(range(1, 51))


@pytest.mark.rows("SIG-GET-009", "SIG-BLK-012")
def test_size2_is_told_to_whoever_asks_for_it(alice: Peer, cast: Cast) -> None:
    fill(alice, cast)

    assert alice.get().message.opt.size2 is None
    told = alice.get(size2=0).message.opt.size2
    assert told == len(whole(alice)[0])


@pytest.mark.rows("SIG-GET-010", "SIG-BLK-011")
@pytest.mark.parametrize("query", [["c=n"], ["c=a"], ["c=c"], []])
def test_each_block_carries_the_etag_of_the_whole(alice: Peer, cast: Cast, query: list[str]) -> None:
    fill(alice, cast)

    _, replies = whole(alice, uri_query=query)

    assert len({reply.message.opt.etag for reply in replies}) == 1
    assert replies[0].message.opt.etag


@pytest.mark.rows("SIG-GET-010", "SIG-BLK-004")
def test_the_etag_may_be_repeated_for_later_blocks_and_never_brings_2_03(alice: Peer, cast: Cast) -> None:
    fill(alice, cast)
    first = alice.get()
    etag = first.message.opt.etag

    second = alice.get(block2=(1, False, first.message.opt.block2.size_exponent), etags=[etag])

    assert second.code == "2.05"
    assert second.message.opt.etag == etag
    assert second.payload


@pytest.mark.rows("SIG-GET-010", "SIG-BLK-004")
def test_who_begins_again_after_a_change_gets_a_new_etag(alice: Peer, cast: Cast) -> None:
    fill(alice, cast)
    old = alice.get().message.opt.etag
    alice.put(60, scope(scenes.only(cast, 60)))

    assert alice.get().message.opt.etag != old
    body, _ = whole(alice)
    assert len(cbor2.loads(body)[1][2]) == 51


@pytest.mark.rows("SIG-BLK-004", "SIG-GET-010")
def test_a_change_between_blocks_does_not_mix_two_states(alice: Peer, cast: Cast) -> None:
    fill(alice, cast)
    first = alice.get()
    size, parts, more = first.message.opt.block2.size_exponent, [first.payload], True
    alice.put(70, scope(scenes.only(cast, 70)))
    while more:
        reply = alice.get(block2=(len(parts), False, size))
        assert reply.message.opt.etag == first.message.opt.etag
        parts.append(reply.payload)
        more = reply.message.opt.block2.more

    assert [one[MID] for one in cbor2.loads(b"".join(parts))[1][2]] == list(range(1, 51))


@pytest.mark.rows("SIG-GET-011")
@pytest.mark.parametrize("exponent", [0, 2, 4, 6])
def test_the_body_is_the_same_whatever_block_size_is_asked_for(alice: Peer, cast: Cast, exponent: int) -> None:
    fill(alice, cast, 12)

    body, replies = whole(alice, exponent=exponent)

    assert {reply.message.opt.block2.size_exponent for reply in replies} == {exponent}
    assert len(cbor2.loads(body)[1][2]) == 12


@pytest.mark.rows("SIG-GET-015")
@pytest.mark.parametrize("payload", [b"\xff" * 40, b"{}", cbor2.dumps({1: {2: [{14: 0}]}})])
@pytest.mark.parametrize("content_format", [None, 271, 60])
def test_a_body_of_get_is_ignored(alice: Peer, cast: Cast, payload: bytes, content_format: int | None) -> None:
    alice.put(1, scope(scenes.only(cast)))

    answer = alice.ask(GET, f"mitigate/cuid={alice.cuid}/mid=1", payload, content_format=content_format)

    assert answer.code == "2.05"
    assert answer.scope[MID] == 1
    assert alice.ask(GET, "mitigate/cuid=nobody", payload, content_format=content_format).code == "4.04"


@pytest.mark.rows("SIG-GET-016", "SIG-OBS-017")
def test_max_age_is_the_period_after_which_a_state_is_told_again(alice: Peer, cast: Cast) -> None:
    assert ask(alice, cast).message.opt.max_age == 30
    assert alice.get().message.opt.max_age == 30


@pytest.mark.rows("SIG-ERR-003")
def test_a_client_that_has_this_very_state_gets_2_03_without_a_body(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast), lifetime=-1, k45=False))
    known = alice.get(1).message.opt.etag

    same = alice.get(1, etags=[b"other", known])
    alice.put(2, scope(scenes.only(cast), lifetime=-1, k45=False))

    assert (same.code, same.payload, same.message.opt.etag) == ("2.03", b"", known)
    assert alice.get(2, etags=[known]).code == "2.05"


@pytest.mark.rows("SIG-LIF-002")
def test_the_remaining_lifetime_counts_down(alice: Peer, cast: Cast) -> None:
    began = time.monotonic()
    alice.put(1, scope(scenes.only(cast), lifetime=600))
    first = alice.get(1)

    scenes.until(lambda: alice.get(1).scope[LIFETIME] <= first.scope[LIFETIME] - 2, within=10, what="two seconds")

    assert 1 < time.monotonic() - began < 4
    assert alice.get().scopes[0][LIFETIME] == alice.get(1, uri_query=["c=n"]).scope[LIFETIME]
