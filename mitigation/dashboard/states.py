"""The one word that says where a mitigation or a session stands. A later word is earned by evidence, never assumed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mitigation.dashboard.evidence import Evidence
from mitigation.models import Mitigation, Session
from mitigation.protocol.constants import HEARTBEAT_INTERVAL, MISSING_HB_ALLOWED
from mitigation.protocol.status import Status
from mitigation.services import approvals, shadow

# Rules are expected on the equipment this long after the approval, in seconds; later it is a broken promise.
EXPECTED_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class State:
    """A word, a shape and a colour, in this order of importance; `detail` says why, in a sentence, or is empty."""

    word: str
    shape: str
    tone: str = ""  # good: proved; warn: a person should look; bad: a promise is broken
    detail: str = ""
    rank: int = 5  # most urgent first

    @property
    def icon(self) -> str:
        return f"icons/{self.shape}.svg"

    @property
    def is_broken(self) -> bool:
        return self.tone == "bad"


def of_mitigation(mitigation: Mitigation, evidence: Evidence, now: datetime) -> State:
    status = Status(mitigation.status)
    if mitigation.ended_at is not None or status in (Status.WITHDRAWN, Status.TERMINATED):
        if any(point.installed for point in evidence.points):
            return State("Ending", "ending", detail="Its rules are being removed.", rank=8)
        by = "Withdrawn by the server" if status is Status.WITHDRAWN else ""
        return State("Ended", "ended", detail=": ".join(filter(None, (by, mitigation.status_reason))), rank=9)
    if mitigation.needs_approval:
        return State("Needs approval", "question", "warn", _sentence(approvals.waits_for(mitigation)), rank=1)
    match status:
        case Status.SIGNAL_LOSS:
            return State("Approved", "approved", detail="Standby: it starts when the session is lost.", rank=7)
        case Status.TERMINATING:
            return State("Ending", "ending", detail="Withdrawn by the client or run out; still protected.", rank=8)
    if mitigation.approved_at is None:
        return State("Needs approval", "question", "warn", rank=1)
    return _enforcement(mitigation, evidence, now)


def _enforcement(mitigation: Mitigation, evidence: Evidence, now: datetime) -> State:
    if evidence.in_shadow and mitigation.rendered_at is not None:
        return State("Shadow", "dry", "warn", _sentence(shadow.SAID), rank=4)
    if evidence.is_dry and mitigation.rendered_at is not None:
        return State("Dry run", "dry", "warn", "Rules are computed and shown, then put nowhere.", rank=4)
    if mitigation.status == Status.EXCEEDED or mitigation.problem:
        return _not_enforced(mitigation.problem or mitigation.status_reason or "Nothing here can enforce it.")
    if mitigation.installed_at is None:
        if (now - (mitigation.approved_at or now)).total_seconds() <= EXPECTED_WITHIN:
            return State("Approved", "approved", detail="Its rules are on their way.", rank=3)
        return _not_enforced("No enforcement point has confirmed its rules.")
    if mitigation.hitting_at is not None:
        return State("Hitting", "hitting", "good", rank=2)
    return State("Installed", "installed", rank=3)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _not_enforced(why: str) -> State:
    return State("Not enforced", "broken", "bad", why, rank=0)


def of_session(session: Session, now: datetime) -> State:
    """Lost is what the signal worker says when it closes it. Late is said only of rows that are kept up to date."""
    if session.closed_at is not None:
        if session.close_reason == "lost":
            return State("Lost", "lost", "bad", session.close_reason, rank=0)
        word = "Cut" if session.close_reason in ("revoked", "cut") else "Closed"
        return State(word, "ended", detail=session.close_reason, rank=9)
    silence = (now - session.last_heard_at).total_seconds()
    if session.last_heard_at > session.opened_at and silence > 2 * HEARTBEAT_INTERVAL:
        detail = (
            f"Not heard for more than {2 * HEARTBEAT_INTERVAL} s; it is given up after {MISSING_HB_ALLOWED} misses."
        )
        return State("Late", "clock", "warn", detail, rank=1)
    return State("Connected", "check", "good", rank=2)
