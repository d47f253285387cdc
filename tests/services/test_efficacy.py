"""Efficacy updates: the client tells how it sees the attack (RFC 9132, section 4.4.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import Ignored, MalformedRequest, PreconditionFailed
from mitigation.models import Audit, Mitigation
from mitigation.protocol.status import Status
from mitigation.services import mitigations
from mitigation.services.mitigations import Outcome, Submission

Submit = Callable[..., Outcome]


@pytest.fixture
def update(now: datetime) -> Submit:
    def do(
        client: Any, attack_status: int | None = 1, *, at: datetime = now, if_match: bool = True, **changed: Any
    ) -> Outcome:
        wanted = replace(request(1), attack_status=attack_status, **changed)
        return mitigations.submit(Submission(client.pk, wanted, if_match=if_match), now=at)

    return do


@pytest.mark.rows("SIG-EFF-001", "SIG-EFF-005", "SIG-EFF-010", "SIG-ERR-004")
@pytest.mark.parametrize("lifetime", [600, None])
def test_an_update_is_a_refresh_that_tells_more(
    cast: Any, submit: Submit, update: Submit, now: datetime, lifetime: int | None
) -> None:
    submit(cast.alice, request(1))
    later = now + timedelta(seconds=100)

    outcome = granted(update(cast.alice, 2, at=later, lifetime=lifetime))

    row = Mitigation.objects.get()
    assert (outcome.created, outcome.lifetime) == (False, lifetime or 3500)
    assert row.remaining(later) == (lifetime or 3500)
    assert (row.attack_status, row.attack_status_at) == (2, later)
    assert Audit.objects.filter(action="efficacy").get().after["attack-status"] == 2


@pytest.mark.rows("SIG-EFF-004")
def test_an_update_that_changes_the_scope_is_refused(cast: Any, submit: Submit, update: Submit) -> None:
    submit(cast.alice, request(1))
    other = request(1, "198.51.100.8/32")

    refusal = refused(update(cast.alice, scope=other.scope, digest=other.digest))

    assert isinstance(refusal.error, MalformedRequest)
    assert Mitigation.objects.get().attack_status is None


@pytest.mark.rows("SIG-EFF-006", "SIG-EFF-008")
def test_an_update_for_nothing_is_ignored_and_creates_nothing(cast: Any, update: Submit) -> None:
    assert isinstance(refused(update(cast.alice)).error, Ignored)
    assert isinstance(refused(update(cast.alice, if_match=False)).error, MalformedRequest)
    assert not Mitigation.objects.exists()


@pytest.mark.rows("SIG-EFF-006")
def test_a_late_update_does_not_renew_what_was_withdrawn(
    cast: Any, submit: Submit, update: Submit, withdraw: Callable[..., None]
) -> None:
    submit(cast.alice, request(1))
    withdraw(cast.alice, 1)

    assert isinstance(refused(update(cast.alice)).error, Ignored)
    assert Mitigation.objects.get().status == Status.TERMINATING


@pytest.mark.rows("SIG-EFF-002")
def test_if_match_needs_attack_status(cast: Any, submit: Submit, update: Submit) -> None:
    submit(cast.alice, request(1))

    assert isinstance(refused(update(cast.alice, None)).error, MalformedRequest)


@pytest.mark.rows("SIG-EFF-008")
def test_attack_status_without_if_match_is_an_update_of_what_exists(cast: Any, submit: Submit, update: Submit) -> None:
    submit(cast.alice, request(1))

    granted(update(cast.alice, 1, if_match=False))

    assert Mitigation.objects.get().attack_status == 1


@pytest.mark.rows("SIG-ERR-016")
def test_if_none_match_creates_only(cast: Any, submit: Submit, now: datetime) -> None:
    wanted = Submission(cast.alice.pk, request(1), if_none_match=True)

    assert granted(mitigations.submit(wanted, now=now)).created
    assert isinstance(refused(mitigations.submit(wanted, now=now)).error, PreconditionFailed)
