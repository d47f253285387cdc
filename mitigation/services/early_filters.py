"""Filters in the form of draft-reddy-dots-transport-05: kept as what RFC 8783 makes of them, and nothing else.

Each client has one registration for them, which its data channel shows and does not change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mitigation.exceptions import InvalidParameter, MalformedRequest, NotFound
from mitigation.models import Acl, Client
from mitigation.protocol import early_filters as forms
from mitigation.protocol.constants import INDEFINITE_LIFETIME
from mitigation.protocol.early_filters import EarlyFilter
from mitigation.protocol.trees import TreeFault
from mitigation.services import datastore, filter_enforcement, policies, scopes
from mitigation.services.filter_checks import NOT_AUTHORIZED

# When an indefinite one would end: what is left of it still fits the data channel's pending-lifetime (int32, minutes).
NEVER = datetime(5000, 1, 1, tzinfo=UTC)


def store(client_id: int, wanted: EarlyFilter, *, now: datetime) -> int:
    """Put it in the place of the policy of that number; returns the lifetime it has, in seconds, 0 for indefinite.

    Raises MalformedRequest for a destination outside the domain, InvalidParameter for what no list can say, and Taken,
    OverQuota and Unavailable as `datastore.edit` does.
    """
    domain = Client.objects.select_related("domain").get(pk=client_id).domain
    indefinite = wanted.lifetime == forms.INDEFINITE
    granted = policies.grant(domain, INDEFINITE_LIFETIME if indefinite else wanted.lifetime)
    until = NEVER if granted == INDEFINITE_LIFETIME else now + timedelta(seconds=granted)

    def change(tree: dict[str, Any]) -> dict[str, Any]:
        prefixes = scopes.allowed([domain.pk])[domain.pk].prefixes
        return _with_lists(tree, client_id, wanted.policy_id, forms.as_acls(wanted, prefixes))

    try:
        datastore.edit(client_id, change, door="signal", until=until, now=now)
    except TreeFault as fault:
        kind = MalformedRequest if fault.app_tag == NOT_AUTHORIZED else InvalidParameter
        raise kind(str(fault)) from None
    return forms.INDEFINITE if granted == INDEFINITE_LIFETIME else granted


def remove(client_id: int, policy_id: int, *, now: datetime) -> None:
    """Raises NotFound."""

    def change(tree: dict[str, Any]) -> dict[str, Any]:
        if all(forms.policy_id_of(one["name"]) != policy_id for one in _lists(tree, client_id)):
            raise _unknown(policy_id)
        return _with_lists(tree, client_id, policy_id, [])

    datastore.edit(client_id, change, door="signal", now=now)


def shown(client_id: int, policy_id: int | None, *, now: datetime) -> list[dict[str, Any]]:
    """The client's policies, or that one, in the order in which they work. Raises NotFound.

    `match-count` is of packets; a policy that nobody counts has none.
    """
    rows = Acl.objects.current(now).filter(client_id=client_id, cdid="", cuid=forms.cuid_for(client_id))
    by_policy: dict[int, list[Acl]] = defaultdict(list)
    for row in rows:
        number = forms.policy_id_of(row.name)
        if number is not None and policy_id in (None, number):
            by_policy[number].append(row)
    if policy_id is not None and not by_policy:
        raise _unknown(policy_id)
    counts = filter_enforcement.statistics(row.pk for some in by_policy.values() for row in some)
    return [_shown(number, some, counts, now) for number, some in by_policy.items()]


def _shown(
    policy_id: int, rows: list[Acl], counts: Mapping[int, Mapping[str, tuple[int, int]]], now: datetime
) -> dict[str, Any]:
    until = max(row.expires_at for row in rows)
    lifetime = forms.INDEFINITE if until == NEVER else max(1, -(-(until - now) // timedelta(seconds=1)))
    found = forms.as_json(policy_id, (ace for row in rows for ace in row.aces), lifetime)
    matched = [packets for row in rows for packets, _ in counts.get(row.pk, {}).values()]
    return {**found, "match-count": sum(matched)} if matched else found


def _lists(tree: Mapping[str, Any], client_id: int) -> list[dict[str, Any]]:
    ours = forms.cuid_for(client_id)
    found: Iterable[dict[str, Any]] = (
        acl for one in tree["dots-client"] if one["cuid"] == ours for acl in one.get("acls", {}).get("acl", ())
    )
    return list(found)


def _with_lists(tree: Mapping[str, Any], client_id: int, policy_id: int, lists: list[dict[str, Any]]) -> dict[str, Any]:
    """The tree with these lists as that policy; a lower policy-id comes first."""
    ours = forms.cuid_for(client_id)
    kept = [one for one in _lists(tree, client_id) if forms.policy_id_of(one["name"]) != policy_id]
    ordered = sorted((*kept, *lists), key=lambda one: (forms.policy_id_of(one["name"]) or 0, one["name"]))
    others = [one for one in tree["dots-client"] if one["cuid"] != ours]
    return {"dots-client": [*others, {"cuid": ours, "acls": {"acl": ordered}}]}


def _unknown(policy_id: int) -> NotFound:
    return NotFound(f"there is no policy {policy_id} of this client")
