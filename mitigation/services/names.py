"""What names stand for: resolved when accepted and whenever the answer has run out, checked at each resolution."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from mitigation.exceptions import MalformedRequest
from mitigation.models import Change, Target, TargetName
from mitigation.protocol.scope import Network, covered_by, parse_target_prefix
from mitigation.resolver import Address, Answer
from mitigation.services import conflicts, locks, scopes
from mitigation.services.scopes import Allowed
from mitigation.services.units import Unit, unit_of_work

SHORTEST, LONGEST = 30, 3600  # seconds an answer is kept, whatever its TTL says
RETRY_SOON, RETRY = timedelta(seconds=2), timedelta(seconds=30)  # after an answer without a usable address, or none
LEASE = timedelta(seconds=20)  # while somebody asks; a worker that dies meanwhile costs this much
LARGEST = 256  # names in one go

Resolve = Callable[[Iterable[str]], Mapping[str, Answer]]

log = logging.getLogger(__name__)


def resolve_due(resolve: Resolve, *, clock: Callable[[], datetime]) -> int:
    """Ask for every name whose time has come; returns how many that were. DNS is waited for outside transactions."""
    claimed = _claim(clock())
    if not claimed:
        return 0
    try:
        _take_all(claimed, resolve(row.name for row in claimed), clock())
    except Exception:  # whatever it was: the claim must not keep the names waiting until the lease is over
        TargetName.objects.filter(pk__in=[row.pk for row in claimed]).update(due_at=claimed[0].due_at)
        raise
    return len(claimed)


def _claim(now: datetime) -> list[TargetName]:
    """Those that are due and that nobody else took in the same moment."""
    due = list(TargetName.objects.due(now)[:LARGEST])
    return [row for row in due if TargetName.objects.filter(pk=row.pk, due_at=row.due_at).update(due_at=now + LEASE)]


def _take_all(claimed: list[TargetName], answers: Mapping[str, Answer], now: datetime) -> None:
    with unit_of_work(now) as unit:
        owners = TargetName.objects.filter(pk__in=[row.pk for row in claimed])
        locks.domains_of_mitigations(owners.values_list("mitigation_id", flat=True))
        live = TargetName.objects.select_related("mitigation").filter(mitigation__ended_at=None)
        rows = list(live.filter(pk__in=[row.pk for row in claimed]).order_by("pk"))
        allowed = scopes.allowed({row.mitigation.domain_id for row in rows})
        for row in rows:
            _take(row, answers[row.name], allowed[row.mitigation.domain_id], unit)


def _take(row: TargetName, answer: Answer, allowed: Allowed, unit: Unit) -> None:
    before = (row.addresses, row.problem)
    if answer.failed:
        row.problem = answer.problem
        row.due_at = unit.now + _patience(row, unit.now)
    else:
        usable, foreign = _sorted_out(answer.addresses, allowed)
        row.addresses = [str(network) for network in usable]
        row.problem = _problem(answer, usable, foreign)[:255]
        kept = timedelta(seconds=min(max(answer.ttl, SHORTEST), LONGEST))
        row.due_at = unit.now + (kept if usable else _patience(row, unit.now))
        row.resolved_at = unit.now
    row.save(update_fields=["addresses", "problem", "resolved_at", "due_at"])
    if row.addresses != before[0]:
        _replace_targets(row)
        conflicts.settle_at_end(row.mitigation, unit)
    if (row.addresses, row.problem) != before:
        log.info("mitigation %s: %s is %s", row.mitigation_id, row.name, row.problem or ", ".join(row.addresses))
        unit.tell(Change.Topic.MITIGATION, row.mitigation_id)
        unit.rules_are_stale()


def _patience(row: TargetName, now: datetime) -> timedelta:
    """Soon while the name is new, for an attack is going on; then at doubling distances up to `RETRY`."""
    return min(max(now - row.mitigation.requested_at, RETRY_SOON), RETRY)


def _sorted_out(addresses: Iterable[Address], allowed: Allowed) -> tuple[list[Network], list[Address]]:
    """Those that pass the checks of a target-prefix, in order, and the others (RFC 9132, section 4.4.1.1)."""
    usable: list[Network] = []
    foreign: list[Address] = []
    for address in sorted(set(addresses), key=lambda one: (one.version, int(one))):
        try:
            network = parse_target_prefix(f"{address}/{address.max_prefixlen}")
        except MalformedRequest:
            foreign.append(address)
            continue
        if covered_by(network, allowed.prefixes):
            usable.append(network)
        else:
            foreign.append(address)
    return usable, foreign


def _problem(answer: Answer, usable: list[Network], foreign: list[Address]) -> str:
    if not foreign:
        return answer.problem
    shown = ", ".join(map(str, foreign[:4])) + (" and more" if len(foreign) > 4 else "")
    left_out = f"{shown} outside the domain's prefixes, left out"
    return left_out if usable else f"no usable address: {left_out}"


def _replace_targets(row: TargetName) -> None:
    Target.objects.filter(mitigation=row.mitigation, name=row.name).delete()
    networks = (parse_target_prefix(text) for text in row.addresses)
    Target.objects.bulk_create(scopes.target(row.mitigation, network, name=row.name) for network in networks)
