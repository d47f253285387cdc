"""Letting a request be enforced, where its domain's policy asks people: approve, reject, and the time they have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mitigation.exceptions import NotByThisPerson, NotFound
from mitigation.models import Domain, Mitigation
from mitigation.protocol.status import Happening
from mitigation.services import filters, locks
from mitigation.services.history import actor_of, note, record, subject_of, withdraw_by_server
from mitigation.services.overlaps import Neighbours, asker_of, reach_now
from mitigation.services.units import LONGEST, Unit, unit_of_work

_NEEDED = {Domain.Approval.AUTOMATIC: 1, Domain.Approval.ONE: 1, Domain.Approval.TWO: 2}
_PEOPLE = {1: "an operator", 2: "two different people"}


@dataclass(frozen=True, slots=True)
class Approval:
    """How far it is: `given` of `needed` people; `approved` when that is enough."""

    given: int
    needed: int
    approved: bool


def begin(mitigation: Mitigation, domain: Domain, *, now: datetime) -> list[str]:
    """Of a request that starts, or is asked for again after it was withdrawn: an approval of before is not one of now.

    Returns the fields set.
    """
    automatic = is_automatic(domain)
    mitigation.approvals = []
    mitigation.approved_at = now if automatic else None
    mitigation.approve_by = None if automatic else now + timedelta(seconds=domain.approval_within)
    return ["approvals", "approved_at", "approve_by"]


def is_automatic(domain: Domain) -> bool:
    return domain.approval == Domain.Approval.AUTOMATIC


def needed(domain: Domain) -> int:
    """People who must approve what waits. The policy of now counts; what waits already never lets itself through."""
    return _NEEDED[Domain.Approval(domain.approval)]


def asked_by(domain: Domain) -> str:
    """What a new request of this domain would wait for; empty where nobody is asked."""
    if is_automatic(domain):
        return ""
    return f"needs approval by {_PEOPLE[needed(domain)]} within {domain.approval_within} s"


def waits_for(mitigation: Mitigation) -> str:
    """Why it has no rules yet, for operators."""
    given, people = len(mitigation.approvals), _PEOPLE[needed(mitigation.domain)]
    said = f"needs approval by {people}" + (f"; {mitigation.approvals[0]['by']} has approved" if given else "")
    if mitigation.acl_list:
        said += "; it switches filters: " + ", ".join(one["acl-name"] for one in mitigation.acl_list)
    return said[:LONGEST]


def has_spoken(mitigation: Mitigation, actor: str) -> bool:
    """Whether this person, as far as can be told, has approved it already."""
    return any(_may_be_one_person(actor, one["by"]) for one in mitigation.approvals)


def approve(mitigation_id: int, *, actor: str, now: datetime, door: str = "dashboard") -> Approval:
    """One person lets it be enforced; its rules follow when enough have.

    Raises NotFound when it does not wait for that, NotByThisPerson where another one must.
    """
    with unit_of_work(now) as unit:
        mitigation = _waiting(mitigation_id, now)
        wanted = needed(mitigation.domain)
        by = [one["by"] for one in mitigation.approvals]
        if not has_spoken(mitigation, actor):
            mitigation.approvals = [*mitigation.approvals, {"by": actor[:LONGEST], "at": now.isoformat()}]
        elif len(by) < wanted:
            raise NotByThisPerson(f"{by[0]} has approved it already; another person must, too")
        given = len(mitigation.approvals)
        found = Approval(given, wanted, approved=given >= wanted)
        switched: list[str] = []
        gone: list[str] = []
        if found.approved:
            mitigation.approved_at, mitigation.approve_by = now, None
            mitigation.problem = ""
            unit.rules_are_stale()
            switched, gone = filters.switch_approved(mitigation, unit)
            _take_the_place_of_older(mitigation, unit)
        unit.save(mitigation, "approvals", "approved_at", "approve_by", "problem", *switched)
        said = f"{given} of {wanted}"
        reasons = [said] if wanted > 1 else []
        if gone:
            reasons.append(f"filters that are there no more: {', '.join(gone)}")
        note(mitigation, "approved", unit=unit, actor=actor, reason="; ".join(reasons))
        unit.audit(
            door=door,
            actor=actor,
            action="approve",
            subject=subject_of(mitigation),
            after={"approvals": said, "approved": found.approved},
        )
    return found


def reject(mitigation_id: int, *, actor: str, reason: str, now: datetime, door: str = "dashboard") -> None:
    """One person is enough to refuse: the server withdraws it, and its client is told. Raises NotFound."""
    with unit_of_work(now) as unit:
        mitigation = _waiting(mitigation_id, now)
        told = f"rejected: {reason}"
        withdraw_by_server(mitigation, unit, action="reject", actor=actor, reason=reason, door=door, told=told)


def _take_the_place_of_older(mitigation: Mitigation, unit: Unit) -> None:
    """What its client meant it to replace stood until now (RFC 9132, section 4.4.1.3)."""
    reach = reach_now(mitigation)
    near = Neighbours([reach], [mitigation.domain_id], known=[mitigation])
    for shared in near.overlapping(asker_of(mitigation), reach, besides=mitigation).own:
        other = shared.mitigation
        if other.trigger_mitigation == mitigation.trigger_mitigation and other.mid < mitigation.mid:
            reason = f"replaced by mid {mitigation.mid}"
            record(other, Happening.OVERRIDDEN, unit=unit, actor=actor_of(other.client), reason=reason)


def run_out(mitigation: Mitigation) -> str:
    """Why the server withdraws it when its time for approval is over."""
    given = len(mitigation.approvals)
    return "only one of two people approved it in time" if given else "nobody approved it in time"


def _waiting(mitigation_id: int, now: datetime) -> Mitigation:
    locks.domains_of_mitigations([mitigation_id])
    mitigation = Mitigation.objects.live().select_related("domain").filter(pk=mitigation_id).first()
    if mitigation is None or not mitigation.needs_approval:
        raise NotFound("this mitigation does not wait for approval, or not any more")
    if mitigation.approve_by is not None and mitigation.approve_by <= now:
        raise NotFound(f"{run_out(mitigation)}: it is withdrawn")
    return mitigation


def _may_be_one_person(one: str, other: str) -> bool:
    """Actors are a door and a name. Whoever is at the command line has the server's account, whatever name it says."""
    doors = {one.partition(" ")[0], other.partition(" ")[0]}
    return doors == {"command"} or one.partition(" ")[2].casefold() == other.partition(" ")[2].casefold()
