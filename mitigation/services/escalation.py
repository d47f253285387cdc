"""Steps between the rungs of a domain's ladder: what is reported says where to begin, counters say when to go on.

Narrower first. A step up needs more than the domain's threshold to pass, all the time, for `step_up_after` seconds.
It reverts after `step_lasts` seconds unless it is still needed, and earlier when less than the threshold would pass
without it for `step_down_after` seconds. Every step is in the mitigation's history, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Domain, Hold, Mitigation, TargetName
from mitigation.protocol.scope import Scope
from mitigation.rules.attacks import ATTACKS
from mitigation.rules.canonical import Kind
from mitigation.rules.scope import LAST_PORT
from mitigation.services import accept_lists, ladder, locks, scopes
from mitigation.services.history import note
from mitigation.services.projection import Resolved
from mitigation.services.units import Unit, unit_of_work

MOST_REPORTED_PORTS = 64
SHORTEST = 0.2  # seconds between readings that give a rate: two may follow each other closely
FRESH = timedelta(seconds=10)  # counters that moved so lately say something of now
UP, DOWN, KEPT, STUCK, REPORTED = "stepped-up", "stepped-down", "step-kept", "no-further-step", "evidence"


@dataclass(frozen=True, slots=True)
class Traffic:
    packets: int = 0
    octets: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.packets + other.packets, self.octets + other.octets)

    def a_second(self, seconds: float) -> Traffic:
        return Traffic(round(self.packets / seconds), round(self.octets / seconds))

    def __str__(self) -> str:
        return f"{self.packets:,} packets and {self.octets:,} octets a second"


# -- what counters say ------------------------------------------------------------------------------------------------


def is_stepping(mitigation: Mitigation) -> bool:
    """Whether it is to be judged also while no counter of it moves."""
    return mitigation.step_until is not None or mitigation.pressed_since is not None


Load = dict[str, Traffic]  # what rules of each kind counted since the last reading


def in_use() -> bool:
    """Whether any domain has a ladder that counters move, or any mitigation stands on a step."""
    return Domain.objects.filter(Q(step_packets__gt=0) | Q(step_octets__gt=0)).exists() or (
        Mitigation.objects.stepped().exists()
    )


def judge(mitigation: Mitigation, load: Load, seconds: float, unit: Unit) -> None:
    """One reading of all its rules, so many seconds after the one before. Its domain is locked."""
    domain = mitigation.domain
    if seconds < SHORTEST or not (is_stepping(mitigation) or (domain.steps and not domain.shadow)):
        return
    passed = load.get(Kind.PASSED, Traffic())
    taken = sum((load.get(kind, Traffic()) for kind in ladder.kinds_of(mitigation.playbook)), Traffic())
    now_passing, would_pass = passed.a_second(seconds), (passed + taken).a_second(seconds)
    _remember(mitigation, pressed=_is_above(domain, now_passing), calm=not _is_above(domain, would_pass), unit=unit)
    if _lasted(mitigation.pressed_since, domain.step_up_after, unit.now) and _may_step_up(mitigation):
        _step_up(mitigation, now_passing, unit)
    elif mitigation.step_until is not None and _lasted(mitigation.calm_since, domain.step_down_after, unit.now):
        reason = f"without it no more than {would_pass} would have passed for {domain.step_down_after} s"
        _step_down(mitigation, reason, unit)


def _is_above(domain: Domain, rate: Traffic) -> bool:
    above_packets = bool(domain.step_packets) and rate.packets > domain.step_packets
    return above_packets or (bool(domain.step_octets) and rate.octets > domain.step_octets)


def _remember(mitigation: Mitigation, *, pressed: bool, calm: bool, unit: Unit) -> None:
    wanted = {
        "pressed_since": (mitigation.pressed_since or unit.now) if pressed else None,
        "calm_since": (mitigation.calm_since or unit.now) if calm and mitigation.step_until is not None else None,
    }
    changed = [name for name, value in wanted.items() if getattr(mitigation, name) != value]
    for name in changed:
        setattr(mitigation, name, wanted[name])
    if changed:
        unit.save(mitigation, *changed)


def _lasted(since: datetime | None, seconds: int, now: datetime) -> bool:
    return since is not None and now - since >= timedelta(seconds=seconds)


def _may_step_up(mitigation: Mitigation) -> bool:
    """Nothing more is done in shadow mode, nor while anything holds enforcement back."""
    stands = mitigation.is_active and not mitigation.is_ending and mitigation.installed_at is not None
    return stands and not mitigation.domain.shadow and not Hold.objects.exists()


def _step_up(mitigation: Mitigation, passing: Traffic, unit: Unit) -> None:
    domain = mitigation.domain
    found, refused = _next(mitigation)
    if found:
        reason = f"{passing} passed for {domain.step_up_after} s and more"
        _move(mitigation, found, UP, reason, unit)
        return
    mitigation.pressed_since = unit.now  # looked at again when as long has passed
    unit.save(mitigation, "pressed_since")
    last = mitigation.transitions.last()
    if last is None or last.happening != STUCK:
        note(mitigation, STUCK, unit=unit, actor="enforcer", reason="; ".join([f"{passing} pass", *refused]))


def _next(mitigation: Mitigation) -> tuple[str, list[str]]:
    """The next rung that policy and scope allow, or none; and why not those that were passed over."""
    higher = ladder.above(mitigation.domain, mitigation.playbook)
    if not higher:
        return "", ["this is the last rung"]
    return _first_possible(mitigation, higher)


def _first_possible(mitigation: Mitigation, playbooks: Iterable[str]) -> tuple[str, list[str]]:
    domain = mitigation.domain
    refused: list[str] = []
    names = list(mitigation.names.filter(kind=TargetName.Kind.HOST))
    scope, allowed = Scope.from_json(mitigation.protected_scope), scopes.allowed([domain.pk])[domain.pk]
    resolved = Resolved(domain, scope, names, allowed.prefixes, evidence=mitigation.evidence)
    for playbook in playbooks:
        plan = resolved.plan(playbook)
        if not plan.refused:
            return playbook, refused
        refused.append(f"{playbook}: {plan.refused}")
    return "", refused


# -- steps ------------------------------------------------------------------------------------------------------------


def _move(mitigation: Mitigation, playbook: str, word: str, reason: str, unit: Unit) -> None:
    """The only place where `playbook` changes after the request, but for a start anew."""
    is_above = playbook in ladder.above(mitigation.domain, ladder.first_of(mitigation))
    lasts = timedelta(seconds=mitigation.domain.step_lasts)
    mitigation.playbook = playbook
    mitigation.step_until = unit.now + lasts if is_above else None
    mitigation.pressed_since = mitigation.calm_since = None
    until = f"; for {mitigation.domain.step_lasts} s unless it is needed longer" if is_above else ""
    note(mitigation, word, unit=unit, actor="enforcer", reason=f"to {playbook}: {reason}{until}")
    unit.save(mitigation, "playbook", "step_until", "pressed_since", "calm_since")
    unit.rules_are_stale()


def _step_down(mitigation: Mitigation, reason: str, unit: Unit) -> None:
    """One rung, and never below where it began."""
    first = ladder.first_of(mitigation)
    found = ladder.up_to(mitigation.domain, mitigation.playbook)
    lower = found[-2] if len(found) > 1 else first
    _move(mitigation, lower if lower in ladder.above(mitigation.domain, first) else first, DOWN, reason, unit)


def revert_due(*, now: datetime, limit: int = 1000) -> int:
    """End each step whose time is over and that is not needed any more; returns how many were looked at."""
    ids = list(Mitigation.objects.stepped().filter(step_until__lte=now).order_by("pk").values_list("pk", flat=True))
    if not ids:
        return 0
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations(ids[:limit])
        due = Mitigation.objects.stepped().filter(pk__in=ids[:limit], step_until__lte=now).select_related("domain")
        for mitigation in due.order_by("pk"):
            _end_or_keep(mitigation, unit)
    return len(ids[:limit])


def _end_or_keep(mitigation: Mitigation, unit: Unit) -> None:
    lasts = mitigation.domain.step_lasts
    is_fresh = mitigation.counted_at is not None and unit.now - mitigation.counted_at <= FRESH
    if not is_fresh or mitigation.calm_since is not None or not mitigation.is_active:
        _step_down(mitigation, f"its {lasts} s are over", unit)
        return
    mitigation.step_until = unit.now + timedelta(seconds=lasts)
    reason = f"{mitigation.playbook} for {lasts} s more: without it too much would pass"
    note(mitigation, KEPT, unit=unit, actor="server", reason=reason)
    unit.save(mitigation, "step_until")


def follow_policy(domain: Domain, unit: Unit) -> None:
    """A rung that the domain's policy does not have any more is left at once. The domain is locked."""
    for mitigation in Mitigation.objects.stepped().filter(domain=domain):
        mitigation.domain = domain
        if mitigation.playbook not in ladder.above(domain, ladder.first_of(mitigation)) or not domain.steps:
            _move(mitigation, ladder.first_of(mitigation), DOWN, "the domain's policy was changed", unit)


# -- what is reported -------------------------------------------------------------------------------------------------


def report(
    mitigation_id: int,
    *,
    kind: str,
    source_ports: Iterable[int] = (),
    sources: Iterable[str] = (),
    by: str = "",
    actor: str,
    now: datetime,
    door: str = "command",
) -> Mitigation:
    """What somebody says about the attack, in place of what was said before; an empty `kind` takes it back.

    It says where the mitigation begins. Reported source ports are dropped as those of amplification are. Sources are
    not dropped, since they may be anybody's: they find the client's filters that let them in, as `attackers` does.
    `by` is who found it out. Raises MalformedRequest or NotFound.
    """
    ports, sources = sorted(set(source_ports)), list(sources)
    _check(kind, ports)
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations([mitigation_id])
        row = Mitigation.objects.live().filter(pk=mitigation_id).select_related("domain").first()
        if row is None:
            raise NotFound(f"there is no live mitigation {mitigation_id}")
        before = row.evidence
        if sources:
            accept_lists.report_attackers(mitigation_id, sources, actor=actor, now=now, door=door)
            row.refresh_from_db(fields=["attackers", "accept_lists"])
        playbook, refused = _first_possible(row, ladder.suited(row.domain, kind))
        said = {"kind": kind, "source_ports": ports, "by": by or actor, "at": now.isoformat(), "playbook": playbook}
        row.evidence = {**said, "sources": row.attackers if sources else []} if kind else None
        unit.save(row, "evidence")
        unit.audit(
            door=door,
            actor=actor,
            action="evidence",
            subject=f"mitigation {mitigation_id}",
            before={"evidence": before},
            after={"evidence": row.evidence},
        )
        reason = "; ".join([_in_words(row.evidence), *(f"not by {why}" for why in refused)])
        note(row, REPORTED, unit=unit, actor=actor, reason=reason)
        _begin_anew(row, unit)
        unit.rules_are_stale()
    return row


def _check(kind: str, ports: list[int]) -> None:
    if kind and kind not in ATTACKS:
        raise MalformedRequest(f"{kind[:40]} is no kind of attack; known are {', '.join(ATTACKS)}")
    if len(ports) > MOST_REPORTED_PORTS:
        raise MalformedRequest(f"at most {MOST_REPORTED_PORTS} source ports")
    if ports and kind != "udp-amplification":
        raise MalformedRequest("source ports are of udp-amplification only")
    if any(not 0 <= port <= LAST_PORT for port in ports):
        raise MalformedRequest("a port is a number from 0 to 65535")


def _begin_anew(mitigation: Mitigation, unit: Unit) -> None:
    """Where the evidence has it begin; a step that is higher stays until its time is over."""
    first = ladder.first_of(mitigation)
    higher = ladder.above(mitigation.domain, first)
    if mitigation.playbook == first or (mitigation.step_until is not None and mitigation.playbook in higher):
        return
    lower = first in ladder.up_to(mitigation.domain, mitigation.playbook)
    _move(mitigation, first, DOWN if lower else UP, _in_words(mitigation.evidence), unit)


def _in_words(evidence: Mapping[str, object] | None) -> str:
    if not evidence:
        return "taken back"
    ports = evidence["source_ports"]
    from_ports = f" from source ports {', '.join(map(str, ports))}" if isinstance(ports, list) and ports else ""
    return f"{evidence['kind']}{from_ports}, says {evidence['by']}"
