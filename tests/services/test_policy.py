"""What a domain may ask for: each limit says why, at the door, in the plan and in the audit, and holds for rules too."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from equipment import Memory
from requests_and_outcomes import granted, refused, request

from mitigation.drivers.base import Counter
from mitigation.exceptions import OutsidePolicy, Unavailable, UnfitPolicy
from mitigation.models import Audit, Domain, EnforcementPoint, Mitigation, Rule
from mitigation.protocol.scope import Scope, parse_target_prefix
from mitigation.protocol.status import Status
from mitigation.services import domains, mitigations, plans, shadow
from mitigation.services.mitigations import Submission

Submit = Callable[..., Any]
Reconcile = Callable[..., bool]


@pytest.fixture
def policy(cast: Any, now: datetime) -> Callable[..., Domain]:
    def do(**values: Any) -> Domain:
        return domains.change_domain("a.example", values, actor="test", now=now)

    return do


def planned(now: datetime, *prefixes: str, **more: Any) -> plans.Outlook:
    scope = Scope(target_prefix=tuple(map(parse_target_prefix, prefixes or ("198.51.100.7/32",))))
    return plans.of_request("a.example", scope, now=now, **more)


LIMITS = [
    ({"widest_ipv4": 28}, "198.51.100.0/27", "198.51.100.0/27 is wider than the /28 that this domain's policy allows"),
    ({"widest_ipv6": 64}, "2001:db8:100::/56", "2001:db8:100::/56 is wider than the /64"),
    ({"never_block": ["198.51.100.4/30"]}, "198.51.100.0/29", "198.51.100.0/29 touches the domain's never-block list"),
    ({"never_block": ["198.51.100.0/24"]}, "198.51.100.9/32", "198.51.100.9/32 touches the domain's never-block list"),
]


@pytest.mark.rows("SIG-AUT-013", "SIG-ERR-007", "SIG-ERR-010")
@pytest.mark.parametrize(("values", "prefix", "reason"), LIMITS)
def test_what_is_outside_the_policy_is_refused_and_says_why(
    cast: Any, submit: Submit, policy: Callable[..., Domain], now: datetime, values: Any, prefix: str, reason: str
) -> None:
    policy(**values)

    error = refused(submit(cast.alice, request(1, prefix))).error

    assert isinstance(error, OutsidePolicy)
    assert reason in str(error)
    assert reason in planned(now, prefix).refused
    noted = Audit.objects.get(action="refuse")
    assert (noted.actor, noted.after["reason"]) == ("client alice", str(error))
    assert not Mitigation.objects.exists()


@pytest.mark.parametrize(("values", "prefix", "reason"), LIMITS)
def test_a_stricter_policy_holds_for_what_stands(
    cast: Any,
    submit: Submit,
    reconcile: Reconcile,
    driver: Memory,
    policy: Callable[..., Domain],
    values: Any,
    prefix: str,
    reason: str,
) -> None:
    granted(submit(cast.alice, request(1, prefix)))
    reconcile()
    assert driver.rules

    policy(**values)
    assert EnforcementPoint.objects.get().is_dirty, "the enforcer looks at once"
    reconcile()

    row = Mitigation.objects.get()
    assert driver.rules == {}
    assert row.status == Status.EXCEEDED
    assert reason in row.problem


def test_what_is_just_inside_is_granted(cast: Any, submit: Submit, policy: Callable[..., Domain]) -> None:
    policy(widest_ipv4=28, widest_ipv6=64, maximum_targets=2, never_block=["198.51.100.128/25"])

    granted(submit(cast.alice, request(1, "198.51.100.0/28", "2001:db8:100::/64")))


def test_targets_are_counted_with_names_and_what_aliases_stand_for(
    cast: Any, submit: Submit, policy: Callable[..., Domain], now: datetime
) -> None:
    policy(maximum_targets=2)

    three = request(1, "198.51.100.1/32", fqdns=("a.example",), uris=("https://www.a.example/",))
    error = refused(submit(cast.alice, three)).error

    assert str(error) == "3 targets in one request; this domain's policy allows 2"
    assert "3 targets" in planned(now, "198.51.100.1/32", "198.51.100.2/32", "198.51.100.3/32").refused
    granted(submit(cast.alice, request(1, "198.51.100.1/32", fqdns=("a.example",))))


def test_an_address_that_a_name_stands_for_may_not_be_on_the_never_block_list(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, policy: Callable[..., Domain], now: datetime
) -> None:
    granted(submit(cast.alice, request(1, fqdns=("a.example",))))
    Mitigation.objects.get().names.update(addresses=["198.51.100.1/32", "198.51.100.2/32"], resolved_at=now)
    policy(never_block=["198.51.100.2/32"])
    reconcile()

    hosts = {word for key in driver.rules for word in key.split() if word.startswith("198.51.100")}
    assert hosts == {"198.51.100.1/32"}


@pytest.mark.rows("SIG-PUT-013", "SIG-ERR-023")
def test_new_requests_of_a_minute_are_limited_and_refreshes_are_not(
    cast: Any, submit: Submit, policy: Callable[..., Domain], now: datetime
) -> None:
    policy(maximum_per_minute=2)
    granted(submit(cast.alice, request(1, "198.51.100.1/32")))
    granted(submit(cast.bob, request(1, "198.51.100.2/32", cuid="cuid-of-bob"), at=now + timedelta(seconds=10)))

    at = now + timedelta(seconds=20)
    error = refused(submit(cast.alice, request(2, "198.51.100.3/32"), at=at)).error

    assert isinstance(error, Unavailable)
    assert str(error) == "this domain asked for 2 mitigations within a minute, its maximum"
    assert error.retry_after == 40
    assert str(error) == planned(at, "198.51.100.3/32").refused
    assert not granted(submit(cast.alice, request(1, "198.51.100.1/32"), at=at)).created
    granted(submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory"), at=at))
    granted(submit(cast.alice, request(2, "198.51.100.3/32"), at=at + timedelta(seconds=40)))


@pytest.mark.rows("SIG-ERR-023")
def test_asking_anew_under_the_same_mid_counts_too(
    cast: Any, submit: Submit, withdraw: Callable[..., None], policy: Callable[..., Domain], now: datetime
) -> None:
    policy(maximum_per_minute=3)
    granted(submit(cast.alice, request(1)))
    for second in (10, 20):
        withdraw(cast.alice, 1, at=now + timedelta(seconds=second))
        assert not granted(submit(cast.alice, request(1), at=now + timedelta(seconds=second + 1))).created
    granted(submit(cast.alice, request(1), at=now + timedelta(seconds=25)))  # a refresh
    withdraw(cast.alice, 1, at=now + timedelta(seconds=30))

    at = now + timedelta(seconds=31)
    for wanted in (request(1), request(2, "198.51.100.9/32")):
        error = refused(submit(cast.alice, wanted, at=at)).error
        assert str(error) == "this domain asked for 3 mitigations within a minute, its maximum"
        assert error.retry_after == 29
    assert Mitigation.objects.get().status == Status.TERMINATING
    assert not granted(submit(cast.alice, request(1), at=now + timedelta(seconds=60))).created
    assert Mitigation.objects.get().status == Status.IN_PROGRESS


def test_what_the_server_withdrew_and_is_asked_for_again_counts_too(
    cast: Any, submit: Submit, policy: Callable[..., Domain], now: datetime
) -> None:
    policy(maximum_per_minute=1, approval="one")
    granted(submit(cast.alice, request(1), at=now - timedelta(seconds=50)))
    mitigations.reject(Mitigation.objects.get().pk, actor="operator ann", reason="no", now=now)

    assert isinstance(refused(submit(cast.alice, request(1), at=now)).error, Unavailable)
    row = Mitigation.objects.get()
    assert (row.status, row.needs_approval, row.approve_by) == (Status.WITHDRAWN, False, None), "no trace"
    granted(submit(cast.alice, request(1), at=now + timedelta(seconds=10)))
    error = refused(submit(cast.alice, request(2, "198.51.100.9/32"), at=now + timedelta(seconds=20))).error
    assert isinstance(error, Unavailable)
    assert error.retry_after == 50


def test_asking_anew_is_never_refused_for_the_number_of_mitigations(
    cast: Any, submit: Submit, withdraw: Callable[..., None], policy: Callable[..., Domain]
) -> None:
    granted(submit(cast.alice, request(1)))
    granted(submit(cast.alice, request(2, "198.51.100.9/32")))
    policy(maximum_mitigations=1, maximum_per_minute=3)
    withdraw(cast.alice, 1)

    assert not granted(submit(cast.alice, request(1))).created


def test_one_batch_cannot_outrun_the_limit(cast: Any, policy: Callable[..., Domain], now: datetime) -> None:
    policy(maximum_per_minute=3)
    batch = [Submission(cast.alice.pk, request(mid, f"198.51.100.{mid}/32")) for mid in range(1, 6)]

    outcomes = mitigations.submit_many(batch, now=now)

    assert [isinstance(one, mitigations.Granted) for one in outcomes] == [True, True, True, False, False]
    assert [one.error.retry_after for one in outcomes[3:]] == [60, 60]  # type: ignore[union-attr]


def test_the_plan_says_when_the_quota_is_full(
    cast: Any, submit: Submit, policy: Callable[..., Domain], now: datetime
) -> None:
    policy(maximum_mitigations=1)
    assert planned(now).quotas[0] == plans.Quota("mitigations", 0, 1)
    granted(submit(cast.alice, request(1, "198.51.100.1/32")))

    found = planned(now)

    assert found.refused == "this domain has 1 mitigations, its maximum"
    assert str(refused(submit(cast.alice, request(2, "198.51.100.2/32"))).error) == found.refused


@pytest.mark.rows("SIG-PUT-003")
def test_the_longest_lifetime_is_granted_and_no_more(cast: Any, submit: Submit, policy: Callable[..., Domain]) -> None:
    policy(maximum_lifetime=900)

    assert granted(submit(cast.alice, request(lifetime=86_400))).lifetime == 900
    assert granted(submit(cast.alice, request(2, "198.51.100.9/32", lifetime=-1))).lifetime == 900
    policy(grants_indefinite=True)
    assert granted(submit(cast.alice, request(3, "198.51.100.10/32", lifetime=-1))).lifetime == -1


# -- playbooks


def test_the_domains_playbook_is_one_of_those_allowed(cast: Any, policy: Callable[..., Domain], now: datetime) -> None:
    with pytest.raises(UnfitPolicy, match="the domain's playbook is shield, and only discard would be allowed"):
        policy(allowed_playbooks=["discard"])
    policy(allowed_playbooks=["discard"], playbook="discard")
    with pytest.raises(UnfitPolicy, match="there is no playbook nonsense; known are"):
        policy(playbook="nonsense")

    assert planned(now, playbook="shield").refused == "this domain's policy does not allow the playbook shield"


def test_what_stands_by_a_playbook_that_is_allowed_no_more_has_no_rules(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, policy: Callable[..., Domain]
) -> None:
    granted(submit(cast.alice, request(protocols=(17,))))
    reconcile()
    policy(allowed_playbooks=["discard"], playbook="discard")
    reconcile()

    assert driver.rules == {}
    assert Mitigation.objects.get().problem == "this domain's policy does not allow the playbook shield"


# -- shadow mode


@pytest.fixture
def in_shadow(policy: Callable[..., Domain]) -> Domain:
    return policy(shadow=True)


def test_shadow_mode_installs_only_what_counts_and_says_so(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, in_shadow: Domain, now: datetime
) -> None:
    granted(submit(cast.alice, request()))
    assert Mitigation.objects.get().status == Status.EXCEEDED, "the client never hears that it is in progress"
    reconcile()

    row = Mitigation.objects.get()
    assert driver.rules
    assert not any(one.rule.drops for one in driver.rules.values())
    assert (row.status, row.problem, row.installed_at) == (Status.EXCEEDED, shadow.SAID, None)
    assert row.rendered_at == now
    shown = Rule.objects.filter(state=Rule.State.SHADOW)
    assert {rule.key for rule in shown} == {rule.key for rule in planned(now).rules if rule.drops}
    assert plans.of_mitigation(row.pk, now=now).shadow


@pytest.mark.parametrize(
    ("playbook", "sentence"),
    [
        (
            "shield",
            "at most 1,000 packets (500,000 octets) would have been dropped; an estimate from above: all that came to"
            " its scope",
        ),
        ("discard", "1,000 packets (500,000 octets) would have been dropped; an estimate"),
    ],
)
def test_what_shadow_mode_would_have_dropped_is_estimated(
    cast: Any,
    submit: Submit,
    reconcile: Reconcile,
    count: Callable[..., None],
    driver: Memory,
    policy: Callable[..., Domain],
    now: datetime,
    playbook: str,
    sentence: str,
) -> None:
    policy(shadow=True, playbook=playbook)
    granted(submit(cast.alice, request(protocols=(17,))))
    reconcile()
    (key,) = driver.rules

    count(Counter(key, "one", 1_000, 500_000))

    row = Mitigation.objects.select_related("domain").get()
    assert (row.dropped_packets, row.passed_packets, row.hitting_at) == (0, 1_000, None)
    estimated = shadow.estimate(row)
    assert estimated is not None
    assert estimated.sentence == sentence
    out = io.StringIO()
    call_command("mitigation", "show", str(row.pk), "--json", stdout=out)
    assert json.loads(out.getvalue())["shadow"] == sentence


def test_shadow_mode_ends_and_begins_with_what_stands(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, policy: Callable[..., Domain]
) -> None:
    granted(submit(cast.alice, request()))
    reconcile()
    installed = set(driver.rules)

    policy(shadow=True)
    reconcile()
    assert Mitigation.objects.get().status == Status.EXCEEDED
    assert not any(one.rule.drops for one in driver.rules.values())

    policy(shadow=False)
    reconcile()
    assert set(driver.rules) == installed
    assert Mitigation.objects.get().status == Status.MITIGATED
    assert not Rule.objects.exclude(state=Rule.State.INSTALLED).exists()


def test_the_shadow_of_one_domain_does_not_fall_on_another(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, in_shadow: Domain
) -> None:
    granted(submit(cast.alice, request()))
    granted(submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory")))
    reconcile()

    assert Mitigation.objects.get(client=cast.mallory).status == Status.MITIGATED
    dropping = {one.rule.key for one in driver.rules.values() if one.rule.drops}
    assert dropping
    assert all("203.0.113.7" in key for key in dropping)


# -- commands


def test_the_commands_set_and_show_all_of_it(cast: Any) -> None:
    call_command(
        "domain", "set", "a.example", "--never-block", "198.51.100.4/30", "2001:db8:100::1", "--approval", "two",
        "--approval-within", "300", "--widest-ipv4", "24", "--widest-ipv6", "48", "--maximum-targets", "10",
        "--maximum-mitigations", "50", "--maximum-per-minute", "20", "--maximum-lifetime", "7200", "--shadow",
        "--allowed-playbooks", "shield", "discard", "--grants-indefinite", stdout=io.StringIO(),
    )  # fmt: skip

    out = io.StringIO()
    call_command("domain", "show", "a.example", "--json", stdout=out)
    shown = json.loads(out.getvalue())
    assert shown["never_block"] == ["198.51.100.4/30", "2001:db8:100::1/128"]
    assert (shown["approval"], shown["approval_within"], shown["shadow"]) == ("two", 300, True)
    assert (shown["widest_ipv4"], shown["widest_ipv6"], shown["maximum_targets"]) == (24, 48, 10)
    assert (shown["maximum_mitigations"], shown["maximum_per_minute"], shown["maximum_lifetime"]) == (50, 20, 7200)
    assert (shown["allowed_playbooks"], shown["grants_indefinite"]) == (["shield", "discard"], True)
    noted = Audit.objects.get(action="domain-set")
    assert (noted.before["never_block"], noted.after["never_block"]) == ([], shown["never_block"])

    call_command("domain", "set", "a.example", "--never-block", "--allowed-playbooks", stdout=io.StringIO())
    domain = Domain.objects.get(name="a.example")
    assert (domain.never_block, domain.allowed_playbooks) == ([], [])
    listed = io.StringIO()
    call_command("domain", "list", "--json", stdout=listed)
    assert {row["name"]: (row["approval"], row["shadow"]) for row in json.loads(listed.getvalue())} == {
        "a.example": ("two", True),
        "m.example": ("automatic", False),
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--never-block", "198.51.100.1/24"), "198.51.100.1/24 is not a prefix"),
        (("--never-block", "192.0.2.0/24"), "192.0.2.0/24 touches none of the domain's prefixes"),
        (("--widest-ipv4", "33"), "widest_ipv4: Ensure this value is less than or equal to 32"),
        (("--approval-within", "0"), "approval_within: Ensure this value is greater than or equal to 1"),
        (("--maximum-lifetime", "0"), "maximum_lifetime: Ensure this value is greater than or equal to 1"),
        (("--maximum-per-minute", "-1"), "maximum_per_minute"),
        ((), "there is nothing to change"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(cast: Any, words: tuple[str, ...], reason: str) -> None:
    before = Domain.objects.filter(name="a.example").values().get()

    with pytest.raises(CommandError, match=reason):
        call_command("domain", "set", "a.example", *words)

    assert Domain.objects.filter(name="a.example").values().get() == before


def test_a_domain_that_does_not_exist_has_no_policy(cast: Any) -> None:
    for words in (("show", "c.example"), ("set", "c.example", "--shadow")):
        with pytest.raises(CommandError, match="there is no domain named c.example"):
            call_command("domain", *words)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({}, "would stand"),
        ({"approval": "two", "approval_within": 60}, "needs approval by two different people within 60 s"),
        ({"shadow": True}, shadow.SAID),
        ({"widest_ipv4": 32, "maximum_targets": 0}, "would stand"),
        ({"never_block": ["198.51.100.7/32"]}, "refused: 198.51.100.7/32 touches the domain's never-block list"),
    ],
)
def test_the_plan_has_the_verdict(cast: Any, policy: Callable[..., Domain], values: Any, verdict: str) -> None:
    if values:
        policy(**values)
    out = io.StringIO()

    try:
        call_command("mitigation", "plan", "--domain", "a.example", "--prefix", "198.51.100.7/32", "--json", stdout=out)
    except SystemExit as ended:
        assert ended.code == 1
        assert verdict.startswith("refused")

    assert json.loads(out.getvalue())["verdict"] == verdict


# -- the hot path


@pytest.mark.parametrize("approval", ["automatic", "two"])
def test_no_limit_costs_a_query_for_each_request(
    cast: Any, policy: Callable[..., Domain], now: datetime, approval: str
) -> None:
    def queries(first: int, number: int) -> int:
        wanted = [request(mid, f"198.51.100.{mid}/32") for mid in range(first, first + number)]
        with CaptureQueriesContext(
            connection,
        ) as captured:
            outcomes = mitigations.submit_many([Submission(cast.alice.pk, one) for one in wanted], now=now)
        assert all(granted(one).created for one in outcomes)
        return len(captured)

    queries(1, 1)  # registers the cuid
    without = queries(2, 1)
    policy(
        approval=approval, widest_ipv4=24, widest_ipv6=48, maximum_targets=5, never_block=["198.51.100.200/32"],
        allowed_playbooks=["shield"], maximum_lifetime=600,
    )  # fmt: skip
    assert queries(3, 1) == without
    assert queries(4, 20) == without
    policy(maximum_per_minute=1_000)
    assert queries(30, 20) == without + 1, "what was asked for within the minute is read once for the batch"
