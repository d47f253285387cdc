"""Names that clients give to targets (RFC 8783, section 6)."""

from __future__ import annotations

from django.db import models

from mitigation.models.domains import Client


class Alias(models.Model):
    """What `alias-name` stands for in requests of this client and cuid, until it is replaced or deleted.

    A mitigation takes a copy when it is accepted: what happens to the alias later does not change it.
    """

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="aliases")
    cdid = models.CharField(max_length=250, blank=True)
    cuid = models.CharField(max_length=250)
    name = models.CharField(max_length=255)
    target = models.JSONField()  # RFC names as keys, as in Mitigation.scope
    tree = models.JSONField(default=dict, blank=True)  # as a GET returns it
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)  # RFC 8783, section 6.1; null: never

    class Meta:
        constraints = [models.UniqueConstraint(fields=["client", "cdid", "cuid", "name"], name="alias_name")]

    def __str__(self) -> str:
        return self.name
