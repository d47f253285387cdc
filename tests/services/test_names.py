"""Targets that are names: accepted without DNS, resolved again and again, checked each time (RFC 9132, 4.4.1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from django.db import DatabaseError
from equipment import Memory
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import MalformedRequest, ScopeConflict
from mitigation.models import EnforcementPoint, Mitigation, Rule, Target, TargetName
from mitigation.protocol.status import Status
from mitigation.resolver import Resolver
from mitigation.rules.canonical import parse_key
from mitigation.services import mitigations, names
from mitigation.services.projection import project_mitigations
from tests.harness.dns import Zone, serving

Submit = Callable[..., Any]
WWW = "www.a.example"


@pytest.fixture
def zone() -> Iterator[Zone]:
    with serving(Zone(addresses={WWW: ["198.51.100.7", "2001:db8:100::7"]})) as running:
        yield running


@pytest.fixture
def resolve(zone: Zone, now: datetime) -> Callable[..., int]:
    resolver = Resolver([zone.server])

    def do(*, after: int = 0) -> int:
        return names.resolve_due(resolver.resolve, clock=lambda: now + timedelta(seconds=after))

    return do


def protected() -> set[str]:
    """Destinations of the rules that stand, as the first address of each."""
    boxes = [parse_key(row.key).box for row in Rule.objects.all()]
    return {str(IPv4Address(box.first_address) if box.family == 4 else IPv6Address(box.first_address)) for box in boxes}


@pytest.mark.rows("SIG-MIT-011", "SIG-MIT-020", "SIG-MIT-029", "ENF-TGT-009")
def test_a_name_is_accepted_at_once_and_protected_when_it_is_resolved(
    cast: Any, submit: Submit, zone: Zone, resolve: Callable[..., int], reconcile: Callable[..., bool]
) -> None:
    granted(submit(cast.alice, request(1, fqdns=(WWW,))))

    reconcile()
    row = Mitigation.objects.get()
    assert zone.asked == []
    assert (row.status, row.rendered_at, row.problem) == (Status.IN_PROGRESS, None, f"{WWW}: no address yet")
    assert not Rule.objects.exists()

    assert resolve() == 1
    assert EnforcementPoint.objects.get().is_dirty
    reconcile()
    row.refresh_from_db()
    assert (row.status, row.problem) == (Status.MITIGATED, "")
    assert protected() == {"198.51.100.7", "2001:db8:100::7"}
    assert Target.objects.filter(name=WWW).count() == 2


@pytest.mark.rows("SIG-MIT-011")
@pytest.mark.parametrize(
    "wanted",
    [
        {"fqdns": ("www.m.example",)},
        {"fqdns": ("a.example.evil.example",)},
        {"fqdns": ("nota.example",)},
        {"fqdns": (WWW, "www.m.example")},
        {"uris": ("https://www.m.example/",)},
        {"uris": ("https://203.0.113.7/",)},
    ],
)
def test_names_of_others_are_refused_whole(cast: Any, submit: Submit, wanted: dict[str, Any]) -> None:
    refusal = refused(submit(cast.alice, request(1, **wanted)))

    assert isinstance(refusal.error, MalformedRequest)
    assert "outside" in str(refusal.error)
    assert not Mitigation.objects.exists()
    assert not TargetName.objects.exists()


@pytest.mark.rows("SIG-MIT-011", "SIG-SEC-014", "ENF-TGT-009")
def test_a_name_that_moves_to_a_foreign_address_takes_no_rule_there(
    cast: Any,
    submit: Submit,
    zone: Zone,
    resolve: Callable[..., int],
    reconcile: Callable[..., bool],
    driver: Memory,
    now: datetime,
) -> None:
    submit(cast.alice, request(1, fqdns=(WWW,)))
    resolve()
    reconcile()

    zone.addresses[WWW] = ["203.0.113.7", "127.0.0.1"]
    assert resolve(after=59) == 0
    assert resolve(after=60) == 1
    reconcile(at=now + timedelta(seconds=60))

    row = Mitigation.objects.get()
    assert row.status == Status.IN_PROGRESS
    assert "203.0.113.7" in row.problem
    assert "127.0.0.1" in row.problem
    assert not driver.rules
    assert not Target.objects.exists()


@pytest.mark.rows("SIG-SEC-014")
def test_of_a_mixed_answer_the_foreign_part_is_left_out_and_said(
    cast: Any, submit: Submit, zone: Zone, resolve: Callable[..., int], reconcile: Callable[..., bool]
) -> None:
    zone.addresses[WWW] = ["203.0.113.7", "198.51.100.8"]
    submit(cast.alice, request(1, fqdns=(WWW,)))

    resolve()
    reconcile()

    row = Mitigation.objects.get()
    assert row.status == Status.MITIGATED
    assert protected() == {"198.51.100.8"}
    assert any("203.0.113.7" in note for note in row.notes)


def test_a_domain_that_loses_a_prefix_loses_the_names_addresses_there(
    cast: Any, submit: Submit, resolve: Callable[..., int], reconcile: Callable[..., bool]
) -> None:
    submit(cast.alice, request(1, fqdns=(WWW,)))
    resolve()
    cast.alice.domain.prefixes.filter(family=4).delete()

    reconcile()

    assert protected() == {"2001:db8:100::7"}
    assert any("no longer" in note for note in Mitigation.objects.get().notes)


@pytest.mark.rows("ENF-TGT-009")
def test_an_address_that_went_loses_its_rules(
    cast: Any, submit: Submit, zone: Zone, resolve: Callable[..., int], reconcile: Callable[..., bool], now: datetime
) -> None:
    submit(cast.alice, request(1, "198.51.100.1/32", fqdns=(WWW,)))
    resolve()
    reconcile()

    zone.addresses[WWW] = ["198.51.100.9"]
    resolve(after=60)
    reconcile(at=now + timedelta(seconds=60))

    assert protected() == {"198.51.100.1", "198.51.100.9"}
    assert Mitigation.objects.get().status == Status.MITIGATED


@pytest.mark.rows("SIG-MIT-029")
def test_a_name_that_does_not_exist_is_asked_for_again(
    cast: Any, submit: Submit, zone: Zone, resolve: Callable[..., int], reconcile: Callable[..., bool]
) -> None:
    found = zone.addresses.pop(WWW)
    submit(cast.alice, request(1, fqdns=(WWW,)))

    resolve()
    reconcile()
    row = Mitigation.objects.get()
    assert (row.status, row.problem) == (Status.IN_PROGRESS, f"{WWW}: there is no such name")
    assert not Rule.objects.exists()

    assert [after for after in range(1, 100) if resolve(after=after)] == [2, 4, 8, 16, 32, 62, 92]
    zone.addresses[WWW] = found
    assert resolve(after=122) == 1
    assert TargetName.objects.get().addresses == ["198.51.100.7/32", "2001:db8:100::7/128"]


def test_a_name_is_not_left_alone_by_an_ask_that_broke_off(
    cast: Any, submit: Submit, resolve: Callable[..., int], now: datetime
) -> None:
    submit(cast.alice, request(1, fqdns=(WWW,)))

    def breaks_off(_: object) -> Any:
        raise DatabaseError("database is locked")

    with pytest.raises(DatabaseError):
        names.resolve_due(breaks_off, clock=lambda: now)

    assert resolve() == 1


def test_a_resolver_that_fails_does_not_end_protection(
    cast: Any, submit: Submit, zone: Zone, resolve: Callable[..., int]
) -> None:
    submit(cast.alice, request(1, fqdns=(WWW,)))
    resolve()
    zone.failing.add(WWW)

    resolve(after=60)

    name = TargetName.objects.get()
    assert name.addresses == ["198.51.100.7/32", "2001:db8:100::7/128"]
    assert "could not be resolved" in name.problem
    assert Target.objects.count() == 2


def test_one_name_without_an_address_keeps_the_whole_in_progress(
    cast: Any, submit: Submit, resolve: Callable[..., int], reconcile: Callable[..., bool]
) -> None:
    submit(cast.alice, request(1, "198.51.100.1/32", fqdns=("gone.a.example",)))
    resolve()

    reconcile()

    row = Mitigation.objects.get()
    assert row.status == Status.IN_PROGRESS
    assert protected() == {"198.51.100.1"}


@pytest.mark.parametrize(("ttl", "kept"), [(0, 30), (90, 90), (86_400, 3600)])
def test_the_ttl_is_followed_within_bounds(
    cast: Any, submit: Submit, zone: Zone, resolve: Callable[..., int], now: datetime, ttl: int, kept: int
) -> None:
    zone.ttl = ttl
    zone.aliases["cdn.a.example"] = WWW
    submit(cast.alice, request(1, fqdns=("cdn.a.example",)))

    resolve()

    name = TargetName.objects.get()
    assert name.due_at == now + timedelta(seconds=kept)
    assert len(name.addresses) == 2


@pytest.mark.rows("SIG-MIT-013", "SIG-MIT-020", "ENF-TGT-007")
@pytest.mark.parametrize(
    ("uri", "protocols", "port"),
    [
        ("https://www.a.example/shop?x=1", {6}, 443),
        ("http://www.a.example", {6}, 80),
        ("http://www.a.example:8080/", {6}, 8080),
        ("https://198.51.100.7/", {6}, 443),
        ("https://[2001:db8:100::7]:8443/", {6}, 8443),
        ("coaps://www.a.example", {17}, 5684),
    ],
)
def test_a_uri_protects_its_host_at_its_port(
    cast: Any, submit: Submit, resolve: Callable[..., int], uri: str, protocols: set[int], port: int
) -> None:
    submit(cast.alice, request(1, uris=(uri,)))
    resolve()

    projection = project_mitigations(now=Mitigation.objects.get().requested_at)

    boxes = [one.rule.box for one in projection.wanted.values()]
    assert boxes
    assert {box.ports for box in boxes} == {(port, port)}
    assert {number for box in boxes for number in box.protocols} == protocols


@pytest.mark.rows("ENF-TGT-008")
def test_https_is_also_udp_where_the_operator_says_so(cast: Any, submit: Submit, resolve: Callable[..., int]) -> None:
    cast.alice.domain.https_over_udp = True
    cast.alice.domain.save(update_fields=["https_over_udp"])
    submit(cast.alice, request(1, uris=("https://www.a.example/", "http://www.a.example/")))
    resolve()

    projection = project_mitigations(now=Mitigation.objects.get().requested_at)

    found = {(box.protocols[0], box.ports[0]) for box in (one.rule.box for one in projection.wanted.values())}
    assert found == {(6, 443), (17, 443), (6, 80)}


def test_a_uris_port_does_not_narrow_the_prefixes_beside_it(
    cast: Any, submit: Submit, resolve: Callable[..., int]
) -> None:
    submit(cast.alice, request(1, "198.51.100.1/32", uris=("https://www.a.example/",), ports=((53, 53),)))
    resolve()

    projection = project_mitigations(now=Mitigation.objects.get().requested_at)

    boxes = [one.rule.box for one in projection.wanted.values()]
    assert {(box.first_address & 0xFF, box.ports) for box in boxes} == {(1, (53, 53)), (7, (443, 443))}


@pytest.mark.rows("SIG-OVL-001", "SIG-OVL-002", "SIG-OVL-003")
@pytest.mark.parametrize(
    "wanted",
    [
        {"fqdns": (WWW,)},
        {"uris": ("https://www.a.example/",)},
        {"fqdns": ("mail.a.example", WWW)},
    ],
)
def test_requests_overlap_by_name_before_anything_is_resolved(
    cast: Any, submit: Submit, wanted: dict[str, Any]
) -> None:
    submit(cast.alice, request(5, fqdns=(WWW,)))

    refusal = refused(submit(cast.alice, request(4, **wanted)))
    granted(submit(cast.alice, request(6, **wanted)))

    assert isinstance(refusal.error, ScopeConflict)
    assert refusal.error.conflict.scope is not None
    assert refusal.error.conflict.scope.target_fqdn == (WWW,)
    assert [row.mid for row in Mitigation.objects.live()] == [6]


@pytest.mark.rows("SIG-OVL-001")
def test_a_prefix_overlaps_what_a_name_stands_for(cast: Any, submit: Submit, resolve: Callable[..., int]) -> None:
    submit(cast.alice, request(5, fqdns=(WWW,)))
    resolve()

    refusal = refused(submit(cast.alice, request(4, "198.51.100.0/24")))

    assert isinstance(refusal.error, ScopeConflict)
    assert refusal.error.conflict.mid == 5


def test_names_go_with_their_mitigation(
    cast: Any, submit: Submit, withdraw: Callable[..., None], resolve: Callable[..., int], now: datetime
) -> None:
    submit(cast.alice, request(1, fqdns=(WWW,)))
    resolve()
    withdraw(cast.alice, 1)

    mitigations.expire(now=now + timedelta(seconds=120))

    assert not TargetName.objects.exists()
    assert not Target.objects.exists()
    assert resolve(after=7200) == 0


def test_a_name_of_several_mitigations_is_asked_for_once(
    cast: Any, submit: Submit, zone: Zone, resolve: Callable[..., int]
) -> None:
    submit(cast.alice, request(1, fqdns=(WWW,)))
    submit(cast.bob, request(1, fqdns=(WWW,), cuid="cuid-of-bob"))

    assert resolve() == 2

    assert sorted(zone.asked) == [WWW, WWW]  # one a family
    assert TargetName.objects.exclude(addresses=[]).count() == 2
