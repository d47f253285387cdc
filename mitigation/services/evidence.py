"""What the enforcer found out, and how far it lets a mitigation go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mitigation.models import Mitigation
from mitigation.protocol.status import Happening, Status
from mitigation.services import locks
from mitigation.services.batches import in_batches
from mitigation.services.history import record
from mitigation.services.units import Unit

AT_ONCE = 100  # mitigations in one transaction: 20 to 60 ms
FEW = 1_000
_WORDS = ("rendered_at", "installed_at", "hitting_at", "notes", "problem")


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
    """Move mitigations to the status and the word of proof that the evidence allows, no further.

    Most of them are there already: which, is seen before anything is locked, and each of the others is looked at again.
    """
    evidence = {one.mitigation_id: one for one in found}
    live = Mitigation.objects.live()
    looked_at = (live.filter(pk__in=evidence) if len(evidence) < FEW else live).only("status", *_WORDS)
    moving = [
        mitigation.pk
        for mitigation in looked_at
        if mitigation.pk in evidence and _moves(mitigation, evidence[mitigation.pk], now)
    ]

    def write(some: Sequence[int], unit: Unit) -> None:
        locks.domains_of_mitigations(some)
        for mitigation in Mitigation.objects.live().filter(pk__in=some):
            _advance(mitigation, evidence[mitigation.pk], unit)

    in_batches(moving, AT_ONCE, write, now=now)


def _moves(mitigation: Mitigation, found: Evidence, now: datetime) -> bool:
    happening, _ = _happening(Status(mitigation.status), found)
    return happening is not None or bool(_changes(mitigation, found, now))


def _advance(mitigation: Mitigation, found: Evidence, unit: Unit) -> None:
    happening, reason = _happening(Status(mitigation.status), found)
    if happening is not None:
        record(mitigation, happening, unit=unit, actor="enforcer", reason=reason)
    changed = _changes(mitigation, found, unit.now)
    for name, value in changed.items():
        setattr(mitigation, name, value)
    if changed:
        unit.save(mitigation, *changed)


def _changes(mitigation: Mitigation, found: Evidence, now: datetime) -> dict[str, Any]:
    """What the words of proof are to be, where that differs from what they are."""
    wanted = {
        "rendered_at": mitigation.rendered_at or now if found.rendered and not found.refused else None,
        "installed_at": mitigation.installed_at or now if found.enforced else None,
        "hitting_at": mitigation.hitting_at if found.enforced else None,
        "notes": list(found.notes),
        "problem": (found.refused or found.problem)[:255],
    }
    return {name: value for name, value in wanted.items() if getattr(mitigation, name) != value}


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
    """Whether the attack is over, said of counters that have just been read: status 3, and 2 again when drops go on."""
    if attack_is_over(mitigation, unit.now):
        reason = f"nothing was dropped for {mitigation.domain.attack_over_after} s"
        record(mitigation, Happening.ATTACK_ENDED, unit=unit, actor="enforcer", reason=reason)
    elif Status(mitigation.status) is Status.STOPPED and mitigation.dropped_at == unit.now:
        record(mitigation, Happening.ATTACK_RESUMED, unit=unit, actor="enforcer", reason="drops go on")


def attack_is_over(mitigation: Mitigation, now: datetime) -> bool:
    """An attack that was never seen does not end: a mitigation whose rules never dropped anything keeps its status."""
    over_after = mitigation.domain.attack_over_after
    if Status(mitigation.status) is not Status.MITIGATED or mitigation.dropped_at is None or not over_after:
        return False
    quiet = (now - max(mitigation.dropped_at, mitigation.installed_at or now)).total_seconds()
    return quiet >= over_after
