"""(D)TLS associations, for operators to see; the truth about a live one is in its signal worker."""

from __future__ import annotations

from django.db import models

from mitigation.models.domains import Client, Credential


class SessionQuerySet(models.QuerySet["Session"]):
    def live(self) -> SessionQuerySet:
        return self.filter(closed_at=None)


class Session(models.Model):
    """One association of a client on a signal worker."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="sessions")
    credential = models.ForeignKey(Credential, on_delete=models.CASCADE, related_name="sessions")
    worker = models.CharField(max_length=64)  # host and process id of the signal worker
    transport = models.CharField(max_length=8)  # udp, tcp
    peer = models.CharField(max_length=64)
    version = models.CharField(max_length=16)
    cipher = models.CharField(max_length=64)
    resumed = models.BooleanField()
    opened_at = models.DateTimeField()
    last_heard_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)
    close_reason = models.CharField(max_length=64, blank=True)

    objects = SessionQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["client"], condition=models.Q(closed_at=None), name="session_live")  # who is connected
        ]
