"""Rows of rules, and of whose they are, as a look of the enforcer found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from mitigation.drivers.base import Installed
from mitigation.models import EnforcementPoint, Rule, RuleOwner
from mitigation.services import bulk
from mitigation.services.batches import in_batches
from mitigation.services.projection import Projection, Wanted
from mitigation.services.rows import aware, raw
from mitigation.services.units import Unit

RULES_AT_ONCE = 400  # rows in one transaction: 20 to 40 ms
OWNERS_AT_ONCE = 2_000

_LOOKED_AT = ("pk", "key", "state", "deadline")
_WRITTEN = ("key", "state", "installed_at", "deadline", "read_at")  # of a Rule row, by a look


def write_rules(
    point: EnforcementPoint,
    projection: Projection,
    installed: Mapping[str, Installed],
    *,
    now: datetime,
    only: Set[str] | None = None,
) -> None:
    """Rows as they are wanted and were read back; of these keys `only`, where it is said.

    They are the enforcer's alone: what is read before a batch holds.
    """
    rows, links = Rule.objects.filter(point=point), RuleOwner.objects.filter(rule__point=point)
    if only is None:
        told = projection.wanted | projection.shown
    else:
        rows, links = rows.filter(key__in=only), links.filter(rule__key__in=only)
        # Never a copy of all that is wanted: one more rule is not to pay for the others.
        told = {key: some[key] for some in (projection.wanted, projection.shown) for key in only if key in some}
    known = {key: (pk, state, deadline) for pk, key, state, deadline in raw(rows.values_list(*_LOOKED_AT))}
    gone = [pk for key, (pk, _, _) in known.items() if key not in told]
    changed = [
        pk for key, (pk, *row) in known.items() if key in told and _differs(projection, installed, key, row, now)
    ]
    new = [_new_row(point, key, one, now) for key, one in told.items() if key not in known]

    def set_what_was_read(row: Rule) -> None:
        _only_show(row) if row.key in projection.shown else _prove(row, installed.get(row.key), now)

    def rewrite(some: Sequence[int], _: Unit) -> None:
        rows = list(Rule.objects.filter(pk__in=some).only(*_WRITTEN))
        for row in rows:
            set_what_was_read(row)
        bulk.update(rows, _WRITTEN)

    for row in new:
        set_what_was_read(row)
    in_batches(gone, RULES_AT_ONCE, lambda some, _: _delete(Rule.objects.filter(pk__in=some)), now=now)
    in_batches(changed, RULES_AT_ONCE, rewrite, now=now)
    in_batches(new, RULES_AT_ONCE, lambda some, _: bulk.insert(some), now=now)
    ids = {key: pk for key, (pk, _, _) in known.items()} | {row.key: row.pk for row in new}
    _write_owners(links, ids, told, now=now)


def _differs(
    projection: Projection, installed: Mapping[str, Installed], key: str, row: Sequence[Any], now: datetime
) -> bool:
    """Whether a row, of which `row` are state and deadline, says anything else than was read, beyond a few seconds."""
    state, deadline = row
    if key in projection.shown:
        return bool(state != Rule.State.SHADOW)
    read_back = installed.get(key)
    if read_back is None:
        return bool(state != Rule.State.WANTED)
    if state != Rule.State.INSTALLED or deadline is None:
        return True
    return abs(now + timedelta(seconds=read_back.expires_in_seconds) - aware(deadline)) > timedelta(seconds=5)


def _new_row(point: EnforcementPoint, key: str, one: Wanted, now: datetime) -> Rule:
    return Rule(
        point=point, key=key, kind=one.rule.kind.value, text=one.rule.text[:500], drops=one.rule.drops, since=now
    )


def _delete(query: QuerySet[Any]) -> None:
    query.delete()


def _prove(row: Rule, read_back: Installed | None, now: datetime) -> None:
    """Set what the reading shows."""
    if read_back is None:
        row.state, row.installed_at, row.deadline = Rule.State.WANTED, None, None
        return
    row.state, row.installed_at = Rule.State.INSTALLED, row.installed_at or now
    row.deadline, row.read_at = now + timedelta(seconds=read_back.expires_in_seconds), now


def _only_show(row: Rule) -> None:
    """Of a domain in shadow mode."""
    row.state, row.installed_at, row.deadline = Rule.State.SHADOW, None, None


def _write_owners(
    links: QuerySet[RuleOwner], rules: Mapping[str, int], told: Mapping[str, Wanted], *, now: datetime
) -> None:
    """`links` that there may be, `rules`: ids by key."""
    wanted = {(rules[key], owner) for key, one in told.items() for owner in one.owners}
    existing = {(rule_id, owner): pk for pk, rule_id, owner in raw(links.values_list("pk", "rule_id", "mitigation_id"))}
    gone = [pk for pair, pk in existing.items() if pair not in wanted]
    fresh = sorted(wanted - existing.keys())
    in_batches(gone, OWNERS_AT_ONCE, lambda some, _: _delete(RuleOwner.objects.filter(pk__in=some)), now=now)
    in_batches(fresh, OWNERS_AT_ONCE, lambda some, _: _link(some), now=now)


def _link(pairs: Sequence[tuple[int, int]]) -> None:
    bulk.insert_values(RuleOwner, ("rule", "mitigation"), pairs)
