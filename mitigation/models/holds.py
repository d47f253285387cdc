"""Switches over all enforcement, thrown by people or by the server itself."""

from __future__ import annotations

from django.db import models


class Hold(models.Model):
    """Stands while it is thrown; who did, when and why."""

    class Kind(models.TextChoices):
        PANIC = "panic"  # nothing is enforced
        FREEZE = "freeze"  # nothing new is enforced; what stands goes on, and may be stopped
        BREAKER = "breaker"  # the same, thrown by the server when too much was asked for at once

    kind = models.CharField(max_length=8, choices=Kind.choices, unique=True)
    since = models.DateTimeField()  # a freeze and the breaker hold what starts after this
    actor = models.CharField(max_length=255)
    reason = models.CharField(max_length=255)

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"
