"""Several clients of one domain ask for the same target (RFC 9132, section 4.4.1.3; RFC 8612, SIG-010)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import ScopeConflict
from mitigation.models import Change, Domain, Mitigation
from mitigation.protocol import messages
from mitigation.protocol.conflicts import ConflictCause, ConflictStatus
from mitigation.protocol.status import Status
from mitigation.services import conflicts, mitigations
from mitigation.services.mitigations import Submission
from mitigation.signal_channel import reports

Submit = Callable[..., Any]
Withdraw = Callable[..., None]

WIDE = "198.51.100.0/24"


@pytest.fixture
def policy(cast: Any) -> Callable[[str], None]:
    def do(value: str) -> None:
        Domain.objects.filter(pk=cast.alice.domain_id).update(conflict_policy=value)

    return do


def of(client: Any) -> Mitigation:
    return Mitigation.objects.filter(client=client).latest("pk")


def bobs(mid: int = 1, *prefixes: str, **options: Any) -> Any:
    return request(mid, *prefixes, cuid="cuid-of-bob", **options)


def entry(client: Any, *, at: datetime) -> dict[str, Any]:
    """What GET shows this client of its newest request."""
    return messages.decode_reports(reports.encode([of(client)], now=at))[0]


@pytest.mark.rows(
    "SIG-OVL-009", "SIG-OVL-010", "SIG-OVL-011", "SIG-OVL-014", "SIG-OVL-015", "SIG-OVL-020", "SIG-OVL-022"
)
def test_both_stay_active_and_both_are_told(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, request(7, WIDE))

    outcome = granted(submit(cast.bob, bobs()))

    assert outcome.conflict is not None
    for client in (cast.alice, cast.bob):
        shown = entry(client, at=now)
        assert shown["status"] == Status.IN_PROGRESS
        assert shown["conflict-information"] == {
            "conflict-status": ConflictStatus.REQUEST_ACTIVE,
            "conflict-cause": ConflictCause.OVERLAPPING_TARGETS,
            "conflict-scope": {"target-prefix": ["198.51.100.7/32"]},
        }
    told = Change.objects.filter(topic="mitigation", object_id=of(cast.alice).pk)
    assert told.count() == 2


@pytest.mark.rows("SIG-OVL-009", "SIG-OVL-010", "SIG-OVL-011", "SIG-OVL-013", "SIG-OVL-014", "SIG-OVL-016")
def test_a_new_request_is_refused_where_the_policy_says_so(
    cast: Any, submit: Submit, policy: Callable[[str], None], now: datetime
) -> None:
    policy("refuse-new")
    submit(cast.alice, request(7, WIDE, lifetime=600))

    refusal = refused(submit(cast.bob, bobs(), at=now + timedelta(seconds=100)))

    assert isinstance(refusal.error, ScopeConflict)
    told = messages.conflict_values(refusal.error.conflict)
    assert told == {
        "conflict-status": ConflictStatus.REQUEST_INACTIVE_OTHER_ACTIVE,
        "conflict-cause": ConflictCause.OVERLAPPING_TARGETS,
        "retry-timer": 500,
        "conflict-scope": {"target-prefix": ["198.51.100.7/32"]},
    }
    assert not Mitigation.objects.filter(client=cast.bob).exists()
    assert of(cast.alice).conflict is None


@pytest.mark.rows(
    "SIG-OVL-011", "SIG-OVL-015", "SIG-OVL-016", "SIG-OVL-017", "SIG-OVL-020", "SIG-STA-003", "SIG-STA-004"
)
def test_a_new_request_is_kept_inactive_where_the_policy_says_so(
    cast: Any, submit: Submit, policy: Callable[[str], None], now: datetime
) -> None:
    policy("deactivate-new")
    submit(cast.alice, request(7, WIDE, lifetime=600))

    outcome = granted(submit(cast.bob, bobs()))

    assert (outcome.created, outcome.lifetime) == (True, 645)
    assert outcome.conflict is not None
    assert outcome.conflict.retry_timer == 600
    shown = entry(cast.bob, at=now + timedelta(seconds=10))
    assert (shown["status"], shown["lifetime"]) == (Status.WITHDRAWN, 635)
    assert shown["conflict-information"]["conflict-status"] == ConflictStatus.REQUEST_INACTIVE_OTHER_ACTIVE
    assert shown["conflict-information"]["retry-timer"] == 590
    assert "mitigation-start" not in shown
    assert [row.client for row in Mitigation.objects.enforced()] == [cast.alice]
    theirs = entry(cast.alice, at=now)["conflict-information"]
    assert theirs["conflict-status"] == ConflictStatus.REQUEST_ACTIVE
    assert "retry-timer" not in theirs


@pytest.mark.rows("SIG-OVL-014")
@pytest.mark.parametrize("value", ["both", "deactivate-new"])
def test_nothing_of_the_other_client_is_shown(
    cast: Any, submit: Submit, policy: Callable[[str], None], now: datetime, value: str
) -> None:
    policy(value)
    submit(cast.alice, request(777, WIDE, "198.51.100.99/32", ports=((80, 80),)))
    submit(cast.bob, bobs(888))

    for client in (cast.alice, cast.bob):
        told = json.dumps(entry(client, at=now)["conflict-information"])
        for secret in ("777", "888", "alice", "bob", "cuid", "mid", "80", WIDE, "198.51.100.99"):
            assert secret not in told


@pytest.mark.rows("SIG-OVL-017")
def test_refreshed_in_time_it_is_judged_again(
    cast: Any, submit: Submit, policy: Callable[[str], None], now: datetime
) -> None:
    policy("deactivate-new")
    submit(cast.alice, request(7, WIDE, lifetime=600))
    submit(cast.bob, bobs())

    early = granted(submit(cast.bob, bobs(), at=now + timedelta(seconds=60)))
    assert (early.lifetime, of(cast.bob).status) == (585, Status.WITHDRAWN)

    mitigations.expire(now=now + timedelta(seconds=600))  # alice's terminating period begins, then ends
    assert not granted(submit(cast.bob, bobs(), at=now + timedelta(seconds=610))).created
    mitigations.expire(now=now + timedelta(seconds=720))
    later = now + timedelta(seconds=740)
    outcome = granted(submit(cast.bob, bobs(lifetime=900), at=later))

    row = of(cast.bob)
    assert (outcome.created, outcome.lifetime, outcome.conflict) == (False, 900, None)
    assert (row.status, row.conflict, row.retry_at, row.mitigation_start) == (Status.IN_PROGRESS, None, None, later)
    assert row.remaining(later) == 900


@pytest.mark.rows("SIG-OVL-017")
def test_not_refreshed_it_ends(cast: Any, submit: Submit, policy: Callable[[str], None], now: datetime) -> None:
    policy("deactivate-new")
    submit(cast.alice, request(7, WIDE, lifetime=600))
    submit(cast.bob, bobs())

    mitigations.expire(now=now + timedelta(seconds=644))
    assert of(cast.bob).is_live
    mitigations.expire(now=now + timedelta(seconds=645))
    assert not of(cast.bob).is_live
    assert of(cast.alice).conflict is None


@pytest.mark.parametrize("value", ["both", "deactivate-new"])
def test_a_conflict_is_over_when_the_other_request_is(
    cast: Any, submit: Submit, withdraw: Withdraw, policy: Callable[[str], None], now: datetime, value: str
) -> None:
    policy(value)
    submit(cast.alice, request(7, WIDE))
    submit(cast.bob, bobs())

    withdraw(cast.alice, 7)
    assert of(cast.bob).conflict is not None  # terminating is still active
    before = Change.objects.filter(object_id=of(cast.bob).pk).count()
    mitigations.expire(now=now + timedelta(seconds=120))

    assert of(cast.bob).conflict is None
    assert Change.objects.filter(object_id=of(cast.bob).pk).count() == before + 1


def test_of_two_conflicts_one_is_left(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, request(1, "198.51.100.1/32"))
    submit(cast.alice, request(2, "198.51.100.2/32"))
    submit(cast.bob, bobs(1, "198.51.100.0/30"))

    mitigations.stop(Mitigation.objects.get(client=cast.alice, mid=1).pk, actor="operator", reason="", now=now)

    assert of(cast.bob).conflict["scope"] == {"target-prefix": ["198.51.100.2/32"]}
    assert Mitigation.objects.get(client=cast.alice, mid=1).conflict is None
    assert Mitigation.objects.get(client=cast.alice, mid=2).conflict is not None


def test_a_deactivated_request_is_withdrawn_at_once(
    cast: Any, submit: Submit, withdraw: Withdraw, policy: Callable[[str], None]
) -> None:
    policy("deactivate-new")
    submit(cast.alice, request(7, WIDE))
    submit(cast.bob, bobs())

    withdraw(cast.bob, 1, cuid="cuid-of-bob")

    assert of(cast.bob).status == Status.TERMINATED
    assert of(cast.alice).conflict is None


@pytest.mark.rows("SIG-OVL-022")
def test_domains_never_meet_and_ones_own_requests_are_no_conflict(
    cast: Any, submit: Submit, policy: Callable[[str], None]
) -> None:
    policy("refuse-new")
    granted(submit(cast.alice, request(1)))
    granted(submit(cast.alice, request(2)))
    granted(submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory")))

    assert not Mitigation.objects.exclude(conflict=None).exists()


def test_the_policy_holds_within_a_batch_and_for_names(cast: Any, policy: Callable[[str], None], now: datetime) -> None:
    policy("refuse-new")
    wanted = [
        Submission(cast.alice.pk, request(1, fqdns=("www.a.example",))),
        Submission(cast.bob.pk, bobs(1, uris=("https://www.a.example/",))),
    ]

    outcomes = mitigations.submit_many(wanted, now=now)

    granted(outcomes[0])
    refusal = refused(outcomes[1])
    assert isinstance(refusal.error, ScopeConflict)
    assert refusal.error.conflict.scope is not None
    assert refusal.error.conflict.scope.target_fqdn == ("www.a.example",)


def test_what_is_only_armed_stands_in_nobodys_way_until_it_starts(
    cast: Any, submit: Submit, policy: Callable[[str], None], now: datetime
) -> None:
    policy("refuse-new")
    submit(cast.alice, replace(request(1, WIDE), trigger_mitigation=False, digest=""))
    assert granted(submit(cast.bob, bobs())).conflict is None

    mitigations.session_lost(cast.alice.pk, now=now)

    assert {row.status for row in Mitigation.objects.all()} == {Status.IN_PROGRESS}
    assert conflicts.told(of(cast.bob), now=now) == conflicts.told(of(cast.alice), now=now) is not None


def test_a_request_that_an_operator_stopped_does_not_come_back_over_anothers(
    cast: Any, submit: Submit, policy: Callable[[str], None], now: datetime
) -> None:
    policy("refuse-new")
    submit(cast.alice, request(1, WIDE))
    mitigations.stop(of(cast.alice).pk, actor="operator", reason="", now=now)
    granted(submit(cast.bob, bobs()))

    assert isinstance(refused(submit(cast.alice, request(1, WIDE))).error, ScopeConflict)
    assert of(cast.alice).status == Status.WITHDRAWN
