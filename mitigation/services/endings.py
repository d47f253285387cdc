"""How mitigations end, and what time brings: withdraw, stop, expire, a lost session (RFC 9132, section 4.4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mitigation.exceptions import NotFound
from mitigation.models import Mitigation
from mitigation.models.mitigations import Key
from mitigation.protocol.status import Happening, Status
from mitigation.services import approvals, locks
from mitigation.services.history import actor_of, end_of_lifetime, record, subject_of, withdraw_by_server
from mitigation.services.overlaps import share_a_target
from mitigation.services.units import unit_of_work


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A DELETE of an authenticated client."""

    client_id: int
    cuid: str
    mid: int
    cdid: str = ""

    @property
    def key(self) -> Key:
        return self.client_id, self.cdid, self.cuid, self.mid


def withdraw(withdrawal: Withdrawal, *, now: datetime) -> None:
    """One DELETE in a transaction of its own."""
    withdraw_many([withdrawal], now=now)


def withdraw_many(withdrawals: Sequence[Withdrawal], *, now: datetime) -> None:
    """Start the active-but-terminating period of each (RFC 9132, section 4.4.4).

    What does not exist, is foreign, or is terminating already is left alone: DELETE answers 2.02 in every case.
    """
    with unit_of_work(now) as unit:
        locks.domains_of_clients(one.client_id for one in withdrawals)
        live = Mitigation.objects.live_under(one.key for one in withdrawals).select_related("client")
        found = {row.key: row for row in live}
        for one in withdrawals:
            mitigation = found.get(one.key)
            if mitigation is None or Status(mitigation.status) is Status.TERMINATING:
                continue
            record(mitigation, Happening.CLIENT_WITHDREW, unit=unit, actor=actor_of(mitigation.client))
            unit.audit(
                door="signal", actor=actor_of(mitigation.client), action="withdraw", subject=subject_of(mitigation)
            )


def stop(mitigation_id: int, *, actor: str, reason: str, now: datetime, door: str = "dashboard") -> None:
    """An operator ends it: status 7, no terminating period (section 4.4.1.3). Raises NotFound when it has ended."""
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations([mitigation_id])
        mitigation = Mitigation.objects.live().filter(pk=mitigation_id).first()
        if mitigation is None or Status(mitigation.status) is Status.WITHDRAWN:
            raise NotFound("this mitigation has ended already")
        withdraw_by_server(mitigation, unit, action="stop", actor=actor, reason=reason, door=door)


def expire(*, now: datetime, limit: int = 1000) -> int:
    """Move on whatever has reached the end of its lifetime or terminating period; returns how many that were."""
    ids = list(Mitigation.objects.due(now).order_by("pk").values_list("pk", flat=True)[:limit])
    if not ids:
        return 0
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations(ids)
        due = list(Mitigation.objects.due(now).filter(pk__in=ids).order_by("pk"))
        for mitigation in due:
            happening = _what_time_brings(mitigation, now)
            reason = approvals.run_out(mitigation) if happening is Happening.SERVER_WITHDREW else ""
            record(mitigation, happening, unit=unit, actor="server", reason=reason)
            if reason:
                unit.audit(
                    door="server",
                    actor="server",
                    action="reject",
                    subject=subject_of(mitigation),
                    after={"status": mitigation.status, "reason": reason},
                )
    return len(due)


def _what_time_brings(mitigation: Mitigation, now: datetime) -> Happening:
    if mitigation.needs_approval and mitigation.approve_by is not None and mitigation.approve_by <= now:
        return Happening.SERVER_WITHDREW
    if mitigation.rearms_at is not None and mitigation.rearms_at <= now and _lasts_beyond(mitigation, now):
        return Happening.REARMED
    if not mitigation.is_ending:
        return Happening.LIFETIME_ENDED
    if mitigation.rearms and _lasts_beyond(mitigation, now):
        return Happening.REARMED
    return Happening.GRACE_ELAPSED


def _lasts_beyond(mitigation: Mitigation, now: datetime) -> bool:
    until = end_of_lifetime(mitigation)
    return until is None or until > now


def session_lost(client_id: int, *, now: datetime) -> int:
    """Start what this client asked to be started when it can no longer ask; returns how many that were.

    Its immediate requests that overlap give way: the loss itself is the request for the wider protection
    (RFC 9132, sections 4.4.1.3 and 4.7). Saying it twice starts nothing twice. What still waits for approval starts
    without rules, and takes no other one's.
    """
    with unit_of_work(now) as unit:
        locks.domains_of_clients([client_id])
        live = list(Mitigation.objects.live().filter(client_id=client_id).select_related("client"))
        armed = [one for one in live if Status(one.status) is Status.SIGNAL_LOSS]
        for mitigation in armed:
            mitigation.mitigation_start = now
            unit.save(mitigation, "mitigation_start")
            record(mitigation, Happening.SESSION_LOST, unit=unit, actor="server", reason="the session was lost")
        approved = [one for one in armed if one.approved_at is not None]
        for other in live:
            if other.trigger_mitigation and other.is_active and any(share_a_target(other, one) for one in approved):
                reason = "the session was lost, and a preconfigured request takes over"
                record(other, Happening.PREEMPTED, unit=unit, actor="server", reason=reason)
    return len(armed)
