"""The verbs of a mitigation's life: submit, withdraw, stop, advance, expire (RFC 9132, section 4.4)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mitigation.exceptions import (
    DotsError,
    Ignored,
    MalformedRequest,
    NotFound,
    PreconditionFailed,
    ScopeConflict,
    Unauthorized,
    Unavailable,
)
from mitigation.models import (
    Change,
    Client,
    Cuid,
    Domain,
    DomainPrefix,
    EnforcementPoint,
    Mitigation,
    Target,
    Transition,
)
from mitigation.protocol.conflicts import ConflictCause, ConflictInformation, ConflictStatus
from mitigation.protocol.constants import INDEFINITE_LIFETIME, WITHDRAWN_SHOWN
from mitigation.protocol.scope import MitigationRequest, Network, Scope, ancestor_keys, covered_by, range_keys
from mitigation.protocol.status import ACTIVE, Happening, Status, grace_period, next_status
from mitigation.services import locks
from mitigation.services.units import LONGEST, Unit, unit_of_work

MAXIMUM_CUIDS = 64  # of one client; ever new ones are a fault or an attack (RFC 9132, section 11)


@dataclass(frozen=True, slots=True)
class Submission:
    """A decoded PUT of an authenticated client, with its conditions (RFC 7252, section 5.10.8)."""

    client_id: int
    request: MitigationRequest
    if_match: bool = False
    if_none_match: bool = False


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A DELETE of an authenticated client."""

    client_id: int
    cuid: str
    mid: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The request stands; `lifetime` in seconds as granted, -1 indefinite."""

    mid: int
    lifetime: int
    created: bool
    conflict: ConflictInformation | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request left no trace; `error` says why."""

    error: DotsError


Outcome = Granted | Refused


# -- submit -----------------------------------------------------------------------------------------------------------


def submit(submission: Submission, *, now: datetime) -> Outcome:
    """One PUT in a transaction of its own."""
    return submit_many([submission], now=now)[0]


def submit_many(submissions: Sequence[Submission], *, now: datetime) -> list[Outcome]:
    """Decide a batch of PUTs in arrival order, in one transaction (RFC 9132, section 4.4.1.3).

    Returns one outcome for each, in the same order. A refusal is a value and leaves no state; an exception is a defect
    or the database's, and then nothing of the batch stands.
    """
    with unit_of_work(now) as unit:
        batch = _Batch(submissions, unit)
        outcomes = [batch.decide(submission) for submission in submissions]
        batch.write()
    return outcomes


def _check_absent(submission: Submission) -> None:
    """What a PUT on an unknown mid may not be: an efficacy update (section 4.4.3)."""
    if submission.if_match:
        raise Ignored("there is no such mitigation to update")
    if submission.request.attack_status is not None:
        raise MalformedRequest("attack-status belongs to an existing mitigation, and this mid is not known")


def _key(submission: Submission) -> tuple[int, str, int]:
    return submission.client_id, submission.request.cuid, submission.request.mid


class _Batch:
    """What a batch of PUTs needs to know, read with a handful of queries, and what it will write."""

    def __init__(self, submissions: Sequence[Submission], unit: Unit) -> None:
        self._unit = unit
        self._now = unit.now
        requests = [submission.request for submission in submissions]
        client_ids = {submission.client_id for submission in submissions}
        self._clients = {client.pk: client for client in Client.objects.filter(pk__in=client_ids)}
        self._domains = locks.domains({client.domain_id for client in self._clients.values()})
        self._prefixes = _prefixes_of(self._domains)
        self._owner_of_cuid = dict(
            Cuid.objects.filter(cuid__in={request.cuid for request in requests}).values_list("cuid", "client_id")
        )
        self._live = {
            (found.client_id, found.cuid, found.mid): found
            for found in Mitigation.objects.live()
            .select_related("client")
            .filter(client_id__in=client_ids, mid__in={request.mid for request in requests})
        }
        unknown = [one.request for one in submissions if _key(one) not in self._live]  # a refresh overlaps nobody anew
        self._neighbours = _Neighbours(unknown, self._domains)
        self._count: dict[int, int] = {}
        self._enforces = EnforcementPoint.objects.filter(enabled=True, enforces=True).exists()
        self._new: list[tuple[Mitigation, Scope]] = []
        self._new_cuids: list[Cuid] = []

    def decide(self, submission: Submission) -> Outcome:
        try:
            return self._decide(submission)
        except DotsError as refusal:
            return Refused(refusal)

    def _decide(self, submission: Submission) -> Granted:
        request = submission.request
        client = self._clients.get(submission.client_id)
        if client is None or not client.enabled:
            raise Unauthorized("this client may not use the service")
        self._check_cuid(client, request.cuid)
        self._check_scope(client, request.scope)
        existing = self._live.get(_key(submission))
        if existing is None:
            _check_absent(submission)
            return self._create(client, request)
        if submission.if_none_match:
            raise PreconditionFailed(f"mid {request.mid} exists already")
        if submission.if_match and existing.is_ending:
            raise Ignored("this mitigation is ending: an efficacy update that comes late does not renew it")
        if submission.if_match and request.attack_status is None:
            raise MalformedRequest("an efficacy update (If-Match) needs attack-status")
        return self._refresh(existing, request)

    def _check_cuid(self, client: Client, cuid: str) -> None:
        owner = self._owner_of_cuid.get(cuid)
        if owner is not None and owner != client.pk:
            raise ScopeConflict(
                "this cuid is used by another client; choose a new one",
                ConflictInformation(cause=ConflictCause.CUID_COLLISION),
            )

    def _check_scope(self, client: Client, scope: Scope) -> None:
        for name, given in (
            ("target-fqdn", scope.target_fqdn),
            ("target-uri", scope.target_uri),
            ("alias-name", scope.alias_name),
        ):
            if given:
                raise MalformedRequest(
                    f"{name} is not supported by this server yet; name the addresses in target-prefix"
                )
        allowed = self._prefixes[client.domain_id]
        for prefix in scope.target_prefix:
            if not covered_by(prefix, allowed):
                raise MalformedRequest(f"target-prefix {prefix} is outside the prefixes of this client's domain")

    # ...existing request

    def _refresh(self, mitigation: Mitigation, request: MitigationRequest) -> Granted:
        if mitigation.scope_digest != request.digest:
            raise MalformedRequest(
                f"mid {request.mid} exists with other parameters; a refresh repeats all of them but lifetime,"
                " another scope needs a new, higher mid"
            )
        if mitigation.is_ending:
            record(mitigation, Happening.CLIENT_RENEWED, unit=self._unit, actor=_actor(mitigation.client))
            self._unit.rules_are_stale()
        fields = ["lifetime", "refreshed_at", "expires_at", "ends_at"]
        asked = request.lifetime if request.lifetime is not None else mitigation.remaining(self._now) or 1
        lifetime = self._grant(self._domains[mitigation.domain_id], asked)
        _start_lifetime(mitigation, lifetime, self._now)
        after: dict[str, object] = {"lifetime": lifetime}
        if request.attack_status is not None:
            mitigation.attack_status, mitigation.attack_status_at = request.attack_status, self._now
            fields += ["attack_status", "attack_status_at"]
            after["attack-status"] = request.attack_status
        if mitigation.pk is not None:
            self._unit.save(mitigation, *fields)
        self._audit("efficacy" if "attack-status" in after else "refresh", mitigation, after=after)
        return Granted(request.mid, lifetime, created=False)

    # ...new request

    def _create(self, client: Client, request: MitigationRequest) -> Granted:
        domain = self._domains[client.domain_id]
        overlapped = self._neighbours.overlapping(client, request)
        same = [other for other in overlapped.own if other.trigger_mitigation == request.trigger_mitigation]
        higher = [other for other in same if other.mid > request.mid]
        if higher:
            winner = max(higher, key=lambda other: other.mid)
            raise ScopeConflict(
                f"mid {winner.mid} is newer and overlaps",
                ConflictInformation(
                    cause=ConflictCause.OVERLAPPING_TARGETS,
                    mid=winner.mid,
                    scope=Scope(target_prefix=overlapped.common),
                ),
            )
        self._check_quota(domain, replaced=len(same))
        self._register_cuid(client, request.cuid)
        assert request.lifetime is not None  # the decoder lets it be left out beside attack-status only
        lifetime = self._grant(domain, request.lifetime)
        mitigation = self._row(client, request, lifetime)
        for other in same:
            self._override(other, by=request.mid)
        if request.trigger_mitigation:
            self._preempt([other for other in overlapped.own if other not in same], by=request.mid)
        self._new.append((mitigation, request.scope))
        self._live[(client.pk, request.cuid, request.mid)] = mitigation
        self._neighbours.add(mitigation, request.scope)
        self._unit.rules_are_stale()
        self._audit("submit", mitigation, after={"scope": mitigation.scope, "lifetime": lifetime})
        return Granted(request.mid, lifetime, created=True, conflict=overlapped.with_others())

    def _row(self, client: Client, request: MitigationRequest, lifetime: int) -> Mitigation:
        domain = self._domains[client.domain_id]
        mitigation = Mitigation(
            domain=domain,
            client=client,
            cuid=request.cuid,
            mid=request.mid,
            scope=request.scope.as_json(),
            scope_digest=request.digest,
            trigger_mitigation=request.trigger_mitigation,
            playbook=domain.playbook,
            requested_at=self._now,
            approved_at=self._now,  # by policy: inside the domain's own prefixes
        )
        mitigation.status, mitigation.status_reason = self._first_status(request)
        mitigation.mitigation_start = self._now if request.trigger_mitigation else None
        _start_lifetime(mitigation, lifetime, self._now)
        return mitigation

    def _first_status(self, request: MitigationRequest) -> tuple[Status, str]:
        """Armed until the session is lost, or in progress; a dry run sets nothing up and never says so."""
        if not request.trigger_mitigation:
            return Status.SIGNAL_LOSS, ""
        return (Status.IN_PROGRESS, "") if self._enforces else (Status.EXCEEDED, "dry run: no traffic is touched")

    def _override(self, other: Mitigation, *, by: int) -> None:
        self._live.pop((other.client_id, other.cuid, other.mid), None)
        self._neighbours.remove(other)
        if other.pk is None:  # created and replaced within one batch: it never existed for anybody else
            self._new = [(row, scope) for row, scope in self._new if row is not other]
            return
        record(other, Happening.OVERRIDDEN, unit=self._unit, actor=_actor(other.client), reason=f"replaced by mid {by}")

    def _preempt(self, preconfigured: list[Mitigation], *, by: int) -> None:
        """A preconfigured request that a lost session started gives way to an immediate one, and is armed again."""
        for other in preconfigured:
            if other.pk is not None and other.is_active:
                other.rearms = True
                self._unit.save(other, "rearms")
                record(
                    other,
                    Happening.PREEMPTED,
                    unit=self._unit,
                    actor=_actor(other.client),
                    reason=f"the immediate request {by} overlaps",
                )

    def _check_quota(self, domain: Domain, *, replaced: int) -> None:
        if domain.pk not in self._count:
            self._count[domain.pk] = Mitigation.objects.live().filter(domain=domain).count()
        if self._count[domain.pk] - replaced >= domain.maximum_mitigations:
            raise Unavailable(f"this domain has {domain.maximum_mitigations} mitigations, its maximum", retry_after=60)
        self._count[domain.pk] += 1 - replaced

    def _register_cuid(self, client: Client, cuid: str) -> None:
        if cuid in self._owner_of_cuid:
            return
        if Cuid.objects.filter(client=client).count() >= MAXIMUM_CUIDS:
            raise Unavailable(f"this client has used {MAXIMUM_CUIDS} cuids, its maximum", retry_after=3600)
        self._owner_of_cuid[cuid] = client.pk
        self._new_cuids.append(Cuid(client=client, cuid=cuid, since=self._now))

    def _grant(self, domain: Domain, asked: int) -> int:
        if asked == INDEFINITE_LIFETIME:
            return INDEFINITE_LIFETIME if domain.grants_indefinite else domain.maximum_lifetime
        return min(asked, domain.maximum_lifetime)

    def _audit(self, action: str, mitigation: Mitigation, *, after: object) -> None:
        self._unit.audit(
            door="signal", actor=_actor(mitigation.client), action=action, subject=_subject(mitigation), after=after
        )

    def write(self) -> None:
        # In one order for everybody: two batches with the same new cuids then wait for each other in no circle.
        Cuid.objects.bulk_create(sorted(self._new_cuids, key=lambda one: one.cuid))
        rows = Mitigation.objects.bulk_create([mitigation for mitigation, _ in self._new])
        targets, transitions = [], []
        for mitigation, (_, scope) in zip(rows, self._new, strict=True):
            targets += [_target(mitigation, prefix) for prefix in scope.target_prefix]
            transitions.append(_first_transition(mitigation))
            self._unit.tell(Change.Topic.MITIGATION, mitigation.pk)
        Target.objects.bulk_create(targets)
        self._unit.transitions += transitions


def _prefixes_of(domains: Iterable[int]) -> dict[int, list[Network]]:
    found: dict[int, list[Network]] = {pk: [] for pk in domains}
    for domain_id, prefix in DomainPrefix.objects.filter(domain_id__in=found).values_list("domain_id", "prefix"):
        found[domain_id].append(ipaddress.ip_network(prefix))
    return found


def _start_lifetime(mitigation: Mitigation, lifetime: int, now: datetime) -> None:
    mitigation.lifetime = lifetime
    mitigation.refreshed_at = now
    mitigation.expires_at = None if lifetime == INDEFINITE_LIFETIME else now + timedelta(seconds=lifetime)
    mitigation.ends_at = None


def _target(mitigation: Mitigation, prefix: Network) -> Target:
    first, last = range_keys(prefix)
    return Target(mitigation=mitigation, family=prefix.version, first=first, last=last)


def _first_transition(mitigation: Mitigation) -> Transition:
    return Transition(
        mitigation=mitigation,
        old=None,
        new=mitigation.status,
        happening="submitted",
        reason=mitigation.status_reason,
        actor=_actor(mitigation.client),
        at=mitigation.requested_at,
    )


# -- overlap ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Overlaps:
    """Live requests that share an address: of the same client and cuid, and the addresses shared with anybody."""

    own: list[Mitigation]
    foreign: bool
    common: tuple[Network, ...]

    def with_others(self) -> ConflictInformation | None:
        """What a request that stays active although others of its domain overlap is told (section 4.4.1.3)."""
        if not self.foreign:
            return None
        return ConflictInformation(
            cause=ConflictCause.OVERLAPPING_TARGETS,
            status=ConflictStatus.REQUEST_ACTIVE,
            scope=Scope(target_prefix=self.common),
        )


class _Neighbours:
    """Live targets near those of a batch: found with one query a family, then kept current as the batch goes on."""

    def __init__(self, requests: Iterable[MitigationRequest], domain_ids: Iterable[int]) -> None:
        prefixes = {prefix for request in requests for prefix in request.scope.target_prefix}
        self._ranges: list[tuple[Network, Mitigation]] = []
        for target in _touching(prefixes, domain_ids):
            self._ranges.append((_network(target), target.mitigation))

    def overlapping(self, client: Client, request: MitigationRequest) -> _Overlaps:
        own: dict[int, Mitigation] = {}
        common: dict[Network, None] = {}
        foreign = False
        for network, mitigation in self._ranges:
            for prefix in request.scope.target_prefix:
                if network.version != prefix.version or not network.overlaps(prefix):
                    continue
                common[max(network, prefix, key=lambda one: one.prefixlen)] = None
                if (mitigation.client_id, mitigation.cuid) == (client.pk, request.cuid):
                    own[id(mitigation)] = mitigation
                else:
                    foreign = True
        return _Overlaps(list(own.values()), foreign, tuple(common))

    def add(self, mitigation: Mitigation, scope: Scope) -> None:
        self._ranges += [(prefix, mitigation) for prefix in scope.target_prefix]

    def remove(self, mitigation: Mitigation) -> None:
        self._ranges = [(network, other) for network, other in self._ranges if other is not mitigation]


def _touching(prefixes: set[Network], domain_ids: Iterable[int]) -> list[Target]:
    """Targets that contain one of the prefixes or lie inside one; both look-ups use the index."""
    found: dict[int, Target] = {}
    live = Target.objects.select_related("mitigation__client").filter(mitigation__domain_id__in=list(domain_ids))
    for family in (4, 6):
        asked = [prefix for prefix in prefixes if prefix.version == family]
        if not asked:
            continue
        above = sorted({key for prefix in asked for key in ancestor_keys(prefix)})
        for start in range(0, len(above), 10_000):
            for target in live.filter(family=family, first__in=above[start : start + 10_000]):
                found[target.pk] = target
        for prefix in asked:
            if prefix.prefixlen < prefix.max_prefixlen:
                first, last = range_keys(prefix)
                for target in live.filter(family=family, first__gte=first, first__lte=last):
                    found[target.pk] = target
    shared: dict[int, Mitigation] = {}
    for target in found.values():  # one object a mitigation, so that a status set on it is set everywhere
        target.mitigation = shared.setdefault(target.mitigation_id, target.mitigation)
    return [target for target in found.values() if _overlaps_any(_network(target), prefixes)]


def _network(target: Target) -> Network:
    first, last = int.from_bytes(target.first, "big"), int.from_bytes(target.last, "big")
    width = 32 if target.family == 4 else 128
    length = width - (last - first).bit_length()
    if target.family == 4:
        return ipaddress.IPv4Network((first, length))
    return ipaddress.IPv6Network((first, length))


def _overlaps_any(network: Network, prefixes: set[Network]) -> bool:
    return any(network.version == prefix.version and network.overlaps(prefix) for prefix in prefixes)


# -- withdraw, stop, expire -------------------------------------------------------------------------------------------


def withdraw(withdrawal: Withdrawal, *, now: datetime) -> None:
    """One DELETE in a transaction of its own."""
    withdraw_many([withdrawal], now=now)


def withdraw_many(withdrawals: Sequence[Withdrawal], *, now: datetime) -> None:
    """Start the active-but-terminating period of each (RFC 9132, section 4.4.4).

    What does not exist, is foreign, or is ending already is left alone: DELETE answers 2.02 in every case.
    """
    with unit_of_work(now) as unit:
        locks.domains_of_clients(one.client_id for one in withdrawals)
        live = (
            Mitigation.objects.live()
            .select_related("client")
            .filter(client_id__in={one.client_id for one in withdrawals}, mid__in={one.mid for one in withdrawals})
        )
        found = {(row.client_id, row.cuid, row.mid): row for row in live}
        for one in withdrawals:
            mitigation = found.get((one.client_id, one.cuid, one.mid))
            if mitigation is None or mitigation.is_ending:
                continue
            record(mitigation, Happening.CLIENT_WITHDREW, unit=unit, actor=_actor(mitigation.client))
            unit.audit(door="signal", actor=_actor(mitigation.client), action="withdraw", subject=_subject(mitigation))


def stop(mitigation_id: int, *, actor: str, reason: str, now: datetime, door: str = "dashboard") -> None:
    """An operator ends it: status 7, no terminating period (section 4.4.1.3). Raises NotFound when it has ended."""
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations([mitigation_id])
        mitigation = Mitigation.objects.live().filter(pk=mitigation_id).first()
        if mitigation is None or Status(mitigation.status) is Status.WITHDRAWN:
            raise NotFound("this mitigation has ended already")
        before = {"status": mitigation.status}
        record(mitigation, Happening.SERVER_WITHDREW, unit=unit, actor=actor, reason=reason)
        unit.audit(
            door=door,
            actor=actor,
            action="stop",
            subject=_subject(mitigation),
            before=before,
            after={"status": mitigation.status, "reason": reason},
        )


def expire(*, now: datetime, limit: int = 1000) -> int:
    """Move on whatever has reached the end of its lifetime or terminating period; returns how many that were."""
    ids = list(Mitigation.objects.due(now).order_by("pk").values_list("pk", flat=True)[:limit])
    if not ids:
        return 0
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations(ids)
        due = list(Mitigation.objects.due(now).filter(pk__in=ids).order_by("pk"))
        for mitigation in due:
            record(mitigation, _what_time_brings(mitigation, now), unit=unit, actor="server")
    return len(due)


def _what_time_brings(mitigation: Mitigation, now: datetime) -> Happening:
    if not mitigation.is_ending:
        return Happening.LIFETIME_ENDED
    if mitigation.rearms and _lasts_beyond(mitigation, now):
        return Happening.REARMED
    return Happening.GRACE_ELAPSED


def _lasts_beyond(mitigation: Mitigation, now: datetime) -> bool:
    until = _end_of_lifetime(mitigation)
    return until is None or until > now


def _end_of_lifetime(mitigation: Mitigation) -> datetime | None:
    if mitigation.lifetime == INDEFINITE_LIFETIME:
        return None
    return mitigation.refreshed_at + timedelta(seconds=mitigation.lifetime)


def session_lost(client_id: int, *, now: datetime) -> int:
    """Start what this client asked to be started when it can no longer ask; returns how many that were.

    Its immediate requests that overlap give way: the loss itself is the request for the wider protection
    (RFC 9132, sections 4.4.1.3 and 4.7). Saying it twice starts nothing twice.
    """
    with unit_of_work(now) as unit:
        locks.domains_of_clients([client_id])
        live = list(Mitigation.objects.live().filter(client_id=client_id).select_related("client"))
        armed = [one for one in live if Status(one.status) is Status.SIGNAL_LOSS]
        for mitigation in armed:
            mitigation.mitigation_start = now
            unit.save(mitigation, "mitigation_start")
            record(mitigation, Happening.SESSION_LOST, unit=unit, actor="server", reason="the session was lost")
        for other in live:
            if other.trigger_mitigation and other.is_active and any(_share_an_address(other, one) for one in armed):
                reason = "the session was lost, and a preconfigured request takes over"
                record(other, Happening.PREEMPTED, unit=unit, actor="server", reason=reason)
    return len(armed)


def _share_an_address(one: Mitigation, other: Mitigation) -> bool:
    theirs = set(Scope.from_json(other.scope).target_prefix)
    return any(_overlaps_any(prefix, theirs) for prefix in Scope.from_json(one.scope).target_prefix)


# -- history ----------------------------------------------------------------------------------------------------------


def record(mitigation: Mitigation, happening: Happening, *, unit: Unit, actor: str, reason: str = "") -> None:
    """The only place where `status` changes: look it up in the table, set what follows from it, write the history.

    Raises IllegalTransition. The row is written when the unit ends.
    """
    old = Status(mitigation.status)
    new = next_status(old, happening)
    reason = reason[:LONGEST]
    mitigation.status = new
    mitigation.status_reason = reason
    fields = {"status", "status_reason", *_consequences(mitigation, old, new, unit.now)}
    unit.transitions.append(
        Transition(
            mitigation=mitigation, old=old, new=new, happening=happening, reason=reason, actor=actor, at=unit.now
        )
    )
    unit.save(mitigation, *fields)
    if (old in ACTIVE) != (new in ACTIVE):
        unit.rules_are_stale()


def _consequences(mitigation: Mitigation, old: Status, new: Status, now: datetime) -> set[str]:
    """Deadlines and proof that belong to the new status; returns the fields set."""
    if new is Status.TERMINATING:
        mitigation.last_grace = grace_period(mitigation.last_grace)
        mitigation.ends_at = now + timedelta(seconds=mitigation.last_grace)
        mitigation.expires_at = None
        return {"last_grace", "ends_at", "expires_at"}
    if new is Status.WITHDRAWN:
        mitigation.ends_at = now + timedelta(seconds=WITHDRAWN_SHOWN)
        mitigation.expires_at = None
        return {"ends_at", "expires_at", *_forget_proof(mitigation)}
    if new is Status.TERMINATED:
        mitigation.ended_at = now
        mitigation.ends_at = mitigation.expires_at = None
        Target.objects.filter(mitigation=mitigation).delete()
        return {"ended_at", "ends_at", "expires_at"}
    if new is Status.SIGNAL_LOSS:
        mitigation.ends_at = mitigation.mitigation_start = None
        mitigation.expires_at = _end_of_lifetime(mitigation)
        mitigation.rearms = False
        return {"ends_at", "mitigation_start", "expires_at", "rearms"}
    if old in (Status.TERMINATING, Status.WITHDRAWN):
        mitigation.ends_at = None
        return {"ends_at"}
    return set()


def _forget_proof(mitigation: Mitigation) -> set[str]:
    mitigation.installed_at = mitigation.hitting_at = None
    return {"installed_at", "hitting_at"}


def _actor(client: Client) -> str:
    return f"client {client.name}"[:LONGEST]


def _subject(mitigation: Mitigation) -> str:
    return f"mitigation {mitigation.client_id}/{mitigation.cuid}/{mitigation.mid}"


# -- evidence ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the enforcer found out about one mitigation.

    `refused` is the playbook's or the policy's reason for rendering nothing. `enforced` is None where no point
    enforces (dry run), else whether all of its rules were read back from every point that should have them.
    """

    mitigation_id: int
    refused: str | None
    notes: tuple[str, ...]
    enforced: bool | None
    problem: str


def advance(found: Iterable[Evidence], *, now: datetime) -> None:
    """Move mitigations to the status and the word of proof that the evidence allows, no further."""
    evidence = {one.mitigation_id: one for one in found}
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations(evidence)
        for mitigation in Mitigation.objects.live().filter(pk__in=evidence):
            _advance(mitigation, evidence[mitigation.pk], unit)


def _advance(mitigation: Mitigation, found: Evidence, unit: Unit) -> None:
    happening, reason = _happening(Status(mitigation.status), found)
    if happening is not None:
        record(mitigation, happening, unit=unit, actor="enforcer", reason=reason)
    wanted = {
        "rendered_at": None if found.refused else mitigation.rendered_at or unit.now,
        "installed_at": mitigation.installed_at or unit.now if found.enforced else None,
        "hitting_at": mitigation.hitting_at if found.enforced else None,
        "notes": list(found.notes),
        "problem": (found.refused or found.problem)[:255],
    }
    changed = [name for name, value in wanted.items() if getattr(mitigation, name) != value]
    for name in changed:
        setattr(mitigation, name, wanted[name])
    if changed:
        unit.save(mitigation, *changed)


def _happening(status: Status, found: Evidence) -> tuple[Happening | None, str]:
    """What the evidence means in this status; one that is ending keeps its status."""
    if status not in (Status.IN_PROGRESS, Status.MITIGATED, Status.STOPPED, Status.EXCEEDED):
        return None, ""
    if found.refused or found.enforced is None:
        happening = Happening.CAPABILITY_EXCEEDED if status is not Status.EXCEEDED else None
        return happening, (found.refused or found.problem)[:255]
    if found.enforced:
        return (Happening.RULES_INSTALLED if status in (Status.IN_PROGRESS, Status.EXCEEDED) else None), ""
    return (Happening.RULES_LOST if status is not Status.IN_PROGRESS else None), found.problem[:255]
