"""Filters: who may switch which, and who is told (RFC 9133; RFC 8783, section 7)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from mitigation.exceptions import FilterNotApplied, MalformedRequest, NotFound
from mitigation.models import Acl, Alias, Domain, Mitigation
from mitigation.protocol.filters import AclControl, ActivationType
from mitigation.protocol.scope import MitigationRequest
from mitigation.services import accept_lists, locks, points
from mitigation.services.history import actor_of
from mitigation.services.overlaps import Asker
from mitigation.services.units import LONGEST, Unit, unit_of_work

RETRY_AFTER = 30  # seconds, when the equipment cannot be reached


def lifetime(domain: Domain) -> timedelta:
    """Of aliases and filters of its clients that nobody refreshes (RFC 8783, sections 6.1 and 7.2)."""
    return timedelta(minutes=domain.filter_lifetime)


class Filters:
    """The filters that a batch of requests names, read with one query."""

    def __init__(self, wanted: Iterable[tuple[int, MitigationRequest]], unit: Unit) -> None:
        self._unit = unit
        named = [(client_id, one.name) for client_id, request in wanted for one in request.acls]
        rows = Acl.objects.current(unit.now).select_related("client__domain") if named else Acl.objects.none()
        rows = rows.filter(client_id__in={pk for pk, _ in named}, name__in={name for _, name in named})
        self._rows = {(row.client_id, row.cdid, row.cuid, row.name): row for row in rows}

    def check(self, client_id: int, request: MitigationRequest, *, under_attack: bool) -> None:
        """Before anything of the request is written. Raises MalformedRequest, NotFound or FilterNotApplied.

        `under_attack`: the client has an active mitigation. A request that starts at once begins an attack itself.
        """
        if not request.acls:
            return
        if not request.trigger_mitigation and not under_attack:
            raise MalformedRequest("filters are not switched by the signal channel while no attack goes on")
        for one in request.acls:
            if self._find(client_id, request, one) is None:
                raise NotFound(f"there is no filter named {one.name[:60]} of this client")
        if points.any_is_down():
            raise FilterNotApplied(
                "the filters cannot be switched now", mid=request.mid, acls=request.acls, retry_after=RETRY_AFTER
            )

    def switch(self, client_id: int, request: MitigationRequest) -> None:
        """After `check`: what was asked for holds from now on, also when the mitigation has ended (section 3.2.1)."""
        for one in request.acls:
            row = self._find(client_id, request, one)
            assert row is not None
            _switch(row, one.activation_type, self._unit, door="signal")

    def _find(self, client_id: int, request: MitigationRequest, one: AclControl) -> Acl | None:
        return self._rows.get((client_id, request.cdid, request.cuid, one.name))


def switch_approved(mitigation: Mitigation, unit: Unit) -> tuple[list[str], list[str]]:
    """What it asked for while it waited takes effect; its client is told, since it cannot know when that was.

    Returns the fields set, and the names of filters that are gone meanwhile.
    """
    wanted = [AclControl.from_json(one) for one in mitigation.acl_list]
    if not wanted:
        return [], []
    rows = Acl.objects.current(unit.now).select_related("client__domain")
    rows = rows.filter(client_id=mitigation.client_id, cdid=mitigation.cdid, cuid=mitigation.cuid)
    found = {row.name: row for row in rows.filter(name__in={one.name for one in wanted})}
    there = [one for one in wanted if one.name in found]
    for one in there:
        _switch(found[one.name], one.activation_type, unit, door="signal")
    _tell(mitigation, there)
    mitigation.acl_list = []
    return ["acl_list", "acl_changes"], [one.name for one in wanted if one.name not in found]


def activate(
    asker: Asker, name: str, activation_type: ActivationType, *, now: datetime, door: str, actor: str = ""
) -> None:
    """Switch a filter from outside the signal channel; active mitigations of its client tell of it. Raises NotFound.

    `actor` where it is not its client that switches it.
    """
    client_id, cdid, cuid = asker
    with unit_of_work(now) as unit:
        locks.domains_of_clients([client_id])
        rows = Acl.objects.current(now).select_related("client__domain")
        row = rows.filter(client_id=client_id, cdid=cdid, cuid=cuid, name=name).first()
        if row is None:
            raise NotFound(f"there is no filter named {name[:60]} of this client")
        if row.activation_type == activation_type:
            return
        _switch(row, activation_type, unit, door=door, actor=actor)
        for mitigation in Mitigation.objects.enforced().filter(client_id=client_id, cdid=cdid, cuid=cuid):
            _tell(mitigation, [AclControl(name, activation_type)])
            unit.save(mitigation, "acl_changes")


def hold(acl_id: int, *, actor: str, reason: str, now: datetime, door: str = "dashboard") -> None:
    """An operator takes a list out of force, whatever its activation type is or becomes, until it is released.

    The list itself stays as its client wrote it. Active mitigations of the client tell of it as deactivated, as they do
    of every change by others. Held already, it stays as it was. Raises NotFound.
    """
    with unit_of_work(now) as unit:
        row = _lock(acl_id, unit)
        if row.held_at is not None:
            return
        row.held_at, row.held_by, row.held_reason = now, actor[:LONGEST], reason[:LONGEST]
        _hold_or_release(row, "acl-hold", ActivationType.DEACTIVATE, unit, actor=actor, door=door)


def release(acl_id: int, *, actor: str, now: datetime, door: str = "dashboard") -> None:
    """Undo `hold`: the list stands again as its client has it. Raises NotFound, also where nobody holds it."""
    with unit_of_work(now) as unit:
        row = _lock(acl_id, unit)
        if row.held_at is None:
            raise NotFound(f"nobody holds the filter {row.name[:60]}")
        row.held_at, row.held_by, row.held_reason = None, "", ""
        _hold_or_release(row, "acl-release", ActivationType(row.activation_type), unit, actor=actor, door=door)


def _lock(acl_id: int, unit: Unit) -> Acl:
    rows = Acl.objects.current(unit.now).filter(pk=acl_id).select_related("client")
    locks.domains_of_clients(rows.values_list("client_id", flat=True))
    row = rows.first()
    if row is None:
        raise NotFound("this filter is gone")
    return row


def _hold_or_release(row: Acl, action: str, told: ActivationType, unit: Unit, *, actor: str, door: str) -> None:
    row.save(update_fields=["held_at", "held_by", "held_reason"])
    unit.rules_are_stale()
    accept_lists.judge_at_end(row, unit)
    after = {"reason": row.held_reason} if row.held_at else None
    unit.audit(door=door, actor=actor, action=action, subject=subject_of(row), after=after)
    for mitigation in Mitigation.objects.enforced().filter(client_id=row.client_id, cdid=row.cdid, cuid=row.cuid):
        _tell(mitigation, [AclControl(row.name, told)])
        unit.save(mitigation, "acl_changes")


def subject_of(row: Acl | Alias) -> str:
    """As the audit names it."""
    return f"{'alias' if isinstance(row, Alias) else 'acl'} {row.client_id}/{row.cuid}/{row.name}"


def _tell(mitigation: Mitigation, changed: Iterable[AclControl]) -> None:
    """Have its status name these filters, and what they are now."""
    told = {one["acl-name"]: one for one in mitigation.acl_changes}
    for one in changed:
        told.pop(one.name, None)
        told[one.name] = one.as_json()
    mitigation.acl_changes = list(told.values())


def _switch(row: Acl, activation_type: ActivationType, unit: Unit, *, door: str, actor: str = "") -> None:
    before, row.activation_type = row.activation_type, activation_type
    row.activation_is_set, row.changed_at = True, unit.now
    row.refreshed_at, row.expires_at = unit.now, unit.now + lifetime(row.client.domain)
    row.save(update_fields=["activation_type", "activation_is_set", "changed_at", "refreshed_at", "expires_at"])
    unit.rules_are_stale()
    accept_lists.judge_at_end(row, unit)
    unit.audit(
        door=door,
        actor=actor or actor_of(row.client),
        action="acl-activate",
        subject=subject_of(row),
        before={"activation-type": before},
        after={"activation-type": int(activation_type)},
    )
