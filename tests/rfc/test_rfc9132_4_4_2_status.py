"""status and the counters (RFC 9132, section 4.4.2, Table 3), as clients see them."""

from __future__ import annotations

import time

import pytest
import scenes

from tests.harness.console import Console
from tests.harness.product import Cast
from tests.harness.waiting import until
from tests.harness.wire import Peer, scope

START, STATUS = 15, 16
BYTES, BPS, PKTS, PPS = 25, 26, 27, 28
COUNTERS = {BYTES, BPS, PKTS, PPS}
PACKETS, OCTETS = 60, 100
LENGTH = OCTETS + 28  # with the headers of IPv4 and UDP


@pytest.fixture
def attacked(alice: Peer, cast: Cast) -> Peer:
    """alice, whose mitigation has dropped PACKETS packets."""
    scenes.needs_enforcement()
    alice.put(1, scope(scenes.only(cast)))
    scenes.until_status(alice, 1, 2)
    scenes.attack(cast, PACKETS, octets=OCTETS)
    until(lambda: alice.get(1).scope.get(PKTS) == PACKETS, what="the counters")
    return alice


@pytest.mark.rows("SIG-STA-001")
def test_a_request_begins_with_1_and_comes_to_2_when_its_rules_stand(alice: Peer, cast: Cast) -> None:
    scenes.needs_enforcement()
    alice.put(1, scope(scenes.only(cast)))
    watch = alice.watch(1)

    first = watch.next().scope[STATUS]
    assert first in (1, 2)
    if first == 1:
        watch.until_status(2)
    assert alice.get(1).scope[STATUS] == 2


@pytest.mark.rows("SIG-STA-001")
def test_more_than_can_be_enforced_is_4(alice: Peer, cast: Cast, console: Console) -> None:
    scenes.needs_enforcement()
    console.run("Domain.objects.filter(name=name).update(playbook='discard')", name=cast.domain.name)

    alice.put(1, scope(scenes.only(cast)))

    scenes.until_status(alice, 1, 4)
    alice.put(2, scope(scenes.only(cast), k7=[{8: 80}], k10=[6]))
    scenes.until_status(alice, 2, 2)


@pytest.mark.rows("SIG-STA-001", "SIG-STA-002")
def test_when_the_attack_stops_it_is_3_until_the_client_withdraws(alice: Peer, cast: Cast, console: Console) -> None:
    scenes.needs_enforcement()
    scenes.set_domain(console, cast, attack_over_after=5)
    alice.put(1, scope(scenes.only(cast), lifetime=3600))
    scenes.until_status(alice, 1, 2)
    scenes.attack(cast, PACKETS)
    scenes.until_status(alice, 1, 3)
    watch = alice.watch(1)
    assert watch.next().scope[STATUS] == 3

    scenes.attack(cast, PACKETS)
    watch.until_status(2)  # it goes on
    watch.until_status(3)
    alice.delete(1)
    watch.until_status(5)


@pytest.mark.rows("SIG-STA-003", "SIG-OVL-008")
def test_what_an_operator_stops_is_7(alice: Peer, cast: Cast, console: Console) -> None:
    alice.put(1, scope(scenes.only(cast)))

    scenes.stop(console, cast.alice, 1)

    assert alice.get(1).scope[STATUS] == 7


@pytest.mark.rows("SIG-STA-004")
def test_mitigation_start_is_there_while_active_and_never_with_8(alice: Peer, cast: Cast) -> None:
    now = time.time()
    alice.put(1, scope(scenes.only(cast, 1)))
    alice.put(2, scope(scenes.only(cast, 2), k45=False))
    alice.put(3, scope(scenes.only(cast, 3)))
    alice.delete(3)

    shown = {one[5]: one for one in alice.get().scopes}

    assert abs(shown[1][START] - now) < 5
    assert shown[3][STATUS] == 5
    assert START in shown[3]
    assert shown[2][STATUS] == 8
    assert START not in shown[2]


@pytest.mark.rows("SIG-STA-005", "SIG-STA-008")
def test_totals_are_what_the_equipment_dropped_since_the_start(attacked: Peer, cast: Cast) -> None:
    shown = attacked.get(1).scope
    assert (shown[PKTS], shown[BYTES]) == (PACKETS, PACKETS * LENGTH)

    scenes.attack(cast, PACKETS, octets=OCTETS)
    until(lambda: attacked.get(1).scope[PKTS] == 2 * PACKETS, what="the counters")
    assert attacked.get(1).scope[BYTES] == 2 * PACKETS * LENGTH


@pytest.mark.rows("SIG-STA-006")
def test_rates_are_octets_and_packets_a_second(attacked: Peer) -> None:
    began = attacked.get(1).scope[START]
    shown = attacked.get(1).scope
    seconds = max(1.0, time.time() - began)

    # Octets, not bits; averaged over at most the time since the start.
    assert shown[PPS] <= PACKETS
    assert shown[PPS] >= int(PACKETS / (seconds + 1))
    assert abs(shown[BPS] - shown[PPS] * LENGTH) <= LENGTH


@pytest.mark.rows("SIG-STA-007")
def test_while_active_all_four_counters_are_there(attacked: Peer) -> None:
    assert set(attacked.get(1).scope) >= COUNTERS
    assert set(attacked.get(1, uri_query=["c=n"]).scope) >= COUNTERS
    assert not COUNTERS & set(attacked.get(1, uri_query=["c=c"]).scope)
    attacked.delete(1)
    assert set(attacked.get(1).scope) >= COUNTERS  # terminating is active


@pytest.mark.rows("SIG-STA-007")
def test_what_is_not_active_has_no_counters(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast), k45=False))

    assert not COUNTERS & set(alice.get(1).scope)


@pytest.mark.rows("SIG-STA-009")
def test_every_accepted_request_has_a_status(alice: Peer, cast: Cast) -> None:
    for mid in range(1, 9):
        alice.put(mid, scope(scenes.only(cast, mid), k45=bool(mid % 2)))
        assert alice.get(mid).scope[STATUS] in range(1, 9)

    assert all(STATUS in one for one in alice.get().scopes)
    assert all(STATUS in one for one in alice.get(uri_query=["c=n"]).scopes)
