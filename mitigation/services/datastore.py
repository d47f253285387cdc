"""What a client keeps on the data channel, as one tree; changed as a whole or not at all (RFC 8783, RFC 8040).

A change is a function from the tree to a new one. Entries that are no longer the same objects are judged again and
begin their lifetime anew; what was not touched keeps its rows, its lifetime and its entity-tag.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q, Sum

from mitigation.exceptions import DotsError
from mitigation.models import Acl, Alias, Client, Cuid, Domain
from mitigation.protocol.acls import Acl as AclValue
from mitigation.protocol.acls import ace_json, parse_acl
from mitigation.protocol.aliases import parse_alias
from mitigation.protocol.constants import MAXIMUM_CUID_OCTETS
from mitigation.protocol.early_filters import is_reserved
from mitigation.protocol.edits import Place, Taken, Tree, find
from mitigation.protocol.filters import ActivationType
from mitigation.protocol.trees import INVALID, Path, TreeFault, entry
from mitigation.services import accept_lists, cuids, filter_checks, filter_conflicts, filters, locks, scopes
from mitigation.services.filter_checks import Contradiction
from mitigation.services.history import actor_of
from mitigation.services.units import Unit, unit_of_work

log = logging.getLogger(__name__)

MAXIMUM_CUIDS = 64  # that one client registers
MAXIMUM_ALIASES = 1_000  # of one client
MAXIMUM_ACLS = 1_000  # of one client
MAXIMUM_ACES = 2_000  # in one list: it is judged as a whole
MAXIMUM_ACES_OF_DOMAIN = 20_000  # as many rules as the nftables driver takes
MINUTE = timedelta(minutes=1)

_WORDS = {
    ActivationType.ACTIVATE_WHEN_MITIGATING: "activate-when-mitigating",
    ActivationType.IMMEDIATE: "immediate",
    ActivationType.DEACTIVATE: "deactivate",
}

Change = Callable[[dict[str, Any]], dict[str, Any]]
Check = Callable[["Store"], None]


class OverQuota(DotsError):
    """More than this client or its domain may keep (409, resource-denied). `path` as in TreeFault."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


class ReadOnly(DotsError):
    """The server itself keeps this registration, for filters that come in another form (403)."""


class Unregistered(DotsError):
    """A gateway asks for a cuid whose registration, with its cdid, is not here (RFC 8783, section 6.1: 403)."""


@dataclass(slots=True)
class _Holding:
    """One registration with its rows, by name and in order."""

    row: Cuid
    aliases: dict[str, Alias] = field(default_factory=dict)
    acls: dict[str, Acl] = field(default_factory=dict)

    def owns(self, row: Alias | Acl) -> bool:
        return (row.client_id, row.cdid) == (self.row.client_id, self.row.cdid)


class Store:
    """All registrations of one client, as they are now; those too that stand for one of its own (EquivalentCdid).

    Only what is looked at at `place`, and changed there, is read: inside an alias nothing but that alias; inside a
    list of filters that list, and of the others names and order, as stubs.
    """

    def __init__(self, client: Client, now: datetime, place: Place = ()) -> None:
        self.client = client
        self.now = now
        self.equivalents = _equivalents(client)
        self._holdings = {row.cuid: _Holding(row) for row in _registered(client, self.equivalents)}
        owners = {client.pk, *(owner.pk for owner, _ in self.equivalents.values())}
        kind, name = _entry_at(place)
        self._only = name if kind == "acl" else None
        if kind != "acl":
            aliases = Alias.objects.filter(client__in=owners).order_by("name")
            self._read(aliases if name is None else aliases.filter(name=name), "aliases")
        if kind != "alias":
            acls = Acl.objects.current(now).filter(client__in=owners)
            self._read(acls if name is None else acls.defer("aces"), "acls")
        self.tree: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Make the tree from the rows that are here."""
        self.tree = {"dots-client": [_client_tree(one, self._only) for one in self._holdings.values()]}

    def _read(self, rows: Iterable[Alias | Acl], name: str) -> None:
        for row in rows:
            holding = self._holdings.get(row.cuid)
            if holding is not None and holding.owns(row) and not _is_over(row, self.now):
                getattr(holding, name)[row.name] = row

    def etag(self, place: Place) -> str:
        """Of the configuration there and below, as this client sees it: what others do never shows in it."""
        config = json.dumps(find(self.tree, place), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(config.encode()).hexdigest()[:24]

    def changed_at(self, place: Place) -> datetime:
        """When the configuration there last changed; of an alias or a filter and below, its own time."""
        holdings = list(self._holdings.values())
        cuid = next((step.key for step in place if step.node.name == "dots-client" and step.key), None)
        if cuid is not None:
            holdings = [self._holdings[cuid]]
        for step in place:
            if step.node.name in ("alias", "acl") and step.key is not None:
                held = holdings[0].aliases if step.node.name == "alias" else holdings[0].acls
                row = held[step.key]
                return row.changed_at or row.created_at
        times = [one.row.changed_at or one.row.registered_at for one in holdings]
        return max((at for at in times if at is not None), default=self.client.created_at)

    def with_state(self, counts: Mapping[int, Mapping[str, tuple[int, int]]]) -> dict[str, Any]:
        """The tree with what the server tells besides: remaining lifetimes, and what filters matched, where counted.

        `counts`: packets and octets by id of the filter and name of its entry.
        """
        return {"dots-client": [self._client_with_state(one, counts) for one in self.tree["dots-client"]]}

    def acl_ids(self) -> list[int]:
        rows = (row for holding in self._holdings.values() for row in holding.acls.values())
        return [row.pk for row in rows if self._only in (None, row.name)]

    def _client_with_state(
        self, tree: Mapping[str, Any], counts: Mapping[int, Mapping[str, tuple[int, int]]]
    ) -> dict[str, Any]:
        holding = self._holdings[tree["cuid"]]
        found = dict(tree)
        if "aliases" in tree:
            aliases = [self._with_lifetime(one, holding.aliases[one["name"]]) for one in tree["aliases"]["alias"]]
            found["aliases"] = {"alias": aliases}
        if "acls" in tree:
            acls = []
            for one in tree["acls"]["acl"]:
                row = holding.acls[one["name"]]
                if self._only in (None, row.name):
                    one = _with_counts(self._with_lifetime(one, row), counts.get(row.pk, {}))
                acls.append(one)
            found["acls"] = {"acl": acls}
        return found

    def _with_lifetime(self, tree: Mapping[str, Any], row: Alias | Acl) -> dict[str, Any]:
        if row.expires_at is None:
            return dict(tree)
        return {**tree, "pending-lifetime": max(0, -(-(row.expires_at - self.now) // MINUTE))}


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
            for one in (client, *(owner for owner, _ in _equivalents(client).values())):
                _let_go(one, unit)
            store = Store(client, now, place)
            check(store)
            _Writer(store, unit, door, until or now + filters.lifetime(client.domain)).write(change(store.tree))
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
        subject = f"{kind} {client.pk}/{row.cuid}/{row.name}"
        unit.audit(door="server", actor="server", action=f"{kind}-expire", subject=subject)
        row.delete()
    touched = Cuid.objects.filter(client=client, cuid__in={row.cuid for row in gone})
    touched.exclude(registered_at=None).update(changed_at=unit.now)
    if acls:
        unit.rules_are_stale()


class _Writer:
    """Turns the difference between two trees into rows."""

    def __init__(self, store: Store, unit: Unit, door: str, until: datetime) -> None:
        self._store = store
        self._unit = unit
        self._door = door
        self._until = until
        self._client = store.client
        self._holdings = store._holdings
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

    def _register(self, tree: Tree) -> _Holding:
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
        holding = self._holdings[cuid] = _Holding(row)
        return holding

    def _cdid_of(self, tree: Tree) -> str:
        """Heard from gateways that are trusted with it, and from nobody else (RFC 9132, section 4.4.1.2)."""
        cdid = tree.get("cdid", "") if self._client.is_gateway else ""
        if not isinstance(cdid, str) or len(cdid.encode()) > MAXIMUM_CUID_OCTETS or "\0" in cdid:
            path = (entry("dots-client", "cuid", str(tree["cuid"])), "cdid")
            raise TreeFault(INVALID, path, f"a cdid is a string of at most {MAXIMUM_CUID_OCTETS} octets")
        return cdid

    def _deregister(self, holding: _Holding) -> None:
        for alias in holding.aliases.values():
            self._delete(alias)
        for acl in holding.acls.values():
            self._delete(acl)
        holding.row.registered_at = holding.row.changed_at = None
        holding.row.save(update_fields=["registered_at", "changed_at"])
        self._audit("dots-client-remove", f"cuid {self._client.pk}/{holding.row.cuid}")
        del self._holdings[holding.row.cuid]

    # -- aliases

    def _write_aliases(self, holding: _Holding, tree: Tree, above: Path) -> bool:
        before, after = _entries_of(holding, self._store, "aliases", "alias"), _named(tree, "aliases", "alias")
        for name in before.keys() - after.keys():
            self._delete(holding.aliases.pop(name))
        for name, one in after.items():
            if one is not before.get(name):
                self._write_alias(holding, one, (*above, entry("alias", "name", str(name))))
        return before != after

    def _write_alias(self, holding: _Holding, tree: Tree, path: Path) -> None:
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

    def _write_acls(self, holding: _Holding, tree: Tree, above: Path) -> bool:
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

    def _write_acl(self, holding: _Holding, tree: Tree, position: int, above: Path) -> None:
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
        before = _stored(row) if row.pk else None
        row.acl_type = str(acl.type or "")
        row.activation_type, row.activation_is_set = acl.activation, acl.activation_type is not None
        judged = {ace.name: ace_json(ace) for ace in acl.aces}
        row.aces = [judged.get(one["name"], one) for one in aces]
        row.ace_count, row.position = len(row.aces), position
        row.refreshed_at, row.expires_at = now, self._until
        after = _stored(row)
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
        before = row.tree if isinstance(row, Alias) else _summary(_stored(row))
        self._audit(f"{kind}-delete", f"{kind} {row.client_id}/{row.cuid}/{row.name}", before=before)
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


# -- rows as trees ----------------------------------------------------------------------------------------------------


def _entry_at(place: Place) -> tuple[str, str | None]:
    """Of which list, and its key, for a place at an alias or a filter or below."""
    step = place[2] if len(place) > 2 else None
    if step is None or step.key is None or step.node.name not in ("alias", "acl"):
        return "", None
    return step.node.name, step.key


def _registered(client: Client, equivalents: Mapping[str, tuple[Client, str]]) -> Iterable[Cuid]:
    mine = Q(client=client) & ~Q(cdid__in=list(equivalents))
    for owner, cdid in equivalents.values():
        mine |= Q(client=owner, cdid=cdid)
    rows = Cuid.objects.filter(mine).exclude(registered_at=None)
    return rows.select_related("client").order_by("registered_at", "pk")


def _equivalents(client: Client) -> dict[str, tuple[Client, str]]:
    """Of a gateway: cdids that stand for a client and cdid of another one (RFC 9132, section 4.4.1.2)."""
    if not client.is_gateway:
        return {}
    rows = client.equivalent_cdids.select_related("same_as_gateway")
    return {row.cdid: (row.same_as_gateway, row.same_as_cdid) for row in rows}


def _is_over(row: Alias | Acl, now: datetime) -> bool:
    """Of filters the query has decided."""
    return isinstance(row, Alias) and row.expires_at is not None and row.expires_at <= now


def _client_tree(holding: _Holding, only: str | None) -> dict[str, Any]:
    tree: dict[str, Any] = {"cuid": holding.row.cuid}
    if holding.row.cdid:
        tree["cdid"] = holding.row.cdid
    if holding.aliases:
        tree["aliases"] = {"alias": [_alias_tree(row) for row in holding.aliases.values()]}
    if holding.acls:
        rows = holding.acls.values()
        tree["acls"] = {"acl": [_stored(row) if only in (None, row.name) else {"name": row.name} for row in rows]}
    return tree


def _alias_tree(row: Alias) -> dict[str, Any]:
    return row.tree or {"name": row.name, **row.target}


def _stored(row: Acl) -> dict[str, Any]:
    tree: dict[str, Any] = {"name": row.name}
    if row.acl_type:
        tree["type"] = f"ietf-access-control-list:{row.acl_type}"
    if row.activation_is_set:
        tree["activation-type"] = _WORDS[ActivationType(row.activation_type)]
    tree["aces"] = {"ace": row.aces}
    return tree


def _untouched(row: Acl | None, tree: Tree) -> set[str]:
    """Entries of a stored list that a change left as they are, by name; none where what all depend on changed.

    One entry that tells the family is always judged again, as the others may be of it.
    """
    if row is None or row.pk is None:
        return set()
    stored = _stored(row)
    if any(stored.get(name) != tree.get(name) for name in ("type", "activation-type")):
        return set()
    identities = {id(one) for one in row.aces}
    same = [one for one in tree.get("aces", {}).get("ace", ()) if id(one) in identities]
    telling = next((one for one in same if {"ipv4", "ipv6"} & set(one.get("matches", {}))), None)
    return {one["name"] for one in same if one is not telling}


def _without(tree: Tree, names: set[str]) -> Tree:
    if not names:
        return tree
    return {**tree, "aces": {"ace": [one for one in tree["aces"]["ace"] if one["name"] not in names]}}


def _with_counts(tree: dict[str, Any], counts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Entries that nobody counts have no statistics: a zero would be a lie."""
    aces = []
    for ace in tree["aces"]["ace"]:
        found = counts.get(ace["name"])
        if found is not None:
            ace = {**ace, "statistics": {"matched-packets": str(found[0]), "matched-octets": str(found[1])}}
        aces.append(ace)
    return {**tree, "aces": {"ace": aces}}


def _entries_of(holding: _Holding, store: Store, container: str, name: str) -> dict[str, Any]:
    for one in store.tree["dots-client"]:
        if one["cuid"] == holding.row.cuid:
            return _named(one, container, name)
    return {}


def _named(tree: Tree, container: str, name: str) -> dict[str, Any]:
    return {one["name"]: one for one in tree.get(container, {}).get(name, ())}


def _told(row: Alias | Acl, kind: str) -> tuple[str, str]:
    action = f"{kind}-replace" if row.pk else f"{kind}-create"
    return action, f"{kind} {row.client_id or row.client.pk}/{row.cuid}/{row.name}"


def _summary(tree: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """For the audit: a list of hundreds of entries is told by their names."""
    if tree is None:
        return None
    aces = tree["aces"]["ace"]
    shown = aces if len(aces) <= 20 else [ace["name"] for ace in aces[:200]]
    return {**tree, "aces": shown, "entries": len(aces)}
