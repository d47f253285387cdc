"""`ratelimit` and `redirect` from a domain's policy to what an operator and a client are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from equipment import Memory
from requests_and_outcomes import request

from mitigation.drivers.base import Counter
from mitigation.exceptions import UnfitPolicy
from mitigation.models import Domain, EnforcementPoint, Mitigation, Rule, Sample
from mitigation.protocol.status import Status
from mitigation.rules.canonical import Kind
from mitigation.services import domains, enforcement, plans, shadow

Submit = Callable[..., Any]
Count = Callable[..., None]
Reconcile = Callable[..., bool]


def use(playbook: str, **parameters: Any) -> None:
    Domain.objects.filter(name="a.example").update(playbook=playbook, playbook_parameters=parameters)


def key_of(kind: Kind) -> str:
    return Rule.objects.get(kind=kind.value).key


def test_a_request_of_prefixes_names_and_uris_has_one_bucket(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, now: datetime
) -> None:
    use("ratelimit", limit_packets=100)
    targets = ("198.51.100.7/32", "2001:db8:100::7/128")
    submit(cast.alice, request(1, *targets, fqdns=("a.example",), uris=("https://a.example/",), ports=((80, 80),)))
    Mitigation.objects.get().names.update(addresses=["198.51.100.9/32"], resolved_at=now)
    submit(cast.bob, request(1, "198.51.100.8/32", cuid="cuid-of-bob"))
    reconcile()

    limits = [one.rule for one in driver.rules.values() if one.rule.kind is Kind.RATE_LIMIT]
    by_bucket: dict[Any, set[str]] = {}
    for rule in limits:
        by_bucket.setdefault(rule.parameters.buckets, set()).add(rule.key.split()[1])
    assert sorted(map(sorted, by_bucket.values())) == [
        ["198.51.100.7/32", "198.51.100.9/32", "2001:db8:100::7/128"],
        ["198.51.100.8/32"],
    ]


def test_what_is_redirected_is_neither_dropped_nor_passed(
    cast: Any, submit: Submit, reconcile: Reconcile, count: Count, now: datetime
) -> None:
    use("redirect")
    submit(cast.alice, request(1))
    reconcile()
    count(Counter(key_of(Kind.REDIRECT), "a", 500, 50_000), at=now + timedelta(seconds=1))

    row = Mitigation.objects.get()
    assert (row.status, row.hitting_at) == (Status.MITIGATED, now + timedelta(seconds=1))
    assert (row.redirected_packets, row.redirected_octets) == (500, 50_000)
    assert (row.dropped_packets, row.dropped_octets, row.passed_packets, row.dropped_at) == (0, 0, 0, None)
    assert dict(zip(Sample.COUNTS, Sample.objects.values_list(*Sample.COUNTS).get(), strict=True)) == {
        **dict.fromkeys(Sample.COUNTS, 0), "redirected_packets": 500, "redirected_octets": 50_000,
    }  # fmt: skip


def test_what_limits_drop_is_told_apart_in_samples(
    cast: Any, submit: Submit, reconcile: Reconcile, count: Count, now: datetime
) -> None:
    use("shield")
    submit(cast.alice, request(1))
    reconcile()
    limits = {Kind.SYN_LIMIT: 7, Kind.UDP_LIMIT: 20, Kind.ICMP_LIMIT: 3}
    counts = {**limits, Kind.AMPLIFICATION: 100, Kind.PASSED: 50}
    count(*(Counter(key_of(kind), "a", n, 10 * n) for kind, n in counts.items()), at=now + timedelta(seconds=1))

    sample = Sample.objects.get()
    assert (sample.dropped_packets, sample.limited_packets, sample.passed_packets) == (130, 30, 50)
    assert (sample.dropped_octets, sample.limited_octets, sample.passed_octets) == (1300, 300, 500)


def test_shadow_mode_redirects_nothing_and_limits_nothing(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, count: Count, now: datetime
) -> None:
    Domain.objects.update(shadow=True)
    for playbook in ("redirect", "ratelimit"):
        use(playbook, limit_packets=1)
        submit(cast.alice, request(1 if playbook == "redirect" else 2))
        reconcile()
        assert {one.rule.kind for one in driver.rules.values()} == {Kind.PASSED}

    count(Counter(key_of(Kind.PASSED), "a", 5, 500), at=now + timedelta(seconds=1))
    estimated = shadow.estimate(Mitigation.objects.latest("pk"))
    assert estimated is not None
    assert not estimated.exact


def test_the_breaker_counts_redirections_too(
    cast: Any, submit: Submit, driver: Memory, reconcile: Reconcile, now: datetime
) -> None:
    use("redirect")
    submit(cast.alice, request(1, *(f"198.51.100.{n}/32" for n in range(2, 40, 2))))
    point = EnforcementPoint.objects.get()

    enforcement.reconcile(point.pk, driver, holder="me", clock=lambda: now, most_rules=5)

    assert not driver.rules


def test_without_a_rate_the_request_is_said_not_to_be_enforced(
    cast: Any, submit: Submit, reconcile: Reconcile, now: datetime
) -> None:
    use("ratelimit")
    submit(cast.alice, request(1))
    reconcile()

    row = Mitigation.objects.get()
    assert row.status == Status.EXCEEDED
    assert "set limit_octets or limit_packets" in row.problem
    assert "set limit_octets" in plans.of_mitigation(row.pk, now=now).refused


@pytest.mark.parametrize("parameters", [{"limit_packets": -5}, {"no_such": 1}])
def test_one_domains_bad_parameters_are_its_own_trouble(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, parameters: dict[str, Any]
) -> None:
    use("ratelimit", **parameters)
    submit(cast.alice, request(1))
    submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory"))
    reconcile()

    assert {one.rule.key.split()[1] for one in driver.rules.values()} == {"203.0.113.7/32"}
    assert next(iter(parameters)) in Mitigation.objects.get(client=cast.alice).problem


def test_a_redirection_may_not_use_the_bit_of_filters(
    cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory, settings: Any, now: datetime
) -> None:
    wide: dict[str, Any] = {"redirect_mask": 0x3F000000}
    with pytest.raises(UnfitPolicy, match="holds 0x20000000, the bit of clients' filters"):
        domains.change_domain("a.example", {"playbook_parameters": wide}, actor="test", now=now)

    use("redirect")
    submit(cast.alice, request(1))
    reconcile()
    assert {one.rule.kind for one in driver.rules.values()} == {Kind.REDIRECT}

    settings.DOTS_NFT_MARK = 1 << 24  # as after a restart with another bit: the default mask holds it
    use("redirect", redirect_return=["eth9"])
    reconcile()
    assert not driver.rules
    assert "holds 0x1000000" in Mitigation.objects.get().problem
