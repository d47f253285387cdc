"""The one way in which a mitigation's status changes, with what follows from it and the row that tells of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings

from mitigation.models import Client, Mitigation, Target, TargetName, Transition
from mitigation.protocol.constants import INDEFINITE_LIFETIME, TOLD_FOUR_TIMES, WITHDRAWN_SHOWN
from mitigation.protocol.status import ACTIVE, Happening, Status, grace_period, next_status
from mitigation.services import conflicts, ladder
from mitigation.services.units import LONGEST, Unit


def record(mitigation: Mitigation, happening: Happening, *, unit: Unit, actor: str, reason: str = "") -> None:
    """The only place where `status` changes: look it up in the table, set what follows from it, write the history.

    Raises IllegalTransition. The row is written when the unit ends.
    """
    old, was_in_conflict = Status(mitigation.status), mitigation.conflict is not None
    new = next_status(old, happening)
    mitigation.status = new
    mitigation.status_reason = reason = reason[:LONGEST]
    fields = {"status", "status_reason", *_consequences(mitigation, old, new, unit.now)}
    unit.transitions.append(
        Transition(
            mitigation=mitigation, old=old, new=new, happening=happening, reason=reason, actor=actor, at=unit.now
        )
    )
    unit.save(mitigation, *fields)
    if (old in ACTIVE) != (new in ACTIVE):
        unit.rules_are_stale()
    if was_in_conflict or happening in (Happening.SESSION_LOST, Happening.CLIENT_RENEWED):
        conflicts.settle_at_end(mitigation, unit)


def note(mitigation: Mitigation, word: str, *, unit: Unit, actor: str, reason: str = "") -> None:
    """History of what leaves the status as it is."""
    status, reason = mitigation.status, reason[:LONGEST]
    unit.transitions.append(
        Transition(
            mitigation=mitigation, old=status, new=status, happening=word, reason=reason, actor=actor, at=unit.now
        )
    )


def withdraw_by_server(
    mitigation: Mitigation, unit: Unit, *, action: str, actor: str, reason: str, door: str, told: str = ""
) -> None:
    """A person ends it: status 7, no terminating period (RFC 9132, section 4.4.1.3).

    `told` is what history says and the client's side of it sees, where that is not the bare reason.
    """
    before = {"status": mitigation.status}
    record(mitigation, Happening.SERVER_WITHDREW, unit=unit, actor=actor, reason=told or reason)
    after = {"status": mitigation.status, "reason": reason}
    unit.audit(door=door, actor=actor, action=action, subject=subject_of(mitigation), before=before, after=after)


def _consequences(mitigation: Mitigation, old: Status, new: Status, now: datetime) -> set[str]:
    """Deadlines and proof that belong to the new status; returns the fields set."""
    fields = _leave(mitigation, old, new, now)
    if new is Status.TERMINATING:
        mitigation.last_grace = grace_period(mitigation.last_grace, first=settings.DOTS_TERMINATING_PERIOD)
        mitigation.ends_at = now + timedelta(seconds=mitigation.last_grace)
        mitigation.expires_at = None
        return fields | {"last_grace", "ends_at", "expires_at"}
    if new is Status.WITHDRAWN:
        mitigation.ends_at = now + (_told_four_times() if mitigation.rearms else timedelta(seconds=WITHDRAWN_SHOWN))
        mitigation.expires_at = mitigation.approve_by = None
        return fields | {"ends_at", "expires_at", "approve_by"} | _forget_proof(mitigation) | _forget_steps(mitigation)
    if new is Status.TERMINATED:
        mitigation.ended_at = now
        mitigation.conflict = mitigation.retry_at = None
        mitigation.ends_at = mitigation.expires_at = mitigation.approve_by = None
        Target.objects.filter(mitigation=mitigation).delete()
        TargetName.objects.filter(mitigation=mitigation).delete()
        return fields | {"ended_at", "ends_at", "expires_at", "approve_by", "conflict", "retry_at"}
    if new is Status.STOPPED and not mitigation.trigger_mitigation:
        mitigation.rearms_at = now + _told_four_times()
        return fields | {"rearms_at"}
    if new is Status.SIGNAL_LOSS:
        mitigation.ends_at = mitigation.mitigation_start = None
        mitigation.expires_at = end_of_lifetime(mitigation)
        mitigation.rearms = False
        fields |= {"ends_at", "mitigation_start", "expires_at", "rearms"}
        return fields | _forget_proof(mitigation) | _forget_counts(mitigation) | _forget_steps(mitigation)
    return fields


def _told_four_times() -> timedelta:
    return timedelta(seconds=TOLD_FOUR_TIMES * settings.DOTS_NOTIFICATION_PERIOD)


def _leave(mitigation: Mitigation, old: Status, new: Status, now: datetime) -> set[str]:
    """What was true of the old status only."""
    fields = set()
    if old is Status.STOPPED and mitigation.rearms_at is not None:
        mitigation.rearms_at = None
        fields.add("rearms_at")
    if new is Status.IN_PROGRESS and old in (Status.TERMINATING, Status.WITHDRAWN):
        mitigation.ends_at = mitigation.retry_at = mitigation.conflict = None
        mitigation.mitigation_start = mitigation.mitigation_start or now  # None: it was inactive from the beginning
        fields |= {"ends_at", "retry_at", "conflict", "mitigation_start"}
    return fields


def _forget_proof(mitigation: Mitigation) -> set[str]:
    mitigation.installed_at = mitigation.hitting_at = None
    return {"installed_at", "hitting_at"}


def _forget_steps(mitigation: Mitigation) -> set[str]:
    """If it starts again, it starts where it began."""
    if mitigation.step_until is not None:
        mitigation.playbook = ladder.first_of(mitigation)
    mitigation.step_until = mitigation.pressed_since = mitigation.calm_since = None
    return {"playbook", "step_until", "pressed_since", "calm_since"}


def _forget_counts(mitigation: Mitigation) -> set[str]:
    """Totals are since mitigation-start: another start begins anew."""
    words = ("dropped", "passed", "redirected")
    fields = {f"{word}_{unit}" for word in words for unit in ("packets", "octets")} | {"counted_at", "dropped_at"}
    for name in fields:
        setattr(mitigation, name, None)
    return fields


def actor_of(client: Client) -> str:
    return f"client {client.name}"[:LONGEST]


def subject_of(mitigation: Mitigation) -> str:
    cdid = f"{mitigation.cdid}/" if mitigation.cdid else ""
    return f"mitigation {mitigation.client_id}/{cdid}{mitigation.cuid}/{mitigation.mid}"[:255]


def end_of_lifetime(mitigation: Mitigation) -> datetime | None:
    if mitigation.lifetime == INDEFINITE_LIFETIME:
        return None
    return mitigation.refreshed_at + timedelta(seconds=mitigation.lifetime)
