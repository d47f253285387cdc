"""The certificate authority: made once, its key encrypted at rest, opened only to sign."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mitigation.pki import certificates
from mitigation.pki.certificates import Issued
from mitigation.pki.home import Home, random_key, write_private, write_public

REVOCATION_LIST_DAYS = 30


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs with the key that it holds in memory; let it go when done."""

    home: Home
    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    def issue_client(self, name: str, *, now: datetime) -> Issued:
        key = certificates.new_key()
        signed = certificates.client_certificate(self._key, self.certificate, key.public_key(), name=name, now=now)
        return Issued(_pem(signed), certificates.key_pem(key))

    def issue_server(self, *, names: Iterable[str], addresses: Iterable[str], now: datetime) -> Issued:
        key = certificates.new_key()
        signed = certificates.server_certificate(
            self._key, self.certificate, key.public_key(), names=names, addresses=addresses, now=now
        )
        return Issued(_pem(signed), certificates.key_pem(key))

    def write_revocation_list(self, revoked: Iterable[tuple[int, datetime]], *, now: datetime) -> None:
        """Sign (serial, when) entries into DOTS_HOME/pki/crl.pem; the file is replaced whole."""
        begin = now.astimezone(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(begin - timedelta(minutes=5))
            .next_update(begin + timedelta(days=REVOCATION_LIST_DAYS))
            .add_extension(x509.CRLNumber(int(begin.timestamp() * 1000)), critical=False)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at.astimezone(UTC)).build()
            builder = builder.add_revoked_certificate(entry)
        signed = builder.sign(self._key, hashes.SHA256())
        write_public(self.home.revocation_list, signed.public_bytes(serialization.Encoding.PEM))


def open_authority(home: Home) -> Authority:
    """Decrypt the key. Raises FileNotFoundError before `manage.py init`, ValueError when key and kek do not fit."""
    certificate = x509.load_pem_x509_certificate(home.authority_certificate.read_bytes())
    key = serialization.load_pem_private_key(home.authority_key.read_bytes(), password=home.kek.read_bytes().strip())
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not an elliptic-curve key")
    return Authority(home, certificate, key)


def initialise(home: Home, *, names: Iterable[str], addresses: Iterable[str], now: datetime) -> list[str]:
    """Make what is missing of keys, authority, server certificate and revocation list; returns what was made.

    Safe to run again and beside itself: what is there is never replaced.
    """
    with home.locked():
        made = _make_keys(home)
        if not home.authority_key.exists():
            key = certificates.new_key()
            certificate = certificates.authority_certificate(key, "DOTS authority", now=now)
            write_public(home.authority_certificate, _pem(certificate))
            write_private(home.authority_key, certificates.key_pem(key, home.kek.read_bytes().strip()))
            made.append("certificate authority")
        authority = None
        if not home.server_certificate.exists():
            authority = open_authority(home)
            issued = authority.issue_server(names=names, addresses=addresses, now=now)
            write_private(home.server_key, issued.key_pem)
            write_public(home.server_certificate, issued.certificate_pem)
            made.append("server certificate")
        if not home.revocation_list.exists():
            (authority or open_authority(home)).write_revocation_list([], now=now)
            made.append("revocation list")
    return made


def _make_keys(home: Home) -> list[str]:
    made = []
    wanted = ((home.secret, 50, True), (home.kek, 32, True), (home.ticket, 64, False), (home.cookie, 16, False))
    for path, octets, as_text in wanted:
        if not path.exists():
            content = random_key(octets)
            write_private(path, content.hex().encode() if as_text else content)
            made.append(f"{path.name} key")
    return made


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
