"""Certificates of clients: issue and revoke."""

from __future__ import annotations

from datetime import datetime

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Change, Client, Credential
from mitigation.pki.authority import Authority
from mitigation.pki.certificates import Issued, describe
from mitigation.services.units import LONGEST, unit_of_work


def issue(client: Client, authority: Authority, *, actor: str, now: datetime, door: str = "command") -> Issued:
    """Make a key and a certificate for a client. The key is in the result and nowhere else; it is never stored."""
    issued = authority.issue_client(client.name, now=now)
    register(client, issued.certificate_pem, actor=actor, now=now, door=door)
    return issued


def register(client: Client, certificate_pem: bytes, *, actor: str, now: datetime, door: str = "command") -> Credential:
    """Let this certificate stand for this client."""
    found = describe(certificate_pem)
    with unit_of_work(now) as unit:
        if Credential.objects.filter(fingerprint=found.fingerprint).exists():
            raise MalformedRequest("this certificate is registered already")
        credential = Credential.objects.create(
            client=client,
            fingerprint=found.fingerprint,
            serial=found.serial,
            subject=found.subject[:LONGEST],
            certificate=certificate_pem.decode(),
            issued_at=now,
            not_before=found.not_before,
            not_after=found.not_after,
        )
        unit.audit(
            door=door,
            actor=actor,
            action="certificate-issue",
            subject=f"certificate {found.serial}",
            after={"client": client.name, "not-after": found.not_after.isoformat()},
        )
        unit.tell(Change.Topic.CREDENTIAL, credential.pk)
    return credential


def revoke(serial: str, *, reason: str, actor: str, now: datetime, door: str = "command") -> Credential:
    """End a certificate; its live sessions are cut by their workers. Revoking twice changes nothing. Raises NotFound.

    `serial` may be its SHA-256 fingerprint: those of several authorities may have the same serial (MalformedRequest).
    The row decides from this moment on; the published revocation list follows (`publish_revocations`).
    """
    with unit_of_work(now) as unit:
        found = Credential.objects.filter(fingerprint=serial.lower().replace(":", ""))
        found = found or Credential.objects.filter(serial=serial.lower().lstrip("0") or "0")
        if len(found) > 1:
            raise MalformedRequest(f"several certificates have the serial {serial}: give the SHA-256 fingerprint")
        credential = found.first()
        if credential is None:
            raise NotFound(f"there is no certificate with serial {serial}; `manage.py certificate list` shows them")
        if credential.state == Credential.State.REVOKED:
            return credential
        credential.state = Credential.State.REVOKED
        credential.revoked_at = now
        credential.revocation_reason = reason
        credential.save(update_fields=["state", "revoked_at", "revocation_reason"])
        unit.audit(
            door=door,
            actor=actor,
            action="certificate-revoke",
            subject=f"certificate {credential.serial}",
            after={"reason": reason},
        )
        unit.tell(Change.Topic.CREDENTIAL, credential.pk)
    return credential


def publish_revocations(authority: Authority, *, now: datetime) -> int:
    """Sign and write the list of revoked certificates; returns how many it names."""
    revoked = Credential.objects.revoked().values_list("serial", "revoked_at")
    entries = [(int(serial, 16), at) for serial, at in revoked if at is not None]
    authority.write_revocation_list(entries, now=now)
    return len(entries)


def find_usable(fingerprint: str, *, now: datetime) -> Credential | None:
    """The credential that this certificate is, if it may be used now."""
    return Credential.objects.usable(now).select_related("client").filter(fingerprint=fingerprint).first()
