"""Who waits for whom, on databases where transactions run side by side.

One order for everybody, so that nobody waits in a circle: domains in id order, all that a transaction needs at once;
then mitigations and what hangs on them; then enforcement points; the change counter last. Whoever changes a mitigation
holds its domain, and reads the mitigation after that. SQLite takes the one write lock at BEGIN and needs none of this.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connection
from django.db.models import Model

from mitigation.models import Client, Domain, EnforcementPoint, Mitigation


def lockable() -> bool:
    """Whether SELECT FOR UPDATE means something here."""
    return bool(connection.features.has_select_for_update)


def domains(ids: Iterable[int]) -> dict[int, Domain]:
    """These domains, locked until the transaction ends. New rows that refer to them do not wait (NO KEY)."""
    query = Domain.objects.filter(pk__in=set(ids)).order_by("pk")
    if lockable():
        query = query.select_for_update(no_key=True)
    return {domain.pk: domain for domain in query}


def domains_of_clients(ids: Iterable[int]) -> None:
    """Before anything of these clients is decided."""
    if lockable():
        domains(Client.objects.filter(pk__in=set(ids)).values_list("domain_id", flat=True))


def domains_of_mitigations(ids: Iterable[int]) -> None:
    """Before any of these mitigations is read in order to change it."""
    if lockable():
        domains(Mitigation.objects.filter(pk__in=set(ids)).values_list("domain_id", flat=True))


def points() -> None:
    """All that are in use, before any of them is changed together with others."""
    if lockable():
        list(EnforcementPoint.objects.filter(enabled=True).order_by("pk").select_for_update(no_key=True))


def table(model: type[Model]) -> None:
    """Nobody else writes this table until the transaction ends: for rules between rows that no constraint can say."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {connection.ops.quote_name(model._meta.db_table)} IN SHARE ROW EXCLUSIVE MODE")
