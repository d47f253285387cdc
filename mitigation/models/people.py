"""How people came in, or tried to. Logins themselves are Django's users."""

from __future__ import annotations

from django.db import models


class LoginRecord(models.Model):
    """A name and an address that it was tried from: what is counted to slow down who guesses."""

    name = models.CharField(max_length=150)  # as it was typed, whether there is such a login or not
    address = models.CharField(max_length=45)
    failures = models.PositiveIntegerField(default=0)  # since the last success; one that is being tried included
    failed_at = models.DateTimeField(null=True, blank=True)
    succeeded_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "address"], name="loginrecord_once")]
        indexes = [models.Index(fields=["address", "failed_at"], name="loginrecord_address")]  # who guesses many names

    def __str__(self) -> str:
        return f"{self.name} from {self.address}"
