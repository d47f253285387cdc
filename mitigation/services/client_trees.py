"""What a client keeps on the data channel, as one tree made of rows (RFC 8783, sections 5 to 7)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from mitigation.models import Acl, Alias, Client, Cuid
from mitigation.protocol.edits import Place, find
from mitigation.protocol.filters import ActivationType

MINUTE = timedelta(minutes=1)


@dataclass(slots=True)
class Holding:
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
        self.equivalents = equivalents(client)
        self.holdings = {row.cuid: Holding(row) for row in _registered(client, self.equivalents)}
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
        self.tree = {"dots-client": [_client_tree(one, self._only) for one in self.holdings.values()]}

    def _read(self, rows: Iterable[Alias | Acl], name: str) -> None:
        for row in rows:
            holding = self.holdings.get(row.cuid)
            if holding is not None and holding.owns(row) and not _is_over(row, self.now):
                getattr(holding, name)[row.name] = row

    def etag(self, place: Place) -> str:
        """Of the configuration there and below, as this client sees it: what others do never shows in it."""
        config = json.dumps(find(self.tree, place), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(config.encode()).hexdigest()[:24]

    def changed_at(self, place: Place) -> datetime:
        """When the configuration there last changed; of an alias or a filter and below, its own time."""
        holdings = list(self.holdings.values())
        cuid = next((step.key for step in place if step.node.name == "dots-client" and step.key), None)
        if cuid is not None:
            holdings = [self.holdings[cuid]]
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
        rows = (row for holding in self.holdings.values() for row in holding.acls.values())
        return [row.pk for row in rows if self._only in (None, row.name)]

    def _client_with_state(
        self, tree: Mapping[str, Any], counts: Mapping[int, Mapping[str, tuple[int, int]]]
    ) -> dict[str, Any]:
        holding = self.holdings[tree["cuid"]]
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


# -- rows as trees ----------------------------------------------------------------------------------------------------


def _entry_at(place: Place) -> tuple[str, str | None]:
    """Of which list, and its key, for a place at an alias or a filter or below."""
    step = place[2] if len(place) > 2 else None
    if step is None or step.key is None or step.node.name not in ("alias", "acl"):
        return "", None
    return step.node.name, step.key


def _registered(client: Client, known: Mapping[str, tuple[Client, str]]) -> Iterable[Cuid]:
    mine = Q(client=client) & ~Q(cdid__in=list(known))
    for owner, cdid in known.values():
        mine |= Q(client=owner, cdid=cdid)
    rows = Cuid.objects.filter(mine).exclude(registered_at=None)
    return rows.select_related("client").order_by("registered_at", "pk")


def equivalents(client: Client) -> dict[str, tuple[Client, str]]:
    """Of a gateway: cdids that stand for a client and cdid of another one (RFC 9132, section 4.4.1.2)."""
    if not client.is_gateway:
        return {}
    rows = client.equivalent_cdids.select_related("same_as_gateway")
    return {row.cdid: (row.same_as_gateway, row.same_as_cdid) for row in rows}


def _is_over(row: Alias | Acl, now: datetime) -> bool:
    """Of filters the query has decided."""
    return isinstance(row, Alias) and row.expires_at is not None and row.expires_at <= now


def _client_tree(holding: Holding, only: str | None) -> dict[str, Any]:
    tree: dict[str, Any] = {"cuid": holding.row.cuid}
    if holding.row.cdid:
        tree["cdid"] = holding.row.cdid
    if holding.aliases:
        tree["aliases"] = {"alias": [_alias_tree(row) for row in holding.aliases.values()]}
    if holding.acls:
        rows = holding.acls.values()
        tree["acls"] = {"acl": [stored(row) if only in (None, row.name) else {"name": row.name} for row in rows]}
    return tree


def _alias_tree(row: Alias) -> dict[str, Any]:
    return row.tree or {"name": row.name, **row.target}


def stored(row: Acl) -> dict[str, Any]:
    tree: dict[str, Any] = {"name": row.name}
    if row.acl_type:
        tree["type"] = f"ietf-access-control-list:{row.acl_type}"
    if row.activation_is_set:
        tree["activation-type"] = ActivationType(row.activation_type).word
    tree["aces"] = {"ace": row.aces}
    return tree


def _with_counts(tree: dict[str, Any], counts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Entries that nobody counts have no statistics: a zero would be a lie."""
    aces = []
    for ace in tree["aces"]["ace"]:
        found = counts.get(ace["name"])
        if found is not None:
            ace = {**ace, "statistics": {"matched-packets": str(found[0]), "matched-octets": str(found[1])}}
        aces.append(ace)
    return {**tree, "aces": {"ace": aces}}
