"""The state table, walked: every status with every happening (RFC 9132, section 4.4.2, Table 3)."""

from __future__ import annotations

import itertools

import pytest

from mitigation.exceptions import IllegalTransition
from mitigation.protocol.status import ACTIVE, TRANSITIONS, Happening, Status, grace_period, next_status


@pytest.mark.rows("SIG-STA-001")
@pytest.mark.parametrize(("status", "happening"), list(itertools.product(Status, Happening)))
def test_the_table_decides_and_what_is_absent_is_forbidden(status: Status, happening: Happening) -> None:
    if happening in TRANSITIONS[status]:
        assert next_status(status, happening) is TRANSITIONS[status][happening]
    else:
        with pytest.raises(IllegalTransition):
            next_status(status, happening)


@pytest.mark.rows("SIG-STA-001", "SIG-STA-003", "SIG-OVL-008", "SIG-DEL-003", "SIG-DEL-006")
def test_a_life_ends_through_the_grace_period_only_when_the_client_wants_it() -> None:
    for status in (Status.IN_PROGRESS, Status.MITIGATED, Status.STOPPED, Status.EXCEEDED):
        assert next_status(status, Happening.CLIENT_WITHDREW) is Status.TERMINATING
        assert next_status(status, Happening.SERVER_WITHDREW) is Status.WITHDRAWN
        assert next_status(status, Happening.OVERRIDDEN) is Status.TERMINATED
    assert next_status(Status.TERMINATING, Happening.GRACE_ELAPSED) is Status.TERMINATED
    assert TRANSITIONS[Status.TERMINATED] == {}


@pytest.mark.rows("SIG-DEL-007")
def test_an_armed_request_ends_at_once() -> None:
    assert next_status(Status.SIGNAL_LOSS, Happening.CLIENT_WITHDREW) is Status.TERMINATED


@pytest.mark.rows("SIG-DEL-004", "SIG-DEL-005")
def test_the_grace_period_doubles_up_to_five_minutes() -> None:
    assert [grace_period(0), grace_period(120), grace_period(240), grace_period(300)] == [120, 240, 300, 300]


def test_what_is_withdrawn_or_over_wants_no_rules() -> None:
    assert not {Status.WITHDRAWN, Status.TERMINATED, Status.SIGNAL_LOSS} & ACTIVE
