"""The kill switch, the change freeze and the breaker; none of them stops a stop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from equipment import Memory
from requests_and_outcomes import granted, request

from mitigation.dashboard.switches import switches
from mitigation.exceptions import NotFound
from mitigation.models import Audit, DomainPrefix, EnforcementPoint, Hold, Mitigation
from mitigation.protocol.scope import MitigationRequest
from mitigation.protocol.status import Status
from mitigation.services import domains, enforcement, holds, mitigations

Submit = Callable[..., Any]


@pytest.fixture
def box() -> Memory:
    return Memory()


@pytest.fixture
def look(box: Memory, now: datetime) -> Callable[..., None]:
    def do(*, after: int = 0, most_rules: int = 0, most_share: int = 0) -> None:
        point = EnforcementPoint.objects.get()
        clock = lambda: now + timedelta(seconds=after)  # noqa: E731
        limits = {"most_rules": most_rules, "most_share": most_share}
        assert enforcement.reconcile(point.pk, box, holder="test", clock=clock, **limits)

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


@pytest.fixture
def wide(cast: Any, now: datetime) -> Any:
    """A client with 768 addresses and 65,536 networks of IPv6; all domains together have 1,280 and 131,072."""
    mine = ["10.1.0.0/23", "10.1.2.0/24", "2001:db8:200::/48"]
    domains.add_domain("w.example", prefixes=mine, fqdns=[], actor="test", now=now)
    return domains.add_client("wanda", domain="w.example", actor="test", now=now)


def for_wanda(mid: int, *prefixes: str) -> MitigationRequest:
    return request(mid, *prefixes, cuid="cuid-of-wanda")


def test_the_breaker_opens_when_most_addresses_would_be_dropped_to(
    cast: Any, wide: Any, submit: Submit, box: Memory, look: Callable[..., None], now: datetime
) -> None:
    granted(submit(wide, for_wanda(1, "10.1.0.0/23")))
    look(most_share=50)
    assert shown()[1] == (Status.MITIGATED, ""), "512 of 1,280"
    ordinary = set(box.rules)
    third = now + timedelta(seconds=30)
    granted(submit(cast.alice, request(2, "198.51.100.0/25"), at=third))
    granted(submit(wide, for_wanda(3, "10.1.2.0/32"), at=third))
    look(after=30, most_share=50)

    assert set(box.rules) == ordinary
    row = Hold.objects.get()
    assert (row.kind, row.actor) == ("breaker", "server")
    assert row.reason == (
        "rules for 50.1 % of all domains' IPv4 addresses (641 of 1,280) were asked for within a minute; 50 % are allowed"
    )
    said = (Status.EXCEEDED, f"the breaker is open: {row.reason}")
    assert shown() == {1: (Status.MITIGATED, ""), 2: said, 3: said}
    assert [one.hold for one in switches(third) if one.kind == Hold.Kind.BREAKER] == [row]

    holds.lift(Hold.Kind.BREAKER, actor="op", now=third)
    look(after=91, most_share=50)
    assert {status for status, _ in shown().values()} == {Status.MITIGATED}
    assert not Hold.objects.exists()


@pytest.mark.parametrize("limit", [{"most_rules": 10}, {"most_share": 39}])
def test_what_somebody_let_through_does_not_open_it_again(
    cast: Any, wide: Any, submit: Submit, look: Callable[..., None], now: datetime, limit: dict[str, int]
) -> None:
    granted(submit(wide, for_wanda(1, "10.1.0.0/23")))
    granted(submit(wide, for_wanda(2, "10.1.2.0/24")))
    look(after=1, **limit)
    assert Hold.objects.exists()

    holds.lift(Hold.Kind.BREAKER, actor="op", now=now + timedelta(seconds=2))
    look(after=3, **limit)
    assert not Hold.objects.exists()
    assert {status for status, _ in shown().values()} == {Status.MITIGATED}

    after = now + timedelta(seconds=4)
    granted(submit(wide, for_wanda(3, "10.1.0.0/23"), at=after))
    granted(submit(wide, for_wanda(4, "10.1.2.0/24"), at=after))
    look(after=5, **limit)
    assert Hold.objects.get().since > now + timedelta(seconds=3), "what begins after that is counted anew"


def test_just_the_share_is_allowed_and_what_is_a_minute_old_does_not_count(
    cast: Any, wide: Any, submit: Submit, look: Callable[..., None], now: datetime
) -> None:
    granted(submit(wide, for_wanda(1, "10.1.0.0/23")))
    granted(submit(cast.alice, request(2, "198.51.100.0/25"), at=now + timedelta(seconds=59)))
    look(after=59, most_share=50)  # 640 of 1,280
    granted(submit(cast.alice, request(3, "198.51.100.128/25"), at=now + timedelta(seconds=60)))
    look(after=60, most_share=50)  # 768, of which 256 within the last minute

    assert not Hold.objects.exists()


def test_the_same_addresses_count_once_however_many_ask_for_them(
    cast: Any, wide: Any, submit: Submit, look: Callable[..., None], now: datetime
) -> None:
    granted(submit(wide, for_wanda(1, "10.1.0.0/23")))
    for number, (cuid, ports) in enumerate([("one", (80, 80)), ("two", (443, 443)), ("one", (22, 22))], start=2):
        granted(submit(wide, request(number, "10.1.0.0/24", "10.1.1.0/24", cuid=cuid, ports=(ports,))))

    look(most_share=40)

    assert not Hold.objects.exists(), "512 of 1,280"
    look(most_share=39)
    assert Hold.objects.get().reason.startswith("rules for 40.0 % of all domains' IPv4 addresses (512 of 1,280)")


@pytest.mark.parametrize(
    ("prefix", "opens"), [("2001:db8:200::/55", True), ("2001:db8:200::/56", False), ("2001:db8:200::7/128", False)]
)
def test_ipv6_is_counted_by_itself_and_by_64(
    cast: Any, wide: Any, submit: Submit, look: Callable[..., None], prefix: str, opens: bool
) -> None:
    """Of few networks up to 256 may be asked for at once, whatever share they are."""
    DomainPrefix.objects.filter(family=6).exclude(prefix="2001:db8:200::/48").delete()
    granted(submit(wide, for_wanda(1, "10.1.0.0/24", prefix)))
    (owned,) = DomainPrefix.objects.filter(family=6)
    assert owned.prefix == "2001:db8:200::/48"

    look(most_share=100)
    assert not Hold.objects.exists()
    DomainPrefix.objects.filter(pk=owned.pk).update(prefix="2001:db8:200::/55")
    look(after=1, most_share=99)

    if opens:
        expected = "rules for 100.0 % of all domains' IPv6 /64 networks (512 of 512) were asked for within a minute;"
        assert Hold.objects.get().reason == f"{expected} 99 % are allowed"
    else:
        assert not Hold.objects.exists()


def test_a_small_installation_may_protect_all_it_has(cast: Any, submit: Submit, look: Callable[..., None]) -> None:
    DomainPrefix.objects.exclude(prefix="198.51.100.0/24").delete()
    granted(submit(cast.alice, request(1, "198.51.100.0/24")))

    look(most_share=1)

    assert shown()[1] == (Status.MITIGATED, "")
    assert not Hold.objects.exists()


@pytest.mark.parametrize("values", [{"shadow": True}, {"playbook": "redirect"}, {"approval": "one"}])
def test_what_drops_and_limits_nothing_is_no_share(
    cast: Any, wide: Any, submit: Submit, look: Callable[..., None], now: datetime, values: dict[str, Any]
) -> None:
    domains.change_domain("w.example", values, actor="test", now=now)
    granted(submit(wide, for_wanda(1, "10.1.0.0/23")))

    look(most_share=1)

    assert not Hold.objects.exists()


def test_what_is_approved_later_counts_when_it_starts(
    cast: Any, wide: Any, submit: Submit, look: Callable[..., None], now: datetime
) -> None:
    domains.change_domain("w.example", {"approval": "one"}, actor="test", now=now)
    granted(submit(wide, for_wanda(1, "10.1.0.0/23")))
    mitigations.approve(Mitigation.objects.get().pk, actor="operator ann", now=now + timedelta(seconds=300))

    look(after=301, most_share=39)

    assert "40.0 %" in Hold.objects.get().reason


def test_what_comes_first_is_told_of_rules_and_share(
    cast: Any, wide: Any, submit: Submit, look: Callable[..., None], now: datetime
) -> None:
    """And all that came after it is held."""
    granted(submit(wide, for_wanda(1, "10.1.0.0/23"), at=now))
    granted(submit(cast.alice, request(2), at=now + timedelta(seconds=5)))

    look(after=5, most_rules=10, most_share=39)

    row = Hold.objects.get()
    assert "40.0 %" in row.reason
    assert row.since < now
    assert {status for status, _ in shown().values()} == {Status.EXCEEDED}


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
