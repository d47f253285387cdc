"""A PUT as a verb: what it grants, what it refuses, what it leaves in the rows (RFC 9132, section 4.4.1.3)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import MalformedRequest, ScopeConflict, Unauthorized, Unavailable
from mitigation.models import Audit, Change, ChangeCounter, EnforcementPoint, Mitigation, Target, Transition
from mitigation.protocol.conflicts import ConflictCause, ConflictStatus
from mitigation.protocol.status import Status
from mitigation.services import mitigations
from mitigation.services.mitigations import Outcome, Submission

Submit = Callable[..., Outcome]


@pytest.mark.rows("SIG-PUT-001", "SIG-SEC-010")
def test_a_new_request_is_created_with_its_history(cast: Any, submit: Submit, now: datetime) -> None:
    outcome = granted(submit(cast.alice, request(1)))

    assert (outcome.mid, outcome.lifetime, outcome.created) == (1, 3600, True)
    row = Mitigation.objects.get()
    assert (row.client, row.domain, row.status) == (cast.alice, cast.alice.domain, Status.IN_PROGRESS)
    assert row.expires_at == now + timedelta(seconds=3600)
    assert [step.new for step in row.transitions.all()] == [Status.IN_PROGRESS]
    assert Audit.objects.filter(door="signal", action="submit").count() == 1
    assert bytes(Target.objects.get().first)[-4:] == bytes([198, 51, 100, 7])


def test_the_change_counter_goes_up_last_and_marks_the_points(cast: Any, submit: Submit) -> None:
    before = ChangeCounter.objects.get(pk=1).value

    submit(cast.alice, request(1))

    newest = Change.objects.order_by("-number").first()
    assert newest is not None
    assert newest.number == ChangeCounter.objects.get(pk=1).value == before + 1
    assert (newest.topic, newest.object_id) == ("mitigation", Mitigation.objects.get().pk)
    assert EnforcementPoint.objects.get().is_dirty


@pytest.mark.rows("SIG-PUT-004", "SIG-PUT-008", "SIG-LIF-002")
def test_repeating_a_request_refreshes_it(cast: Any, submit: Submit, now: datetime) -> None:
    submit(cast.alice, request(1))

    outcome = granted(submit(cast.alice, request(1, lifetime=600), at=now + timedelta(seconds=60)))

    assert not outcome.created
    row = Mitigation.objects.get()
    assert row.remaining(now + timedelta(seconds=60)) == 600
    assert row.requested_at == now


@pytest.mark.rows("SIG-PUT-005", "SIG-MIT-025")
def test_a_refresh_with_other_parameters_is_refused_and_changes_nothing(cast: Any, submit: Submit) -> None:
    submit(cast.alice, request(1, ports=((80, 80),)))

    for other in (request(1, ports=((81, 81),)), request(1), request(1, "198.51.100.8/32", ports=((80, 80),))):
        refusal = refused(submit(cast.alice, other))
        assert isinstance(refusal.error, MalformedRequest)

    assert Mitigation.objects.get().scope["target-port-range"] == [{"lower-port": 80, "upper-port": 80}]


@pytest.mark.rows("SIG-MIT-007", "SIG-AUT-007", "SIG-AUT-009", "SIG-SEC-002", "SIG-MIT-025")
@pytest.mark.parametrize(
    "prefixes",
    [
        ("203.0.113.7/32",),
        ("198.51.100.7/32", "203.0.113.7/32"),
        ("198.51.0.0/16",),
        ("0.0.0.0/1",),
        ("2001:db8::/32",),
    ],
)
def test_a_target_outside_the_domain_is_refused_whole(cast: Any, submit: Submit, prefixes: tuple[str, ...]) -> None:
    refusal = refused(submit(cast.alice, request(1, *prefixes)))

    assert isinstance(refusal.error, MalformedRequest)
    assert "outside" in str(refusal.error)
    assert not Mitigation.objects.exists()
    assert not Target.objects.exists()


@pytest.mark.rows("SIG-CUI-006", "SIG-CUI-007", "SIG-SEC-003", "SIG-URI-018")
def test_mallory_cannot_use_alices_cuid(cast: Any, submit: Submit, withdraw: Callable[..., None]) -> None:
    submit(cast.alice, request(1))

    refusal = refused(submit(cast.mallory, request(9, "203.0.113.7/32")))
    withdraw(cast.mallory, 1)

    assert isinstance(refusal.error, ScopeConflict)
    conflict = refusal.error.conflict
    assert conflict.cause is ConflictCause.CUID_COLLISION
    assert (conflict.status, conflict.scope, conflict.retry_timer, conflict.mid) == (None, None, None, None)
    assert Mitigation.objects.get().status == Status.IN_PROGRESS


@pytest.mark.rows("SIG-MID-007")
def test_the_same_mid_of_two_clients_is_two_requests(cast: Any, submit: Submit) -> None:
    granted(submit(cast.alice, request(1)))
    granted(submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory")))

    assert Mitigation.objects.count() == 2


@pytest.mark.rows("SIG-PUT-010", "SIG-PUT-011", "SIG-OVL-001", "SIG-OVL-002", "SIG-MID-010")
@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("198.51.100.7/32", "198.51.100.0/24"),
        ("198.51.100.0/24", "198.51.100.7/32"),
        ("2001:db8:100::/64", "2001:db8:100::7/128"),
    ],
)
def test_a_higher_mid_that_overlaps_replaces_the_lower(cast: Any, submit: Submit, lower: str, higher: str) -> None:
    submit(cast.alice, request(1, lower))

    outcome = granted(submit(cast.alice, request(2, higher)))

    assert outcome.created
    assert outcome.conflict is None
    assert [row.mid for row in Mitigation.objects.live()] == [2]
    assert Transition.objects.filter(happening="overridden").get().reason == "replaced by mid 2"
    assert Target.objects.count() == 1


@pytest.mark.rows("SIG-OVL-003", "SIG-OVL-004", "SIG-OVL-005", "SIG-TLS-027")
def test_a_lower_mid_that_overlaps_is_a_conflict(cast: Any, submit: Submit) -> None:
    submit(cast.alice, request(5, "198.51.100.0/24"))

    refusal = refused(submit(cast.alice, request(4)))

    assert isinstance(refusal.error, ScopeConflict)
    conflict = refusal.error.conflict
    assert (conflict.cause, conflict.mid) == (ConflictCause.OVERLAPPING_TARGETS, 5)
    assert (conflict.status, conflict.retry_timer) == (None, None)
    assert [row.mid for row in Mitigation.objects.live()] == [5]


@pytest.mark.rows("SIG-MID-008")
def test_a_lower_mid_elsewhere_is_fine(cast: Any, submit: Submit) -> None:
    submit(cast.alice, request(10))

    granted(submit(cast.alice, request(5, "198.51.100.8/32")))

    assert Mitigation.objects.live().count() == 2


@pytest.mark.rows("SIG-OVL-009", "SIG-OVL-010", "SIG-OVL-014", "SIG-OVL-015")
def test_bob_is_told_that_he_overlaps_but_not_with_whom(cast: Any, submit: Submit) -> None:
    submit(cast.alice, request(7, "198.51.100.0/24"))

    outcome = granted(submit(cast.bob, request(1, cuid="cuid-of-bob")))

    assert outcome.conflict is not None
    assert outcome.conflict.status is ConflictStatus.REQUEST_ACTIVE
    assert (outcome.conflict.mid, outcome.conflict.retry_timer) == (None, None)
    assert outcome.conflict.scope is not None
    assert [str(prefix) for prefix in outcome.conflict.scope.target_prefix] == ["198.51.100.7/32"]


@pytest.mark.rows("SIG-PUT-003", "SIG-LIF-004", "SIG-LIF-006")
@pytest.mark.parametrize(
    ("asked", "indefinite", "given"), [(999_999, False, 86_400), (-1, False, 86_400), (-1, True, -1), (60, True, 60)]
)
def test_policy_caps_the_lifetime(
    cast: Any, submit: Submit, now: datetime, asked: int, indefinite: bool, given: int
) -> None:
    domain = cast.alice.domain
    domain.grants_indefinite = indefinite
    domain.save(update_fields=["grants_indefinite"])

    outcome = granted(submit(cast.alice, request(1, lifetime=asked)))

    assert outcome.lifetime == given
    assert Mitigation.objects.get().remaining(now) == given


@pytest.mark.rows("SIG-AUT-005", "SIG-AUT-008")
def test_a_disabled_client_gets_nothing(cast: Any, submit: Submit) -> None:
    cast.alice.enabled = False
    cast.alice.save(update_fields=["enabled"])

    assert isinstance(refused(submit(cast.alice, request(1))).error, Unauthorized)
    assert not Mitigation.objects.exists()


@pytest.mark.rows("SIG-MIT-023", "SIG-SEC-016")
def test_the_domains_quota_holds_also_within_a_batch(cast: Any, now: datetime) -> None:
    cast.alice.domain.maximum_mitigations = 2
    cast.alice.domain.save(update_fields=["maximum_mitigations"])
    wanted = [request(mid, f"198.51.100.{mid}/32") for mid in (1, 2, 3)]

    outcomes = mitigations.submit_many([Submission(cast.alice.pk, one) for one in wanted], now=now)

    assert [type(outcome).__name__ for outcome in outcomes] == ["Granted", "Granted", "Refused"]
    assert isinstance(refused(outcomes[2]).error, Unavailable)


@pytest.mark.rows("SIG-CUI-013")
def test_a_client_has_a_bounded_number_of_cuids(cast: Any, submit: Submit) -> None:
    for number in range(mitigations.MAXIMUM_CUIDS):
        granted(submit(cast.alice, request(number, f"198.51.100.{number}/32", cuid=f"c{number}")))

    assert isinstance(refused(submit(cast.alice, request(1, "198.51.100.99/32", cuid="one-more"))).error, Unavailable)


def test_a_batch_is_decided_in_the_order_of_arrival(cast: Any, now: datetime) -> None:
    wanted = [request(2), request(1), request(3), request(3, lifetime=60), request(3, "203.0.113.1/32")]

    outcomes = mitigations.submit_many([Submission(cast.alice.pk, one) for one in wanted], now=now)

    assert granted(outcomes[0]).created
    assert isinstance(refused(outcomes[1]).error, ScopeConflict)
    assert granted(outcomes[2]).created
    assert not granted(outcomes[3]).created
    assert isinstance(refused(outcomes[4]).error, MalformedRequest)
    assert [(row.mid, row.lifetime) for row in Mitigation.objects.live()] == [(3, 60)]
    assert ChangeCounter.objects.get(pk=1).value == Change.objects.count()


def test_a_request_that_is_refreshed_and_replaced_in_one_batch_is_gone(
    cast: Any, submit: Submit, now: datetime
) -> None:
    submit(cast.alice, request(1))
    wanted = [request(1, lifetime=60), request(2)]

    mitigations.submit_many([Submission(cast.alice.pk, one) for one in wanted], now=now)

    assert [row.mid for row in Mitigation.objects.live()] == [2]
    assert Mitigation.objects.get(mid=1).status == Status.TERMINATED


def test_a_dry_run_never_says_in_progress(cast: Any, submit: Submit) -> None:
    EnforcementPoint.objects.update(enforces=False)

    submit(cast.alice, request(1))

    row = Mitigation.objects.get()
    assert row.status == Status.EXCEEDED
    assert "dry run" in row.status_reason
