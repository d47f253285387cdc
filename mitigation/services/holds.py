"""The kill switch, the change freeze and the breaker: what holds enforcement back, whoever asks.

None of them stops a stop: rules that are no longer wanted always leave.
"""

from __future__ import annotations

import ipaddress
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mitigation.exceptions import NotFound
from mitigation.models import Audit, Change, DomainPrefix, EnforcementPoint, Hold, Mitigation
from mitigation.rules.boxes import Range, merged_ranges
from mitigation.rules.playbooks import Plan
from mitigation.services.units import LONGEST, Unit, unit_of_work

SPAN = timedelta(minutes=1)
ORDINARY = 256  # addresses, or networks of IPv6, that one request may well be for, whatever share they are
UNITS = {4: (0, "IPv4 addresses"), 6: (64, "IPv6 /64 networks")}  # what is counted: the bits below it, and its name
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


def surge(
    starts: Iterable[tuple[datetime, Plan]], *, most_rules: int = 0, most_share: int = 0, now: datetime
) -> Surge | None:
    """Whether too much began within the last minute, and since when: rules that do more than count, or addresses.

    `starts`: when each began, and its plan. What started in the same moment is held or let through together.
    `most_rules` and `most_share` (percent of all domains' addresses) may begin; 0: any number. What somebody has let
    through counts no more.
    """
    plans_at: dict[datetime, list[Plan]] = {}
    for start, plan in starts:
        if now - SPAN < start <= now:
            plans_at.setdefault(start, []).append(plan)
    if not plans_at:
        return None
    lifted = _last_lifted()
    moments = sorted(moment for moment in plans_at if lifted is None or moment > lifted)
    plans = [plans_at[moment] for moment in moments]
    found = []
    if most_rules and (rules := _too_many_rules(moments, plans, most_rules)):
        found.append(rules)
    if most_share:
        for family, ranges in _dropped_to(plans).items():
            share = _too_large_share(family, moments, ranges, most_share)
            found += [share] if share else []
    return min(found, key=lambda one: one.since, default=None)


def _last_lifted() -> datetime | None:
    lifts = Audit.objects.filter(subject="enforcement", action=f"{Hold.Kind.BREAKER}-lift").order_by("-id")
    return lifts.values_list("at", flat=True).first()


def _too_many_rules(moments: Sequence[datetime], plans: Sequence[list[Plan]], most: int) -> Surge | None:
    total = 0
    for moment, some in zip(moments, plans, strict=True):
        total += sum(rule.touches for plan in some for rule in plan.rules)
        if total > most:
            return _from(moment, f"{total:,} rules were asked for within a minute; {most:,} are allowed")
    return None


def _dropped_to(plans: Sequence[list[Plan]]) -> dict[int, list[set[Range]]]:
    """By family, for each of these: which addresses something is dropped or limited to, as numbers of `UNITS`."""
    found: dict[int, list[set[Range]]] = {family: [set() for _ in plans] for family in UNITS}
    for number, some in enumerate(plans):
        for box in (rule.box for plan in some for rule in plan.rules if rule.drops):
            below = UNITS[box.family][0]
            found[box.family][number].add((box.first_address >> below, box.last_address >> below))
    return found


def _too_large_share(family: int, moments: Sequence[datetime], ranges: Sequence[set[Range]], most: int) -> Surge | None:
    """Of one family's addresses; several rules, or mitigations, of the same ones count once."""

    def reached(number: int) -> int:
        """By the first `number` moments together."""
        return _size({one for some in ranges[:number] for one in some})

    if reached(len(ranges)) <= ORDINARY:
        return None
    owned = _size(_owned(family))
    allowed = max(ORDINARY, owned * most // 100)
    # It only grows, so where it first is too much is found without adding up after each moment.
    number = bisect_right(range(len(ranges) + 1), allowed, key=reached)
    if number > len(ranges):
        return None
    total = reached(number)
    share = f"{100 * total / max(owned, 1):.1f} % of all domains' {UNITS[family][1]} ({total:,} of {owned:,})"
    return _from(moments[number - 1], f"rules for {share} were asked for within a minute; {most} % are allowed")


def _owned(family: int) -> set[Range]:
    """By all domains of this server, also those that ask for nothing."""
    below = UNITS[family][0]
    networks = map(ipaddress.ip_network, DomainPrefix.objects.filter(family=family).values_list("prefix", flat=True))
    return {(int(one.network_address) >> below, int(one.broadcast_address) >> below) for one in networks}


def _size(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in merged_ranges(ranges))


def _from(moment: datetime, reason: str) -> Surge:
    """What started in this moment is held with it."""
    return Surge(moment - timedelta(microseconds=1), reason)
