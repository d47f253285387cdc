"""Steps between playbooks by evidence and counters, second by second with a clock of the test's own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from equipment import Memory
from requests_and_outcomes import request

from mitigation.dashboard import evidence as dashboard_evidence
from mitigation.dashboard import policy, timeline
from mitigation.drivers.base import Counter
from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Audit, Domain, EnforcementPoint, Hold, Mitigation
from mitigation.protocol.status import Status
from mitigation.rules.attacks import ATTACKS
from mitigation.rules.canonical import Kind
from mitigation.rules.parameters import PARAMETERS
from mitigation.services import domains, enforcement, escalation, holds, ladder, mitigations, plans

Submit = Callable[..., Any]
Reconcile = Callable[..., bool]

LADDER = ["shield", "ratelimit", "discard"]
STEPS: dict[str, Any] = {
    "ladder": LADDER,
    "step_packets": 1000,
    "step_up_after": 10,
    "step_down_after": 30,
    "step_lasts": 60,
    "playbook_parameters": {"limit_packets": 1000, "allow_whole_host": True},
}


def change(now: datetime, **values: Any) -> None:
    domains.change_domain("a.example", values, actor="test", now=now)


def row() -> Mitigation:
    return Mitigation.objects.select_related("domain", "client").latest("pk")


def steps() -> list[tuple[str, str]]:
    """What happened and why, of what the status does not show."""
    words = (escalation.UP, escalation.DOWN, escalation.KEPT, escalation.STUCK, escalation.REPORTED)
    return [(one.happening, one.reason) for one in row().transitions.all() if one.happening in words]


class Traffic:
    """Counters of equipment in memory, and the server's looks at them, once a second."""

    def __init__(self, driver: Memory, now: datetime) -> None:
        self.driver, self.start, self.second = driver, now, 0
        self._totals: dict[str, int] = {}

    @property
    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.second)

    def flows(self, seconds: int, **packets: int) -> Traffic:
        """So many packets a second of 100 octets meet rules of each kind, named as in Kind."""
        point = EnforcementPoint.objects.get()
        for _ in range(seconds):
            self.second += 1
            for key in self.driver.rules:
                kind = Kind(key.split()[0])
                self._totals[key] = self._totals.get(key, 0) + packets.get(kind.name.lower(), 0)
            self.driver.readings = [Counter(key, "a", n, 100 * n) for key, n in self._totals.items()]
            enforcement.count(point.pk, self.driver, clock=lambda: self.now)
            escalation.revert_due(now=self.now)
            point.refresh_from_db()
            if point.is_dirty:
                enforcement.reconcile(point.pk, self.driver, holder="me", clock=lambda: self.now)
        return self

    @property
    def kinds(self) -> set[Kind]:
        return {one.rule.kind for one in self.driver.rules.values()}


@pytest.fixture
def traffic(cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime) -> Traffic:
    """Of one request that stands, in a domain with a ladder."""
    change(now, **STEPS)
    submit(cast.alice, request(1))
    reconcile()
    return Traffic(driver, now)


# -- by counters ------------------------------------------------------------------------------------------------------


def test_what_passes_too_long_takes_it_one_step_up_and_no_further_at_once(traffic: Traffic) -> None:
    traffic.flows(10, passed=5000)
    assert row().playbook == "shield"
    traffic.flows(1, passed=5000)

    assert row().playbook == "ratelimit"
    assert {Kind.AMPLIFICATION, Kind.RATE_LIMIT, Kind.PASSED} <= traffic.kinds
    assert Kind.DISCARD not in traffic.kinds
    assert row().step_until == traffic.now + timedelta(seconds=60)
    assert row().status == Status.MITIGATED
    (step,) = steps()
    assert step == (
        "stepped-up",
        "to ratelimit: 5,000 packets and 500,000 octets a second passed for 10 s and more; for 60 s unless it is needed "
        "longer",
    )

    traffic.flows(9, passed=1000, rate_limit=4000)
    assert row().playbook == "ratelimit"


def test_a_threshold_that_is_met_and_not_passed_is_no_reason(traffic: Traffic) -> None:
    traffic.flows(60, passed=1000)

    assert (row().playbook, steps()) == ("shield", [])


def test_one_quiet_second_begins_the_time_anew(traffic: Traffic) -> None:
    for _ in range(5):
        traffic.flows(9, passed=5000).flows(1, passed=10)

    assert row().playbook == "shield"


def test_octets_are_a_threshold_of_their_own(traffic: Traffic) -> None:
    change(traffic.now, step_packets=0, step_octets=100_000)
    traffic.flows(20, passed=1000)
    assert row().playbook == "shield"
    traffic.flows(11, passed=1001)

    assert row().playbook == "ratelimit"


def test_it_goes_to_the_last_rung_and_says_once_when_there_is_no_other(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000).flows(11, passed=5000, rate_limit=20_000)
    assert row().playbook == "discard"
    assert Kind.DISCARD in traffic.kinds
    traffic.flows(40, passed=5000, discard=100)

    assert [word for word, _ in steps()] == ["stepped-up", "stepped-up", "no-further-step"]
    assert steps()[-1][1].endswith("pass; this is the last rung")


def test_a_rung_that_policy_or_scope_does_not_allow_is_passed_over_or_refused(traffic: Traffic) -> None:
    change(traffic.now, playbook_parameters={"limit_packets": None, "allow_whole_host": None})
    traffic.flows(30, passed=5000)

    assert row().playbook == "shield"
    (stuck,) = steps()
    assert stuck[0] == "no-further-step"
    assert "ratelimit: ratelimit has no rate here" in stuck[1]
    assert "discard: discard would drop everything" in stuck[1]

    change(traffic.now, playbook_parameters={"allow_whole_host": True})
    traffic.flows(11, passed=5000)
    assert row().playbook == "discard"


def test_it_steps_down_when_less_would_pass_without_the_step(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000)
    assert row().playbook == "ratelimit"
    traffic.flows(20, passed=1000, rate_limit=1)  # 1,001 would pass
    assert row().calm_since is None
    traffic.flows(31, passed=900, rate_limit=100, amplification=90_000)

    assert (row().playbook, row().step_until) == ("shield", None)
    assert Kind.RATE_LIMIT not in traffic.kinds
    assert steps()[-1] == (
        "stepped-down",
        "to shield: without it no more than 1,000 packets and 100,000 octets a second would have passed for 30 s",
    )


def test_it_steps_down_when_nothing_moves_any_more(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000).flows(31)

    assert row().playbook == "shield"


def test_a_step_reverts_after_its_time_unless_it_is_needed(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000).flows(60, passed=1000, rate_limit=9000)
    assert row().playbook == "ratelimit"
    assert [word for word, _ in steps()] == ["stepped-up", "step-kept"]
    assert steps()[-1][1] == "ratelimit for 60 s more: without it too much would pass"
    assert row().step_until == traffic.now + timedelta(seconds=60)

    traffic.flows(50, passed=1000, rate_limit=9000).flows(10, passed=10)
    assert row().playbook == "shield"
    assert steps()[-1] == ("stepped-down", "to shield: its 60 s are over")


def test_a_step_reverts_also_where_counters_are_not_read_any_more(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000).flows(1, passed=1000, rate_limit=9000)

    later = traffic.now + timedelta(seconds=60)
    assert escalation.revert_due(now=later - timedelta(seconds=2)) == 0
    assert escalation.revert_due(now=later) == 1
    assert row().playbook == "shield"
    assert escalation.revert_due(now=later) == 0


def test_from_two_steps_up_it_comes_down_one_by_one_each_with_its_time(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000).flows(11, passed=5000, rate_limit=20_000)
    traffic.flows(31, discard=100)
    assert row().playbook == "ratelimit"
    assert row().step_until == traffic.now + timedelta(seconds=60)
    assert Kind.DISCARD not in traffic.kinds
    traffic.flows(31, passed=100)

    assert (row().playbook, row().step_until) == ("shield", None)


def test_redirected_traffic_does_not_pass(traffic: Traffic) -> None:
    change(traffic.now, ladder=["shield", "redirect", "discard"])
    traffic.flows(11, passed=5000)
    assert row().playbook == "redirect"
    traffic.flows(40, redirect=5000)

    assert row().playbook == "redirect"
    assert row().calm_since is None


def test_without_a_ladder_or_a_threshold_nothing_steps(traffic: Traffic) -> None:
    change(traffic.now, step_packets=0)
    traffic.flows(30, passed=10**6)
    change(traffic.now, step_packets=1, ladder=[])
    traffic.flows(30, passed=10**6)

    assert (row().playbook, steps()) == ("shield", [])


@pytest.mark.parametrize("kind", [Hold.Kind.FREEZE, Hold.Kind.BREAKER])
def test_while_enforcement_is_held_back_nothing_steps_up(traffic: Traffic, kind: str) -> None:
    holds.throw(kind, actor="test", reason="look first", now=traffic.now)
    traffic.flows(30, passed=5000)
    assert row().playbook == "shield"
    holds.lift(kind, actor="test", now=traffic.now)
    traffic.flows(11, passed=5000)

    assert row().playbook == "ratelimit"


def test_in_shadow_mode_nothing_steps(traffic: Traffic) -> None:
    change(traffic.now, shadow=True)
    traffic.flows(30, passed=5000)

    assert row().playbook == "shield"


def test_a_policy_without_the_rung_takes_it_away_at_once(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000)
    change(traffic.now, ladder=["shield", "discard"])
    traffic.flows(1)

    assert (row().playbook, row().step_until) == ("shield", None)
    assert Kind.RATE_LIMIT not in traffic.kinds
    assert steps()[-1] == ("stepped-down", "to shield: the domain's policy was changed")


def test_a_rung_that_becomes_impossible_leaves_those_below_it(traffic: Traffic) -> None:
    traffic.flows(11, passed=5000)
    change(traffic.now, playbook_parameters={"limit_packets": None})
    traffic.flows(1)

    assert row().playbook == "ratelimit"
    assert {Kind.AMPLIFICATION, Kind.PASSED} <= traffic.kinds
    assert Kind.RATE_LIMIT not in traffic.kinds
    assert any(note.startswith("ratelimit is left out: ratelimit has no rate") for note in row().notes)
    assert row().status == Status.MITIGATED


def test_what_is_asked_for_again_after_its_end_begins_where_it_began(
    traffic: Traffic, cast: Any, submit: Submit
) -> None:
    traffic.flows(11, passed=5000)
    mitigations.stop(row().pk, actor="test", reason="over", now=traffic.now)

    assert (row().playbook, row().step_until, row().pressed_since) == ("shield", None, None)


def test_neighbours_and_other_domains_do_not_step_with_it(traffic: Traffic, cast: Any, submit: Submit) -> None:
    submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory"))
    traffic.flows(12, passed=5000)

    assert {one.domain.name: one.playbook for one in Mitigation.objects.select_related("domain")} == {
        "a.example": "ratelimit",
        "m.example": "shield",
    }


# -- by what is reported ----------------------------------------------------------------------------------------------


def report(now: datetime, kind: str, **more: Any) -> Mitigation:
    return escalation.report(row().pk, kind=kind, actor="operator", now=now, **more)


@pytest.mark.parametrize("kind", sorted(ATTACKS))
def test_each_kind_of_attack_has_its_first_rung(traffic: Traffic, kind: str) -> None:
    change(traffic.now, ladder=["shield", "ratelimit", "redirect", "discard"])
    report(traffic.now, kind, by="detector 3")
    traffic.flows(1)

    found = row()
    assert (found.playbook, found.step_until) == (ATTACKS[kind].playbook, None)
    assert found.playbook in PARAMETERS
    assert found.evidence is not None
    assert (found.evidence["kind"], found.evidence["by"]) == (kind, "detector 3")
    assert ladder.kinds_of(found.playbook) & traffic.kinds
    assert steps()[0] == ("evidence", f"{kind}, says detector 3")
    assert Audit.objects.get(action="evidence").after["evidence"]["kind"] == kind


def test_reported_source_ports_are_dropped_with_those_of_amplification(traffic: Traffic, driver: Memory) -> None:
    report(traffic.now, "udp-amplification", source_ports=[10_001, 123])
    traffic.flows(1)

    (rule,) = [one.rule for one in driver.rules.values() if one.rule.kind is Kind.AMPLIFICATION]
    assert set(rule.parameters.source_ports) == {10_001, *dict.fromkeys((17, 19, 53, 69, 111, 123, 137, 161))} | {
        389, 520, 1900, 3702, 5353, 11211, 27960,
    }  # fmt: skip
    assert rule in plans.of_mitigation(row().pk, now=traffic.now).rules
    report(traffic.now, "")
    traffic.flows(1)
    assert not any("10001" in one.rule.text for one in driver.rules.values())


def test_reported_sources_are_kept_and_not_dropped(traffic: Traffic, driver: Memory) -> None:
    before = set(driver.rules)
    report(traffic.now, "udp-flood", sources=["192.0.2.0/24"])
    traffic.flows(1)

    assert row().evidence["sources"] == row().attackers == ["192.0.2.0/24"]
    assert set(driver.rules) == before


def test_the_first_rung_is_one_that_policy_and_scope_allow(traffic: Traffic) -> None:
    change(traffic.now, playbook_parameters={"allow_whole_host": None})
    report(traffic.now, "unwanted")

    assert row().playbook == "ratelimit"
    word, reason = steps()[0]
    assert word == "evidence"
    assert "not by discard: discard would drop everything" in reason


def test_a_rung_that_the_ladder_does_not_have_changes_nothing(traffic: Traffic) -> None:
    report(traffic.now, "application")

    assert row().playbook == "shield"


def test_a_later_report_takes_it_back_down_but_no_step_that_counters_asked_for(traffic: Traffic) -> None:
    report(traffic.now, "volumetric")
    traffic.flows(12, passed=5000)
    assert row().playbook == "discard"
    report(traffic.now, "syn-flood")
    assert row().playbook == "discard"
    traffic.flows(31, discard=10)
    assert row().playbook == "ratelimit"
    assert row().step_until is not None
    report(traffic.now, "volumetric")
    traffic.flows(31)
    assert row().playbook == "ratelimit"
    report(traffic.now, "")

    assert (row().playbook, row().evidence) == ("shield", None)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"kind": "rain"}, "rain is no kind of attack; known are udp-amplification"),
        ({"kind": "udp-amplification", "source_ports": [70_000]}, "a port is a number"),
        ({"kind": "udp-amplification", "source_ports": range(100)}, "at most 64"),
        ({"kind": "syn-flood", "source_ports": [80]}, "source ports are of udp-amplification only"),
        ({"kind": "syn-flood", "sources": ["nowhere"]}, "is not an IPv4 or IPv6 address"),
    ],
)
def test_what_cannot_be_is_refused(traffic: Traffic, said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedRequest, match=complaint):
        report(traffic.now, **said)

    assert (row().evidence, row().attackers, steps()) == (None, [], [])


def test_only_what_lives_can_be_reported_on(traffic: Traffic) -> None:
    with pytest.raises(NotFound, match="no live mitigation"):
        escalation.report(999, kind="volumetric", actor="operator", now=traffic.now)


# -- commands and pages -----------------------------------------------------------------------------------------------


def command(*arguments: str) -> Any:
    out = io.StringIO()
    call_command(*arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_the_commands_report_and_show_it(traffic: Traffic) -> None:
    said = command(
        "mitigation",
        "evidence",
        str(row().pk),
        "--kind",
        "udp-amplification",
        "--source-port",
        "123",
        "--from",
        "probe",
    )
    assert said["evidence"]["source_ports"] == [123]
    shown = command("mitigation", "show", str(row().pk))
    assert (shown["ladder"], shown["playbook"], shown["evidence"]["by"]) == (LADDER, "shield", "probe")
    assert any(step["happening"] == "evidence" for step in shown["history"])
    assert command("mitigation", "evidence", str(row().pk), "--clear")["evidence"] is None


def test_the_commands_set_a_ladder_and_refuse_a_bad_one(cast: Any) -> None:
    call_command(
        "domain", "set", "a.example", "--ladder", "shield", "redirect", "--step-packets", "5", "--step-octets", "6",
        "--step-up-after", "7", "--step-down-after", "8", "--step-lasts", "9", stdout=io.StringIO(),
    )  # fmt: skip
    shown = command("domain", "show", "a.example")
    assert [shown[name] for name in ("ladder", "step_packets", "step_octets")] == [["shield", "redirect"], 5, 6]
    assert [shown[f"step_{name}"] for name in ("up_after", "down_after", "lasts")] == [7, 8, 9]

    for bad, complaint in (
        (["--ladder", "ratelimit", "discard"], "where requests begin, is no rung"),
        (["--ladder", "shield", "shield"], "each playbook once"),
        (["--ladder", "shield", "scrub"], "no playbook scrub"),
        (["--allowed-playbooks", "shield"], "the ladder has redirect, which the domain does not allow"),
        (["--step-lasts", "0"], "step_lasts"),
    ):
        with pytest.raises(CommandError, match=complaint):
            call_command("domain", "set", "a.example", *bad, stdout=io.StringIO())
    assert Domain.objects.get(name="a.example").ladder == ["shield", "redirect"]


def test_the_dashboard_tells_each_step_with_its_reason(traffic: Traffic) -> None:
    report(traffic.now, "udp-flood")
    traffic.flows(11, passed=5000).flows(31)
    found = row()
    events = timeline.build(found, dashboard_evidence.gather([found])[found.pk], traffic.now)

    told = {event.words: event.who for event in events}
    assert told["Stepped up"].startswith("enforcer · to ratelimit: 5,000 packets")
    assert told["Stepped down"].startswith("enforcer · to shield: without it")
    assert told["The attack was described"] == "operator · udp-flood, says operator"
    assert dict(policy.words(found.domain))["Escalation"] == (
        "shield, then ratelimit, then discard: one step up when more than 1,000 packets a second pass for 10 s, for 60 s "
        "unless needed longer; down after 30 s below"
    )


# -- readings as they come --------------------------------------------------------------------------------------------


def test_a_mitigation_whose_rules_are_written_in_several_batches_is_judged_once_by_all_of_them(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mitigation.services.counting.RULES_AT_ONCE", 1)
    every_kind = {kind.name.lower(): 100 for kind in Kind}
    traffic.flows(20, **every_kind | {"passed": 900})
    assert row().playbook == "shield"
    traffic.flows(11, **every_kind | {"passed": 1001})

    assert row().playbook == "ratelimit"


def test_two_readings_right_after_each_other_are_not_taken_for_a_flood(traffic: Traffic) -> None:
    for _ in range(15):
        traffic.flows(1, passed=900)
        point = EnforcementPoint.objects.get()
        for at in range(3):
            key = next(key for key in traffic.driver.rules if key.startswith("pass"))
            reading = next(one for one in traffic.driver.readings if one.key == key)
            traffic._totals[key] += 50
            traffic.driver.readings = [Counter(key, "a", reading.packets + 50, reading.octets + 5000)]
            soon = traffic.now + timedelta(milliseconds=at + 1)
            enforcement.count(point.pk, traffic.driver, clock=lambda soon=soon: soon)

    assert (row().playbook, row().pressed_since) == ("shield", None)
