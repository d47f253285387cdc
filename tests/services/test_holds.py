"""The kill switch, the change freeze and the breaker; none of them stops a stop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from equipment import Memory
from requests_and_outcomes import granted, request

from mitigation.exceptions import NotFound
from mitigation.models import Audit, EnforcementPoint, Hold, Mitigation
from mitigation.protocol.status import Status
from mitigation.services import enforcement, holds, mitigations

Submit = Callable[..., Any]


@pytest.fixture
def box() -> Memory:
    return Memory()


@pytest.fixture
def look(box: Memory, now: datetime) -> Callable[..., None]:
    def do(*, after: int = 0, most_rules: int = 0) -> None:
        point = EnforcementPoint.objects.get()
        clock = lambda: now + timedelta(seconds=after)  # noqa: E731
        assert enforcement.reconcile(point.pk, box, holder="test", clock=clock, most_rules=most_rules)

    return do


def shown() -> dict[int, tuple[int, str]]:
    """Status and problem of what is live, by mid."""
    return {row.mid: (row.status, row.problem) for row in Mitigation.objects.live()}


def test_panic_takes_every_rule_away_and_says_so(
    cast: Any, submit: Submit, box: Memory, look: Callable[..., None], now: datetime
) -> None:
    granted(submit(cast.alice, request(1)))
    look()
    assert box.rules

    holds.throw(Hold.Kind.PANIC, actor="op", reason="wrong prefixes", now=now)
    assert EnforcementPoint.objects.get().is_dirty, "the enforcer looks at once"
    look()

    assert box.rules == {}
    assert shown() == {1: (Status.EXCEEDED, "all enforcement is switched off: wrong prefixes")}
    assert Audit.objects.get(action="panic").after == {"reason": "wrong prefixes"}

    holds.lift(Hold.Kind.PANIC, actor="op", now=now)
    look()
    assert box.rules
    assert shown() == {1: (Status.MITIGATED, "")}


def test_a_freeze_holds_what_comes_after_it_and_nothing_else(
    cast: Any, submit: Submit, withdraw: Callable[..., None], box: Memory, look: Callable[..., None], now: datetime
) -> None:
    granted(submit(cast.alice, request(1, "198.51.100.1/32")))
    granted(submit(cast.alice, request(2, "198.51.100.2/32")))
    look()
    holds.throw(Hold.Kind.FREEZE, actor="op", reason="maintenance tonight", now=now)
    later = now + timedelta(seconds=5)
    granted(submit(cast.alice, request(3, "198.51.100.3/32"), at=later))
    mitigations.stop(Mitigation.objects.get(mid=2).pk, actor="op", reason="", now=later)
    box.rules.pop(next(key for key in box.rules if "198.51.100.1" in key))  # by hand
    look(after=5)

    hosts = {word for key in box.rules for word in key.split() if word.startswith("198.51.100")}
    assert hosts == {"198.51.100.1/32"}
    assert shown()[1] == (Status.MITIGATED, "")
    assert shown()[3] == (Status.EXCEEDED, "change freeze: maintenance tonight")

    holds.lift(Hold.Kind.FREEZE, actor="op", now=later)
    look(after=6)
    assert shown()[3] == (Status.MITIGATED, "")


def test_the_breaker_opens_before_too_much_is_installed(
    cast: Any, submit: Submit, box: Memory, look: Callable[..., None], now: datetime
) -> None:
    granted(submit(cast.alice, request(1, "198.51.100.1/32")))
    look(most_rules=10)
    ordinary = len(box.rules)
    second = now + timedelta(seconds=10)
    granted(submit(cast.alice, request(2, "198.51.100.2/32"), at=second))
    look(after=10, most_rules=10)

    assert len(box.rules) == ordinary
    row = Hold.objects.get()
    assert (row.kind, row.actor) == ("breaker", "server")
    assert row.reason == "14 rules were asked for within a minute; 10 are allowed"
    assert shown()[1] == (Status.MITIGATED, "")
    assert shown()[2] == (Status.EXCEEDED, f"the breaker is open: {row.reason}")

    holds.lift(Hold.Kind.BREAKER, actor="op", now=second)
    look(after=75, most_rules=10)
    assert shown()[2] == (Status.MITIGATED, "")
    assert not Hold.objects.exists()


def test_a_restart_with_many_old_requests_does_not_open_the_breaker(
    cast: Any, submit: Submit, box: Memory, look: Callable[..., None]
) -> None:
    for number in range(1, 6):
        granted(submit(cast.alice, request(number, f"198.51.100.{number}/32")))

    look(after=61, most_rules=10)

    assert not Hold.objects.exists()
    assert len(shown()) == 5


def test_a_switch_is_thrown_once_and_lifted_once(db: None, now: datetime) -> None:
    first = holds.throw(Hold.Kind.FREEZE, actor="one", reason="first", now=now)
    assert holds.throw(Hold.Kind.FREEZE, actor="two", reason="second", now=now).reason == first.reason
    holds.lift(Hold.Kind.FREEZE, actor="one", now=now)
    with pytest.raises(NotFound, match="there is no freeze to lift"):
        holds.lift(Hold.Kind.FREEZE, actor="one", now=now)


@pytest.mark.parametrize(
    ("content", "reason"), [('{"actor": "op", "reason": "all wrong"}', "all wrong"), ("", "manage.py panic")]
)
def test_the_file_of_a_panic_becomes_a_row(db: None, now: datetime, tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "panic"
    file.write_text(content)

    holds.throw_from_file(file, now=now)
    holds.throw_from_file(file, now=now)

    assert Hold.objects.get().reason == reason
    assert not file.exists()
