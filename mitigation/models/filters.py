"""Filters that clients keep ready (RFC 8783, section 7)."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q

from mitigation.models.domains import Client
from mitigation.models.enforcement import EnforcementPoint
from mitigation.models.mitigations import Mitigation
from mitigation.protocol.filters import ActivationType


class AclQuerySet(models.QuerySet["Acl"]):
    def current(self, now: datetime) -> AclQuerySet:
        """Those whose lifetime has not run out; while a mitigation of the client runs none goes."""
        same = {name: models.OuterRef(name) for name in ("client", "cdid", "cuid")}
        attacked = Mitigation.objects.enforced().filter(**same)
        return self.filter(Q(expires_at__gt=now) | models.Exists(attacked))


class Acl(models.Model):
    """An access control list of a client and cuid, by name; its activation type may be changed on both channels."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="acls")
    cdid = models.CharField(max_length=250, blank=True)
    cuid = models.CharField(max_length=250)
    name = models.CharField(max_length=255)
    position = models.PositiveIntegerField(default=0)  # among those of its client and cuid, lowest first; gaps are fine
    acl_type = models.CharField(max_length=64, blank=True)  # bare name of the identity, as it was given
    activation_type = models.PositiveSmallIntegerField(choices=[(int(one), one.name) for one in ActivationType])
    activation_is_set = models.BooleanField(default=True)  # False: the default stands, and is shown as one
    aces = models.JSONField(default=list, blank=True)  # RFC names as keys, in order, in canonical form
    ace_count = models.PositiveIntegerField(default=0)
    awaits_operator = models.BooleanField(
        default=False
    )  # it contradicts another client's, and the domain's policy asks
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField(null=True, blank=True)  # another activation type included, a refresh not
    refreshed_at = models.DateTimeField()
    expires_at = models.DateTimeField()  # RFC 8783, section 7.2: a filter that nobody refreshes goes
    held_at = models.DateTimeField(null=True, blank=True)  # an operator holds it: it does not stand, whatever it says
    held_by = models.CharField(max_length=255, blank=True)
    held_reason = models.CharField(max_length=255, blank=True)

    objects = AclQuerySet.as_manager()

    class Meta:
        ordering = ["position", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["client", "cdid", "cuid", "name"], name="acl_name"),
            models.CheckConstraint(condition=Q(activation_type__in=[1, 2, 3]), name="acl_activation_type"),
        ]

    def __str__(self) -> str:
        return self.name


class EnforcedAce(models.Model):
    """One entry of a list at one point: as read back, and what it matched. Only the enforcer writes these."""

    class State(models.TextChoices):
        INSTALLED = "installed"
        RENDERED = "rendered"  # shown only: a dry run, or its domain is in shadow mode
        IDLE = "idle"  # its list does not stand now

    point = models.ForeignKey(EnforcementPoint, on_delete=models.CASCADE, related_name="aces")
    acl = models.ForeignKey(Acl, on_delete=models.CASCADE, related_name="enforced")
    ace = models.CharField(max_length=64)
    key = models.CharField(max_length=16)  # of its counter
    text = models.CharField(max_length=500)
    drops = models.BooleanField()
    state = models.CharField(max_length=10, choices=State.choices)
    since = models.DateTimeField()
    installed_at = models.DateTimeField(null=True, blank=True)

    # Totals since it came; `raw_*` is the last reading in `epoch`, against which the next one is compared.
    packets = models.BigIntegerField(default=0)
    octets = models.BigIntegerField(default=0)
    epoch = models.CharField(max_length=64, blank=True)  # empty: never counted
    raw_packets = models.BigIntegerField(default=0)
    raw_octets = models.BigIntegerField(default=0)
    read_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["point", "acl", "ace"], name="enforcedace_once")]
        indexes = [models.Index(fields=["point", "key"], name="enforcedace_key")]  # a reading finds its rows

    def __str__(self) -> str:
        return f"{self.acl_id}/{self.ace}"


class RefusedAcl(models.Model):
    """A list that should stand at a point and cannot, and why, while that lasts. Only the enforcer writes these."""

    point = models.ForeignKey(EnforcementPoint, on_delete=models.CASCADE, related_name="refused_acls")
    acl = models.ForeignKey(Acl, on_delete=models.CASCADE, related_name="refusals")
    reason = models.CharField(max_length=255)
    since = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["point", "acl"], name="refusedacl_once")]

    def __str__(self) -> str:
        return f"{self.acl_id}: {self.reason}"


class AclSample(models.Model):
    """Packets that one list's entries met in the `seconds` before `at`, over all points: differences of counters."""

    acl = models.ForeignKey(Acl, on_delete=models.CASCADE, related_name="samples")
    at = models.DateTimeField()
    seconds = models.FloatField()
    dropped_packets = models.BigIntegerField(default=0)
    dropped_octets = models.BigIntegerField(default=0)
    passed_packets = models.BigIntegerField(default=0)  # met by entries that accept, also those held to a rate
    passed_octets = models.BigIntegerField(default=0)

    COUNTS = ("dropped_packets", "dropped_octets", "passed_packets", "passed_octets")

    class Meta:
        indexes = [
            models.Index(fields=["acl", "at"], name="aclsample_of_acl"),  # one chart
            models.Index(fields=["at"], name="aclsample_at"),  # pruning by age
        ]
