"""What happened to a mitigation, newest first: its transitions, and the moments of its proof."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mitigation.dashboard import formats
from mitigation.dashboard.evidence import Evidence
from mitigation.models import Mitigation, Transition
from mitigation.protocol.status import Happening, Status
from mitigation.services import escalation

_WORDS = {
    Happening.RULES_INSTALLED: "Rules installed and read back",
    Happening.RULES_LOST: "Rules lost, installing again",
    Happening.CAPABILITY_EXCEEDED: "Not enforced: more than can be done here",
    Happening.ATTACK_ENDED: "The attack has stopped",
    Happening.ATTACK_RESUMED: "The attack is back",
    Happening.CLIENT_WITHDREW: "Withdrawn by its client",
    Happening.CLIENT_RENEWED: "Asked for again",
    Happening.LIFETIME_ENDED: "Its lifetime ran out",
    Happening.GRACE_ELAPSED: "Ended",
    Happening.SERVER_WITHDREW: "Stopped by this server",
    Happening.OVERRIDDEN: "Overridden by a newer request",
    Happening.SESSION_LOST: "Started: the session was lost",
}
_NOTES = {
    escalation.UP: "Stepped up",
    escalation.DOWN: "Stepped down",
    escalation.KEPT: "Step kept",
    escalation.STUCK: "More passes than should, and no further step is possible",
    escalation.REPORTED: "The attack was described",
}
_BAD = frozenset({Happening.RULES_LOST, Happening.CAPABILITY_EXCEEDED, Happening.SESSION_LOST})


@dataclass(frozen=True, slots=True)
class Event:
    at: datetime
    when: str
    words: str
    who: str
    tone: str = ""  # bad, human
    rank: int = 3  # within one moment: the order of the proof chain


def build(mitigation: Mitigation, evidence: Evidence, now: datetime) -> list[Event]:
    steps = list(mitigation.transitions.all())
    events = [_event(step, mitigation, now) for step in steps]
    if not any(event.words.startswith("Requested") for event in events):
        events.insert(0, _requested(mitigation, mitigation.client.name, now))
    said = any(step.happening == Happening.RULES_INSTALLED for step in steps)
    events += _proof(mitigation, evidence, now, without_installation=said)
    return sorted(events, key=lambda event: (event.at, event.rank), reverse=True)


def _event(step: Transition, mitigation: Mitigation, now: datetime) -> Event:
    actor = mitigation.client.name if step.actor == f"client {mitigation.client_id}" else step.actor
    if step.old is None:
        return _requested(mitigation, actor, now, step.at)
    try:
        happening = Happening(step.happening)
    except ValueError:
        happening = None
    words = _WORDS.get(happening) if happening else None
    tone = (
        "bad"
        if happening in _BAD or step.happening == escalation.STUCK
        else "human"
        if step.actor.startswith("operator")
        else ""
    )
    if step.happening == "approved":
        words = f"Approved, {step.reason}" if step.reason else "Approved"
        return Event(step.at, formats.moment(step.at, now), words, actor, tone, rank=1)
    words = (
        words
        or _NOTES.get(step.happening)
        or f"{step.happening.replace('-', ' ').capitalize()}: now {_status(step.new)}"
    )
    return Event(step.at, formats.moment(step.at, now), words, " · ".join(filter(None, (actor, step.reason))), tone)


def _status(value: int) -> str:
    return Status(value).name.lower().replace("_", " ")


def _requested(mitigation: Mitigation, actor: str, now: datetime, at: datetime | None = None) -> Event:
    at = at or mitigation.requested_at
    asked = "without end" if mitigation.lifetime < 0 else f"for {formats.left(mitigation.lifetime)}"
    return Event(at, formats.moment(at, now), f"Requested, granted {asked}", actor, rank=0)


def _proof(mitigation: Mitigation, evidence: Evidence, now: datetime, *, without_installation: bool) -> list[Event]:
    where = f" at {evidence.where}" if evidence.where else ""
    steps = (
        (None if mitigation.approvals else mitigation.approved_at, "Approved", "inside the domain's own prefixes"),
        (mitigation.rendered_at, f"Rendered by playbook {mitigation.playbook}", "enforcer"),
        (None if without_installation else mitigation.installed_at, f"Installed{where}", "enforcer, read back"),
        (mitigation.hitting_at, f"First packet {_met(mitigation)}{where}", "counters of its rules"),
    )
    return [
        Event(at, formats.moment(at, now), words, f"{who}, {_after(mitigation, at)}", rank=rank)
        for rank, (at, words, who) in enumerate(steps, start=1)
        if at is not None
    ]


def _met(mitigation: Mitigation) -> str:
    return "redirected" if mitigation.redirected_packets and not mitigation.dropped_packets else "dropped"


def _after(mitigation: Mitigation, at: datetime) -> str:
    return formats.after((at - mitigation.requested_at).total_seconds()).replace(" ", "\N{NO-BREAK SPACE}")
