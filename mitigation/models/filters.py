"""Filters that clients keep ready (RFC 8783, section 7)."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q

from mitigation.models.domains import Client
from mitigation.protocol.filters import ActivationType


class AclQuerySet(models.QuerySet["Acl"]):
    def current(self, now: datetime) -> AclQuerySet:
        """Those whose lifetime has not run out."""
        return self.filter(expires_at__gt=now)


class Acl(models.Model):
    """An access control list of a client and cuid, by name; its activation type may be changed on both channels."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="acls")
    cdid = models.CharField(max_length=250, blank=True)
    cuid = models.CharField(max_length=250)
    name = models.CharField(max_length=255)
    activation_type = models.PositiveSmallIntegerField(choices=[(int(one), one.name) for one in ActivationType])
    aces = models.JSONField(default=list, blank=True)  # RFC names as keys, in order
    created_at = models.DateTimeField()
    refreshed_at = models.DateTimeField()
    expires_at = models.DateTimeField()  # RFC 8783, section 7.2: a filter that nobody refreshes goes

    objects = AclQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["client", "cdid", "cuid", "name"], name="acl_name"),
            models.CheckConstraint(condition=Q(activation_type__in=[1, 2, 3]), name="acl_activation_type"),
        ]

    def __str__(self) -> str:
        return self.name
