"""The proof chain: requested, approved, rendered, installed, accepted, hitting; each with its time and its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mitigation.dashboard import formats
from mitigation.dashboard.evidence import Evidence
from mitigation.dashboard.states import EXPECTED_WITHIN
from mitigation.models import Mitigation
from mitigation.protocol.status import Status
from mitigation.services import approvals

# Drivers whose reading back is the equipment's own word about what it enforces.
_READS_BACK = frozenset({"nftables"})


@dataclass(frozen=True, slots=True)
class Step:
    """`kind`: done (every point says so), part (some do), todo (nobody does), fail (it failed), hit (proved)."""

    word: str
    kind: str
    extra: str = ""
    when: str = ""
    evidence: str = ""

    @property
    def said(self) -> str:
        """For who cannot see the mark."""
        return {"done": "done", "part": "in part", "todo": "not yet", "fail": "failed", "hit": "proved"}[self.kind]

    @property
    def mark(self) -> str:
        return f"icons/proof-{self.kind}.svg"


@dataclass(frozen=True, slots=True)
class Chain:
    steps: tuple[Step, ...]
    last_word: str

    @property
    def ticks(self) -> list[tuple[int, str]]:
        """(x, kind) of the six small squares of a row."""
        return [(12 * i, step.kind) for i, step in enumerate(self.steps)]


def chain(mitigation: Mitigation, evidence: Evidence, now: datetime) -> Chain:
    steps = (
        Step("Requested", "done", when=formats.clock_ms(mitigation.requested_at), evidence=mitigation.client.name),
        _approved(mitigation),
        _rendered(mitigation, evidence),
        _installed(mitigation, evidence, now),
        _accepted(mitigation, evidence),
        _hitting(mitigation, evidence),
    )
    return Chain(steps, _last_word(steps))


def _approved(mitigation: Mitigation) -> Step:
    if mitigation.approved_at is None:
        waits = "waits for the session to be lost" if mitigation.status == Status.SIGNAL_LOSS else "nobody has yet"
        if mitigation.needs_approval:
            waits = approvals.waits_for(mitigation).removeprefix("needs approval ")
        return Step("Approved", "todo", evidence=waits)
    by = " and ".join(one["by"] for one in mitigation.approvals) or "inside its own prefixes"
    return Step("Approved", "done", when=_after(mitigation, mitigation.approved_at), evidence=by)


def _rendered(mitigation: Mitigation, evidence: Evidence) -> Step:
    if mitigation.rendered_at is None:
        why = mitigation.status_reason if mitigation.status == Status.EXCEEDED else ""
        return Step("Rendered", "fail" if why else "todo", evidence=why or "no rules yet")
    rules = formats.plural(evidence.rules, "rule") if evidence.rules else ""
    when = _after(mitigation, mitigation.rendered_at)
    return Step("Rendered", "done", rules, when, f"playbook {mitigation.playbook}")


def _installed(mitigation: Mitigation, evidence: Evidence, now: datetime) -> Step:
    if evidence.is_dry and mitigation.rendered_at is not None:
        where = "shadow mode: only counting" if evidence.in_shadow else "dry run: put nowhere"
        return Step("Installed", "todo", evidence=where)
    if mitigation.needs_approval:
        return Step("Installed", "todo", evidence="waits for approval")
    at = f"{evidence.installed_at} of {len(evidence.points)}" if evidence.points else ""
    if mitigation.installed_at is not None:
        kind = "part" if evidence.points and evidence.installed_at < len(evidence.points) else "done"
        return Step("Installed", kind, at, _after(mitigation, mitigation.installed_at), evidence.where)
    if not mitigation.is_active:
        return Step("Installed", "todo", evidence="no longer")
    waited = (now - mitigation.approved_at).total_seconds() if mitigation.approved_at else 0.0
    if mitigation.rendered_at is None and mitigation.status == Status.EXCEEDED:
        return Step("Installed", "todo", evidence="nothing to install")
    if mitigation.problem or waited > EXPECTED_WITHIN:
        return Step("Installed", "fail", at, evidence=mitigation.problem or "not confirmed by any point")
    return Step("Installed", "todo", at, evidence="on its way")


def _accepted(mitigation: Mitigation, evidence: Evidence) -> Step:
    """A router's own evidence. Of a local table, the kernel's listing is that."""
    own_word = [point for point in evidence.points if point.driver in _READS_BACK]
    accepted = sum(point.has_all for point in own_word)
    if mitigation.installed_at is None or not accepted:
        return Step("Accepted", "todo", evidence="no evidence yet" if mitigation.installed_at else "")
    kind = "done" if accepted == len(evidence.points) else "part"
    when = _after(mitigation, mitigation.installed_at)
    return Step("Accepted", kind, f"{accepted} of {len(evidence.points)}", when, "the kernel's own listing")


def _hitting(mitigation: Mitigation, evidence: Evidence) -> Step:
    if mitigation.hitting_at is not None and mitigation.installed_at is not None:
        of = f"{evidence.hit_at} of {evidence.counting} that count" if evidence.hit_at else ""
        return Step("Hitting", "hit", of, _after(mitigation, mitigation.hitting_at), "counters of its rules move")
    if mitigation.installed_at is None:
        return Step("Hitting", "todo")
    if not evidence.counts:
        return Step("Hitting", "todo", evidence=f"{formats.NO_COUNTERS} at {evidence.where or 'any point'}")
    return Step("Hitting", "todo", f"0 of {evidence.counting}", evidence="no counter has moved")


def _after(mitigation: Mitigation, moment: datetime) -> str:
    return formats.after((moment - mitigation.requested_at).total_seconds())


def _last_word(steps: tuple[Step, ...]) -> str:
    reached = [step for step in steps if step.kind in ("done", "part", "hit")]
    failed = next((step for step in steps if step.kind == "fail"), None)
    last = reached[-1]
    if failed:
        return f"{last.word.lower()}, not {failed.word.lower()}"
    at = f" at {last.extra.removesuffix(' that count')}" if " of " in last.extra else ""
    return f"{last.word.lower()}{at}"
