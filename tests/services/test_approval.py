"""Approval by people: nothing is enforced before it, nobody speaks twice, and the client is told the outcome."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from equipment import Memory
from requests_and_outcomes import granted, request

from mitigation.exceptions import NotByThisPerson, NotFound
from mitigation.models import Audit, Hold, Mitigation, Transition
from mitigation.protocol.scope import MitigationRequest
from mitigation.protocol.status import Status
from mitigation.services import domains, holds, mitigations
from mitigation.services.mitigations import Submission

Submit = Callable[..., Any]
Reconcile = Callable[..., bool]

WITHIN = 600


def ask_people(now: datetime, approval: str = "one", within: int = WITHIN) -> None:
    domains.change_domain("a.example", {"approval": approval, "approval_within": within}, actor="test", now=now)


def row(mid: int = 1) -> Mitigation:
    return Mitigation.objects.get(mid=mid, ended_at=None)


def history(of: Mitigation) -> list[tuple[str, str, str]]:
    return [(step.happening, step.actor, step.reason) for step in Transition.objects.filter(mitigation=of)]


@pytest.mark.rows("SIG-PUT-001")
def test_it_is_accepted_and_not_enforced_until_an_operator_approves(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now)
    assert granted(submit(cast.alice, request())).created
    reconcile()

    waiting = row()
    assert driver.rules == {}
    assert waiting.status == Status.IN_PROGRESS
    assert waiting.problem == "needs approval by an operator"
    assert (waiting.approved_at, waiting.rendered_at, waiting.needs_approval) == (None, None, True)

    later = now + timedelta(seconds=60)
    found = mitigations.approve(waiting.pk, actor="operator ann", now=later)
    reconcile(at=later)

    approved = row()
    assert found.approved
    assert driver.rules
    assert (approved.status, approved.approved_at, approved.problem) == (Status.MITIGATED, later, "")
    assert ("approved", "operator ann", "") in history(approved)
    assert Audit.objects.get(action="approve").actor == "operator ann"


def test_automatic_approval_is_the_default_and_at_once(cast: Any, submit: Submit, now: datetime) -> None:
    granted(submit(cast.alice, request()))

    assert row().approved_at == now
    with pytest.raises(NotFound, match="does not wait for approval"):
        mitigations.approve(row().pk, actor="operator ann", now=now)
    with pytest.raises(NotFound, match="does not wait for approval"):
        mitigations.reject(row().pk, actor="operator ann", reason="no", now=now)


@pytest.mark.parametrize(
    "again", ["operator ann", "operator Ann", "command ann"], ids=["same", "same in capitals", "at the command line"]
)
def test_two_means_two_different_people(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime, again: str
) -> None:
    ask_people(now, "two")
    granted(submit(cast.alice, request()))

    assert not mitigations.approve(row().pk, actor="operator ann", now=now).approved
    with pytest.raises(NotByThisPerson, match="operator ann has approved it already"):
        mitigations.approve(row().pk, actor=again, now=now)
    reconcile()
    assert driver.rules == {}
    assert row().problem == "needs approval by two different people; operator ann has approved"

    assert mitigations.approve(row().pk, actor="operator bob", now=now).approved
    reconcile()
    assert driver.rules
    assert [one["by"] for one in row().approvals] == ["operator ann", "operator bob"]


def test_the_command_line_is_one_person_whatever_name_it_says(cast: Any, submit: Submit, now: datetime) -> None:
    ask_people(now, "two")
    granted(submit(cast.alice, request()))

    mitigations.approve(row().pk, actor="command ann", now=now, door="command")
    with pytest.raises(NotByThisPerson):
        mitigations.approve(row().pk, actor="command bob", now=now, door="command")

    assert row().needs_approval


@pytest.mark.rows("SIG-STA-003")
def test_a_rejection_is_the_servers_withdrawal_with_the_reason(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now, "two")
    granted(submit(cast.alice, request()))
    mitigations.approve(row().pk, actor="operator ann", now=now)

    mitigations.reject(row().pk, actor="operator bob", reason="not this host", now=now)
    reconcile()

    rejected = row()
    assert (rejected.status, rejected.status_reason) == (Status.WITHDRAWN, "rejected: not this host")
    assert driver.rules == {}
    assert history(rejected)[-1] == ("server-withdrew", "operator bob", "rejected: not this host")
    assert Audit.objects.get(action="reject").after["reason"] == "not this host"
    with pytest.raises(NotFound):
        mitigations.approve(rejected.pk, actor="operator carol", now=now)
    assert mitigations.expire(now=now + timedelta(seconds=121)) == 1
    assert not Mitigation.objects.live().exists()


@pytest.mark.parametrize(
    ("approval", "given", "reason"),
    [("one", 0, "nobody approved it in time"), ("two", 1, "only one of two people approved it in time")],
)
def test_running_out_of_time_is_a_withdrawal(
    cast: Any, submit: Submit, now: datetime, approval: str, given: int, reason: str
) -> None:
    ask_people(now, approval)
    granted(submit(cast.alice, request()))
    if given:
        mitigations.approve(row().pk, actor="operator ann", now=now)

    assert mitigations.expire(now=now + timedelta(seconds=WITHIN - 1)) == 0
    over = now + timedelta(seconds=WITHIN)
    with pytest.raises(NotFound, match=reason):  # also before the server has come to it
        mitigations.approve(row().pk, actor="operator bob", now=over)
    assert mitigations.expire(now=over) == 1

    assert (row().status, row().status_reason) == (Status.WITHDRAWN, reason)
    assert Audit.objects.get(action="reject", actor="server").after["reason"] == reason
    assert mitigations.expire(now=over) == 0


def test_a_refresh_neither_restarts_nor_forges_approval(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now)
    granted(submit(cast.alice, request()))
    by = row().approve_by

    for minute in range(1, 4):
        granted(submit(cast.alice, request(), at=now + timedelta(minutes=minute)))
    reconcile(at=now + timedelta(minutes=3))

    assert (row().approve_by, row().approved_at) == (by, None)
    assert driver.rules == {}
    assert mitigations.expire(now=now + timedelta(seconds=WITHIN)) == 1


def test_what_was_approved_stays_so_when_refreshed_or_renewed(
    cast: Any, submit: Submit, withdraw: Callable[..., None], now: datetime
) -> None:
    ask_people(now)
    granted(submit(cast.alice, request()))
    mitigations.approve(row().pk, actor="operator ann", now=now)

    granted(submit(cast.alice, request(), at=now + timedelta(seconds=30)))
    withdraw(cast.alice, 1, at=now + timedelta(seconds=40))
    granted(submit(cast.alice, request(), at=now + timedelta(seconds=50)))

    assert (row().status, row().approved_at) == (Status.IN_PROGRESS, now)


@pytest.mark.rows("SIG-PUT-011", "SIG-PUT-012")
def test_another_scope_needs_another_approval_and_leaves_no_gap(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now)
    granted(submit(cast.alice, request(1, "198.51.100.7/32")))
    mitigations.approve(row(1).pk, actor="operator ann", now=now)
    reconcile()

    granted(submit(cast.alice, request(2, "198.51.100.0/29")))
    granted(submit(cast.alice, request(3, "198.51.100.0/28")))
    reconcile()

    assert not Mitigation.objects.live().filter(mid=2).exists(), "one that waits is replaced at once"
    assert (row(3).approved_at, row(3).approvals) == (None, [])
    assert row(1).status == Status.MITIGATED
    assert any("198.51.100.7/32" in key for key in driver.rules)

    mitigations.approve(row(3).pk, actor="operator ann", now=now)
    reconcile()

    assert not Mitigation.objects.live().filter(mid=1).exists()
    assert row(3).status == Status.MITIGATED
    assert any("198.51.100.0/28" in key for key in driver.rules)


def test_what_the_server_withdrew_and_is_asked_for_again_needs_a_new_approval(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now)
    granted(submit(cast.alice, request()))
    mitigations.approve(row().pk, actor="operator ann", now=now)
    mitigations.stop(row().pk, actor="operator ann", reason="false alarm", now=now)

    later = now + timedelta(seconds=30)
    granted(submit(cast.alice, request(), at=later))
    reconcile(at=later)

    assert row().needs_approval
    assert row().approve_by == later + timedelta(seconds=WITHIN)
    assert (row().approvals, driver.rules) == ([], {})


def test_one_that_is_withdrawn_by_its_client_waits_for_nobody(
    cast: Any, submit: Submit, withdraw: Callable[..., None], now: datetime
) -> None:
    ask_people(now)
    granted(submit(cast.alice, request()))
    withdraw(cast.alice, 1)

    with pytest.raises(NotFound):
        mitigations.approve(row().pk, actor="operator ann", now=now)
    assert mitigations.expire(now=now + timedelta(seconds=119)) == 0
    assert mitigations.expire(now=now + timedelta(seconds=120)) == 1
    assert not Mitigation.objects.live().exists()


def test_withdrawing_and_asking_again_gains_no_time(
    cast: Any, submit: Submit, withdraw: Callable[..., None], now: datetime
) -> None:
    ask_people(now, within=100)
    granted(submit(cast.alice, request()))
    withdraw(cast.alice, 1, at=now + timedelta(seconds=60))
    granted(submit(cast.alice, request(), at=now + timedelta(seconds=110)))

    assert mitigations.expire(now=now + timedelta(seconds=110)) == 1
    assert row().status == Status.WITHDRAWN


def _standby(mid: int) -> MitigationRequest:
    wanted = request(mid)
    return MitigationRequest(
        cuid=wanted.cuid, mid=mid, scope=wanted.scope, lifetime=wanted.lifetime, trigger_mitigation=False
    )


def test_a_preconfigured_request_is_approved_before_it_is_needed(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now)
    granted(submit(cast.alice, _standby(1)))
    assert (row().status, row().needs_approval) == (Status.SIGNAL_LOSS, True)
    mitigations.approve(row().pk, actor="operator ann", now=now)

    mitigations.session_lost(cast.alice.pk, now=now + timedelta(hours=1))
    reconcile(at=now + timedelta(hours=1))

    assert driver.rules
    assert row().status == Status.MITIGATED


def test_what_waits_for_approval_takes_no_ones_rules(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    granted(submit(cast.alice, request(5)))
    reconcile()
    ask_people(now)
    granted(submit(cast.alice, _standby(9)))

    mitigations.session_lost(cast.alice.pk, now=now)
    reconcile()

    assert row(5).status == Status.MITIGATED
    assert row(9).needs_approval
    assert driver.rules


def test_approval_after_a_freeze_is_held_by_it(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now)
    granted(submit(cast.alice, request()))
    holds.throw(Hold.Kind.FREEZE, actor="op", reason="maintenance", now=now + timedelta(seconds=5))

    mitigations.approve(row().pk, actor="operator ann", now=now + timedelta(seconds=10))
    reconcile(at=now + timedelta(seconds=10))

    assert driver.rules == {}
    assert (row().status, row().problem) == (Status.EXCEEDED, "change freeze: maintenance")


def test_a_policy_that_changes_meanwhile_lets_nothing_through_by_itself(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    ask_people(now, "two")
    granted(submit(cast.alice, request()))
    mitigations.approve(row().pk, actor="operator ann", now=now)

    domains.change_domain("a.example", {"approval": "automatic"}, actor="test", now=now)
    reconcile()
    assert driver.rules == {}

    assert mitigations.approve(row().pk, actor="operator ann", now=now).approved
    reconcile()
    assert driver.rules


def test_mallory_has_no_part_in_it(cast: Any, submit: Submit, now: datetime) -> None:
    ask_people(now)
    granted(submit(cast.alice, request()))

    granted(submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory")))
    mitigations.withdraw(mitigations.Withdrawal(cast.mallory.pk, "cuid-of-alice", 1), now=now)
    outcome = mitigations.submit(Submission(cast.mallory.pk, request(1)), now=now)

    assert isinstance(outcome, mitigations.Refused), "neither her prefix nor her cuid"
    assert Mitigation.objects.get(client=cast.alice).needs_approval
    assert Mitigation.objects.get(client=cast.mallory).approved_at == now, "alice's policy is not hers"


def said(*words: str) -> Any:
    out = io.StringIO()
    call_command("mitigation", *words, stdout=out)
    return out.getvalue()


def test_the_commands_approve_and_reject(cast: Any, submit: Submit, now: datetime) -> None:
    present = timezone.now()
    ask_people(now)
    granted(submit(cast.alice, request(1, "198.51.100.1/32"), at=present))
    granted(submit(cast.alice, request(2, "198.51.100.2/32"), at=present))

    listed = {one["mid"]: one["approve_by"] for one in json.loads(said("list", "--json"))}
    assert listed[1] == (present + timedelta(seconds=WITHIN)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = json.loads(said("approve", str(row(1).pk), "--json"))
    assert (answer["approved"], answer["approvals"], answer["needed"]) == (True, 1, 1)
    assert "is rejected; its client is told" in said("reject", str(row(2).pk), "--reason", "not this host")
    with pytest.raises(CommandError, match="does not wait for approval"):
        call_command("mitigation", "approve", str(row(2).pk))

    shown = json.loads(said("show", str(row(1).pk), "--json"))
    assert shown["approvals"][0]["by"].startswith("command")
    assert shown["history"][-1]["happening"] == "approved"
