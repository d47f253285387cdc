"""The kill switch, the change freeze and the breaker: what holds enforcement back, whoever asks.

None of them stops a stop: rules that are no longer wanted always leave.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mitigation.exceptions import NotFound
from mitigation.models import Change, EnforcementPoint, Hold, Mitigation
from mitigation.rules.playbooks import Plan
from mitigation.services.units import LONGEST, Unit, unit_of_work

SPAN = timedelta(minutes=1)
_OF_A_HOLD = ("kind", "since", "reason")
WORDS = {Hold.Kind.FREEZE: "change freeze", Hold.Kind.BREAKER: "the breaker is open"}


def throw(
    kind: str, *, actor: str, reason: str, now: datetime, door: str = "command", since: datetime | None = None
) -> Hold:
    """Throw the switch; thrown already, it stays as it was. Enforcement points look at once.

    A freeze and the breaker hold what starts after `since`, by default from now on.
    """
    with unit_of_work(now) as unit:
        values = {"since": since or now, "actor": actor[:LONGEST], "reason": reason[:LONGEST]}
        hold, created = Hold.objects.get_or_create(kind=kind, defaults=values)
        if created:
            unit.audit(door=door, actor=actor, action=kind, subject="enforcement", after={"reason": reason})
            _look_again(unit)
    return hold


def throw_from_file(file: Path, *, now: datetime) -> None:
    """What `manage.py panic` said while the database was away; the file goes when the row is there."""
    try:
        said = json.loads(file.read_text())
        actor, reason = str(said["actor"]), str(said["reason"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        actor, reason = "command", "manage.py panic"  # however it reads, it was meant
    throw(Hold.Kind.PANIC, actor=actor, reason=reason, now=now)
    file.unlink(missing_ok=True)


def lift(kind: str, *, actor: str, now: datetime, door: str = "command") -> None:
    """Let enforcement go on. Raises NotFound when the switch is not thrown."""
    with unit_of_work(now) as unit:
        hold = Hold.objects.filter(kind=kind).first()
        if hold is None:
            raise NotFound(f"there is no {kind} to lift")
        hold.delete()
        unit.audit(door=door, actor=actor, action=f"{kind}-lift", subject="enforcement", before={"reason": hold.reason})
        _look_again(unit)


def _look_again(unit: Unit) -> None:
    unit.rules_are_stale()
    for pk in EnforcementPoint.objects.values_list("pk", flat=True):
        unit.tell(Change.Topic.POINT, pk)


class Holds:
    """What is thrown now."""

    def __init__(self) -> None:
        self.thrown = {kind: (since, reason) for kind, since, reason in Hold.objects.values_list(*_OF_A_HOLD)}

    def why(self, start: datetime) -> str:
        """Why nothing may stand now of a mitigation that began then; empty when it may."""
        if Hold.Kind.PANIC in self.thrown:
            return f"all enforcement is switched off: {self.thrown[Hold.Kind.PANIC][1]}"
        for kind, words in WORDS.items():
            since, reason = self.thrown.get(kind, (None, ""))
            if since is not None and start > since:
                return f"{words}: {reason}"
        return ""


def began(mitigation: Mitigation) -> datetime:
    """When it came to want rules: at its start, which may be the loss of the session, or when it was approved later."""
    start = mitigation.mitigation_start or mitigation.requested_at
    return max(start, mitigation.approved_at or start)


@dataclass(frozen=True, slots=True)
class Surge:
    """More than may start within a minute. `since`: what started after it is too much."""

    since: datetime
    reason: str


def surge(starts: Iterable[tuple[datetime, Plan]], *, most_rules: int, now: datetime) -> Surge | None:
    """Whether the rules, but those that only count, of what began within the last minute are more than `most_rules`.

    `starts`: when each began, and its plan. What started in the same moment is held or let through together.
    """
    rules_at: dict[datetime, int] = {}
    for start, plan in starts:
        if now - SPAN < start <= now:
            rules_at[start] = rules_at.get(start, 0) + sum(rule.touches for rule in plan.rules)
    total = 0
    for start in sorted(rules_at):
        total += rules_at[start]
        if total > most_rules:
            reason = f"{total:,} rules were asked for within a minute; {most_rules:,} are allowed"
            return Surge(start - timedelta(microseconds=1), reason)
    return None
