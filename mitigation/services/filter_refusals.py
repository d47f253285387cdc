"""Lists that cannot stand at a point, kept where people look: rows while it lasts, and the audit of when and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mitigation.models import Acl, EnforcementPoint, RefusedAcl
from mitigation.services import bulk, filters, locks
from mitigation.services.units import LONGEST, Unit, unit_of_work

ACTOR = "enforcer"


def write(point: EnforcementPoint, refused: Mapping[int, str], *, now: datetime) -> None:
    """Make the rows of this point say what is refused now, by id of the list and with the reason."""
    wanted = {pk: why[:LONGEST] for pk, why in refused.items()}
    known = {row.acl_id: row for row in RefusedAcl.objects.filter(point=point)}
    over = known.keys() - wanted.keys()
    changed = [pk for pk, why in wanted.items() if pk not in known or known[pk].reason != why]
    if not over and not changed:
        return
    with unit_of_work(now) as unit:
        touched = Acl.objects.filter(pk__in=[*over, *changed])
        locks.domains_of_clients(touched.values_list("client_id", flat=True))  # as whoever deletes one does
        acls = touched.select_related("client").defer("aces").in_bulk()
        RefusedAcl.objects.filter(point=point, acl_id__in=[*over, *changed]).delete()
        for pk in over & acls.keys():
            _tell(acls[pk], "acl-mended", point, unit, before=known[pk].reason)
        fresh = [pk for pk in changed if pk in acls]
        for pk in fresh:
            _tell(acls[pk], "acl-refused", point, unit, after=wanted[pk])
        since = {pk: row.since for pk, row in known.items()}
        bulk.insert([RefusedAcl(point=point, acl_id=pk, reason=wanted[pk], since=since.get(pk, now)) for pk in fresh])


def _tell(acl: Acl, action: str, point: EnforcementPoint, unit: Unit, *, before: str = "", after: str = "") -> None:
    unit.audit(
        door="server",
        actor=ACTOR,
        action=action,
        subject=filters.subject_of(acl),
        before={"point": point.name, "reason": before} if before else None,
        after={"point": point.name, "reason": after} if after else None,
    )
