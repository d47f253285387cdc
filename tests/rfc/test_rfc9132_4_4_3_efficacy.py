"""Efficacy updates (RFC 9132, section 4.4.3), as clients see them."""

from __future__ import annotations

from typing import Any

import pytest
import scenes

from tests.flows.durability_state import locked
from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.raw import Raw
from tests.harness.wire import PUT, Peer, Reply, scope

UNDER_ATTACK, MITIGATED = 1, 2
IF_MATCH = {1: b""}  # option 1 with an empty value
TOKEN, OTHER = b"\x01", b"\x02"


def update(peer: Peer, cast: Cast, status: int = UNDER_ATTACK, *, mid: int = 1, **more: Any) -> Reply:
    return peer.put(mid, scope(scenes.only(cast), k29=status, **more), raw=IF_MATCH)


@pytest.mark.rows("SIG-EFF-001", "SIG-EFF-005", "SIG-ERR-004")
@pytest.mark.parametrize("status", [UNDER_ATTACK, MITIGATED])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_update_is_2_04_and_a_refresh(join: Any, cast: Cast, status: int, transport: str) -> None:
    alice = join("alice", transport=transport)
    alice.put(1, scope(scenes.only(cast), lifetime=300))

    done = update(alice, cast, status, lifetime=900)

    assert (done.code, done.scope) == ("2.04", {5: 1, 14: 900})
    assert 898 <= alice.get(1).scope[14] <= 900


@pytest.mark.rows("SIG-EFF-005")
def test_without_lifetime_as_in_figure_16_what_remains_is_kept(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast), lifetime=300))

    done = update(alice, cast, lifetime=None)

    assert done.code == "2.04"
    assert 298 <= alice.get(1).scope[14] <= 300


@pytest.mark.rows("SIG-EFF-004", "SIG-ERR-007")
@pytest.mark.parametrize("change", [{"k10": [6]}, {"k7": [{8: 80}]}, {"k45": False}])
def test_any_other_change_is_4_00(alice: Peer, cast: Cast, change: dict[str, Any]) -> None:
    alice.put(1, scope(scenes.only(cast)))
    before = alice.get(1).scope

    refused = update(alice, cast, lifetime=900, **change)

    assert refused.code == "4.00"
    assert "other parameters" in refused.diagnostic
    assert set(alice.get(1).scope) == set(before)
    assert alice.get(1).scope[14] <= before[14]


@pytest.mark.rows("SIG-EFF-004")
def test_another_prefix_is_4_00(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refused = alice.put(1, scope(scenes.only(cast, 9), k29=UNDER_ATTACK), raw=IF_MATCH)

    assert refused.code == "4.00"
    assert alice.get(1).scope[6] == [scenes.only(cast)]


@pytest.mark.rows("SIG-EFF-002", "SIG-ERR-007")
def test_if_match_without_attack_status_is_4_00(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refused = alice.put(1, scope(scenes.only(cast)), raw=IF_MATCH)

    assert refused.code == "4.00"
    assert "attack-status" in refused.diagnostic


@pytest.mark.rows("SIG-EFF-008", "SIG-ERR-007")
@pytest.mark.parametrize("status", [0, 3, 255])
def test_another_attack_status_is_4_00(alice: Peer, cast: Cast, status: int) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refused = update(alice, cast, status)

    assert refused.code == "4.00"
    assert "attack-status" in refused.diagnostic


@pytest.mark.rows("SIG-EFF-008")
def test_attack_status_without_if_match_is_an_update_where_there_is_something(alice: Peer, cast: Cast) -> None:
    body = scope(scenes.only(cast), lifetime=900, k29=MITIGATED)
    refused = alice.put(1, body)
    assert refused.code == "4.00"
    assert "attack-status" in refused.diagnostic
    alice.put(1, scope(scenes.only(cast), lifetime=300))

    assert alice.put(1, body).code == "2.04"
    assert alice.get(1).scope[14] > 300


@pytest.mark.rows("SIG-EFF-006", "SIG-ERR-016")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_for_an_unknown_mid_there_is_no_answer_and_nothing_is_made(join: Any, cast: Cast, transport: str) -> None:
    alice = join("alice", transport=transport)
    raw = Raw(alice)
    body = scope(scenes.only(cast), k29=UNDER_ATTACK)

    raw.send(PUT, raw.mitigate(1), body, token=TOKEN, raw=IF_MATCH)
    raw.send(PUT, "hb", b"\xa1\x18\x31\xa1\x18\x33\xf5", token=OTHER)

    assert raw.next(OTHER).code.dotted == "2.04"  # a later request is answered
    assert raw.next_or_none(TOKEN, within=0.5) is None
    assert join("alice").get(1).code == "4.04"


@pytest.mark.rows("SIG-EFF-006")
def test_a_late_update_does_not_bring_back_what_was_withdrawn(alice: Peer, cast: Cast, join: Any) -> None:
    for mid, armed in ((1, False), (2, True)):  # one goes on for its period, the other is gone at once
        alice.put(mid, scope(scenes.only(cast, mid), **({"k45": False} if armed else {})))
        alice.delete(mid)
    late = join("alice")
    raw = Raw(late)

    for mid, extra in ((1, {}), (2, {"k45": False})):
        raw.send(PUT, raw.mitigate(mid), scope(scenes.only(cast, mid), k29=1, **extra), token=TOKEN, raw=IF_MATCH)

    assert raw.next_or_none(TOKEN, within=0.5) is None
    assert alice.get(1).scope[16] == 5
    assert alice.get(2).code == "4.04"


@pytest.mark.rows("SIG-EFF-009", "SIG-ERR-023")
def test_what_cannot_be_stored_now_is_5_03_with_max_age(alice: Peer, cast: Cast, product: Product) -> None:
    alice.put(1, scope(scenes.only(cast), lifetime=300))

    with locked(product):
        refused = update(alice, cast, MITIGATED, lifetime=900)

    assert refused.code == "5.03"
    assert refused.message.opt.max_age == 5
    assert refused.diagnostic
    assert alice.get(1).scope[14] <= 300
    assert update(alice, cast, MITIGATED, lifetime=900).code == "2.04"


@pytest.mark.rows("SIG-EFF-010")
def test_operators_see_how_the_client_sees_it(alice: Peer, cast: Cast, console: Console) -> None:
    alice.put(1, scope(scenes.only(cast)))

    update(alice, cast, MITIGATED)

    seen = console.run(
        "one = Mitigation.objects.get(client__name=client)\n"
        "last = Audit.objects.filter(action='efficacy', subject__endswith=one.cuid + '/1').last()\n"
        "result = [one.attack_status, one.attack_status_at is not None, last.after]",
        client=cast.alice.name,
    )
    assert seen[:2] == [MITIGATED, True]
    assert seen[2]["attack-status"] == MITIGATED


@pytest.mark.rows("SIG-EFF-011")
def test_an_update_switches_no_filters(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast)))

    refused = update(alice, cast, k53=[{23: "filter", 52: 1}])

    assert refused.code == "4.00"
    assert "filters" in refused.diagnostic
