"""A PUT: what it grants, what it refuses, what it writes (RFC 9132, section 4.4.1.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.db import transaction

from mitigation.exceptions import (
    DotsError,
    Ignored,
    MalformedRequest,
    OutsidePolicy,
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
    EnforcementPoint,
    Mitigation,
    Transition,
)
from mitigation.protocol.conflicts import ConflictCause, ConflictInformation
from mitigation.protocol.constants import INDEFINITE_LIFETIME
from mitigation.protocol.scope import MitigationRequest, Scope
from mitigation.protocol.status import Happening, Status
from mitigation.services import approvals, bulk, conflicts, cuids, locks, policies, scopes, shadow
from mitigation.services.filters import Filters
from mitigation.services.history import actor_of, record, subject_of
from mitigation.services.overlaps import Neighbours, Reach, Shared, asker_of, common_scope, reach_now, reach_of
from mitigation.services.units import Unit, unit_of_work

MAXIMUM_CUIDS = 64  # of one client; ever new ones are a fault or an attack (RFC 9132, section 11)


@dataclass(frozen=True, slots=True)
class Submission:
    """A decoded PUT of an authenticated client, with its conditions (RFC 7252, section 5.10.8)."""

    client_id: int
    request: MitigationRequest
    if_match: bool = False
    if_none_match: bool = False


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


def _key(submission: Submission) -> tuple[int, str, str, int]:
    request = submission.request
    return submission.client_id, request.cdid, request.cuid, request.mid


class _Batch:
    """What a batch of PUTs needs to know, read with a handful of queries, and what it will write."""

    def __init__(self, submissions: Sequence[Submission], unit: Unit) -> None:
        self._unit = unit
        self._now = unit.now
        requests = [submission.request for submission in submissions]
        client_ids = {submission.client_id for submission in submissions}
        self._clients = {client.pk: client for client in Client.objects.filter(pk__in=client_ids)}
        self._domains = locks.domains({client.domain_id for client in self._clients.values()})
        self._allowed = scopes.allowed(self._domains)
        self._owner_of_cuid = {
            (cdid, cuid): owner
            for cdid, cuid, owner in Cuid.objects.filter(cuid__in={request.cuid for request in requests}).values_list(
                "cdid", "cuid", "client_id"
            )
        }
        self._live = {found.key: found for found in Mitigation.objects.live_under(map(_key, submissions))}
        for found in self._live.values():
            found.client = self._clients[found.client_id]
        self._aliases = scopes.Aliases(((one.client_id, one.request) for one in submissions), now=unit.now)
        self._filters = Filters(((one.client_id, one.request) for one in submissions), unit)
        self._neighbours = Neighbours(self._reaches(submissions), self._domains, known=self._live.values())
        self._quotas = policies.Quotas(unit.now)
        self._new: list[tuple[Mitigation, Scope]] = []
        self._new_cuids: list[Cuid] = []

    @cached_property
    def _enforces(self) -> bool:
        return EnforcementPoint.objects.filter(enabled=True, enforces=True).exists()

    def _reaches(self, submissions: Sequence[Submission]) -> Iterator[Reach]:
        """Of those that may start; a refresh overlaps as it did. Unknown aliases are refused when their turn comes."""
        for one in submissions:
            existing = self._live.get(_key(one))
            if existing is None:
                with suppress(MalformedRequest):
                    yield reach_of(self._aliases.expand(one.client_id, one.request))
            elif Status(existing.status) is Status.WITHDRAWN:
                yield reach_now(existing)

    def decide(self, submission: Submission) -> Outcome:
        try:
            return self._decide(submission)
        except DotsError as refusal:
            if isinstance(refusal, OutsidePolicy | Unavailable):
                self._audit_refusal(submission, refusal)
            return Refused(refusal)

    def _decide(self, submission: Submission) -> Granted:
        request = submission.request
        client = self._clients.get(submission.client_id)
        if client is None or not client.enabled:
            raise Unauthorized("this client may not use the service")
        self._check_cuid(client, request)
        existing = self._live.get(_key(submission))
        if existing is None:
            scope = self._aliases.expand(client.pk, request)
            self._allowed[client.domain_id].check(scope)
            _check_absent(submission)
            domain = self._domains[client.domain_id]
            policies.check(domain, scope, domain.playbook)
            self._filters.check(client.pk, request, under_attack=self._is_under_attack(client, request))
            return self._create(client, request, scope)
        self._allowed[client.domain_id].check(_protected_scope(existing, request))
        if submission.if_none_match:
            raise PreconditionFailed(f"mid {request.mid} exists already")
        if submission.if_match and existing.is_ending:
            raise Ignored("this mitigation is ending: an efficacy update that comes late does not renew it")
        if submission.if_match and request.attack_status is None:
            raise MalformedRequest("an efficacy update (If-Match) needs attack-status")
        return self._refresh(existing, request)

    def _check_cuid(self, client: Client, request: MitigationRequest) -> None:
        owner = self._owner_of_cuid.get((request.cdid, request.cuid))
        if owner is not None and owner != client.pk:
            raise ScopeConflict(
                "this cuid is used by another client; choose a new one",
                ConflictInformation(cause=ConflictCause.CUID_COLLISION),
            )

    # ...existing request

    def _refresh(self, mitigation: Mitigation, request: MitigationRequest) -> Granted:
        if mitigation.scope_digest != request.digest:
            raise MalformedRequest(
                f"mid {request.mid} exists with other parameters; a refresh repeats all of them but lifetime,"
                " another scope needs a new, higher mid"
            )
        if Status(mitigation.status) is Status.WITHDRAWN and (conflict := self._others_in_the_way(mitigation)):
            return self._deactivate_again(mitigation, conflict)
        again = self._begin_again(mitigation, request) if mitigation.is_ending else []
        if mitigation.is_ending:
            record(mitigation, Happening.CLIENT_RENEWED, unit=self._unit, actor=actor_of(mitigation.client))
            self._unit.rules_are_stale()
        domain = self._domains[mitigation.domain_id]
        fields = ["lifetime", "refreshed_at", "expires_at", "ends_at", *again]
        asked = request.lifetime if request.lifetime is not None else mitigation.remaining(self._now) or 1
        lifetime = policies.grant(domain, asked)
        _start_lifetime(mitigation, lifetime, self._now)
        after: dict[str, object] = {"lifetime": lifetime}
        if request.attack_status is not None:
            mitigation.attack_status, mitigation.attack_status_at = request.attack_status, self._now
            fields += ["attack_status", "attack_status_at"]
            after["attack-status"] = request.attack_status
        if mitigation.pk is not None:
            self._unit.save(mitigation, *fields)
        self._audit("efficacy" if "attack-status" in after else "refresh", mitigation, after=after)
        return Granted(request.mid, lifetime, created=False, conflict=conflicts.told(mitigation, now=self._now))

    def _begin_again(self, mitigation: Mitigation, request: MitigationRequest) -> list[str]:
        """Of one that ends: what is refused is refused before anything of it is changed. Returns the fields set."""
        domain = self._domains[mitigation.domain_id]
        is_withdrawn = Status(mitigation.status) is Status.WITHDRAWN
        switches = is_withdrawn and bool(mitigation.acl_list) and approvals.is_automatic(domain)
        if switches:  # it waited when it was first asked for, and waits no more
            under_attack = self._is_under_attack(mitigation.client, request)
            self._filters.check(mitigation.client_id, request, under_attack=under_attack)
        self._quotas.take_again(domain)
        if not is_withdrawn:
            return []
        fields = approvals.begin(mitigation, domain, now=self._now)
        if not switches:
            return fields
        self._filters.switch(mitigation.client_id, request)
        mitigation.acl_list = []
        return [*fields, "acl_list"]

    def _others_in_the_way(self, mitigation: Mitigation) -> ConflictInformation | None:
        """Why an inactive request that is asked for again must wait on. Raises ScopeConflict where it is refused."""
        reach = reach_now(mitigation) if mitigation.pk else reach_of(Scope.from_json(mitigation.protected_scope))
        found = self._neighbours.overlapping(asker_of(mitigation), reach, besides=mitigation)
        return self._judge(self._domains[mitigation.domain_id], found.others)

    def _judge(self, domain: Domain, others: Iterable[Shared]) -> ConflictInformation | None:
        """The domain's policy on a request that overlaps active ones of other clients; None lets it be active."""
        in_the_way = conflicts.active(others)
        if not in_the_way or domain.conflict_policy == Domain.ConflictPolicy.BOTH:
            return None
        conflict = conflicts.gives_way(in_the_way, now=self._now)
        if domain.conflict_policy == Domain.ConflictPolicy.REFUSE_NEW:
            raise ScopeConflict("another client of this domain has an active request that overlaps", conflict)
        return conflict

    def _deactivate_again(self, mitigation: Mitigation, conflict: ConflictInformation) -> Granted:
        fields = conflicts.deactivate(mitigation, conflict, now=self._now)
        if mitigation.pk is not None:
            self._unit.save(mitigation, *fields)
        self._audit("refresh", mitigation, after={"lifetime": mitigation.lifetime, "conflict": mitigation.conflict})
        return Granted(mitigation.mid, mitigation.lifetime, created=False, conflict=conflict)

    # ...new request

    def _create(self, client: Client, request: MitigationRequest, scope: Scope) -> Granted:
        domain = self._domains[client.domain_id]
        reach = reach_of(scope)
        overlapped = self._neighbours.overlapping((client.pk, request.cdid, request.cuid), reach)
        own = [shared.mitigation for shared in overlapped.own]
        same = [other for other in own if other.trigger_mitigation == request.trigger_mitigation]
        higher = [other for other in same if other.mid > request.mid]
        if higher:
            winner = max(higher, key=lambda other: other.mid)
            raise ScopeConflict(
                f"mid {winner.mid} is newer and overlaps",
                ConflictInformation(
                    cause=ConflictCause.OVERLAPPING_TARGETS, mid=winner.mid, scope=common_scope(overlapped.own)
                ),
            )
        waits = self._judge(domain, overlapped.others) if request.trigger_mitigation else None
        # What waits for approval leaves what is approved where it is, so that approval takes no protection away.
        replaced = [other for other in same if approvals.is_automatic(domain) or other.approved_at is None]
        self._quotas.take(domain, replaced=len(replaced))
        self._register_cuid(client, request)
        mitigation = self._row(client, request, scope, waits)
        for other in replaced:
            self._override(other, by=request.mid)
        if mitigation.is_active and mitigation.approved_at is not None:
            self._preempt([other for other in own if other not in same], by=request.mid)
        if mitigation.approved_at is not None:
            self._filters.switch(client.pk, request)
        self._new.append((mitigation, scope))
        self._live[mitigation.key] = mitigation
        self._neighbours.add(mitigation, reach)
        self._unit.rules_are_stale()
        conflict = waits or (conflicts.goes_on(conflicts.active(overlapped.others)) if mitigation.is_active else None)
        if conflict is not None:
            conflicts.settle_at_end(mitigation, self._unit)
        self._audit("submit", mitigation, after={"scope": mitigation.scope, "lifetime": mitigation.lifetime})
        return Granted(request.mid, mitigation.lifetime, created=True, conflict=conflict)

    def _is_under_attack(self, client: Client, request: MitigationRequest) -> bool:
        """Asked where filters are to be switched only: whether anything of this client is active."""
        if not request.acls or request.trigger_mitigation:
            return bool(request.acls)
        asker = (client.pk, request.cdid, request.cuid)
        if any(asker_of(row) == asker and row.is_active for row, _ in self._new):
            return True
        active = Mitigation.objects.enforced()
        return active.filter(client=client, cdid=request.cdid, cuid=request.cuid).exists()

    def _row(
        self, client: Client, request: MitigationRequest, scope: Scope, waits: ConflictInformation | None
    ) -> Mitigation:
        domain = self._domains[client.domain_id]
        mitigation = Mitigation(
            domain=domain,
            client=client,
            cdid=request.cdid,
            cuid=request.cuid,
            mid=request.mid,
            scope=request.scope.as_json(),
            expanded_scope=scope.as_json() if request.scope.alias_name else None,
            scope_digest=request.digest,
            trigger_mitigation=request.trigger_mitigation,
            playbook=domain.playbook,
            requested_at=self._now,
        )
        approvals.begin(mitigation, domain, now=self._now)
        if mitigation.approved_at is None:
            mitigation.acl_list = [one.as_json() for one in request.acls]
        mitigation.status, mitigation.status_reason = self._first_status(domain, request, waits)
        mitigation.mitigation_start = self._now if mitigation.status != Status.SIGNAL_LOSS and not waits else None
        assert request.lifetime is not None  # the decoder lets it be left out beside attack-status only
        _start_lifetime(mitigation, policies.grant(domain, request.lifetime), self._now)
        if not waits and mitigation.approved_at is None:
            mitigation.status_reason = approvals.waits_for(mitigation)
        if waits:
            mitigation.approve_by = None  # nobody is asked before it is its turn
            conflicts.deactivate(mitigation, waits, now=self._now)
        return mitigation

    def _first_status(
        self, domain: Domain, request: MitigationRequest, waits: ConflictInformation | None
    ) -> tuple[Status, str]:
        """Armed until the session is lost, inactive, or in progress; a dry run sets nothing up and never says so."""
        if waits is not None:
            return Status.WITHDRAWN, "another client of the domain has an active request that overlaps"
        if not request.trigger_mitigation:
            return Status.SIGNAL_LOSS, ""
        if domain.shadow:
            return Status.EXCEEDED, shadow.SAID
        return (Status.IN_PROGRESS, "") if self._enforces else (Status.EXCEEDED, "dry run: no traffic is touched")

    def _override(self, other: Mitigation, *, by: int) -> None:
        self._live.pop(other.key, None)
        self._neighbours.remove(other)
        if other.pk is None:  # created and replaced within one batch: it never existed for anybody else
            self._new = [(row, scope) for row, scope in self._new if row is not other]
            return
        record(
            other, Happening.OVERRIDDEN, unit=self._unit, actor=actor_of(other.client), reason=f"replaced by mid {by}"
        )

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
                    actor=actor_of(other.client),
                    reason=f"the immediate request {by} overlaps",
                )

    def _register_cuid(self, client: Client, request: MitigationRequest) -> None:
        cdid, cuid = request.cdid, request.cuid
        if (cdid, cuid) in self._owner_of_cuid:
            return
        if Cuid.objects.filter(client=client, cdid=cdid).count() >= MAXIMUM_CUIDS:
            raise Unavailable(f"this client has used {MAXIMUM_CUIDS} cuids, its maximum", retry_after=3600)
        self._owner_of_cuid[(cdid, cuid)] = client.pk
        self._new_cuids.append(Cuid(client=client, cdid=cdid, cuid=cuid, since=self._now))

    def _audit(self, action: str, mitigation: Mitigation, *, after: object) -> None:
        self._unit.audit(
            door="signal", actor=actor_of(mitigation.client), action=action, subject=subject_of(mitigation), after=after
        )

    def _audit_refusal(self, submission: Submission, refusal: DotsError) -> None:
        client, request = self._clients[submission.client_id], submission.request
        self._unit.audit(
            door="signal",
            actor=actor_of(client),
            action="refuse",
            subject=f"mitigation {client.pk}/{request.cuid}/{request.mid}",
            after={"scope": request.scope.as_json(), "reason": str(refusal)},
        )

    def write(self) -> None:
        # In one order for everybody: two batches with the same new cuids then wait for each other in no circle.
        Cuid.objects.bulk_create(sorted(self._new_cuids, key=lambda one: (one.cuid, one.cdid)))
        if self._new_cuids:
            transaction.on_commit(lambda: cuids.log_unusual(self._new_cuids))
        bulk.insert([mitigation for mitigation, _ in self._new])
        targets, names, transitions = [], [], []
        for mitigation, scope in self._new:
            targets += scopes.target_rows(mitigation, scope)
            names += scopes.name_rows(mitigation, scope, now=self._now)
            transitions.append(_first_transition(mitigation))
            self._unit.tell(Change.Topic.MITIGATION, mitigation.pk)
        bulk.insert(targets)
        bulk.insert(names)
        self._unit.transitions += transitions


def _protected_scope(mitigation: Mitigation, request: MitigationRequest) -> Scope:
    """What is protected; a refresh that repeats it need not be read from the row once more."""
    if mitigation.expanded_scope is None and mitigation.scope_digest == request.digest:
        return request.scope
    return Scope.from_json(mitigation.protected_scope)


def _start_lifetime(mitigation: Mitigation, lifetime: int, now: datetime) -> None:
    mitigation.lifetime = lifetime
    mitigation.refreshed_at = now
    mitigation.expires_at = None if lifetime == INDEFINITE_LIFETIME else now + timedelta(seconds=lifetime)
    mitigation.ends_at = None


def _first_transition(mitigation: Mitigation) -> Transition:
    return Transition(
        mitigation=mitigation,
        old=None,
        new=mitigation.status,
        happening="submitted",
        reason=mitigation.status_reason,
        actor=actor_of(mitigation.client),
        at=mitigation.requested_at,
    )
