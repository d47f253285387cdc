"""Mitigation requests, what became of them, and the traffic they saw."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Q

from mitigation.models.domains import Client, Domain
from mitigation.protocol.status import ACTIVE, Status

INDEFINITE = -1

Key = tuple[int, str, str, int]  # client, cdid, cuid, mid: one request as its client names it


class MitigationQuerySet(models.QuerySet["Mitigation"]):
    def live(self) -> MitigationQuerySet:
        """Those a client can still see: from acceptance to the end of the terminating period."""
        return self.filter(ended_at=None)

    def live_under(self, keys: Iterable[Key]) -> MitigationQuerySet:
        """The live ones under these keys: by the index on all four parts, however many there are of each."""
        mids: dict[tuple[int, str, str], set[int]] = {}
        for client_id, cdid, cuid, mid in keys:
            mids.setdefault((client_id, cdid, cuid), set()).add(mid)
        wanted = Q(pk__in=())
        for (client_id, cdid, cuid), some in mids.items():
            # `ended_at` in each part: SQLite judges by the part alone whether the partial index will do.
            wanted |= Q(ended_at=None, client_id=client_id, cdid=cdid, cuid=cuid, mid__in=some)
        return self.filter(wanted)

    def for_client(self, client: Client) -> MitigationQuerySet:
        return self.filter(client=client)

    def enforced(self) -> MitigationQuerySet:
        """Those that want rules: everything active, the terminating period included."""
        return self.live().filter(status__in=[int(status) for status in ACTIVE])

    def stepped(self) -> MitigationQuerySet:
        """Those that stand on a rung above where they began."""
        return self.live().filter(step_until__isnull=False)

    def due(self, now: datetime) -> MitigationQuerySet:
        """Those whose lifetime, terminating period or time for approval has run out, and those to be armed again."""
        unapproved = Q(approve_by__lte=now, ends_at=None)  # one that is ending already is left to end
        return self.live().filter(Q(expires_at__lte=now) | Q(ends_at__lte=now) | Q(rearms_at__lte=now) | unapproved)


class Mitigation(models.Model):
    """(client, cdid, cuid, mid): what was asked, what was granted, where it stands. Ended rows stay as history."""

    domain = models.ForeignKey(Domain, on_delete=models.CASCADE, related_name="mitigations")
    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="mitigations")
    cdid = models.CharField(max_length=250, blank=True)  # as a trusted gateway gave it; empty for everybody else
    cuid = models.CharField(max_length=250)
    mid = models.PositiveBigIntegerField()

    scope = models.JSONField()  # as received, in the order received, RFC names as keys
    expanded_scope = models.JSONField(null=True, blank=True)  # with aliases as they were then; None: it names none
    scope_digest = models.CharField(max_length=64)  # set semantics: a refresh must repeat it
    trigger_mitigation = models.BooleanField(default=True)
    lifetime = models.BigIntegerField()  # granted, seconds; -1 is indefinite
    playbook = models.CharField(max_length=32)

    status = models.PositiveSmallIntegerField(choices=[(int(s), s.name) for s in Status])
    status_reason = models.CharField(max_length=255, blank=True)
    requested_at = models.DateTimeField()  # first accepted; never changes
    refreshed_at = models.DateTimeField()  # the lifetime counts from here
    expires_at = models.DateTimeField(null=True, blank=True)  # None: indefinite, or already ending
    mitigation_start = models.DateTimeField(null=True, blank=True)
    last_grace = models.PositiveSmallIntegerField(default=0)  # seconds of the last terminating period
    ends_at = models.DateTimeField(null=True, blank=True)  # end of the running terminating period
    ended_at = models.DateTimeField(null=True, blank=True)
    rearms = models.BooleanField(default=False)  # withdrawn for an overlap only: armed again when that has been told

    rearms_at = models.DateTimeField(null=True, blank=True)  # its attack ended: armed again when that has been told

    # Overlap with other clients' requests: conflict-status and the common targets, as JSON with RFC names.
    conflict = models.JSONField(null=True, blank=True)
    retry_at = models.DateTimeField(null=True, blank=True)  # deactivated by it: when asking again may help

    # The proof chain: each is the moment it became true, and None again when it stopped being true.
    approved_at = models.DateTimeField(null=True, blank=True)  # None: it waits for people, and has no rules
    rendered_at = models.DateTimeField(null=True, blank=True)
    installed_at = models.DateTimeField(null=True, blank=True)
    hitting_at = models.DateTimeField(null=True, blank=True)
    approvals = models.JSONField(default=list, blank=True)  # who let it be enforced, and when: {"by", "at"}
    approve_by = models.DateTimeField(null=True, blank=True)  # when the server withdraws it for want of approval
    notes = models.JSONField(default=list, blank=True)  # what the playbook left out, and why
    attack_status = models.PositiveSmallIntegerField(null=True, blank=True)  # as the client last saw it (key 29)
    attack_status_at = models.DateTimeField(null=True, blank=True)
    evidence = models.JSONField(null=True, blank=True)  # reported: kind, source_ports, sources, by, at
    step_until = models.DateTimeField(null=True, blank=True)  # None: `playbook` is where it began
    pressed_since = models.DateTimeField(null=True, blank=True)  # more than the domain's threshold passes
    calm_since = models.DateTimeField(null=True, blank=True)  # less would pass, were it one rung lower
    attackers = models.JSONField(default=list, blank=True)  # source networks that were reported, as text
    accept_lists = models.JSONField(default=list, blank=True)  # names of its client's filters that accept one of them
    acl_list = models.JSONField(default=list, blank=True)  # filters to switch when it is approved (RFC 9133)
    acl_changes = models.JSONField(default=list, blank=True)  # filters of its client switched by others meanwhile
    problem = models.CharField(max_length=255, blank=True)  # why it is not enforced, for operators

    # Totals since mitigation_start; None where no point can count.
    dropped_packets = models.BigIntegerField(null=True, blank=True)
    dropped_octets = models.BigIntegerField(null=True, blank=True)
    passed_packets = models.BigIntegerField(null=True, blank=True)
    passed_octets = models.BigIntegerField(null=True, blank=True)
    redirected_packets = models.BigIntegerField(null=True, blank=True)  # neither dropped nor seen to arrive
    redirected_octets = models.BigIntegerField(null=True, blank=True)
    counted_at = models.DateTimeField(null=True, blank=True)
    dropped_at = models.DateTimeField(null=True, blank=True)  # when a counter of drops last moved

    objects = MitigationQuerySet.as_manager()

    class Meta:
        constraints = [
            # One live request per mid; ended ones may repeat it.
            models.UniqueConstraint(
                fields=["client", "cdid", "cuid", "mid"], condition=Q(ended_at=None), name="mitigation_live_mid"
            ),
            models.CheckConstraint(condition=Q(lifetime__gte=-1) & ~Q(lifetime=0), name="mitigation_lifetime"),
            models.CheckConstraint(condition=Q(mid__lte=4_294_967_295), name="mitigation_mid"),
        ]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(ended_at=None), name="mitigation_expires"),  # due()
            models.Index(fields=["ends_at"], condition=Q(ended_at=None), name="mitigation_ends"),  # due()
            models.Index(fields=["rearms_at"], condition=Q(ended_at=None), name="mitigation_rearms"),  # due()
            models.Index(fields=["approve_by"], condition=Q(ended_at=None), name="mitigation_approve_by"),  # due()
            models.Index(  # stepped()
                fields=["step_until"],
                condition=Q(ended_at=None, step_until__isnull=False),
                name="mitigation_step_until",
            ),
            models.Index(fields=["domain"], condition=Q(ended_at=None), name="mitigation_live_domain"),  # quota
            models.Index(  # whose conflict may be over
                fields=["domain"], condition=Q(ended_at=None, conflict__isnull=False), name="mitigation_conflicting"
            ),
            models.Index(fields=["status"], condition=Q(ended_at=None), name="mitigation_live_status"),  # enforced()
            models.Index(fields=["-requested_at"], name="mitigation_recent"),  # the dashboard's history
        ]

    def __str__(self) -> str:
        return f"mid {self.mid} of {self.client_id}"

    @property
    def key(self) -> Key:
        return self.client_id, self.cdid, self.cuid, self.mid

    @property
    def protected_scope(self) -> dict[str, Any]:
        """What is protected: the scope with its aliases' targets added."""
        scope: dict[str, Any] = self.expanded_scope if self.expanded_scope is not None else self.scope
        return scope

    @property
    def is_live(self) -> bool:
        return self.ended_at is None

    @property
    def is_ending(self) -> bool:
        return self.ends_at is not None

    @property
    def is_active(self) -> bool:
        return self.is_live and Status(self.status) in ACTIVE

    @property
    def needs_approval(self) -> bool:
        """It waits for people to let it be enforced; one that its client has withdrawn does not."""
        return self.is_live and self.approved_at is None and self.approve_by is not None and not self.is_ending

    @property
    def is_deactivated(self) -> bool:
        """Inactive because another client's request overlaps."""
        return self.is_live and Status(self.status) is Status.WITHDRAWN and self.retry_at is not None

    def remaining(self, now: datetime) -> int:
        """Seconds of lifetime left, never below 0; -1 for an indefinite request (RFC 9132, section 4.4.2)."""
        if self.lifetime == INDEFINITE and not self.is_ending:
            return INDEFINITE
        until = self.ends_at or self.expires_at
        if until is None:
            return 0
        return max(0, round((until - now).total_seconds()))


class Target(models.Model):
    """A range of addresses that a live mitigation protects. Rows go when it ends; history is in `scope`.

    Two prefixes overlap only if one contains the other, so "who overlaps x" is: ranges that start at one of the
    at most 129 prefixes above x, or start inside x. Both parts use the index; comparing both ends would not.
    """

    mitigation = models.ForeignKey(Mitigation, on_delete=models.CASCADE, related_name="targets")
    family = models.PositiveSmallIntegerField()
    first = models.BinaryField(max_length=16)
    last = models.BinaryField(max_length=16)
    name = models.CharField(max_length=253, blank=True)  # the host it was resolved from; empty: asked for as such

    class Meta:
        indexes = [models.Index(fields=["family", "first"], name="target_range")]


class TargetNameQuerySet(models.QuerySet["TargetName"]):
    def due(self, now: datetime) -> TargetNameQuerySet:
        """Those to be asked for now, the longest overdue first."""
        return self.filter(due_at__lte=now).order_by("due_at")


class TargetName(models.Model):
    """A name that a live mitigation protects, and what it stood for when it was last resolved. Goes when it ends."""

    class Kind(models.TextChoices):
        HOST = "host"  # of target-fqdn or target-uri
        ALIAS = "alias"  # for overlaps only: what it stands for was written into the mitigation when it was accepted

    mitigation = models.ForeignKey(Mitigation, on_delete=models.CASCADE, related_name="names")
    kind = models.CharField(max_length=5, choices=Kind.choices, default=Kind.HOST)
    name = models.CharField(max_length=255)
    due_at = models.DateTimeField(null=True, blank=True)  # when it is resolved next; never for an alias
    resolved_at = models.DateTimeField(null=True, blank=True)  # the last answer, also one without addresses
    addresses = models.JSONField(default=list, blank=True)  # those inside the domain's prefixes, as networks
    problem = models.CharField(max_length=255, blank=True)  # what was left out, or why there is nothing

    objects = TargetNameQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["mitigation", "kind", "name"], name="targetname_once")]
        indexes = [
            models.Index(fields=["kind", "name"], name="targetname_name"),  # who overlaps by name
            models.Index(fields=["due_at"], name="targetname_due"),  # due()
        ]

    def __str__(self) -> str:
        return self.name


class Transition(models.Model):
    """One step in the life of a mitigation: old and new status, why, who, when."""

    mitigation = models.ForeignKey(Mitigation, on_delete=models.CASCADE, related_name="transitions")
    old = models.PositiveSmallIntegerField(null=True, blank=True)
    new = models.PositiveSmallIntegerField()
    happening = models.CharField(max_length=32)
    reason = models.CharField(max_length=255, blank=True)
    actor = models.CharField(max_length=255)
    at = models.DateTimeField()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["happening", "at"], name="transition_happened")]  # new requests of a minute


class Sample(models.Model):
    """Traffic of one mitigation in the `seconds` before `at`: differences of counters, zero ones left out."""

    mitigation = models.ForeignKey(Mitigation, on_delete=models.CASCADE, related_name="samples")
    at = models.DateTimeField()
    seconds = models.FloatField()
    dropped_packets = models.BigIntegerField(default=0)
    dropped_octets = models.BigIntegerField(default=0)
    passed_packets = models.BigIntegerField(default=0)
    passed_octets = models.BigIntegerField(default=0)
    redirected_packets = models.BigIntegerField(default=0)  # neither dropped nor passed
    redirected_octets = models.BigIntegerField(default=0)
    limited_packets = models.BigIntegerField(default=0)  # of those dropped: by limits, because too much came
    limited_octets = models.BigIntegerField(default=0)

    COUNTS = (
        "dropped_packets", "dropped_octets", "passed_packets", "passed_octets",
        "redirected_packets", "redirected_octets", "limited_packets", "limited_octets",
    )  # fmt: skip

    class Meta:
        indexes = [
            models.Index(fields=["mitigation", "at"], name="sample_of_mitigation"),  # one chart
            models.Index(fields=["at"], name="sample_at"),  # the sum over all, and thinning by age
        ]
