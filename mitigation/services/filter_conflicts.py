"""Filters of two clients of a domain that do the opposite with the same traffic: what its policy makes of them.

RFC 8783, section 3.1, names three ways: both are rejected, the new one is, or an administrator is asked.
"""

from __future__ import annotations

from datetime import datetime

from mitigation.exceptions import NotFound
from mitigation.models import Acl, Client, Cuid, Domain
from mitigation.protocol.acls import parse_acl
from mitigation.protocol.filters import ActivationType
from mitigation.services import accept_lists, filter_checks, filters, locks
from mitigation.services.filter_checks import Contradiction
from mitigation.services.history import actor_of
from mitigation.services.units import Unit, unit_of_work


def follow_policy(client: Client, found: Contradiction, *, now: datetime) -> None:
    """After a filter of this client was refused: it is told in the history of those that it contradicts.

    Where the policy has all refused, these are switched off; their clients keep them.
    """
    with unit_of_work(now) as unit:
        for row in found.theirs:
            reason = f"a filter of client {client.name} that does the opposite was refused"
            subject = filters.subject_of(row)
            actor = actor_of(client)
            unit.audit(door="data", actor=actor, action="acl-conflict", subject=subject, after={"reason": reason})
    if client.domain.filter_conflict != Domain.FilterConflict.REFUSE_ALL:
        return
    for row in found.theirs:
        asker = (row.client_id, row.cdid, row.cuid)
        filters.activate(asker, row.name, ActivationType.DEACTIVATE, now=now, door="data", actor="server")


def contradicted(acl: Acl, *, now: datetime) -> list[Acl]:
    """Lists of other clients of its domain that do the opposite with some of its traffic, with their clients."""
    value = parse_acl({"name": acl.name, "aces": {"ace": acl.aces}})
    try:
        filter_checks.contradicts_nobody(value, acl.client, (), now=now)
    except Contradiction as found:
        ids = [row.pk for row in found.theirs]
        return list(
            Acl.objects.filter(pk__in=ids).select_related("client").defer("aces").order_by("client", "position")
        )
    return []


def allow(pk: int, *, actor: str, now: datetime, door: str = "command") -> Acl:
    """Have a filter that waits enforced, beside the one that it contradicts. Raises NotFound."""
    with unit_of_work(now) as unit:
        row = _waiting(pk)
        row.awaits_operator = False
        row.save(update_fields=["awaits_operator"])
        unit.rules_are_stale()
        accept_lists.judge_at_end(row, unit)
        _audit(unit, "acl-allow", row, actor=actor, door=door)
    return row


def refuse(pk: int, *, reason: str, actor: str, now: datetime, door: str = "command") -> Acl:
    """Remove a filter that waits; its client finds it gone. Raises NotFound."""
    with unit_of_work(now) as unit:
        row = _waiting(pk)
        _audit(unit, "acl-refuse", row, actor=actor, door=door, reason=reason)
        Cuid.objects.filter(client=row.client, cuid=row.cuid, cdid=row.cdid).update(changed_at=now)
        row.delete()
    return row


def _waiting(pk: int) -> Acl:
    found = Acl.objects.filter(pk=pk, awaits_operator=True).first()
    if found is not None:
        locks.domains_of_clients([found.client_id])
        found = Acl.objects.select_related("client").filter(pk=pk, awaits_operator=True).first()
    if found is None:
        raise NotFound(f"no filter {pk} waits; `manage.py filter list --waiting` shows those that do")
    return found


def _audit(unit: Unit, action: str, row: Acl, *, actor: str, door: str, reason: str = "") -> None:
    after = {"name": row.name} | ({"reason": reason} if reason else {})
    unit.audit(door=door, actor=actor, action=action, subject=filters.subject_of(row), after=after)
