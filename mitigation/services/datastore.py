"""What a client keeps on the data channel, changed as a whole or not at all (RFC 8783, RFC 8040).

A change is a function from the tree to a new one. Entries that are no longer the same objects are judged again and
begin their lifetime anew; what was not touched keeps its rows, its lifetime and its entity-tag.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from mitigation.exceptions import DotsError
from mitigation.models import Acl, Alias, Client, Cuid
from mitigation.protocol.edits import Place
from mitigation.services import filter_conflicts, filters, locks
from mitigation.services.client_trees import Store, equivalents
from mitigation.services.filter_checks import Contradiction
from mitigation.services.tree_writing import TreeWriter
from mitigation.services.units import Unit, unit_of_work

Change = Callable[[dict[str, Any]], dict[str, Any]]
Check = Callable[["Store"], None]


class Unregistered(DotsError):
    """A gateway asks for a cuid whose registration, with its cdid, is not here (RFC 8783, section 6.1: 403)."""


def load(client: Client, place: Place = (), *, now: datetime) -> Store:
    return Store(client, now, place)


def edit(
    client_id: int,
    change: Change,
    *,
    check: Check = lambda store: None,
    place: Place = (),
    door: str = "data",
    until: datetime | None = None,
    now: datetime,
) -> Store:
    """Change the client's tree; `check` may refuse after the rows are locked. Returns what stands afterwards.

    The change is at `place` or below it. `until`: when what is judged anew ends, where that is not RFC 8783's week.

    Raises what `change` and `check` raise, TreeFault, Taken for another client's cuid or a filter that contradicts
    another client's, OverQuota, ReadOnly for what only the signal channel changes, and Unavailable while a filter that
    works at once could not be put in force.
    """
    try:
        with unit_of_work(now) as unit:
            locks.domains_of_clients([client_id])
            client = Client.objects.select_related("domain").get(pk=client_id)
            for one in (client, *(owner for owner, _ in equivalents(client).values())):
                _let_go(one, unit)
            store = Store(client, now, place)
            check(store)
            TreeWriter(store, unit, door, until or now + filters.lifetime(client.domain)).write(change(store.tree))
            store.refresh()
            return store
    except Contradiction as error:
        # Only after all that was asked for is undone: what is refused changes nothing, but for what the policy wants.
        filter_conflicts.follow_policy(client, error, now=now)
        raise


def let_go_of_expired(*, now: datetime) -> None:
    """Aliases and filters that nobody refreshed (RFC 8783, sections 6.1 and 7.2), of all clients."""
    over = Acl.objects.filter(expires_at__lte=now).values_list("client_id", flat=True)
    for client_id in {*over, *Alias.objects.filter(expires_at__lte=now).values_list("client_id", flat=True)}:
        with unit_of_work(now) as unit:
            locks.domains_of_clients([client_id])
            _let_go(Client.objects.get(pk=client_id), unit)


def _let_go(client: Client, unit: Unit) -> None:
    """Their names are free again; what is still enforced because of a running mitigation stays."""
    aliases = list(Alias.objects.filter(client=client, expires_at__lte=unit.now))
    current = Acl.objects.current(unit.now).filter(client=client).values_list("pk", flat=True)
    acls = list(Acl.objects.filter(client=client, expires_at__lte=unit.now).exclude(pk__in=list(current)))
    gone: list[Alias | Acl] = [*aliases, *acls]
    for row in gone:
        kind = "alias" if isinstance(row, Alias) else "acl"
        unit.audit(door="server", actor="server", action=f"{kind}-expire", subject=filters.subject_of(row))
        row.delete()
    touched = Cuid.objects.filter(client=client, cuid__in={row.cuid for row in gone})
    touched.exclude(registered_at=None).update(changed_at=unit.now)
    if acls:
        unit.rules_are_stale()
