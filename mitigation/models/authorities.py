"""Certificates of clients that others have issued: whom to believe, and whom they name (RFC 7589, section 7)."""

from __future__ import annotations

from django.db import models

from mitigation.models.domains import Client, Domain


class TrustedAuthority(models.Model):
    """A certification authority besides our own; it signs clients' certificates itself."""

    name = models.CharField(max_length=64, unique=True)
    fingerprint = models.CharField(max_length=64, unique=True)  # SHA-256 of the DER certificate, hex
    certificate = models.TextField()  # PEM
    revocation_list = models.TextField()  # PEM; past its next update nobody of this authority gets in
    added_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class CertificateMapping(models.Model):
    """An entry of the list that leads from certificates to clients; the first that yields a username decides."""

    position = models.PositiveIntegerField()  # lowest first
    fingerprint = models.CharField(max_length=64)  # of a client's certificate, or of a TrustedAuthority
    map_type = models.CharField(max_length=16)  # a MapType of pki.usernames
    # Whom `specified` means; for the others, of whose clients the name may be. An authority names nobody else's.
    client = models.ForeignKey(Client, on_delete=models.CASCADE, null=True, blank=True, related_name="mappings")
    domain = models.ForeignKey(Domain, on_delete=models.CASCADE, null=True, blank=True, related_name="mappings")

    class Meta:
        ordering = ["position", "pk"]

    def __str__(self) -> str:
        return f"{self.position}: {self.map_type} of {self.fingerprint[:16]}"
