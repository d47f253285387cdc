"""What people are told of lists that do not stand, their holds on lists, and traffic of lists over time."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from equipment import Memory
from filter_lists import stored
from requests_and_outcomes import request

from mitigation.drivers.base import Counter
from mitigation.exceptions import NotFound
from mitigation.models import Acl, AclSample, Audit, EnforcedAce, EnforcementPoint, Hold, Mitigation, RefusedAcl
from mitigation.protocol.filters import ActivationType
from mitigation.services import enforcement, filter_enforcement, filters, holds, upkeep
from mitigation.services.enforcement import Standing

Look = Callable[..., None]
OPERATOR = "operator noc-desk-2"
UDP: dict[str, Any] = {"udp": {"source-port-range-or-operator": {"operator": "eq", "port": 53}}}


@pytest.fixture
def standing() -> Standing:
    return Standing()


@pytest.fixture
def look(driver: Memory, standing: Standing, now: datetime) -> Look:
    def do(*, at: datetime = now, anew: bool = False) -> None:
        point = EnforcementPoint.objects.get()
        remembered = Standing() if anew else standing
        enforcement.reconcile(point.pk, driver, holder="me", clock=lambda: at, standing=remembered)

    return do


def names(driver: Memory) -> list[str]:
    return [one.name for wanted in driver.filters.values() for one in wanted.filters.lists]


def told(action: str) -> list[tuple[str, str, Any, Any]]:
    rows = Audit.objects.filter(action=action).order_by("pk")
    return [(row.actor, row.subject, row.before, row.after) for row in rows]


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.rows("ENF-GEN-001")
def test_a_refused_list_is_a_row_and_in_the_audit_until_it_is_mended(
    cast: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now, name="hard")
    stored(cast.alice, now, {}, name="easy")
    driver.impossible = {"r0"}
    Acl.objects.filter(name="easy").update(aces=[{**Acl.objects.get(name="easy").aces[0], "name": "other"}])

    look()

    row = RefusedAcl.objects.get()
    assert (row.acl.name, row.reason, row.since) == ("hard", "too hard for this equipment", now)
    subject = f"acl {cast.alice.pk}/cuid-of-alice/hard"
    said = {"point": row.point.name, "reason": "too hard for this equipment"}
    assert told("acl-refused") == [("enforcer", subject, None, said)]
    assert names(driver) == ["easy"]

    driver.impossible = set()
    Acl.objects.filter(name="hard").update(changed_at=now + timedelta(seconds=1))
    EnforcementPoint.objects.update(wanted=99)
    look(at=now + timedelta(seconds=1))

    assert not RefusedAcl.objects.exists()
    assert told("acl-mended") == [("enforcer", subject, said, None)]
    assert sorted(names(driver)) == ["easy", "hard"]


def test_a_refusal_is_told_once_also_by_another_process(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    stored(cast.alice, now)
    driver.impossible = {"r0"}

    for anew in (False, False, True):
        EnforcementPoint.objects.update(wanted=99, reconciled=0)
        look(at=now + timedelta(seconds=1), anew=anew)

    assert len(told("acl-refused")) == 1
    assert RefusedAcl.objects.get().since == now + timedelta(seconds=1)


def test_another_reason_is_told_and_it_is_refused_since_it_was_first(
    cast: Any, driver: Memory, look: Look, now: datetime
) -> None:
    row = stored(cast.alice, now)
    driver.impossible = {"r0"}
    look()

    cast.alice.domain.prefixes.all().delete()
    EnforcementPoint.objects.update(wanted=99)
    look(at=now + timedelta(seconds=5))

    refused = RefusedAcl.objects.get(acl=row)
    assert "outside the domain's prefixes" in refused.reason
    assert refused.since == now
    assert len(told("acl-refused")) == 2
    assert told("acl-mended") == []


def test_a_list_that_is_deleted_or_switched_off_is_refused_no_more(
    cast: Any, driver: Memory, look: Look, now: datetime
) -> None:
    stored(cast.alice, now, name="deleted")
    off = stored(cast.alice, now, name="off")
    driver.impossible = {"r0"}
    look()
    assert RefusedAcl.objects.count() == 2

    Acl.objects.filter(name="deleted").delete()
    Acl.objects.filter(pk=off.pk).update(activation_type=ActivationType.DEACTIVATE)
    EnforcementPoint.objects.update(wanted=99)
    look(at=now + timedelta(seconds=1))

    assert not RefusedAcl.objects.exists()
    assert [subject for _, subject, _, _ in told("acl-mended")] == [f"acl {cast.alice.pk}/cuid-of-alice/off"]


def test_what_people_hold_back_is_no_refusal(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    stored(cast.alice, now)
    holds.throw(Hold.Kind.PANIC, actor="op", reason="wrong prefixes", now=now)

    look()

    assert names(driver) == []
    assert not RefusedAcl.objects.exists()
    assert told("acl-refused") == []


# -- holds of operators -----------------------------------------------------------------------------------------------


def test_a_held_list_does_not_stand_until_it_is_released(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    row = stored(cast.alice, now)
    look()
    assert names(driver) == ["x"]

    filters.hold(row.pk, actor=OPERATOR, reason="it shuts out the monitoring", now=now)
    look()
    assert names(driver) == []
    assert EnforcedAce.objects.get().state == "idle"
    assert not RefusedAcl.objects.exists()

    filters.release(row.pk, actor=OPERATOR, now=now)
    look()
    assert names(driver) == ["x"]
    subject = f"acl {cast.alice.pk}/cuid-of-alice/x"
    assert told("acl-hold") == [(OPERATOR, subject, None, {"reason": "it shuts out the monitoring"})]
    assert told("acl-release") == [(OPERATOR, subject, None, None)]


def test_the_client_cannot_switch_a_held_list_on(cast: Any, driver: Memory, look: Look, now: datetime) -> None:
    row = stored(cast.alice, now, kind=ActivationType.DEACTIVATE)
    filters.hold(row.pk, actor=OPERATOR, reason="no", now=now)

    filters.activate((cast.alice.pk, "", "cuid-of-alice"), "x", ActivationType.IMMEDIATE, now=now, door="signal")
    look()

    assert names(driver) == []
    row.refresh_from_db()
    assert row.activation_type == ActivationType.IMMEDIATE  # what its client wrote is kept
    filters.release(row.pk, actor=OPERATOR, now=now)
    look()
    assert names(driver) == ["x"]


def test_running_mitigations_tell_their_client_of_the_hold(cast: Any, submit: Any, now: datetime) -> None:
    row = stored(cast.alice, now)
    submit(cast.alice, request(1))
    submit(cast.bob, request(1, "198.51.100.9/32", cuid="cuid-of-bob"))

    filters.hold(row.pk, actor=OPERATOR, reason="no", now=now)
    changes = dict(Mitigation.objects.values_list("client__name", "acl_changes"))
    assert changes == {"alice": [{"acl-name": "x", "activation-type": 3}], "bob": []}

    filters.release(row.pk, actor=OPERATOR, now=now)
    assert Mitigation.objects.get(client=cast.alice).acl_changes == [{"acl-name": "x", "activation-type": 2}]


def test_a_hold_stays_as_it_was_thrown_and_what_is_gone_or_free_is_said(cast: Any, now: datetime) -> None:
    row = stored(cast.alice, now)
    filters.hold(row.pk, actor=OPERATOR, reason="first", now=now)
    filters.hold(row.pk, actor="operator bea", reason="second", now=now)
    row.refresh_from_db()
    assert (row.held_by, row.held_reason) == (OPERATOR, "first")
    filters.release(row.pk, actor=OPERATOR, now=now)

    with pytest.raises(NotFound, match="nobody holds"):
        filters.release(row.pk, actor=OPERATOR, now=now)
    with pytest.raises(NotFound, match="gone"):
        filters.hold(row.pk + 1, actor=OPERATOR, reason="", now=now)


def test_the_command_holds_shows_and_releases(cast: Any, now: datetime) -> None:
    row = stored(cast.alice, timezone.now())
    out = io.StringIO()

    call_command("filter", "hold", str(row.pk), "--reason", "no", stdout=out)
    call_command("filter", "list", stdout=out)
    call_command("filter", "release", str(row.pk), stdout=out)

    assert f"filter {row.pk} is held" in out.getvalue()
    assert re.search(r"x +immediate +1 +False +no ", out.getvalue())
    assert f"filter {row.pk} is released" in out.getvalue()
    doors = list(Audit.objects.filter(action__in=["acl-hold", "acl-release"]).values_list("door", flat=True))
    assert doors == ["command", "command"]
    with pytest.raises(CommandError, match="nobody holds"):
        call_command("filter", "release", str(row.pk))


# -- samples ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def count(driver: Memory, standing: Standing) -> Callable[..., None]:
    def do(at: datetime, **packets: int) -> None:
        keys = dict(EnforcedAce.objects.values_list("ace", "key"))
        driver.filter_readings = [Counter(keys[ace], "epoch", some, some * 100) for ace, some in packets.items()]
        point = EnforcementPoint.objects.get()
        filter_enforcement.count(point.pk, driver, standing.filters, clock=lambda: at)

    return do


def test_a_list_has_samples_of_what_it_dropped_and_let_pass(
    cast: Any, driver: Memory, look: Look, count: Callable[..., None], now: datetime
) -> None:
    row = stored(cast.alice, now, {}, UDP)
    accept = {"forwarding": "ietf-access-control-list:accept"}
    Acl.objects.update(aces=[row.aces[0], {**row.aces[1], "actions": accept}])
    look()

    count(now + timedelta(seconds=1), r0=10, r1=1)
    for second in range(2, 15):
        count(now + timedelta(seconds=second), r0=10 * second, r1=second)

    numbers = ("seconds", "dropped_packets", "dropped_octets", "passed_packets", "passed_octets")
    rows = list(AclSample.objects.order_by("at").values_list("acl", *numbers))
    assert rows == [(row.pk, 10.0, 100, 10_000, 10, 1000), (row.pk, 4.0, 40, 4000, 4, 400)]
    assert AclSample.objects.latest("at").at == now + timedelta(seconds=14)


def test_what_does_not_move_has_no_sample_and_a_deleted_list_none_either(
    cast: Any, driver: Memory, look: Look, count: Callable[..., None], now: datetime
) -> None:
    row = stored(cast.alice, now)
    look()
    count(now + timedelta(seconds=1), r0=5)
    count(now + timedelta(seconds=2), r0=5)
    assert AclSample.objects.count() == 1

    Acl.objects.filter(pk=row.pk).delete()
    assert not AclSample.objects.exists()


def test_samples_go_after_a_day(
    cast: Any, driver: Memory, look: Look, count: Callable[..., None], now: datetime
) -> None:
    stored(cast.alice, now)
    look()
    count(now + timedelta(seconds=1), r0=5)

    upkeep.tidy(now=now + timedelta(hours=23))
    assert AclSample.objects.count() == 1
    upkeep.tidy(now=now + timedelta(hours=25))
    assert AclSample.objects.count() == 0
