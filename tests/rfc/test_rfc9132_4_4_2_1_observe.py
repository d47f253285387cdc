"""Observing mitigations (RFC 9132, section 4.4.2.1; RFC 7641), as clients see it."""

from __future__ import annotations

import time

import cbor2
import pytest
import scenes
from aiocoap.numbers.types import NON
from conftest import Join

from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.raw import Raw
from tests.harness.waiting import until
from tests.harness.wire import CONTENT_FORMAT, DELETE, GET, PUT, Peer, Reply, Watch, scope

GAP = 3.0  # seconds between notifications, at least
PERIOD = 7.0  # seconds, of the hasty instance
TOKEN, OTHER = b"\x4a", b"\x4b\x01"


def observers(product: Product) -> int:
    return scenes.remembered(product, "observers")


def gaps(replies: list[Reply]) -> list[float]:
    return [later.at - earlier.at for earlier, later in zip(replies, replies[1:], strict=False)]


def watched(peer: Peer, cast: Cast, mid: int = 1, **more: object) -> Watch:
    """A new mitigation that the peer watches."""
    assert peer.put(mid, scope(scenes.only(cast, mid), **more)).code == "2.01"
    watch = peer.watch(mid)
    assert watch.next().code == "2.05"
    return watch


@pytest.mark.rows("SIG-OBS-001", "SIG-OBS-002", "SIG-ERR-005")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_answer_to_a_registration_is_the_state_with_observe_and_the_token(
    join: Join, cast: Cast, transport: str
) -> None:
    alice = join("alice", transport=transport)
    alice.put(1, scope(scenes.only(cast)))
    raw = Raw(alice)

    raw.send(GET, raw.mitigate(1), token=TOKEN, observe=0)

    answer = raw.next(TOKEN)
    assert answer.code.dotted == "2.05"
    assert answer.opt.observe is not None
    assert cbor2.loads(answer.payload)[1][2][0][5] == 1


@pytest.mark.rows("SIG-OBS-001")
def test_what_is_not_there_cannot_be_watched(alice: Peer, cast: Cast) -> None:
    watch = alice.watch(1)

    answer = watch.next()
    assert (answer.code, answer.message.opt.observe) == ("4.04", None)


@pytest.mark.rows("SIG-OBS-003", "SIG-STA-001")
def test_each_change_of_status_is_told(alice: Peer, cast: Cast, console: Console) -> None:
    scenes.needs_enforcement()
    alice.put(1, scope(scenes.only(cast)))
    watch = alice.watch(1)

    watch.until_status(2)
    scenes.stop(console, cast.alice, 1)
    watch.until_status(7)


@pytest.mark.rows("SIG-OBS-003", "SIG-OBS-004", "SIG-OBS-005", "SIG-OBS-006", "SIG-OBS-016", "SIG-OBS-017")
def test_a_burst_of_changes_is_told_slowly_and_ends_with_the_latest_state(alice: Peer, cast: Cast) -> None:
    watch = watched(alice, cast)
    body = scope(scenes.only(cast, 1))

    ends = time.monotonic() + 6.5
    while time.monotonic() < ends:  # ten changes a second
        alice.delete(1)
        alice.put(1, body)
    alice.delete(1)
    watch.until_status(5)

    until(lambda: watch.replies[-1].scope[16] == 5 and time.monotonic() > watch.replies[-1].at + GAP, what="quiet")
    assert watch.replies[-1].scope[16] == 5
    assert min(gaps(watch.replies)) > GAP - 0.1
    assert 3 <= len(watch.replies) <= 6
    numbers = [reply.message.opt.observe for reply in watch.replies]
    assert numbers == sorted(set(numbers))
    assert all(number < 2**24 for number in numbers)
    for reply in watch.replies:
        assert reply.message.opt.content_format == CONTENT_FORMAT
        assert reply.message.opt.max_age == 30
        assert reply.message.mtype is NON


@pytest.mark.rows("SIG-OBS-008", "SIG-OBS-009")
def test_of_what_is_overridden_the_last_words_are_6_and_4_04(alice: Peer, cast: Cast) -> None:
    watch = watched(alice, cast)
    alice.put(2, scope(scenes.only(cast, 1)))

    last = watch.until_status(6)
    gone = watch.next()

    assert last.message.opt.observe is not None
    assert (gone.code, gone.message.opt.observe) == ("4.04", None)
    assert gone.diagnostic == "this mitigation has ended"
    until(lambda: watch.ended, what="the end")


@pytest.mark.rows("SIG-OBS-009")
def test_an_observer_of_what_ended_is_forgotten(alice: Peer, cast: Cast, product: Product) -> None:
    before = observers(product)
    watch = watched(alice, cast, k45=False)
    assert observers(product) == before + 1
    alice.delete(1)
    watch.until_status(6)

    assert watch.next().code == "4.04"
    until(lambda: observers(product) == before, what="one observer less")
    alice.put(1, scope(scenes.only(cast, 1), k45=False))
    assert observers(product) == before


@pytest.mark.rows("SIG-OBS-009", "SIG-OBS-008")
def test_what_expires_is_told_to_its_end(hasty_join: Join, hasty_cast: Cast) -> None:
    alice = hasty_join("alice")
    alice.put(1, scope(scenes.only(hasty_cast), lifetime=1))
    watch = alice.watch(1)
    with scenes.talking(alice):
        watch.until_status(6)

        gone = watch.next()
    assert (gone.code, gone.message.opt.observe) == ("4.04", None)


@pytest.mark.rows("SIG-OBS-010")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_same_token_again_renews_the_registration(
    join: Join, bob: Peer, cast: Cast, product: Product, transport: str
) -> None:
    alice = join("alice", transport=transport)
    alice.put(1, scope(scenes.only(cast)))
    before = observers(product)
    raw = Raw(alice)
    for _ in range(2):
        raw.send(GET, raw.mitigate(1), token=TOKEN, observe=0)
        assert raw.next(TOKEN).opt.observe is not None
    assert observers(product) == before + 1

    raw.send(DELETE, raw.mitigate(1), token=OTHER)
    told = [raw.next(TOKEN)]
    while cbor2.loads(told[-1].payload)[1][2][0][16] != 5:
        told.append(raw.next(TOKEN))

    assert raw.next_or_none(TOKEN, within=1) is None


@pytest.mark.rows("SIG-OBS-012")
def test_without_room_the_answer_has_no_observe_and_other_requests_get_through(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))
    raw = Raw(alice)
    answers = []
    for number in range(300):
        token = number.to_bytes(2, "big")
        raw.send(GET, raw.mitigate(1), token=token, observe=0)
        answers.append(raw.next(token))

    assert {answer.code.dotted for answer in answers} == {"2.05"}
    assert [answer.opt.observe is not None for answer in answers] == [True] * 128 + [False] * 172
    raw.send(DELETE, raw.mitigate(1), token=TOKEN)
    assert raw.next(TOKEN).code.dotted == "2.02"


@pytest.mark.rows("SIG-OBS-013", "SIG-OBS-014")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_observe_1_with_the_same_token_ends_it(
    join: Join, cast: Cast, product: Product, console: Console, transport: str
) -> None:
    alice = join("alice", transport=transport)
    alice.put(1, scope(scenes.only(cast)))
    before = observers(product)
    raw = Raw(alice)
    raw.send(GET, raw.mitigate(1), token=TOKEN, observe=0)
    raw.next(TOKEN)

    raw.send(GET, raw.mitigate(1), token=TOKEN, observe=1)

    answer = raw.next(TOKEN)
    while answer.opt.observe is not None:  # one that was under way
        answer = raw.next(TOKEN)
    assert (answer.code.dotted, answer.opt.observe) == ("2.05", None)
    assert observers(product) == before
    scenes.stop(console, cast.alice, 1)
    assert raw.next_or_none(TOKEN, within=GAP + 1) is None


@pytest.mark.rows("SIG-OBS-015", "SIG-OBS-013", "SIG-OBS-003")
def test_a_reset_to_a_notification_ends_it(alice: Peer, cast: Cast, product: Product) -> None:
    alice.put(1, scope(scenes.only(cast)))
    before = observers(product)
    raw = Raw(alice)
    raw.send(GET, raw.mitigate(1), token=TOKEN, observe=0)
    raw.next(TOKEN)
    raw.send(DELETE, raw.mitigate(1), token=OTHER)
    notification = raw.next(TOKEN)
    assert notification.mtype is NON

    raw.reset(notification)

    until(lambda: observers(product) == before, what="one observer less")
    raw.send(PUT, raw.mitigate(1), scope(scenes.only(cast)), token=OTHER)
    assert raw.next_or_none(TOKEN, within=GAP + 1) is None


@pytest.mark.rows("SIG-OBS-019")
def test_on_the_list_each_change_of_any_gives_the_whole_list(alice: Peer, cast: Cast) -> None:
    for mid in (1, 2, 3):
        alice.put(mid, scope(scenes.only(cast, mid)))
    watch = alice.watch()
    assert len(watch.next().scopes) == 3

    alice.delete(2)
    told = watch.next()
    while {one[5]: one[16] for one in told.scopes}[2] != 5:
        told = watch.next()
    assert [one[5] for one in told.scopes] == [1, 2, 3]

    alice.put(4, scope(scenes.only(cast, 4)))
    told = watch.next()
    while len(told.scopes) != 4:
        told = watch.next()


@pytest.mark.rows("SIG-OBS-020", "SIG-BLK-010", "SIG-BLK-004")
def test_of_a_long_list_the_first_block_is_told_and_the_rest_is_fetched(alice: Peer, cast: Cast) -> None:
    for mid in range(1, 41):
        alice.put(mid, scope(scenes.only(cast, mid), k45=False))
    watch = alice.watch()
    first = watch.next()
    alice.put(50, scope(scenes.only(cast, 50), k45=False))

    told = watch.next()

    assert first.message.opt.block2.block_number == told.message.opt.block2.block_number == 0
    assert told.message.opt.block2.more
    assert told.message.opt.etag != first.message.opt.etag
    parts, more = [told.payload], True
    while more:
        reply = alice.get(block2=(len(parts), False, told.message.opt.block2.size_exponent))
        assert reply.message.opt.observe is None
        assert reply.message.opt.etag == told.message.opt.etag
        parts.append(reply.payload)
        more = reply.message.opt.block2.more
    assert len(cbor2.loads(b"".join(parts))[1][2]) == 41
    assert len(watch.replies) == 2


@pytest.mark.rows("SIG-OBS-021")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_observers_end_with_their_session(join: Join, cast: Cast, product: Product, transport: str) -> None:
    before = observers(product)
    alice = join("alice", transport=transport)
    watched(alice, cast)
    assert observers(product) == before + 1

    alice.remote.cut()

    until(lambda: observers(product) == before, what="one observer less")


@pytest.mark.rows("SIG-OBS-021")
def test_a_client_that_is_lost_is_not_told_for_ever(hasty_join: Join, hasty_cast: Cast, hasty: Product) -> None:
    before = observers(hasty)
    alice = hasty_join("alice")
    watched(alice, hasty_cast)
    assert observers(hasty) == before + 1

    until(lambda: not alice.remote.is_open, within=15, what="the end of a silent session")
    until(lambda: observers(hasty) == before, what="one observer less")


@pytest.mark.rows("SIG-OBS-003", "SIG-OBS-024", "SIG-OBS-017")
def test_the_state_is_told_again_each_period_while_active_and_only_then(hasty_join: Join, hasty_cast: Cast) -> None:
    alice = hasty_join("alice")
    alice.put(1, scope(scenes.only(hasty_cast)))
    alice.put(2, scope(scenes.only(hasty_cast, 9), k45=False))
    scenes.until_status(alice, 1, 2, 4)
    active, armed = alice.watch(1), alice.watch(2)
    with scenes.talking(alice):
        until(lambda: len(active.replies) >= 4, within=40, what="four times the same")

    assert len({reply.scope[16] for reply in active.replies}) == 1
    assert len(armed.replies) == 1
    for seconds in gaps(active.replies)[1:]:
        assert PERIOD - 1 < seconds < PERIOD + 1.5
    assert {reply.message.opt.max_age for reply in active.replies} == {int(PERIOD)}
