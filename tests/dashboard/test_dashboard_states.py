"""The word for a mitigation, and its proof chain: never a later word than the evidence allows."""

from __future__ import annotations

from datetime import datetime, timedelta

import dashboard_cast as cast
import pytest

from mitigation.dashboard import evidence, proof, states
from mitigation.models import Client, EnforcementPoint, Mitigation
from mitigation.protocol.status import Status

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice(now: datetime) -> Client:
    return cast.client("gw-a.example.net", cast.domain("example.net", "198.51.100.0/24", now=now), now=now)


@pytest.fixture
def point(now: datetime) -> EnforcementPoint:
    return cast.point(now=now)


def word(of: Mitigation, now: datetime) -> str:
    return states.of_mitigation(of, evidence.gather([of])[of.pk], now).word


def kinds(of: Mitigation, now: datetime) -> list[str]:
    return [step.kind for step in proof.chain(of, evidence.gather([of])[of.pk], now).steps]


def test_a_fresh_request_is_approved_and_nothing_more(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    made = cast.mitigation(alice, now=now, age=0.3)

    assert word(made, now) == "Approved"
    assert kinds(made, now) == ["done", "done", "todo", "todo", "todo", "todo"]


def test_without_proof_a_second_later_it_is_not_enforced(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    made = cast.mitigation(alice, now=now, age=1.2)

    assert word(made, now) == "Not enforced"
    assert kinds(made, now)[3] == "fail"


def test_a_rule_that_was_sent_is_not_installed(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    made = cast.mitigation(alice, now=now, age=0.5)
    cast.rules(made, point, now=now, state="wanted")

    assert word(made, now) == "Approved"
    assert kinds(made, now) == ["done", "done", "done", "todo", "todo", "todo"]


def test_what_was_read_back_is_installed_and_accepted(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    made = cast.mitigation(alice, now=now)
    cast.install(made, point, now=now)

    assert word(made, now) == "Installed"
    assert kinds(made, now) == ["done", "done", "done", "done", "done", "todo"]


def test_only_a_moving_counter_says_hitting(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    made = cast.mitigation(alice, now=now)
    cast.install(made, point, now=now)
    cast.attack(made, now=now, dropped=1e9, passed=1e6)

    assert word(made, now) == "Hitting"
    assert kinds(made, now) == ["done", "done", "done", "done", "done", "hit"]


def test_a_dry_run_never_passes_rendered(alice: Client, now: datetime) -> None:
    dry = cast.point(enforces=False, now=now)
    made = cast.mitigation(alice, now=now, status=Status.EXCEEDED, status_reason="dry run: no traffic is touched")
    cast.rules(made, dry, now=now)

    assert word(made, now) == "Dry run"
    assert kinds(made, now) == ["done", "done", "done", "todo", "todo", "todo"]


def test_what_a_playbook_refused_is_not_enforced_even_in_a_dry_run(alice: Client, now: datetime) -> None:
    cast.point(enforces=False, now=now)
    made = cast.mitigation(alice, now=now, status=Status.EXCEEDED, status_reason="discard needs a port")

    assert word(made, now) == "Not enforced"
    assert kinds(made, now)[2] == "fail"


def test_a_problem_takes_the_word_away(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    made = cast.mitigation(alice, now=now)
    cast.install(made, point, now=now)
    made.problem, made.installed_at = "2 rules are missing at local", None

    assert word(made, now) == "Not enforced"


def test_accepted_needs_the_equipments_own_word(alice: Client, now: datetime) -> None:
    speaker = EnforcementPoint.objects.create(name="edge-1", driver="exabgp", enforces=True, health="ready")
    made = cast.mitigation(alice, now=now)
    cast.install(made, speaker, now=now)

    steps = proof.chain(made, evidence.gather([made])[made.pk], now).steps

    assert [step.kind for step in steps][3:] == ["done", "todo", "todo"]
    assert steps[5].evidence == "no counters at edge-1"


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (Status.TERMINATING, {"ends_at": 60}, "Ending"),
        (Status.SIGNAL_LOSS, {}, "Approved"),
        (Status.WITHDRAWN, {"ends_at": 60}, "Ended"),
        (Status.TERMINATED, {"ended_at": -1}, "Ended"),
    ],
)
def test_every_other_status_has_its_word(
    alice: Client, point: EnforcementPoint, now: datetime, status: Status, fields: dict[str, int], expected: str
) -> None:
    moments = {name: now + timedelta(seconds=seconds) for name, seconds in fields.items()}
    made = cast.mitigation(alice, now=now, status=status, **moments)

    assert word(made, now) == expected


def test_it_is_ending_as_long_as_a_rule_of_it_stands(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    made = cast.mitigation(alice, now=now)
    cast.install(made, point, now=now)
    made.status, made.installed_at = int(Status.WITHDRAWN), None

    assert word(made, now) == "Ending"


def test_every_status_has_a_word_and_a_shape(alice: Client, point: EnforcementPoint, now: datetime) -> None:
    for number, status in enumerate(Status):
        made = cast.mitigation(alice, now=now, mid=number + 1, status=status)

        state = states.of_mitigation(made, evidence.gather([made])[made.pk], now)

        assert state.word and state.shape


def test_a_session_is_late_only_when_its_row_is_kept_up_to_date(alice: Client, now: datetime) -> None:
    by = cast.credential(alice, now=now, serial="3f")
    silent = cast.session(alice, by, "192.0.2.1:1", now=now)
    late = cast.session(alice, by, "192.0.2.1:2", now=now, last_heard_at=now - timedelta(seconds=61))
    lost = cast.session(alice, by, "192.0.2.1:3", now=now, closed_at=now, close_reason="lost")

    assert [states.of_session(one, now).word for one in (silent, late, lost)] == ["Connected", "Late", "Lost"]
