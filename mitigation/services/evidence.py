"""What the enforcer found out, and how far it lets a mitigation go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mitigation.models import Mitigation
from mitigation.protocol.status import Happening, Status
from mitigation.services import locks
from mitigation.services.history import record
from mitigation.services.units import Unit, unit_of_work


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the enforcer found out about one mitigation.

    `refused` is the playbook's or the policy's reason for rendering nothing. `enforced` is None where no point
    enforces (dry run), else whether all of its rules were read back from every point that should have them.
    """

    mitigation_id: int
    refused: str | None
    notes: tuple[str, ...]
    enforced: bool | None
    problem: str
    rendered: bool = True  # False while its names have no address yet


def advance(found: Iterable[Evidence], *, now: datetime) -> None:
    """Move mitigations to the status and the word of proof that the evidence allows, no further."""
    evidence = {one.mitigation_id: one for one in found}
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations(evidence)
        for mitigation in Mitigation.objects.live().filter(pk__in=evidence):
            _advance(mitigation, evidence[mitigation.pk], unit)


def _advance(mitigation: Mitigation, found: Evidence, unit: Unit) -> None:
    happening, reason = _happening(Status(mitigation.status), found)
    if happening is not None:
        record(mitigation, happening, unit=unit, actor="enforcer", reason=reason)
    wanted = {
        "rendered_at": mitigation.rendered_at or unit.now if found.rendered and not found.refused else None,
        "installed_at": mitigation.installed_at or unit.now if found.enforced else None,
        "hitting_at": mitigation.hitting_at if found.enforced else None,
        "notes": list(found.notes),
        "problem": (found.refused or found.problem)[:255],
    }
    changed = [name for name, value in wanted.items() if getattr(mitigation, name) != value]
    for name in changed:
        setattr(mitigation, name, wanted[name])
    if changed:
        unit.save(mitigation, *changed)


def _happening(status: Status, found: Evidence) -> tuple[Happening | None, str]:
    """What the evidence means in this status; one that is ending keeps its status."""
    if status not in (Status.IN_PROGRESS, Status.MITIGATED, Status.STOPPED, Status.EXCEEDED):
        return None, ""
    if found.refused or found.enforced is None:
        happening = Happening.CAPABILITY_EXCEEDED if status is not Status.EXCEEDED else None
        return happening, (found.refused or found.problem)[:255]
    if found.enforced:
        return (Happening.RULES_INSTALLED if status in (Status.IN_PROGRESS, Status.EXCEEDED) else None), ""
    return (Happening.RULES_LOST if status is not Status.IN_PROGRESS else None), found.problem[:255]


def judge_attack(mitigation: Mitigation, unit: Unit) -> None:
    """Whether the attack is over, said of counters that have just been read: status 3, and 2 again when drops go on.

    An attack that was never seen does not end: a mitigation whose rules never dropped anything keeps its status.
    """
    status, over_after = Status(mitigation.status), mitigation.domain.attack_over_after
    if mitigation.dropped_at is None:
        return
    quiet = (unit.now - max(mitigation.dropped_at, mitigation.installed_at or unit.now)).total_seconds()
    if status is Status.MITIGATED and over_after and quiet >= over_after:
        reason = f"nothing was dropped for {over_after} s"
        record(mitigation, Happening.ATTACK_ENDED, unit=unit, actor="enforcer", reason=reason)
    elif status is Status.STOPPED and mitigation.dropped_at == unit.now:
        record(mitigation, Happening.ATTACK_RESUMED, unit=unit, actor="enforcer", reason="drops go on")
