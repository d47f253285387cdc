"""The difference between two trees of a client becomes rows (RFC 8783; RFC 8040, section 4)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Sum

from mitigation.exceptions import DotsError
from mitigation.models import Acl, Alias, Client, Cuid, Domain
from mitigation.protocol.acls import Acl as AclValue
from mitigation.protocol.acls import ace_json, parse_acl
from mitigation.protocol.aliases import parse_alias
from mitigation.protocol.constants import MAXIMUM_CUID_OCTETS
from mitigation.protocol.early_filters import is_reserved
from mitigation.protocol.edits import Taken, Tree
from mitigation.protocol.trees import INVALID, Path, TreeFault, entry
from mitigation.services import accept_lists, cuids, filter_checks, filters, scopes
from mitigation.services.client_trees import Holding, Store, stored
from mitigation.services.filter_checks import Contradiction
from mitigation.services.history import actor_of
from mitigation.services.units import Unit

log = logging.getLogger(__name__)

MAXIMUM_CUIDS = 64  # that one client registers
MAXIMUM_ALIASES = 1_000  # of one client
MAXIMUM_ACLS = 1_000  # of one client
MAXIMUM_ACES = 2_000  # in one list: it is judged as a whole
MAXIMUM_ACES_OF_DOMAIN = 20_000  # as many rules as the nftables driver takes


class OverQuota(DotsError):
    """More than this client or its domain may keep (409, resource-denied). `path` as in TreeFault."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


class ReadOnly(DotsError):
    """The server itself keeps this registration, for filters that come in another form (403)."""


class TreeWriter:
    """Turns the difference between two trees into rows."""

    def __init__(self, store: Store, unit: Unit, door: str, until: datetime) -> None:
        self._store = store
        self._unit = unit
        self._door = door
        self._until = until
        self._client = store.client
        self._holdings = store.holdings
        self._allowed = scopes.allowed([self._client.domain_id])[self._client.domain_id]

    def write(self, tree: Tree) -> None:
        before = {one["cuid"]: one for one in self._store.tree["dots-client"]}
        after = {one["cuid"]: one for one in tree.get("dots-client", ())}
        if self._door == "data":
            _refuse_reserved(before, after)
        for cuid in before.keys() - after.keys():
            self._deregister(self._holdings[cuid])
        for cuid, one in after.items():
            if one is before.get(cuid):
                continue
            holding = self._holdings.get(cuid) or self._register(one)
            above = (entry("dots-client", "cuid", cuid),)
            changed = self._write_aliases(holding, one, (*above, "aliases"))
            changed |= self._write_acls(holding, one, (*above, "acls"))
            if changed or cuid not in before:
                holding.row.changed_at = self._unit.now
                holding.row.save(update_fields=["changed_at"])
        self._check_quotas()

    # -- registrations

    def _register(self, tree: Tree) -> Holding:
        cuid, cdid = tree["cuid"], self._cdid_of(tree)
        step = entry("dots-client", "cuid", str(cuid))
        if not isinstance(cuid, str) or not 1 <= len(cuid.encode()) <= MAXIMUM_CUID_OCTETS or "\0" in cuid:
            raise TreeFault(INVALID, (step, "cuid"), f"a cuid is a string of 1 to {MAXIMUM_CUID_OCTETS} octets")
        if len(self._holdings) >= MAXIMUM_CUIDS:
            raise OverQuota((step,), f"this client has registered {MAXIMUM_CUIDS} cuids, its maximum")
        owner, cdid = self._store.equivalents.get(cdid, (self._client, cdid))
        row, is_new = Cuid.objects.select_related("client").get_or_create(
            cuid=cuid, cdid=cdid, defaults={"client": owner, "since": self._unit.now}
        )
        if row.client_id != owner.pk:
            raise Taken((step,), "this cuid is in use; choose another one")
        row.registered_at = self._unit.now
        row.save(update_fields=["registered_at"])
        if is_new:
            transaction.on_commit(lambda: cuids.log_unusual([row]))
        self._audit("dots-client-register", f"cuid {self._client.pk}/{cuid}")
        holding = self._holdings[cuid] = Holding(row)
        return holding

    def _cdid_of(self, tree: Tree) -> str:
        """Heard from gateways that are trusted with it, and from nobody else (RFC 9132, section 4.4.1.2)."""
        cdid = tree.get("cdid", "") if self._client.is_gateway else ""
        if not isinstance(cdid, str) or len(cdid.encode()) > MAXIMUM_CUID_OCTETS or "\0" in cdid:
            path = (entry("dots-client", "cuid", str(tree["cuid"])), "cdid")
            raise TreeFault(INVALID, path, f"a cdid is a string of at most {MAXIMUM_CUID_OCTETS} octets")
        return cdid

    def _deregister(self, holding: Holding) -> None:
        for alias in holding.aliases.values():
            self._delete(alias)
        for acl in holding.acls.values():
            self._delete(acl)
        holding.row.registered_at = holding.row.changed_at = None
        holding.row.save(update_fields=["registered_at", "changed_at"])
        self._audit("dots-client-remove", f"cuid {self._client.pk}/{holding.row.cuid}")
        del self._holdings[holding.row.cuid]

    # -- aliases

    def _write_aliases(self, holding: Holding, tree: Tree, above: Path) -> bool:
        before, after = _entries_of(holding, self._store, "aliases", "alias"), _named(tree, "aliases", "alias")
        for name in before.keys() - after.keys():
            self._delete(holding.aliases.pop(name))
        for name, one in after.items():
            if one is not before.get(name):
                self._write_alias(holding, one, (*above, entry("alias", "name", str(name))))
        return before != after

    def _write_alias(self, holding: Holding, tree: Tree, path: Path) -> None:
        now = self._unit.now
        try:
            alias = parse_alias(tree)
        except TreeFault as fault:
            raise TreeFault(fault.tag, (*path, *fault.path), str(fault), app_tag=fault.app_tag) from None
        filter_checks.alias_is_ours(alias, self._allowed, path)
        row = holding.aliases.get(alias.name)
        if row is None:
            row = Alias(client=holding.row.client, cdid=holding.row.cdid, cuid=holding.row.cuid, name=alias.name)
            row.created_at = row.changed_at = now
        before, row.target, row.expires_at = row.tree, alias.target.as_json(), self._until
        if row.tree != alias.tree:
            row.tree, row.changed_at = alias.tree, now
        self._audit(*_told(row, "alias"), before=before or None, after=alias.tree)
        row.save()
        holding.aliases[alias.name] = row

    # -- filters

    def _write_acls(self, holding: Holding, tree: Tree, above: Path) -> bool:
        before, after = _entries_of(holding, self._store, "acls", "acl"), _named(tree, "acls", "acl")
        for name in before.keys() - after.keys():
            self._delete(holding.acls.pop(name))
        for position, (name, one) in enumerate(after.items()):
            if one is not before.get(name):
                self._write_acl(holding, one, position, above)
            elif holding.acls[name].position != position:
                holding.acls[name].position = position
                holding.acls[name].save(update_fields=["position"])
        changed = list(before.items()) != list(after.items())
        if changed:
            self._unit.rules_are_stale()
        return changed

    def _write_acl(self, holding: Holding, tree: Tree, position: int, above: Path) -> None:
        now = self._unit.now
        aces = tree.get("aces", {}).get("ace", ())
        if len(aces) > MAXIMUM_ACES:
            path = (*above, entry("acl", "name", str(tree["name"])), "aces")
            raise OverQuota(path, f"a list has at most {MAXIMUM_ACES:,} entries; make several lists")
        row = holding.acls.get(str(tree["name"]))
        # Whether an operator is still to be asked is a matter of all entries.
        known = set() if row is not None and row.awaits_operator else _untouched(row, tree)
        try:
            acl = parse_acl(_without(tree, known))
        except TreeFault as fault:
            raise TreeFault(fault.tag, (*above, *fault.path), str(fault), app_tag=fault.app_tag) from None
        filter_checks.acl_is_ours(acl, self._allowed, above)
        filter_checks.acl_is_possible(acl, above)
        if row is None:
            row = Acl(client=holding.row.client, cdid=holding.row.cdid, cuid=holding.row.cuid, name=acl.name)
            row.created_at = now
        before = stored(row) if row.pk else None
        row.acl_type = str(acl.type or "")
        row.activation_type, row.activation_is_set = acl.activation, acl.activation_type is not None
        judged = {ace.name: ace_json(ace) for ace in acl.aces}
        row.aces = [judged.get(one["name"], one) for one in aces]
        row.ace_count, row.position = len(row.aces), position
        row.refreshed_at, row.expires_at = now, self._until
        after = stored(row)
        if before != after:
            row.changed_at = now
            filter_checks.works_at_once(acl)
        if before != after or row.awaits_operator:
            row.awaits_operator = self._waits(acl, holding.row.client, above)
        self._audit(*_told(row, "acl"), before=_summary(before), after=_summary(after))
        row.save()
        accept_lists.judge_at_end(row, self._unit)
        holding.acls[acl.name] = row

    def _waits(self, acl: AclValue, owner: Client, above: Path) -> bool:
        """Whether an operator is asked first. Raises Contradiction where the domain's policy refuses."""
        try:
            filter_checks.contradicts_nobody(acl, owner, above, now=self._unit.now)
        except Contradiction as error:
            if self._client.domain.filter_conflict != Domain.FilterConflict.ASK:
                raise
            log.warning("filter %s of client %s waits for an operator: %s", ascii(acl.name), self._client, error)
            return True
        return False

    # -- both

    def _delete(self, row: Alias | Acl) -> None:
        kind = "alias" if isinstance(row, Alias) else "acl"
        before = row.tree if isinstance(row, Alias) else _summary(stored(row))
        self._audit(f"{kind}-delete", filters.subject_of(row), before=before)
        if isinstance(row, Acl):
            accept_lists.judge_at_end(row, self._unit)
            self._unit.rules_are_stale()
        row.delete()

    def _check_quotas(self) -> None:
        for owner in {self._client.pk, *(one.row.client_id for one in self._holdings.values())}:
            aliases = Alias.objects.filter(client=owner).count()
            if aliases > MAXIMUM_ALIASES:
                raise OverQuota((), f"{aliases:,} aliases: a client has at most {MAXIMUM_ALIASES:,}")
            acls = Acl.objects.filter(client=owner).count()
            if acls > MAXIMUM_ACLS:
                raise OverQuota((), f"{acls:,} filters: a client has at most {MAXIMUM_ACLS:,}")
        aces = Acl.objects.filter(client__domain=self._client.domain_id).aggregate(sum=Sum("ace_count"))["sum"] or 0
        if aces > MAXIMUM_ACES_OF_DOMAIN:
            raise OverQuota((), f"{aces:,} entries of filters: a domain has at most {MAXIMUM_ACES_OF_DOMAIN:,}")

    def _audit(self, action: str, subject: str, *, before: Any = None, after: Any = None) -> None:
        self._unit.audit(
            door=self._door, actor=actor_of(self._client), action=action, subject=subject, before=before, after=after
        )


def _refuse_reserved(before: Mapping[str, Tree], after: Mapping[str, Tree]) -> None:
    """Raises ReadOnly. Once nobody can reach them in their own form, a client may still take all of them away."""
    for cuid in {**before, **after}:
        is_touched = after.get(cuid) is not before.get(cuid)
        if is_touched and is_reserved(cuid) and (settings.DOTS_EARLY_DRAFT or cuid in after):
            raise ReadOnly("filters of the early draft are changed on the signal channel only, in its own form")


def _untouched(row: Acl | None, tree: Tree) -> set[str]:
    """Entries of a stored list that a change left as they are, by name; none where what all depend on changed.

    One entry that tells the family is always judged again, as the others may be of it.
    """
    if row is None or row.pk is None:
        return set()
    known = stored(row)
    if any(known.get(name) != tree.get(name) for name in ("type", "activation-type")):
        return set()
    identities = {id(one) for one in row.aces}
    same = [one for one in tree.get("aces", {}).get("ace", ()) if id(one) in identities]
    telling = next((one for one in same if {"ipv4", "ipv6"} & set(one.get("matches", {}))), None)
    return {one["name"] for one in same if one is not telling}


def _without(tree: Tree, names: set[str]) -> Tree:
    if not names:
        return tree
    return {**tree, "aces": {"ace": [one for one in tree["aces"]["ace"] if one["name"] not in names]}}


def _entries_of(holding: Holding, store: Store, container: str, name: str) -> dict[str, Any]:
    for one in store.tree["dots-client"]:
        if one["cuid"] == holding.row.cuid:
            return _named(one, container, name)
    return {}


def _named(tree: Tree, container: str, name: str) -> dict[str, Any]:
    return {one["name"]: one for one in tree.get(container, {}).get(name, ())}


def _told(row: Alias | Acl, kind: str) -> tuple[str, str]:
    action = f"{kind}-replace" if row.pk else f"{kind}-create"
    return action, filters.subject_of(row)


def _summary(tree: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """For the audit: a list of hundreds of entries is told by their names."""
    if tree is None:
        return None
    aces = tree["aces"]["ace"]
    shown = aces if len(aces) <= 20 else [ace["name"] for ace in aces[:200]]
    return {**tree, "aces": shown, "entries": len(aces)}
