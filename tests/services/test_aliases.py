"""Aliases: made by their client, written into a mitigation when it is accepted (RFC 8783, section 6; RFC 9132, 4.4.1.3)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from requests_and_outcomes import granted, refused, request

from mitigation.exceptions import MalformedRequest, ScopeConflict
from mitigation.models import Alias, Client, Mitigation, Target, TargetName
from mitigation.protocol.scope import Scope
from mitigation.services.projection import project_mitigations
from tests.harness.aliases import make_alias

Submit = Callable[..., Any]
Create = Callable[..., Alias]


@pytest.fixture
def create(now: datetime) -> Create:
    def do(client: Client, name: str, *prefixes: str, cuid: str = "cuid-of-alice", **more: Any) -> Alias:
        return make_alias(client, cuid, name, {"target-prefix": prefixes, **more}, now=now)

    return do


@pytest.mark.rows("SIG-MIT-014", "SIG-MIT-024")
def test_an_alias_stands_for_its_target(cast: Any, submit: Submit, create: Create, now: datetime) -> None:
    create(cast.alice, "web", "198.51.100.7/32", **{"target-protocol": [6], "target-fqdn": ["www.a.example"]})

    granted(submit(cast.alice, request(1, aliases=("web",))))

    row = Mitigation.objects.get()
    assert row.scope == {"alias-name": ["web"]}
    assert row.protected_scope["target-prefix"] == ["198.51.100.7/32"]
    assert bytes(Target.objects.get().first)[-4:] == bytes([198, 51, 100, 7])
    assert {(name.kind, name.name) for name in TargetName.objects.all()} == {
        ("host", "www.a.example"),
        ("alias", "web"),
    }
    boxes = [one.rule.box for one in project_mitigations(now=now).wanted.values()]
    assert {box.protocols for box in boxes} == {(6, 6)}


@pytest.mark.rows("SIG-MIT-014")
def test_an_alias_of_somebody_else_or_of_another_cuid_is_refused(cast: Any, submit: Submit, create: Create) -> None:
    create(cast.alice, "web", "198.51.100.7/32")
    create(cast.bob, "mail", "198.51.100.8/32", cuid="cuid-of-bob")

    for client, name, cuid in (
        (cast.alice, "mail", "cuid-of-alice"),
        (cast.alice, "nothing", "cuid-of-alice"),
        (cast.alice, "web", "another-cuid"),
        (cast.mallory, "web", "cuid-of-mallory"),
    ):
        refusal = refused(submit(client, request(1, aliases=(name,), cuid=cuid)))
        assert isinstance(refusal.error, MalformedRequest)
        assert name in str(refusal.error)
    assert not Mitigation.objects.exists()


@pytest.mark.rows("SIG-MIT-015", "ENF-TGT-010")
def test_an_alias_and_other_targets_are_added_together(
    cast: Any, submit: Submit, create: Create, now: datetime
) -> None:
    create(cast.alice, "web", "198.51.100.7/32", **{"target-port-range": [{"lower-port": 443, "upper-port": 443}]})

    submit(cast.alice, request(1, "198.51.100.8/32", aliases=("web",), ports=((80, 80),)))

    boxes = [one.rule.box for one in project_mitigations(now=now).wanted.values()]
    assert {box.ports for box in boxes} == {(80, 80), (443, 443)}
    covered = {address & 0xFF for box in boxes for address in range(box.first_address, box.last_address + 1)}
    assert covered == {7, 8}
    assert Target.objects.count() == 2


@pytest.mark.rows("SIG-OVL-001")
@pytest.mark.parametrize(
    "wanted", [{"aliases": ("web",)}, {"prefixes": ("198.51.100.0/24",)}, {"fqdns": ("www.a.example",)}]
)
def test_requests_overlap_by_alias_and_by_what_it_stands_for(
    cast: Any, submit: Submit, create: Create, wanted: dict[str, Any]
) -> None:
    create(cast.alice, "web", "198.51.100.7/32", **{"target-fqdn": ["www.a.example"]})
    submit(cast.alice, request(5, aliases=("web",)))

    refusal = refused(submit(cast.alice, request(4, *wanted.pop("prefixes", ()), **wanted)))

    assert isinstance(refusal.error, ScopeConflict)
    assert refusal.error.conflict.mid == 5


@pytest.mark.rows("SIG-OVL-001", "SIG-OVL-004")
def test_the_same_alias_overlaps_also_when_it_means_something_else_now(
    cast: Any, submit: Submit, create: Create, now: datetime
) -> None:
    create(cast.alice, "web", "198.51.100.7/32")
    submit(cast.alice, request(5, aliases=("web",)))
    Alias.objects.update(target={"target-prefix": ["198.51.100.9/32"]})

    refusal = refused(submit(cast.alice, request(4, aliases=("web",))))

    assert isinstance(refusal.error, ScopeConflict)
    assert refusal.error.conflict.scope == Scope(alias_name=("web",))


def test_what_was_accepted_does_not_follow_the_alias(cast: Any, submit: Submit, create: Create, now: datetime) -> None:
    create(cast.alice, "web", "198.51.100.7/32")
    submit(cast.alice, request(1, aliases=("web",)))

    Alias.objects.all().delete()

    assert not granted(submit(cast.alice, request(1, aliases=("web",)))).created
    assert project_mitigations(now=now).wanted
    assert isinstance(refused(submit(cast.alice, request(2, aliases=("web",)))).error, MalformedRequest)


def test_a_domain_that_lost_a_prefix_has_no_use_of_an_old_alias(cast: Any, submit: Submit, create: Create) -> None:
    create(cast.alice, "web", "198.51.100.7/32")
    cast.alice.domain.prefixes.filter(family=4).delete()

    assert isinstance(refused(submit(cast.alice, request(1, aliases=("web",)))).error, MalformedRequest)
