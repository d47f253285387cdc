"""Certificates that others have issued: whom we believe, and which client each stands for (RFC 7589, section 7).

A certificate that the list leads to a client is written down as a credential of that client when it is first seen: it
can be revoked, and is shown, like those of our own authority. Whenever the list changes, all of them are judged again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from django.db.models import F

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import CertificateMapping, Change, Client, Credential, TrustedAuthority
from mitigation.pki.certificates import describe
from mitigation.pki.home import Home, write_public
from mitigation.pki.usernames import MapType, username
from mitigation.services import domains, locks
from mitigation.services.units import LONGEST, Unit, unit_of_work

_State = Credential.State


# -- whom we believe


def trust(
    name: str, certificate_pem: bytes, crl_pem: bytes, home: Home, *, actor: str, now: datetime, door: str = "command"
) -> TrustedAuthority:
    """Believe what this authority signs for clients, or replace its revocation list. Raises MalformedRequest."""
    certificate = _authority(certificate_pem, home)
    sha256 = fingerprint(certificate_pem)
    _check_list(crl_pem, certificate, now)
    with unit_of_work(now) as unit:
        locks.table(TrustedAuthority)
        row = TrustedAuthority.objects.filter(name=name).first()
        if row is None:
            if TrustedAuthority.objects.filter(fingerprint=sha256).exists():
                raise MalformedRequest("this authority is trusted already under another name")
            row = TrustedAuthority(name=name, fingerprint=sha256, added_at=now)
        elif row.fingerprint != sha256:
            raise MalformedRequest(f"{name} is another authority; distrust that one first, or choose another name")
        row.certificate = certificate.public_bytes(Encoding.PEM).decode()
        row.revocation_list = crl_pem.decode()
        row.save()
        publish(home)
        unit.audit(
            door=door, actor=actor, action="authority-trust", subject=f"authority {name}", after={"sha256": sha256}
        )
        _list_changed(unit)
    return row


def distrust(name: str, home: Home, *, actor: str, now: datetime, door: str = "command") -> None:
    """Nobody gets in by it any more; entries of the list that name it go. Raises NotFound."""
    with unit_of_work(now) as unit:
        locks.table(TrustedAuthority)
        row = find_authority(name)
        CertificateMapping.objects.filter(fingerprint=row.fingerprint).delete()
        row.delete()
        publish(home)
        unit.audit(door=door, actor=actor, action="authority-distrust", subject=f"authority {name}")
        _list_changed(unit)


def find_authority(name: str) -> TrustedAuthority:
    """Raises NotFound."""
    found = TrustedAuthority.objects.filter(name=name).first()
    if found is None:
        raise NotFound(f"there is no trusted authority {name}; `manage.py certificate trusted` shows those there are")
    return found


def publish(home: Home) -> None:
    """The files that handshakes are judged by, as the rows have them."""
    rows = list(TrustedAuthority.objects.order_by("pk"))
    contents = (
        (home.trusted_revocations, [row.revocation_list for row in rows]),
        (home.trusted_authorities, [row.certificate for row in rows]),
    )
    for path, texts in contents:
        if texts:
            write_public(path, "".join(texts).encode())
        else:
            path.unlink(missing_ok=True)


def _authority(pem: bytes, home: Home) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise MalformedRequest(f"the certificate cannot be read: {error}") from None
    if len(found) != 1:
        raise MalformedRequest("the file holds several certificates; give that of the authority that signs clients'")
    (certificate,) = found
    if fingerprint(pem) == fingerprint(home.authority_certificate.read_bytes()):
        raise MalformedRequest("this is the server's own authority: what it issues is registered one by one")
    own = x509.load_pem_x509_certificate(home.authority_certificate.read_bytes())
    others = TrustedAuthority.objects.exclude(fingerprint=fingerprint(pem)).values_list("certificate", flat=True)
    for other in (own, *(x509.load_pem_x509_certificate(text.encode()) for text in others)):
        if other.subject == certificate.subject:  # else one's revocation list might be taken for the other's
            raise MalformedRequest("another authority, which is trusted already, has the same name")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        raise MalformedRequest("this is no authority's certificate: basicConstraints or keyUsage is missing") from None
    if not (constraints.ca and usage.key_cert_sign):
        raise MalformedRequest("this is no authority's certificate: it may not sign others")
    return certificate


def _check_list(pem: bytes, authority: x509.Certificate, now: datetime) -> None:
    try:
        found = x509.load_pem_x509_crl(pem)
        # A kind of key that signs nothing is a TypeError, as below.
        is_theirs = found.issuer == authority.subject and found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise MalformedRequest(f"the revocation list cannot be read: {error}") from None
    if not is_theirs:
        raise MalformedRequest("the revocation list is not signed by this authority")
    if found.next_update_utc is None or found.next_update_utc <= now:
        raise MalformedRequest("the revocation list is out of date, or does not say until when it is good")


# -- the list


def add_mapping(
    sha256: str,
    map_type: MapType,
    *,
    client: str = "",
    domain: str = "",
    at: int | None = None,
    actor: str,
    now: datetime,
    door: str = "command",
) -> CertificateMapping:
    """An entry at a place of the list, or at its end. Raises NotFound or MalformedRequest.

    `specified` takes a client; the others the domain whose clients may be named.
    """
    if (map_type is MapType.SPECIFIED) != bool(client) or bool(client) == bool(domain):
        raise MalformedRequest("specified takes a client, the other types take the domain whose clients may be named")
    with unit_of_work(now) as unit:
        locks.table(CertificateMapping)
        last = CertificateMapping.objects.count() + 1
        position = min(at or last, last)
        CertificateMapping.objects.filter(position__gte=position).update(position=F("position") + 1)
        row = CertificateMapping.objects.create(
            position=position,
            fingerprint=sha256,
            map_type=map_type.value,
            client=domains.find_client(client) if client else None,
            domain=domains.find_domain(domain) if domain else None,
        )
        after = {"type": map_type.value, "sha256": sha256, "client": client, "domain": domain}
        unit.audit(door=door, actor=actor, action="mapping-add", subject=f"mapping {position}", after=after)
        _list_changed(unit)
    return row


def remove_mapping(position: int, *, actor: str, now: datetime, door: str = "command") -> None:
    """Raises NotFound."""
    with unit_of_work(now) as unit:
        locks.table(CertificateMapping)
        row = CertificateMapping.objects.filter(position=position).first()
        if row is None:
            raise NotFound(f"there is no entry {position}; `manage.py certificate mappings` shows the list")
        row.delete()
        CertificateMapping.objects.filter(position__gt=position).update(position=F("position") - 1)
        unit.audit(door=door, actor=actor, action="mapping-remove", subject=f"mapping {position}")
        _list_changed(unit)


def _list_changed(unit: Unit) -> None:
    """Judge again what was written down; sessions of those that now stand for somebody else, or nobody, are cut."""
    known = _List()
    for row in Credential.objects.filter(mapped=True).exclude(state=_State.REVOKED):
        client = known.client_of(x509.load_pem_x509_certificate(row.certificate.encode()))
        row.state = _State.UNMAPPED if client is None else _State.ACTIVE
        row.client = client or row.client
        row.save(update_fields=["state", "client"])
    unit.tell(Change.Topic.CLIENT, 0)


# -- whose a certificate is


def admit(der: bytes, *, now: datetime) -> Credential | None:
    """Write down whose this certificate is, which was verified and is not known to the door; None: nobody's.

    What was revoked here, or is of our own authority, is never looked for in the list. What another door has written
    down meanwhile is found.
    """
    if not CertificateMapping.objects.exists():
        return None
    certificate = x509.load_der_x509_certificate(der)
    if (known := _known(certificate)) is not None and known.state != _State.UNMAPPED:
        return known if known.state == _State.ACTIVE else None
    if _List().client_of(certificate) is None:
        return None  # most that are nobody's cost no lock
    with unit_of_work(now) as unit:
        locks.table(CertificateMapping)
        row = _known(certificate)
        if row is not None and row.state != _State.UNMAPPED:
            return row if row.state == _State.ACTIVE else None
        client = _List().client_of(certificate)
        if client is None:
            return None
        row = row or _written_down(certificate, client, now)
        row.client, row.state = client, _State.ACTIVE
        row.save()
        after = {"client": client.name, "subject": row.subject}
        unit.audit(
            door="server", actor="server", action="certificate-map", subject=f"certificate {row.serial}", after=after
        )
        unit.tell(Change.Topic.CREDENTIAL, row.pk)
    return row


def _known(certificate: x509.Certificate) -> Credential | None:
    return Credential.objects.filter(fingerprint=certificate.fingerprint(hashes.SHA256()).hex()).first()


def _written_down(certificate: x509.Certificate, client: Client, now: datetime) -> Credential:
    pem = certificate.public_bytes(Encoding.PEM)
    found = describe(pem)
    return Credential(
        client=client,
        mapped=True,
        fingerprint=found.fingerprint,
        serial=found.serial[-40:],
        subject=found.subject.replace("\0", "")[:LONGEST],
        certificate=pem.decode(),
        issued_at=now,
        not_before=found.not_before,
        not_after=found.not_after,
    )


class _List:
    """The entries and the authorities as they are now."""

    def __init__(self) -> None:
        self._entries = list(CertificateMapping.objects.select_related("client"))
        rows = TrustedAuthority.objects.all()
        self._held = [(row.fingerprint, x509.load_pem_x509_certificate(row.certificate.encode())) for row in rows]

    def client_of(self, certificate: x509.Certificate) -> Client | None:
        """The first entry that yields a username decides, also where nobody is called so (section 7 (b) to (d))."""
        chain = self._issuers(certificate)
        if not chain:
            return None
        matching = {certificate.fingerprint(hashes.SHA256()).hex(), *chain}
        for entry in self._entries:
            if entry.fingerprint not in matching:
                continue
            if entry.map_type == MapType.SPECIFIED:
                return entry.client
            name = username(certificate, MapType(entry.map_type))
            if name is not None and entry.domain_id is not None:
                return Client.objects.filter(name=name, domain_id=entry.domain_id).first()
        return None

    def _issuers(self, certificate: x509.Certificate) -> Sequence[str]:
        """Fingerprints of the authorities that we hold, from the one that signed it upwards."""
        found: list[str] = []
        while True:
            issuer = next((one for one in self._held if one[0] not in found and _signed(certificate, one[1])), None)
            if issuer is None:
                return found
            found.append(issuer[0])
            certificate = issuer[1]


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def fingerprint(pem: bytes) -> str:
    """SHA-256 of the DER form, hex. Raises MalformedRequest."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise MalformedRequest(f"the certificate cannot be read: {error}") from None
    return certificate.fingerprint(hashes.SHA256()).hex()
