"""Overlapping requests of one client and of several (RFC 9132, sections 4.4.1.3 and 4.4.2.1), as clients see them."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
import scenes
from conftest import Join

from tests.harness.console import Console
from tests.harness.product import Cast
from tests.harness.wire import Peer, scope

CONFLICT = 17  # conflict-information
STATUS, CAUSE, RETRY, SCOPE = 18, 19, 20, 21  # of conflict-information
INACTIVE, ACTIVE = 1, 2  # conflict-status
OVERLAPPING_TARGETS, CUID_COLLISION = 1, 3  # conflict-cause
MARGIN = 45

# conflict-scope in the YANG module: what belongs to conflict-cause 1, the mid only where both requests are of one client
TARGETS = {6, 7, 10, 11, 12, 13}
MID = 5


def wide(cast: Cast, **more: Any) -> bytes:
    return scope(cast.domain.prefix, **more)


def narrow(cast: Cast, **more: Any) -> bytes:
    return scope(scenes.only(cast), **more)


# -- of one client


MAKE_ALIAS = """
from tests.harness.aliases import make_alias
make_alias(Client.objects.get(name=name), cuid, "web", {"target-prefix": [prefix]}, now=now)
"""


@pytest.mark.rows("SIG-OVL-001", "SIG-OVL-002")
@pytest.mark.parametrize("first, second", [("wide", "narrow"), ("narrow", "wide"), ("narrow", "narrow")])
def test_prefixes_overlap_by_containment(alice: Peer, cast: Cast, first: str, second: str) -> None:
    bodies = {"wide": wide(cast), "narrow": narrow(cast)}
    alice.put(1, bodies[first])
    alice.put(2, bodies[second])

    assert alice.get(1).code == "4.04"
    assert alice.get(2).code == "2.05"


@pytest.mark.rows("SIG-OVL-001")
def test_the_same_fqdn_is_an_overlap_and_a_uri_of_it_too(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(k11=[f"www.{cast.domain.name}"]))
    alice.put(2, scope(k11=[f"www.{cast.domain.name}"]))
    alice.put(3, scope(k12=[f"https://www.{cast.domain.name}/"]))
    alice.put(4, scope(k11=[f"mail.{cast.domain.name}"]))

    assert [one[5] for one in alice.get().scopes] == [3, 4]


@pytest.mark.rows("SIG-OVL-001")
def test_an_alias_overlaps_with_the_prefix_that_it_stands_for(alice: Peer, cast: Cast, console: Console) -> None:
    console.run(MAKE_ALIAS, name=cast.alice.name, cuid=alice.cuid, prefix=scenes.only(cast))
    assert alice.put(1, wide(cast)).code == "2.01"
    assert alice.put(2, scope(k13=["web"])).code == "2.01"

    assert [one[5] for one in alice.get().scopes] == [2]


@pytest.mark.rows("SIG-OVL-001")
def test_ports_alone_are_no_overlap_and_different_ports_no_way_out(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast, 1), k7=[{8: 443}]))
    alice.put(2, scope(scenes.only(cast, 2), k7=[{8: 443}]))
    alice.put(3, scope(scenes.only(cast, 2), k7=[{8: 80}]))

    assert [one[5] for one in alice.get().scopes] == [1, 3]


@pytest.mark.rows("SIG-OVL-002", "SIG-STA-001")
def test_the_higher_mid_takes_over_and_the_lower_one_is_gone(alice: Peer, cast: Cast) -> None:
    alice.put(1, wide(cast))

    assert alice.put(2, narrow(cast)).code == "2.01"
    assert [one[5] for one in alice.get().scopes] == [2]


@pytest.mark.rows("SIG-OVL-003")
def test_a_lower_mid_that_comes_later_is_4_09_and_changes_nothing(alice: Peer, cast: Cast) -> None:
    alice.put(2, wide(cast, lifetime=900))

    assert alice.put(1, narrow(cast)).code == "4.09"
    assert alice.get(1).code == "4.04"
    assert alice.get(2).scope[6] == [cast.domain.prefix]


@pytest.mark.rows("SIG-OVL-004", "SIG-ERR-015", "SIG-OVL-012")
def test_that_4_09_names_the_cause_the_common_targets_and_the_winner(alice: Peer, cast: Cast) -> None:
    alice.put(9, scope(cast.domain.prefix, cast.domain.prefix6, k7=[{8: 443}]))

    told = alice.put(3, narrow(cast)).scope[CONFLICT]

    assert told[CAUSE] == OVERLAPPING_TARGETS
    assert told[SCOPE][MID] == 9
    assert told[SCOPE][6] == [scenes.only(cast)]
    assert 7 not in told[SCOPE] or 6 in told[SCOPE]


@pytest.mark.rows("SIG-OVL-005")
def test_for_ones_own_request_there_is_neither_status_nor_retry_timer(alice: Peer, cast: Cast) -> None:
    alice.put(9, wide(cast))

    assert not {STATUS, RETRY} & set(alice.put(3, narrow(cast)).scope[CONFLICT])


@pytest.mark.rows("SIG-OVL-002", "SIG-OVL-006")
def test_an_armed_and_an_immediate_request_stand_side_by_side_until_one_starts(alice: Peer, cast: Cast) -> None:
    alice.put(5, wide(cast, k45=False))

    assert alice.put(3, narrow(cast)).code == "2.01"
    assert {one[5]: one[16] == 8 for one in alice.get().scopes} == {3: False, 5: True}


# -- of two clients of one domain


@pytest.mark.rows("SIG-OVL-009", "SIG-OVL-010", "SIG-OVL-011", "SIG-OVL-022")
def test_keeping_both_is_2_01_with_conflict_information(alice: Peer, bob: Peer, cast: Cast) -> None:
    alice.put(1, wide(cast))

    made = bob.put(1, narrow(cast))

    assert made.code == "2.01"
    assert made.scope[CONFLICT] == {
        STATUS: ACTIVE,
        CAUSE: OVERLAPPING_TARGETS,
        SCOPE: {6: [scenes.only(cast)]},
    }


@pytest.mark.rows("SIG-OVL-009", "SIG-OVL-010", "SIG-OVL-011", "SIG-OVL-016", "SIG-ERR-015")
def test_refusing_the_new_one_is_4_09_with_the_lifetime_of_the_other_as_retry_timer(
    alice: Peer, bob: Peer, cast: Cast, console: Console
) -> None:
    scenes.set_domain(console, cast, conflict_policy="refuse-new")
    alice.put(1, wide(cast, lifetime=300))

    refused = bob.put(1, narrow(cast))

    assert refused.code == "4.09"
    told = refused.scope[CONFLICT]
    assert (told[STATUS], told[CAUSE], told[SCOPE]) == (INACTIVE, OVERLAPPING_TARGETS, {6: [scenes.only(cast)]})
    assert 298 <= told[RETRY] <= 300
    assert bob.get().code == "4.04"
    assert CONFLICT not in alice.get(1).scope


@pytest.mark.rows("SIG-OVL-009", "SIG-OVL-011", "SIG-OVL-015", "SIG-OVL-016", "SIG-OVL-017", "SIG-STA-003")
def test_deactivating_the_new_one_keeps_it_45_s_beyond_the_retry_timer(
    alice: Peer, bob: Peer, cast: Cast, console: Console
) -> None:
    scenes.set_domain(console, cast, conflict_policy="deactivate-new")
    alice.put(1, wide(cast, lifetime=300))

    made = bob.put(1, narrow(cast))
    shown, theirs = bob.get(1).scope, alice.get(1).scope

    assert made.code == "2.01"
    assert made.scope[CONFLICT][STATUS] == INACTIVE
    assert made.scope[14] == made.scope[CONFLICT][RETRY] + MARGIN
    assert shown[16] == 7
    assert 15 not in shown  # mitigation-start
    assert abs(shown[14] - shown[CONFLICT][RETRY] - MARGIN) <= 1
    assert abs(shown[CONFLICT][RETRY] - theirs[14]) <= 1
    assert theirs[CONFLICT][STATUS] == ACTIVE
    assert RETRY not in theirs[CONFLICT]


@pytest.mark.rows("SIG-OVL-017")
def test_a_deactivated_request_is_refreshed_and_judged_again(
    alice: Peer, bob: Peer, cast: Cast, console: Console
) -> None:
    scenes.set_domain(console, cast, conflict_policy="deactivate-new")
    alice.put(1, wide(cast, lifetime=300))
    bob.put(2, narrow(cast))

    again = bob.put(2, narrow(cast))
    scenes.stop(console, cast.alice, 1)
    free = bob.put(2, narrow(cast, lifetime=700))

    assert (again.code, again.scope[CONFLICT][STATUS]) == ("2.04", INACTIVE)
    assert (free.code, free.scope) == ("2.04", {5: 2, 14: 700})
    assert bob.get(2).scope[16] in (1, 2, 4)


@pytest.mark.rows("SIG-OVL-013", "SIG-OVL-014")
@pytest.mark.parametrize("policy", ["both", "refuse-new", "deactivate-new"])
def test_conflict_scope_has_common_targets_and_nothing_of_the_other_client(
    alice: Peer, bob: Peer, cast: Cast, console: Console, policy: str
) -> None:
    scenes.set_domain(console, cast, conflict_policy=policy)
    alice.put(4_000_777, wide(cast, k7=[{8: 4_443}]))

    answer = bob.put(1, scope(scenes.only(cast), cast.domain.prefix6))
    told = answer.scope[CONFLICT]

    assert set(told[SCOPE]) <= TARGETS
    assert told[SCOPE] == {6: [scenes.only(cast)]}
    text = str(cbor2.loads(answer.payload))
    for secret in ("4000777", "4443", alice.cuid, cast.domain.prefix):
        assert secret not in text


@pytest.mark.rows("SIG-OVL-011", "SIG-OVL-020")
def test_both_clients_are_notified_of_a_conflict_while_both_are_active(alice: Peer, bob: Peer, cast: Cast) -> None:
    alice.put(1, wide(cast))
    watch = alice.watch(1)
    assert CONFLICT not in watch.next().scope

    bob.put(1, narrow(cast))
    their = bob.watch(1)

    told = watch.next()
    while CONFLICT not in told.scope:
        told = watch.next()
    for notified in (told, their.next()):
        assert notified.scope[16] in (1, 2, 4)
        assert notified.scope[CONFLICT][STATUS] == ACTIVE
        assert notified.scope[CONFLICT][CAUSE] == OVERLAPPING_TARGETS
        assert notified.scope[CONFLICT][SCOPE] == {6: [scenes.only(cast)]}


@pytest.mark.rows("SIG-OVL-020")
def test_status_7_goes_with_conflict_status_1_and_status_1_with_2(
    alice: Peer, bob: Peer, cast: Cast, console: Console
) -> None:
    scenes.set_domain(console, cast, conflict_policy="deactivate-new")
    alice.put(1, wide(cast))
    theirs = alice.watch(1)
    theirs.next()

    bob.put(1, narrow(cast))
    own = bob.watch(1).next().scope
    told = theirs.next().scope
    while CONFLICT not in told:
        told = theirs.next().scope

    assert (own[16], own[CONFLICT][STATUS]) == (7, INACTIVE)
    assert told[16] in (1, 2, 4)
    assert told[CONFLICT][STATUS] == ACTIVE


@pytest.mark.rows("SIG-OVL-015")
def test_who_stays_active_gets_no_retry_timer(alice: Peer, bob: Peer, cast: Cast) -> None:
    alice.put(1, wide(cast))
    bob.put(1, narrow(cast))

    for one in (alice, bob):
        assert RETRY not in one.get(1).scope[CONFLICT]


@pytest.mark.rows("SIG-OVL-020")
def test_the_end_of_a_conflict_is_seen_too(alice: Peer, bob: Peer, cast: Cast, console: Console) -> None:
    alice.put(1, wide(cast))
    bob.put(2, narrow(cast))

    scenes.stop(console, cast.alice, 1)

    assert CONFLICT not in bob.get(2).scope


@pytest.mark.rows("SIG-OVL-022")
def test_requests_of_other_domains_are_never_in_conflict(alice: Peer, mallory: Peer, cast: Cast) -> None:
    alice.put(1, wide(cast))

    assert mallory.put(1, narrow(cast)).code == "4.00"
    assert CONFLICT not in alice.get(1).scope


@pytest.mark.rows("SIG-OVL-012", "SIG-ERR-015")
def test_a_cuid_of_another_client_is_cause_3(alice: Peer, join: Join, cast: Cast) -> None:
    alice.put(1, scope(scenes.only(cast, 1)))

    refused = join("bob", cuid=alice.cuid).put(1, scope(scenes.only(cast, 2)))

    assert refused.code == "4.09"
    assert refused.scope == {CONFLICT: {CAUSE: CUID_COLLISION}}


# -- what the server decides


@pytest.mark.rows("SIG-OVL-008", "SIG-STA-003")
def test_what_the_server_ends_goes_to_7_and_never_through_5(alice: Peer, cast: Cast, console: Console) -> None:
    alice.put(1, narrow(cast))
    watch = alice.watch(1)
    watch.next()

    scenes.stop(console, cast.alice, 1)

    watch.until_status(7)
    assert all(reply.scope[16] != 5 for reply in watch.replies)
    assert alice.get(1).scope[16] == 7
