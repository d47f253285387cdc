"""Servers that clients are sent to (RFC 9132, section 4.6)."""

from __future__ import annotations

from django.db import models

from mitigation.models.domains import Domain

FOR_EVER = 2**32 - 1  # as Max-Age: until the other server redirects in its turn


class Redirection(models.Model):
    """Stands until it is lifted: for one domain, or without one for all that have none of their own."""

    domain = models.OneToOneField(Domain, on_delete=models.CASCADE, null=True, blank=True, related_name="redirection")
    alt_server = models.CharField(max_length=255)
    alt_server_record = models.JSONField(default=list, blank=True)  # addresses as text
    ttl = models.PositiveBigIntegerField()  # seconds; 0: the request in progress alone
    since = models.DateTimeField()
    actor = models.CharField(max_length=255)

    def __str__(self) -> str:
        return self.alt_server
