"""What changed, in commit order, and who did it."""

from __future__ import annotations

from django.db import models


class ChangeCounter(models.Model):
    """One row. Incremented last in every transaction that changes something others show.

    Not a database sequence: PostgreSQL hands those out before the commit, so a reader could pass over a number
    that becomes visible later. The row lock on this counter makes commit order and number order the same.
    """

    value = models.BigIntegerField(default=0)


class Change(models.Model):
    """ "Object `object_id` of `topic` changed": what the change cursor reads. Old rows are pruned."""

    class Topic(models.TextChoices):
        MITIGATION = "mitigation"
        CREDENTIAL = "credential"
        CLIENT = "client"
        SESSION = "session"
        POINT = "point"
        REDIRECTION = "redirection"

    number = models.BigIntegerField(primary_key=True)
    topic = models.CharField(max_length=16, choices=Topic.choices)
    object_id = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["at"], name="change_at")]  # pruning by age


class Audit(models.Model):
    """Who did what, from which door, before and after: nothing that somebody asked for changes without one."""

    at = models.DateTimeField()
    door = models.CharField(max_length=16)  # signal, data, dashboard, command, server
    actor = models.CharField(max_length=255)
    action = models.CharField(max_length=64)
    subject = models.CharField(max_length=255)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["subject", "-id"], name="audit_subject")]  # the history of one object
