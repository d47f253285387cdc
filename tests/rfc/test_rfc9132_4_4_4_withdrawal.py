"""Withdrawing mitigations (RFC 9132, section 4.4.4), as clients see it."""

from __future__ import annotations

import time

import pytest
import scenes
from conftest import Join

from tests.harness.console import Console
from tests.harness.product import Cast
from tests.harness.waiting import until
from tests.harness.wire import Peer, scope

ACTIVE = (1, 2, 4)
PERIOD = 3  # seconds, of the hasty instance

ENDS_IN = """
row = Mitigation.objects.get(client__name=client, mid=mid)
result = [(row.ends_at - row.transitions.order_by("-pk").first().at).total_seconds(), row.last_grace]
"""


@pytest.fixture
def carol(hasty_join: Join) -> Peer:
    """alice of the instance whose terminating period is 3 s."""
    return hasty_join("alice")


@pytest.mark.rows("SIG-DEL-001", "SIG-ERR-002")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_delete_is_2_02_at_once_and_without_a_body(join: Join, cast: Cast, transport: str) -> None:
    alice = join("alice", transport=transport)
    alice.put(1, scope(scenes.only(cast)))
    asked = time.monotonic()

    deleted = alice.delete(1)

    assert (deleted.code, deleted.payload) == ("2.02", b"")
    assert deleted.message.opt.content_format is None
    assert deleted.at - asked < 1


@pytest.mark.rows("SIG-DEL-002", "SIG-ERR-002", "SIG-ERR-011")
def test_an_unknown_mid_is_2_02_too(alice: Peer, cast: Cast) -> None:
    assert alice.delete(1).code == "2.02"
    alice.put(1, scope(scenes.only(cast)))

    assert [alice.delete(1).code for _ in range(3)] == ["2.02"] * 3
    assert alice.delete(2).code == "2.02"


@pytest.mark.rows("SIG-DEL-002")
def test_what_is_another_clients_is_2_02_and_stays(alice: Peer, bob: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    assert bob.delete(1, cuid=alice.cuid).code == "2.02"
    assert alice.get(1).scope[16] in ACTIVE


@pytest.mark.rows("SIG-DEL-003", "SIG-STA-001")
def test_the_mitigation_goes_on_with_status_5(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    alice.delete(1)

    assert alice.get(1).scope[16] == 5
    assert 15 in alice.get(1).scope  # mitigation-start: it is still active


@pytest.mark.rows("SIG-DEL-004")
def test_the_first_period_is_120_s(alice: Peer, cast: Cast, console: Console) -> None:
    alice.put(1, scope(scenes.only(cast)))
    alice.delete(1)

    assert console.run(ENDS_IN, client=cast.alice.name, mid=1) == [120, 120]


@pytest.mark.rows("SIG-DEL-005")
def test_each_renewal_inside_the_period_doubles_it_up_to_300_s(alice: Peer, cast: Cast, console: Console) -> None:
    periods = []
    for _ in range(4):
        alice.put(1, scope(scenes.only(cast)))
        alice.delete(1)
        periods.append(console.run(ENDS_IN, client=cast.alice.name, mid=1)[0])

    assert periods == [120, 240, 300, 300]


@pytest.mark.rows("SIG-DEL-005", "SIG-PUT-015")
def test_the_same_request_inside_the_period_goes_on_without_a_gap(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))
    started = alice.get(1).scope[15]
    alice.delete(1)

    again = alice.put(1, scope(scenes.only(cast), lifetime=900))

    assert (again.code, again.scope[14]) == ("2.04", 900)
    assert alice.get(1).scope[16] in ACTIVE
    assert alice.get(1).scope[15] == started


@pytest.mark.rows("SIG-DEL-005", "SIG-DEL-006", "SIG-DEL-004")
def test_doubled_periods_are_really_waited_for(carol: Peer, hasty_cast: Cast) -> None:
    body = scope(scenes.only(hasty_cast))
    lasted = []
    for _ in range(2):
        carol.put(1, body)
        carol.put(2, scope(scenes.only(hasty_cast, 9)))
        carol.delete(1)
        carol.put(1, body)
        carol.delete(1)
        began = time.monotonic()
        until(lambda: carol.get(1).code == "4.04", within=15, every=0.2, what="the end of the period")
        lasted.append(time.monotonic() - began)

    # The second time begins anew: after a full period without a request it is PERIOD, doubled once.
    assert all(2 * PERIOD - 0.5 <= seconds <= 2 * PERIOD + 2.5 for seconds in lasted), lasted


@pytest.mark.rows("SIG-DEL-006", "SIG-STA-001", "SIG-OBS-009")
def test_when_the_period_ends_observers_see_6_and_then_4_04(carol: Peer, hasty_cast: Cast) -> None:
    carol.put(1, scope(scenes.only(hasty_cast)))
    watch = carol.watch(1)
    watch.next()

    with scenes.talking(carol):
        carol.delete(1)
        watch.until_status(5)
        watch.until_status(6)

        assert watch.next().code == "4.04"
    assert carol.get(1).code == "4.04"
    assert carol.get().code == "4.04"


@pytest.mark.rows("SIG-DEL-007")
def test_what_was_only_armed_is_gone_at_once(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast), k45=False))
    assert alice.get(1).scope[16] == 8

    alice.delete(1)

    assert alice.get(1).code == "4.04"


@pytest.mark.rows("SIG-DEL-008")
def test_a_client_may_withdraw_at_any_time(alice: Peer, cast: Cast) -> None:
    for mid in range(1, 6):
        alice.put(mid, scope(scenes.only(cast, mid)))
        assert alice.delete(mid).code == "2.02"

    assert {one[16] for one in alice.get().scopes} == {5}


@pytest.mark.rows("SIG-DEL-009")
def test_a_refresh_that_comes_after_its_delete_makes_a_new_mitigation(alice: Peer, cast: Cast) -> None:
    body = scope(scenes.only(cast), k45=False)
    alice.put(1, body)
    alice.delete(1)

    late = alice.put(1, body)

    assert (late.code, late.scope[5]) == ("2.01", 1)
    assert alice.get(1).scope[16] == 8


@pytest.mark.rows("SIG-DEL-009")
def test_a_refresh_after_the_end_of_the_period_is_new_too(carol: Peer, hasty_cast: Cast) -> None:
    body = scope(scenes.only(hasty_cast))
    carol.put(1, body)
    carol.delete(1)
    until(lambda: carol.get(1).code == "4.04", within=10, what="the end of the period")

    assert carol.put(1, body).code == "2.01"
    assert carol.get(1).scope[16] in ACTIVE
