"""Which filters stand when: by activation type, mitigations, lifetimes, prefixes, holds; what they counted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from equipment import Memory
from filter_lists import TO_US, stored
from requests_and_outcomes import request

from mitigation.drivers.base import Counter
from mitigation.drivers.dryrun import DryRunDriver
from mitigation.models import Acl, Client, Domain, DomainPrefix, EnforcedAce, EnforcementPoint, Hold, Mitigation
from mitigation.protocol.filters import ActivationType
from mitigation.protocol.scope import range_keys
from mitigation.services import enforcement, filter_enforcement, filters, holds
from mitigation.services.enforcement import Standing

IMMEDIATE, MITIGATING, NEVER = (
    ActivationType.IMMEDIATE,
    ActivationType.ACTIVATE_WHEN_MITIGATING,
    ActivationType.DEACTIVATE,
)
Look = Callable[..., None]


@pytest.fixture
def standing() -> Standing:
    return Standing()


@pytest.fixture
def look(driver: Memory, standing: Standing, now: datetime) -> Look:
    def do(*, at: datetime = now, full: bool = False, using: Any = None) -> None:
        point = EnforcementPoint.objects.get()
        enforcement.reconcile(point.pk, using or driver, holder="me", clock=lambda: at, standing=standing, full=full)

    return do


def names(driver: Memory) -> dict[str, list[str]]:
    return {key: [one.name for one in wanted.filters.lists] for key, wanted in driver.filters.items()}


def key_of(client: Client) -> str:
    return f"d{client.domain_id}"


@pytest.mark.rows("DATA-ACT-004", "DATA-ACT-005", "DATA-ACT-002")
def test_immediate_lists_stand_and_others_wait(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    for name, kind in (("now", IMMEDIATE), ("then", MITIGATING), ("off", NEVER)):
        stored(cast.alice, now, name=name, kind=kind)

    look()

    assert names(driver) == {key_of(cast.alice): ["now"]}
    assert list(EnforcedAce.objects.values_list("acl__name", "ace", "state", "drops")) == [
        ("now", "r0", "installed", True)
    ]
    assert EnforcedAce.objects.get().installed_at == now


@pytest.mark.rows("DATA-ACT-003", "DATA-ACT-006", "ENF-GEN-008")
def test_a_list_stands_while_its_own_client_has_a_mitigation(
    cast: Any, submit: Any, withdraw: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now, name="alices", kind=MITIGATING)
    stored(cast.bob, now, name="bobs", kind=MITIGATING)
    look()
    assert names(driver) == {}

    submit(cast.alice, request(1))
    look()
    assert names(driver) == {key_of(cast.alice): ["alices"]}
    assert driver.filters[key_of(cast.alice)].expires_in_seconds == 3600 + 300, "the mitigation's lifetime and slack"

    withdraw(cast.alice, 1, at=now + timedelta(seconds=10))
    look(at=now + timedelta(seconds=11))
    assert names(driver) == {key_of(cast.alice): ["alices"]}, "while it terminates it goes on"

    Mitigation.objects.update(status=6, ended_at=now)
    look(at=now + timedelta(seconds=200))
    assert names(driver) == {}
    assert EnforcedAce.objects.get().state == "idle"


@pytest.mark.rows("ENF-ACT-009")
def test_a_filter_comes_before_what_it_spares_from_and_goes_after(
    cast: Any, submit: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now, kind=MITIGATING)
    look()
    driver.done.clear()

    submit(cast.alice, request(1))
    look()
    assert driver.done == ["1 lists", "rules come"]

    driver.done.clear()
    Mitigation.objects.update(status=6, ended_at=now)
    look()
    assert driver.done == ["rules go", "0 lists"]
    assert not EnforcementPoint.objects.get().is_dirty


@pytest.mark.rows("DATA-ACT-007", "SIG-FLT-013")
def test_a_switch_shows_at_the_next_look(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    stored(cast.alice, now, kind=NEVER)
    look()

    filters.activate((cast.alice.pk, "", "cuid-of-alice"), "x", IMMEDIATE, now=now, door="signal")
    assert EnforcementPoint.objects.get().is_dirty
    look()
    assert names(driver) == {key_of(cast.alice): ["x"]}

    filters.activate((cast.alice.pk, "", "cuid-of-alice"), "x", NEVER, now=now, door="signal")
    look()
    assert names(driver) == {}


@pytest.mark.rows("DATA-ORD-002", "ENF-ORD-005", "ENF-ORD-006")
def test_lists_stand_in_their_clients_order_and_domains_apart(
    cast: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now, name="b", position=2)
    stored(cast.alice, now, name="a", position=3)
    stored(cast.alice, now, name="c", position=1)
    stored(cast.bob, now, name="of-bob")
    stored(cast.mallory, now, {}, name="of-mallory")

    look()

    assert names(driver) == {key_of(cast.alice): ["c", "b", "a", "of-bob"], key_of(cast.mallory): ["of-mallory"]}
    destinations = {key: [str(one) for one in wanted.filters.destinations] for key, wanted in driver.filters.items()}
    assert destinations == {
        key_of(cast.alice): ["198.51.100.0/24", "2001:db8:100::/48"],
        key_of(cast.mallory): ["203.0.113.0/24"],
    }


@pytest.mark.rows("DATA-LIF-002", "DATA-LIF-009", "ENF-GEN-008")
def test_a_list_goes_when_it_expires_but_not_during_an_attack(
    cast: Any, submit: Any, driver: Memory, standing: Standing, look: Look, now: datetime
) -> None:
    stored(cast.alice, now, expires_at=now + timedelta(minutes=5))
    look()
    assert driver.filters[key_of(cast.alice)].expires_in_seconds == 300 + 300

    later = now + timedelta(minutes=6)
    assert not standing.filters.is_due(now)
    assert standing.filters.is_due(later)
    submit(cast.alice, request(1))
    look(at=later)
    assert names(driver) == {key_of(cast.alice): ["x"]}
    Mitigation.objects.update(status=6, ended_at=later)
    look(at=later)
    assert names(driver) == {}


@pytest.mark.rows("ENF-GEN-002", "DATA-ACL-019", "DATA-AUZ-004")
def test_a_list_whose_destination_the_domain_has_lost_does_not_stand(
    cast: Any, driver: Memory, look: Look, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    stored(cast.alice, now, {}, TO_US, name="lost")
    stored(cast.alice, now, {"ipv4": {"destination-ipv4-network": "198.51.100.200/32"}}, name="kept")
    look()
    assert names(driver) == {key_of(cast.alice): ["lost", "kept"]}

    DomainPrefix.objects.filter(prefix="198.51.100.0/24").delete()
    first, last = range_keys(ip_network("198.51.100.128/25"))
    domain = Domain.objects.get(name="a.example")
    DomainPrefix.objects.create(domain=domain, prefix="198.51.100.128/25", family=4, first=first, last=last)
    look()

    assert names(driver) == {key_of(cast.alice): ["kept"]}
    assert [str(one) for one in driver.filters[key_of(cast.alice)].filters.destinations] == [
        "198.51.100.128/25",
        "2001:db8:100::/48",
    ]
    assert "lost/r1: 198.51.100.0/25 is outside the domain's prefixes" in caplog.text


def test_what_is_never_blocked_is_reached_by_no_filter(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    stored(cast.alice, now, {})
    Domain.objects.filter(name="a.example").update(never_block=["198.51.100.128/25", "2001:db8:100::/48"])

    look()

    (wanted,) = driver.filters.values()
    assert [str(one) for one in wanted.filters.destinations] == ["198.51.100.0/25"]


def test_in_shadow_mode_filters_are_shown_and_not_installed(
    cast: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now)
    Domain.objects.filter(name="a.example").update(shadow=True)

    look()

    assert names(driver) == {}
    assert EnforcedAce.objects.get().state == "rendered"


def test_a_dry_run_shows_filters(cast: Any, look: Look, now: datetime) -> None:
    EnforcementPoint.objects.update(enforces=False, counts=False, driver="dryrun")
    row = stored(cast.alice, now)

    look(using=DryRunDriver())

    assert EnforcedAce.objects.get().state == "rendered"
    assert filter_enforcement.statistics([row.pk]) == {}


def test_panic_takes_all_filters_away_and_a_freeze_holds_the_new(
    cast: Any, submit: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now, name="before")
    holds.throw(Hold.Kind.FREEZE, actor="op", reason="works", now=now + timedelta(seconds=1))
    later = now + timedelta(seconds=2)
    stored(cast.alice, later, name="after")
    stored(cast.alice, now, name="when-mitigating", kind=MITIGATING)
    submit(cast.alice, request(1), at=later)
    look(at=later)
    assert names(driver) == {key_of(cast.alice): ["before"]}

    holds.throw(Hold.Kind.PANIC, actor="op", reason="all off", now=later)
    look(at=later)
    assert names(driver) == {}

    for kind in (Hold.Kind.PANIC, Hold.Kind.FREEZE):
        holds.lift(kind, actor="op", now=later)
    look(at=later)
    assert names(driver) == {key_of(cast.alice): ["before", "after", "when-mitigating"]}


def test_a_mitigation_that_waits_for_approval_activates_nothing(
    cast: Any, submit: Any, driver: Memory, look: Look, now: datetime
) -> None:
    Domain.objects.filter(name="a.example").update(approval=Domain.Approval.ONE)
    stored(cast.alice, now, kind=MITIGATING)
    submit(cast.alice, request(1))
    assert Mitigation.objects.get().approved_at is None

    look()

    assert names(driver) == {}


@pytest.mark.rows("ENF-GEN-001", "ENF-TEL-001")
def test_a_list_that_the_equipment_cannot_do_exactly_does_not_stand(
    cast: Any, driver: Memory, look: Look, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    stored(cast.alice, now, TO_US, {}, name="hard")
    stored(cast.alice, now, name="easy")
    driver.impossible = {"r1"}

    look()

    assert names(driver) == {key_of(cast.alice): ["easy"]}
    assert "too hard for this equipment" in caplog.text


# -- looking again ----------------------------------------------------------------------------------------------------


def test_looking_again_asks_nothing_and_a_full_look_repairs(
    cast: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now)
    look()
    applied, read = driver.filters_applied, driver.filters_read

    look()
    assert (driver.filters_applied, driver.filters_read) == (applied, read)
    look(full=True)
    assert (driver.filters_applied, driver.filters_read) == (applied, read + 1)

    driver.filters.clear()
    look(full=True)
    assert names(driver) == {key_of(cast.alice): ["x"]}
    assert driver.filters_applied == applied + 1


def test_a_first_look_clears_what_earlier_processes_left(cast: Any, driver: Memory, look: Look) -> None:
    look()

    assert driver.filters_applied == 1


def test_an_edit_keeps_the_rules_that_are_as_before(
    cast: Any, driver: Memory, standing: Standing, look: Look, now: datetime
) -> None:
    row = stored(cast.alice, now, {}, TO_US)
    look()
    (before,) = driver.filters[key_of(cast.alice)].filters.lists

    row.aces = [*row.aces, {**row.aces[0], "name": "more", "matches": {"tcp": {}}}]
    row.changed_at, row.ace_count = now + timedelta(seconds=1), 3
    row.save()
    look()

    (after,) = driver.filters[key_of(cast.alice)].filters.lists
    assert [rule.ace for rule in after.rules] == ["r0", "r1", "more"]
    assert after.rules[:2] == before.rules, "the very same objects"


def test_a_refresh_renews_the_deadline_only(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    row = stored(cast.alice, now)
    look()
    Acl.objects.filter(pk=row.pk).update(expires_at=now + timedelta(days=8), refreshed_at=now)

    look()

    assert driver.filters[key_of(cast.alice)].expires_in_seconds == 8 * 86_400 + 300


def test_equipment_that_fails_leaves_the_point_dirty(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    stored(cast.alice, now)
    EnforcementPoint.objects.update(wanted=7)
    driver.broken = "the cable is out"
    look()
    assert EnforcementPoint.objects.get().is_dirty
    assert not EnforcedAce.objects.exists()

    driver.broken = ""
    look()
    assert not EnforcementPoint.objects.get().is_dirty
    assert names(driver) == {key_of(cast.alice): ["x"]}


# -- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.rows("DATA-STA-001", "DATA-STA-003", "DATA-STA-004", "ENF-STA-001")
def test_what_entries_matched_is_added_up_over_tables(
    cast: Any, driver: Memory, standing: Standing, look: Look, now: datetime
) -> None:
    row = stored(cast.alice, now, {}, TO_US)
    look()
    point = EnforcementPoint.objects.get()
    keys = dict(EnforcedAce.objects.values_list("ace", "key"))

    def read(*readings: tuple[str, str, int]) -> dict[str, tuple[int, int]]:
        driver.filter_readings = [Counter(keys[ace], epoch, packets, packets * 100) for ace, epoch, packets in readings]
        filter_enforcement.count(point.pk, driver, standing.filters, clock=lambda: now)
        return filter_enforcement.statistics([row.pk]).get(row.pk, {})

    assert filter_enforcement.statistics([row.pk]) == {}, "nobody has counted"
    assert read(("r0", "e1", 10), ("r1", "e1", 0)) == {"r0": (10, 1000), "r1": (0, 0)}
    assert read(("r0", "e1", 15), ("r1", "e1", 0)) == {"r0": (15, 1500), "r1": (0, 0)}
    assert read(("r0", "e2", 3), ("r1", "e2", 1)) == {"r0": (18, 1800), "r1": (1, 100)}, "the table began anew"
    assert read() == {"r0": (18, 1800), "r1": (1, 100)}

    standing.forget()
    assert read(("r0", "e2", 4), ("r1", "e2", 1)) == {"r0": (19, 1900), "r1": (1, 100)}


@pytest.mark.rows("DATA-STA-002")
def test_what_entries_matched_is_added_up_over_points(
    cast: Any, driver: Memory, standing: Standing, look: Look, now: datetime
) -> None:
    row, other = stored(cast.alice, now), Memory()
    second = EnforcementPoint.objects.create(name="second", driver="nftables", enforces=True, counts=True)
    first = EnforcementPoint.objects.exclude(pk=second.pk).get()
    for at, (point, one) in enumerate([(first, driver), (second, other)], 1):
        own = Standing()
        enforcement.reconcile(point.pk, one, holder="me", clock=lambda: now, standing=own)
        assert names(one) == {key_of(cast.alice): ["x"]}
        key = EnforcedAce.objects.get(point=point).key
        one.filter_readings = [Counter(key, "e1", 10 * at, 1_000 * at)]
        filter_enforcement.count(point.pk, one, own.filters, clock=lambda: now)

    assert filter_enforcement.statistics([row.pk]) == {row.pk: {"r0": (30, 3_000)}}


def test_counting_again_writes_nothing(
    cast: Any, driver: Memory, standing: Standing, look: Look, now: datetime, django_assert_num_queries: Any
) -> None:
    stored(cast.alice, now)
    look()
    point = EnforcementPoint.objects.get()
    driver.filter_readings = [Counter(EnforcedAce.objects.get().key, "e1", 5, 500)]
    filter_enforcement.count(point.pk, driver, standing.filters, clock=lambda: now)

    with django_assert_num_queries(0):
        filter_enforcement.count(point.pk, driver, standing.filters, clock=lambda: now)


def test_last_totals_are_kept_when_a_list_is_switched_off_and_gone_entries_are_forgotten(
    cast: Any, driver: Memory, look: Look, now: datetime
) -> None:
    row = stored(cast.alice, now, {}, TO_US)
    look()
    driver.filter_readings = [Counter(one.key, "e1", 7, 700) for one in EnforcedAce.objects.all()]

    filters.activate((cast.alice.pk, "", "cuid-of-alice"), "x", NEVER, now=now, door="signal")
    look()
    assert filter_enforcement.statistics([row.pk]) == {row.pk: {"r0": (7, 700), "r1": (7, 700)}}
    assert set(EnforcedAce.objects.values_list("state", flat=True)) == {"idle"}

    Acl.objects.filter(pk=row.pk).update(
        aces=row.aces[1:], ace_count=1, activation_type=IMMEDIATE, changed_at=now + timedelta(seconds=5)
    )
    look()
    assert filter_enforcement.statistics([row.pk]) == {row.pk: {"r1": (7, 700)}}


def test_a_list_made_anew_under_its_name_begins_at_zero(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    stored(cast.alice, now).delete()
    first = EnforcedAce.objects.count()
    stored(cast.alice, now)
    look()
    key = EnforcedAce.objects.get().key
    Acl.objects.all().delete()
    stored(cast.alice, now)
    look()

    assert first == 0
    assert EnforcedAce.objects.get().key != key
