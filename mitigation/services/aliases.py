"""Aliases: a client names targets in peace, and asks for them by that name under attack (RFC 8783, section 6)."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from mitigation.exceptions import MalformedRequest, NotFound, ScopeConflict, Unavailable
from mitigation.models import Alias, Client, Cuid
from mitigation.protocol.conflicts import ConflictCause, ConflictInformation
from mitigation.protocol.scope import Scope
from mitigation.services import cuids, locks, scopes
from mitigation.services.history import actor_of
from mitigation.services.units import Unit, unit_of_work

MAXIMUM_ALIASES = 1_000  # of one client
LONGEST_NAME = 255


def create(
    client_id: int, cuid: str, name: str, target: Scope, *, now: datetime, cdid: str = "", door: str = "data"
) -> Alias:
    """Raises MalformedRequest for a name in use or targets of others, ScopeConflict for a foreign cuid, Unavailable."""
    with unit_of_work(now) as unit:
        locks.domains_of_clients([client_id])
        client = Client.objects.select_related("domain").get(pk=client_id)
        _check(client, name, target)
        _take_cuid(client, cdid, cuid, now=now)
        if Alias.objects.filter(client=client, cdid=cdid, cuid=cuid, name=name).exists():
            raise MalformedRequest(f"an alias named {name} exists already")
        if Alias.objects.filter(client=client).count() >= MAXIMUM_ALIASES:
            raise Unavailable(f"this client has {MAXIMUM_ALIASES} aliases, its maximum", retry_after=3600)
        alias = Alias.objects.create(
            client=client, cdid=cdid, cuid=cuid, name=name, target=target.as_json(), created_at=now, changed_at=now
        )
        _audit(unit, alias, "alias-create", door, after=alias.target)
    return alias


def replace(
    client_id: int, cuid: str, name: str, target: Scope, *, now: datetime, cdid: str = "", door: str = "data"
) -> Alias:
    """Running mitigations keep what they took. Raises NotFound or MalformedRequest."""
    with unit_of_work(now) as unit:
        locks.domains_of_clients([client_id])
        alias = _find(client_id, cdid, cuid, name)
        _check(alias.client, name, target)
        before, alias.target, alias.changed_at = alias.target, target.as_json(), now
        alias.save(update_fields=["target", "changed_at"])
        _audit(unit, alias, "alias-replace", door, before=before, after=alias.target)
    return alias


def delete(client_id: int, cuid: str, name: str, *, now: datetime, cdid: str = "", door: str = "data") -> None:
    """Running mitigations keep what they took. Raises NotFound."""
    with unit_of_work(now) as unit:
        locks.domains_of_clients([client_id])
        alias = _find(client_id, cdid, cuid, name)
        _audit(unit, alias, "alias-delete", door, before=alias.target)
        alias.delete()


def _find(client_id: int, cdid: str, cuid: str, name: str) -> Alias:
    found = (
        Alias.objects.select_related("client__domain")
        .filter(client_id=client_id, cdid=cdid, cuid=cuid, name=name)
        .first()
    )
    if found is None:
        raise NotFound(f"there is no alias named {name}")
    return found


def _check(client: Client, name: str, target: Scope) -> None:
    if not name or len(name) > LONGEST_NAME:
        raise MalformedRequest(f"the name of an alias has 1 to {LONGEST_NAME} characters")
    if target.alias_name:
        raise MalformedRequest("an alias stands for targets, not for other aliases")
    if not (target.target_prefix or target.target_fqdn or target.target_uri):
        raise MalformedRequest("an alias needs target-prefix, target-fqdn or target-uri")
    scopes.allowed([client.domain_id])[client.domain_id].check(target)


def _take_cuid(client: Client, cdid: str, cuid: str, *, now: datetime) -> None:
    """A cuid is the same on both channels, and belongs to whoever used it first on either."""
    owned, is_new = Cuid.objects.get_or_create(cdid=cdid, cuid=cuid, defaults={"client": client, "since": now})
    if owned.client_id != client.pk:
        raise ScopeConflict(
            "this cuid is used by another client; choose a new one",
            ConflictInformation(cause=ConflictCause.CUID_COLLISION),
        )
    if is_new:
        transaction.on_commit(lambda: cuids.log_unusual([owned]))


def _audit(unit: Unit, alias: Alias, action: str, door: str, *, before: object = None, after: object = None) -> None:
    subject = f"alias {alias.client_id}/{alias.cuid}/{alias.name}"[:255]
    unit.audit(door=door, actor=actor_of(alias.client), action=action, subject=subject, before=before, after=after)
