"""lifetime and trigger-mitigation (RFC 9132, sections 4.4.1.1, 4.4.1.3 and 4.7), as clients see them.

What takes minutes with the standard's defaults is shown on an instance that is told shorter ones. That a lost session
needs 450 s by default is shown by `tests/signal_channel/test_presence.py` with a clock of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import cbor2
import pytest
import scenes
from conftest import Join

from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.waiting import until
from tests.harness.wire import PUT, Peer, Watch, peer, scope

ACTIVE = (1, 2, 4)
LIFETIME, START, STATUS = 14, 15, 16
NEVER = -1


def fall_silent(alice: Peer) -> None:
    """Say nothing more until the server has given the session up."""
    until(lambda: not alice.remote.is_open, within=20, what="the end of a silent session")


# -- lifetime


@pytest.mark.rows("SIG-LIF-003", "SIG-DEL-006")
def test_an_active_request_that_expires_goes_through_5_and_is_gone(hasty_join: Join, hasty_cast: Cast) -> None:
    alice = hasty_join("alice")
    alice.put(1, scope(scenes.only(hasty_cast), lifetime=1))

    scenes.until_status(alice, 1, 5)
    scenes.until_status(alice, 1, 0)
    assert alice.get().code == "4.04"


@pytest.mark.rows("SIG-LIF-003")
def test_an_armed_request_that_expires_is_gone_at_once(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast), lifetime=1, k45=False))
    seen = set()

    def gone() -> bool:
        seen.add(scenes.status_of(alice, 1))
        return 0 in seen

    until(gone, what="its end")
    assert seen == {8, 0}


@pytest.mark.rows("SIG-LIF-003")
def test_a_refresh_in_time_keeps_it(alice: Peer, cast: Cast) -> None:
    body = scope(scenes.only(cast), lifetime=2)
    alice.put(1, body)

    until(lambda: alice.get(1).scope[LIFETIME] <= 1, what="the last second")
    assert alice.put(1, body).code == "2.04"
    assert alice.get(1).scope[LIFETIME] == 2
    assert alice.get(1).scope[STATUS] in ACTIVE


@pytest.mark.rows("SIG-LIF-004", "SIG-LIF-006")
def test_an_indefinite_lifetime_is_granted_and_stays_minus_1(alice: Peer, cast: Cast, console: Console) -> None:
    console.run("Domain.objects.filter(name=name).update(grants_indefinite=True)", name=cast.domain.name)
    made = alice.put(1, scope(scenes.only(cast), lifetime=NEVER))

    assert made.scope[LIFETIME] == NEVER
    assert alice.get(1).scope[LIFETIME] == NEVER
    assert alice.get(1, uri_query=["c=n"]).scope[LIFETIME] == NEVER


@pytest.mark.rows("SIG-LIF-004")
def test_by_policy_it_is_granted_a_finite_lifetime(alice: Peer, cast: Cast, console: Console) -> None:
    console.run(
        "Domain.objects.filter(name=name).update(grants_indefinite=False, maximum_lifetime=7200)", name=cast.domain.name
    )

    made = alice.put(1, scope(scenes.only(cast), lifetime=NEVER))

    assert (made.code, made.scope[LIFETIME]) == ("2.01", 7200)
    assert 7198 <= alice.get(1).scope[LIFETIME] <= 7200


# -- trigger-mitigation


@pytest.mark.rows("SIG-LIF-008", "SIG-STA-004")
def test_trigger_mitigation_false_is_2_01_and_does_not_start(alice: Peer, cast: Cast) -> None:
    made = alice.put(1, scope(scenes.only(cast), k45=False))

    assert made.code == "2.01"
    shown = alice.get(1).scope
    assert shown[STATUS] == 8
    assert START not in shown
    assert shown[45] is False


@pytest.mark.rows("SIG-LIF-009", "SIG-LIF-016", "SIG-LIF-013", "SIG-STA-004")
def test_silence_starts_it_and_a_goodbye_does_not(hasty: Product, hasty_join: Join, hasty_cast: Cast) -> None:
    alice = hasty_join("alice")
    with peer(hasty_cast.bob, hasty.signal_port) as bob:
        bob.put(1, scope(scenes.only(hasty_cast, 2), k45=False))
        alice.put(1, scope(scenes.only(hasty_cast, 1), k45=False))
    fall_silent(alice)

    back = hasty_join("alice")
    scenes.until_status(back, 1, *ACTIVE)
    shown = back.get(1).scope

    assert START in shown
    # bob went at the same moment, in good order: he is away, not lost.
    assert hasty_join("bob").get(1).scope[STATUS] == 8


@pytest.mark.rows("SIG-LIF-010", "SIG-DEL-010")
def test_coming_back_does_not_stop_it_and_delete_does(hasty_join: Join, hasty_cast: Cast) -> None:
    alice = hasty_join("alice")
    body = scope(scenes.only(hasty_cast), k45=False)
    alice.put(1, body)
    fall_silent(alice)
    back = hasty_join("alice")
    scenes.until_status(back, 1, *ACTIVE)

    with scenes.talking(back):
        watch = back.watch(1)
        watch.next()
        watch.next()  # a period later
        assert watch.replies[-1].scope[STATUS] in ACTIVE
    assert back.put(1, body).code == "2.04"
    assert back.get(1).scope[STATUS] in ACTIVE

    back.delete(1)
    assert back.get(1).scope[STATUS] == 5
    scenes.until_status(back, 1, 0)


@pytest.mark.rows("SIG-LIF-014")
def test_a_heartbeat_interval_of_0_is_not_accepted(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast), k45=False))
    idle = {33: {36: 0}}  # heartbeat-interval, current-value

    for name in (44, 32):  # idle-config, mitigating-config
        assert alice.ask(PUT, "config/sid=1", cbor2.dumps({30: {name: idle}})).code.startswith("4.")
    assert alice.get(1).scope[STATUS] == 8


# -- one type gives way to the other


@pytest.mark.rows("SIG-OVL-007", "SIG-OVL-008", "SIG-LIF-009")
def test_a_loss_withdraws_immediate_requests_that_overlap(hasty_join: Join, hasty_cast: Cast) -> None:
    alice = hasty_join("alice")
    alice.put(5, scope(hasty_cast.domain.prefix, k45=False))
    alice.put(6, scope(scenes.only(hasty_cast)))
    alice.put(7, scope(hasty_cast.domain.prefix6))
    fall_silent(alice)

    back = hasty_join("alice")
    scenes.until_status(back, 5, *ACTIVE)
    told = {one[5]: one[STATUS] for one in back.get().scopes}
    assert told[6] == 7
    assert told[7] in ACTIVE


@dataclass
class Scene:
    """Two clients back after a loss, told everything of what the loss had started."""

    preempted: Watch
    scrubbed: Watch


@pytest.fixture(scope="module")
def scene(hasty: Product, hasty_console: Console) -> Iterator[Scene]:
    """One asks for an overlapping immediate mitigation then; the attack on the other ends."""
    scenes.needs_enforcement()
    casts = scenes.new_casts(hasty, 2)
    scenes.set_domain(hasty_console, casts[1], attack_over_after=2)
    with ExitStack() as stack:
        lost = [stack.enter_context(peer(cast.alice, hasty.signal_port)) for cast in casts]
        for cast, alice in zip(casts, lost, strict=True):
            alice.put(1, scope(cast.domain.prefix, lifetime=3600, k45=False))
        for alice in lost:
            fall_silent(alice)
        back = [stack.enter_context(peer(cast.alice, hasty.signal_port)) for cast in casts]
        for alice in back:
            stack.enter_context(scenes.talking(alice))
            scenes.until_status(alice, 1, 2)
        scene = Scene(*(alice.watch(1) for alice in back))
        scene.preempted.next()
        scene.scrubbed.next()
        back[0].put(2, scope(scenes.only(casts[0])))
        scenes.attack(casts[1], 50)
        for watch in (scene.scrubbed, scene.preempted):
            watch.until_status(8, within=60)
        yield scene


def statuses(watch: Watch) -> list[int]:
    return [reply.scope[STATUS] for reply in watch.replies]


@pytest.mark.slow
@pytest.mark.rows("SIG-LIF-012", "SIG-OVL-006", "SIG-OVL-008", "SIG-OBS-024")
def test_what_gave_way_to_an_immediate_request_tells_7_four_times_and_then_8(scene: Scene) -> None:
    told = statuses(scene.preempted)

    assert told[told.index(7) :] == [7, 7, 7, 7, 8]
    assert 5 not in told


@pytest.mark.slow
@pytest.mark.rows("SIG-LIF-011", "SIG-OBS-024", "SIG-STA-001")
def test_what_a_loss_started_tells_3_four_times_after_its_attack_and_then_8(scene: Scene) -> None:
    told = statuses(scene.scrubbed)

    assert told[told.index(3) :] == [3, 3, 3, 3, 8]
    assert set(told[: told.index(3)]) == {2}


@pytest.mark.slow
@pytest.mark.rows("SIG-LIF-011", "SIG-STA-004")
def test_armed_again_it_has_no_start(scene: Scene) -> None:
    for watch in (scene.preempted, scene.scrubbed):
        assert START not in watch.replies[-1].scope
        assert 0 < watch.replies[-1].scope[LIFETIME] < 3600
