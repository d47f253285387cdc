"""Looks that see only to what changed come to the same as looks at everything, whatever happens in which order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from equipment import Memory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests_and_outcomes import granted, request

from mitigation.drivers.base import Counter, Installed
from mitigation.exceptions import DotsError, GaveWay
from mitigation.models import Change, Domain, EnforcementPoint, Hold, Mitigation, Rule, RuleOwner, TargetName
from mitigation.services import domains, enforcement, holds, mitigations, points, projection
from mitigation.services.mitigations import Submission, Withdrawal
from mitigation.services.units import unit_of_work

Submit = Callable[..., Any]


class Watched(Memory):
    """Equipment that knows whether somebody else changed it since all of it was read, and how much of it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = False
        self.read_all = 0
        self.read_some: list[int] = []

    def installed(self) -> dict[str, Installed]:
        if self.give_way is not None:
            self.give_way()
        self.touched = False
        self.read_all += 1
        return super().installed()

    def installed_among(self, keys: Any) -> dict[str, Installed] | None:
        if self.touched:
            return None
        self.read_some.append(len(keys))
        return {key: Installed(key, self.rules[key].expires_in_seconds) for key in keys if key in self.rules}

    def is_as_read(self) -> bool:
        return not self.touched

    def lose(self, number: int) -> None:
        """One rule, by another hand."""
        if self.rules:
            del self.rules[sorted(self.rules)[number % len(self.rules)]]
            self.touched = True


class World:
    """One point and what may happen to it; `look` as after each request."""

    def __init__(self, cast: Any, now: datetime, box: Watched) -> None:
        self.cast, self.now, self.box = cast, now, box
        self.standing = enforcement.Standing()

    def look(self, *, full: bool = False, standing: enforcement.Standing | None = None) -> None:
        point = EnforcementPoint.objects.get()
        enforcement.reconcile(
            point.pk, self.box, holder="me", clock=lambda: self.now, standing=standing or self.standing, full=full
        )

    def submit(self, who: str, mid: int, target: str, lifetime: int, ports: tuple[tuple[int, int], ...]) -> None:
        fqdns = ("a.example",) if target == "name" else ()
        prefixes = () if fqdns else (target,)
        asked = request(mid, *prefixes, cuid=f"cuid-of-{who}", lifetime=lifetime, ports=ports, fqdns=fqdns)
        mitigations.submit(Submission(getattr(self.cast, who).pk, asked), now=self.now)

    def withdraw(self, who: str, mid: int) -> None:
        mitigations.withdraw(Withdrawal(getattr(self.cast, who).pk, f"cuid-of-{who}", mid), now=self.now)

    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        for key, one in list(self.box.rules.items()):
            left = one.expires_in_seconds - seconds
            del self.box.rules[key]
            if left > 0:
                self.box.rules[key] = type(one)(one.rule, left)
        mitigations.expire(now=self.now)
        if seconds >= 30:
            self.look(full=True)  # as there is one every 30 s

    def policy(self, values: dict[str, Any]) -> None:
        domains.change_domain("a.example", values, actor="test", now=self.now)

    def resolve(self, last: int) -> None:
        with unit_of_work(self.now) as unit:
            TargetName.objects.update(addresses=[f"198.51.100.{last}/32"], problem="")
            unit.rules_are_stale()

    def approve(self, number: int) -> None:
        waiting = [row for row in Mitigation.objects.live() if row.needs_approval]
        if waiting:
            mitigations.approve(waiting[number % len(waiting)].pk, actor="dashboard op", now=self.now)

    def hold(self, kind: str) -> None:
        if Hold.objects.filter(kind=kind).exists():
            holds.lift(kind, actor="op", now=self.now)
        else:
            holds.throw(kind, actor="op", reason="because", now=self.now)

    def told(self) -> dict[str, Any]:
        """Everything that a look writes, without times."""
        words = ("pk", "status", "status_reason", "notes", "problem")
        proof = ("rendered_at", "installed_at")
        return {
            "mitigations": [
                (*(getattr(row, name) for name in words), *(getattr(row, name) is None for name in proof))
                for row in Mitigation.objects.order_by("pk")
            ],
            "rules": sorted(Rule.objects.values_list("key", "state")),
            "owners": sorted(RuleOwner.objects.values_list("rule__key", "mitigation_id")),
            "dirty": EnforcementPoint.objects.get().is_dirty,
        }


_who = st.sampled_from(("alice", "bob"))
_mid = st.integers(1, 4)
_targets = st.sampled_from(
    ("198.51.100.7/32", "198.51.100.8/32", "198.51.100.4/30", "198.51.100.0/24", "2001:db8:100::7/128", "name")
)
_policies = st.sampled_from(
    (
        {"never_block": ["198.51.100.7/32"]},
        {"never_block": []},
        {"playbook_parameters": {"shield": {"syn_rate": 3}}},
        {"playbook_parameters": {}},
        {"shadow": True},
        {"shadow": False},
        {"widest_ipv4": 30},
        {"widest_ipv4": 0},
        {"approval": "one"},
        {"approval": "automatic"},
        {"maximum_targets": 1},
    )
)
_steps = st.lists(
    st.tuples(
        st.just("submit"), _who, _mid, _targets, st.sampled_from((60, 600, 3000)), st.sampled_from(((), ((53, 80),)))
    )
    | st.tuples(st.just("withdraw"), _who, _mid)
    | st.tuples(st.just("wait"), st.sampled_from((1, 30, 200, 1000)))
    | st.tuples(st.just("policy"), _policies)
    | st.tuples(st.just("resolve"), st.integers(7, 9))
    | st.tuples(st.just("approve"), st.integers(0, 3))
    | st.tuples(st.just("hold"), st.sampled_from((Hold.Kind.PANIC, Hold.Kind.FREEZE, Hold.Kind.BREAKER)))
    | st.tuples(st.just("lose"), st.integers(0, 30)),
    min_size=2,
    max_size=14,
)


@pytest.mark.parametrize("at_once", [enforcement.AT_ONCE, 3])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_following_what_changed_is_as_good_as_looking_at_everything(
    cast: Any, now: datetime, at_once: int, steps: Any
) -> None:
    with transaction.atomic(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(enforcement, "AT_ONCE", at_once)
        world = World(cast, now, Watched())
        world.look(full=True)
        for verb, *values in steps:
            try:
                world.box.lose(*values) if verb == "lose" else getattr(world, verb)(*values)
            except DotsError:
                continue  # refused, as it may be: nothing happened
            world.look()

            anew = projection.project_mitigations(now=world.now)
            kept = world.standing.projector.projection
            assert kept.wanted == anew.wanted
            assert (kept.shown, kept.shadow, kept.plans, kept.waiting, kept.until) == (
                anew.shown,
                anew.shadow,
                anew.plans,
                anew.waiting,
                anew.until,
            )
            if not world.box.touched:
                assert world.box.rules.keys() == anew.wanted.keys()
        world.look(full=True)
        told, stood = world.told(), dict(world.box.rules)
        world.look(full=True, standing=enforcement.Standing())
        assert world.told() == told
        assert world.box.rules == stood
        for key, one in world.box.rules.items():
            wanted = kept.deadline(kept.wanted[key], world.now) if steps else None
            assert wanted is None or abs(
                wanted - world.now - timedelta(seconds=one.expires_in_seconds)
            ) <= enforcement.RENEW_BELOW + timedelta(seconds=1)
        transaction.set_rollback(True)


@pytest.fixture
def world(cast: Any, now: datetime) -> World:
    return World(cast, now, Watched())


def test_one_more_reads_back_and_changes_its_own_rules_only(world: World, submit: Submit) -> None:
    for mid in range(1, 11):
        granted(submit(world.cast.alice, request(mid, f"198.51.100.{2 * mid}/32")))
    world.look(full=True)
    read_all, others = world.box.read_all, len(world.box.rules)

    granted(submit(world.cast.alice, request(99, "198.51.100.99/32")))
    world.look()

    own = len(world.box.rules) - others
    assert own == others // 10
    assert (world.box.read_all, world.box.read_some) == (read_all, [own])
    assert world.box.applied[-1] == (own, 0)
    assert Mitigation.objects.get(mid=99).status == 2
    assert not EnforcementPoint.objects.get().is_dirty


def test_between_two_looks_at_everything_only_those_are_read_that_changed(
    world: World, submit: Submit, withdraw: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for mid in range(1, 6):
        granted(submit(world.cast.alice, request(mid, f"198.51.100.{2 * mid}/32")))
    world.look(full=True)
    world.look()  # what the first look wrote
    read: list[int] = []
    really = projection.Projector._rows
    monkeypatch.setattr(
        projection.Projector, "_rows", lambda self, only: read.append(len(rows := really(self, only))) or rows
    )

    world.look()
    granted(submit(world.cast.alice, request(9, "198.51.100.99/32")))
    world.look()
    world.look()
    withdraw(world.cast.alice, 1)
    world.look()

    assert read == [0, 1, 1, 1]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_request_that_comes_while_many_load_waits_for_one_part_only(
    world: World, submit: Submit, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    monkeypatch.setattr(enforcement, "AT_ONCE", 20)
    if is_known:
        world.look(full=True)
    for mid in range(1, 11):
        granted(submit(world.cast.alice, request(mid, f"198.51.100.{2 * mid}/32")))
    really, came = world.box.apply, []

    def apply_and_ask(add: Any, remove: Any) -> None:
        really(add, remove)
        came.append({str(one.rule.key).split()[1] for one in add})
        if len(came) == 1:
            granted(submit(world.cast.alice, request(99, "198.51.100.99/32")))

    monkeypatch.setattr(world.box, "apply", apply_and_ask)

    world.look(full=not is_known)

    assert came[1] == {"198.51.100.99/32"}
    assert len(came) >= 4
    assert all(len(part) <= 3 for part in came)
    assert set().union(*came) == {f"198.51.100.{last}/32" for last in (*range(2, 22, 2), 99)}
    assert set(Mitigation.objects.values_list("status", flat=True)) == {2}
    assert world.box.rules.keys() == projection.project_mitigations(now=world.now).wanted.keys()
    world.look()
    assert not EnforcementPoint.objects.get().is_dirty


def test_each_part_is_told_when_it_was_read_back(world: World, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "AT_ONCE", 20)
    world.look(full=True)
    for mid in range(1, 11):
        granted(submit(world.cast.alice, request(mid, f"198.51.100.{2 * mid}/32")))
    really, told = world.box.apply, []

    def apply_and_note(add: Any, remove: Any) -> None:
        told.append(Mitigation.objects.filter(status=2).count())
        really(add, remove)

    monkeypatch.setattr(world.box, "apply", apply_and_note)

    world.look()

    assert told == [0, 3, 6, 9]
    assert not Mitigation.objects.exclude(problem="").exists()


def test_where_changes_are_no_longer_listed_everything_is_read(
    world: World, submit: Submit, withdraw: Callable[..., None]
) -> None:
    for mid in (1, 2):
        granted(submit(world.cast.alice, request(mid, f"198.51.100.{2 * mid}/32")))
    world.look(full=True)
    granted(submit(world.cast.alice, request(3, "198.51.100.99/32")))
    Change.objects.all().delete()

    world.look()

    assert set(Mitigation.objects.values_list("status", flat=True)) == {2}
    assert world.box.rules.keys() == projection.project_mitigations(now=world.now).wanted.keys()


def test_a_row_that_changed_without_a_word_is_seen_by_a_look_at_everything(world: World, submit: Submit) -> None:
    granted(submit(world.cast.alice, request(1, "198.51.100.2/32")))
    world.look(full=True)
    Mitigation.objects.update(playbook="discard")

    world.look(full=True)

    assert world.box.rules.keys() == projection.project_mitigations(now=world.now).wanted.keys()


def test_after_another_hand_everything_is_looked_at(world: World, submit: Submit) -> None:
    granted(submit(world.cast.alice, request(1, "198.51.100.1/32")))
    world.look(full=True)
    world.box.lose(0)

    granted(submit(world.cast.alice, request(2, "198.51.100.2/32")))
    world.look()

    wanted = projection.project_mitigations(now=world.now).wanted
    assert world.box.rules.keys() == wanted.keys()
    assert set(Mitigation.objects.values_list("status", flat=True)) == {2}


def test_what_another_hand_takes_between_the_repair_and_its_reading_is_seen_to_at_once(
    world: World, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That reading already shows it, so the equipment does not say later that anybody was at work."""
    granted(submit(world.cast.alice, request(1, "198.51.100.1/32")))
    world.look(full=True)
    world.box.lose(0)
    really = world.box.apply

    def apply_and_lose(*values: Any) -> None:
        really(*values)
        world.box.lose(1)

    with monkeypatch.context() as patch:
        patch.setattr(world.box, "apply", apply_and_lose)
        world.look(full=True)
    assert not world.box.touched
    assert (world.standing.is_settled, Mitigation.objects.get().status) == (False, 1)

    world.look()

    wanted = projection.project_mitigations(now=world.now).wanted
    assert world.box.rules.keys() == wanted.keys()
    assert (world.standing.is_settled, Mitigation.objects.get().status) == (True, 2)


def test_equipment_that_fails_while_following_takes_the_word_back_from_all(world: World, submit: Submit) -> None:
    granted(submit(world.cast.alice, request(1, "198.51.100.1/32")))
    world.look(full=True)
    granted(submit(world.cast.alice, request(2, "198.51.100.2/32")))
    world.box.broken = "the cable is cut"

    world.look()

    assert set(Mitigation.objects.values_list("status", "problem")) == {(1, "the cable is cut")}
    point = EnforcementPoint.objects.get()
    assert (point.health, point.is_dirty) == ("down", True)
    world.box.broken = ""
    world.look()
    assert set(Mitigation.objects.values_list("status", "problem")) == {(2, "")}
    assert not EnforcementPoint.objects.get().is_dirty


def test_a_renewed_request_that_was_ending_is_told_as_mitigated_again(
    world: World, submit: Submit, withdraw: Callable[..., None]
) -> None:
    granted(submit(world.cast.alice, request(1)))
    world.look(full=True)
    withdraw(world.cast.alice, 1)
    world.look()
    granted(submit(world.cast.alice, request(1)))

    world.look()

    assert Mitigation.objects.get().status == 2


def test_so_is_one_that_ended_and_was_renewed_between_two_looks(
    world: World, submit: Submit, withdraw: Callable[..., None]
) -> None:
    """The last look saw it in progress and made it mitigated itself; in progress is what the next one sees again."""
    granted(submit(world.cast.alice, request(1)))
    world.look(full=True)
    withdraw(world.cast.alice, 1)
    granted(submit(world.cast.alice, request(1)))
    assert Mitigation.objects.get().status == 1

    world.look()

    assert Mitigation.objects.get().status == 2


def test_the_breaker_trips_while_following(world: World, submit: Submit) -> None:
    granted(submit(world.cast.alice, request(1, "198.51.100.1/32")))
    world.look(full=True)
    stood = set(world.box.rules)
    point = EnforcementPoint.objects.get()
    world.now += timedelta(minutes=5)
    for mid in (2, 3, 4):
        granted(submit(world.cast.alice, request(mid, f"198.51.100.{mid}/32"), at=world.now))

    enforcement.reconcile(
        point.pk, world.box, holder="me", clock=lambda: world.now, standing=world.standing, full=False, most_rules=10
    )

    assert set(world.box.rules) == stood
    assert Hold.objects.get().kind == Hold.Kind.BREAKER
    assert list(Mitigation.objects.order_by("mid").values_list("status", flat=True)) == [2, 4, 4, 4]


def test_a_look_that_nothing_asked_for_gives_way_and_loses_nothing(
    world: World, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted(submit(world.cast.alice, request(1, "198.51.100.1/32")))
    world.look(full=True)
    granted(submit(world.cast.alice, request(2, "198.51.100.2/32")))
    point = EnforcementPoint.objects.get()
    really = points.more_wanted

    def while_reading(point_id: int, seen: int) -> Callable[[], None]:
        granted(submit(world.cast.alice, request(3, "198.51.100.3/32")))
        return really(point_id, seen)

    monkeypatch.setattr(points, "more_wanted", while_reading)
    with pytest.raises(GaveWay):
        enforcement.reconcile(
            point.pk, world.box, holder="me", clock=lambda: world.now, standing=world.standing, gives_way=True
        )

    assert Mitigation.objects.get(mid=2).status == 2, "what was wanted before is done"
    assert EnforcementPoint.objects.get().is_dirty
    assert world.box.give_way is None
    read_all = world.box.read_all
    world.look()
    assert (Mitigation.objects.get(mid=3).status, world.box.read_all) == (2, read_all)


def test_counting_gives_way_between_batches_and_counts_everything_once(
    world: World, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitigation.services import counting

    for mid in range(1, 6):
        granted(submit(world.cast.alice, request(mid, f"198.51.100.{2 * mid}/32")))
    world.look(full=True)
    world.box.readings = [Counter(key, "a", 7, 700) for key in world.box.rules]
    monkeypatch.setattr(counting, "RULES_AT_ONCE", 5)
    left = [2]

    def give_way() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise GaveWay("more is wanted")

    point = EnforcementPoint.objects.get()
    written: dict[str, tuple[str, int]] = {}
    with pytest.raises(GaveWay), world.box.giving_way(give_way):
        enforcement.count(point.pk, world.box, clock=lambda: world.now, written=written)
    assert set(Rule.objects.values_list("packets", flat=True)) == {0, 7}
    enforcement.count(point.pk, world.box, clock=lambda: world.now, written=written)
    enforcement.count(point.pk, world.box, clock=lambda: world.now, written=written)

    assert set(Rule.objects.values_list("packets", flat=True)) == {7}
    assert len(written) == len(world.box.rules)


def test_every_column_of_a_mitigation_is_known_to_matter_for_its_rules_or_not() -> None:
    """A new one has to be put into INPUTS, or into this list."""
    of_no_matter = {
        *("client", "cdid", "cuid", "mid", "scope_digest", "trigger_mitigation", "lifetime", "refreshed_at"),
        *("status_reason", "last_grace", "rearms", "rearms_at", "conflict", "retry_at", "approve_by"),
        *("rendered_at", "installed_at", "hitting_at", "notes", "problem", "counted_at", "dropped_at"),
        *("attack_status", "attack_status_at", "attackers", "accept_lists", "acl_changes", "acl_list"),
        *("dropped_packets", "dropped_octets", "passed_packets", "passed_octets"),
        *("redirected_packets", "redirected_octets", "step_until", "pressed_since", "calm_since"),
        "ended_at",  # those that ended want nothing
    }
    matter = {name.removesuffix("_id") for name in projection.INPUTS} | {*projection.TIMES, "id", "status"}

    assert matter | of_no_matter == {field.name for field in Mitigation._meta.concrete_fields}
    assert not matter & of_no_matter
    assert {field.name for field in Domain._meta.concrete_fields} > {"shadow"}, "all of a domain matters"
