"""X.509 profiles: what the server, its clients and its authority put into certificates.

P-256 and short names: a TLS 1.2 ticket carries the client's certificate, and a larger one would split that flight
over two datagrams.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT_DAYS = 365
SERVER_DAYS = 365
AUTHORITY_DAYS = 3650
_CLOCK_SKEW = timedelta(minutes=5)  # a client whose clock is a little behind still accepts a new certificate


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its new private key, both PEM; the key without a passphrase, so its file must be 0600."""

    certificate_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class Described:
    """What is remembered of a certificate. `fingerprint` is SHA-256 over the DER form, hex; `serial` is hex."""

    fingerprint: str
    serial: str
    subject: str
    not_before: datetime
    not_after: datetime


def describe(certificate_pem: bytes) -> Described:
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return Described(
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        serial=f"{certificate.serial_number:x}",
        subject=certificate.subject.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """PKCS#8; encrypted where a passphrase is given."""
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_key_info(certificate_pem: bytes) -> bytes:
    """DER SubjectPublicKeyInfo: what a cuid is made from (RFC 9132, section 4.4.1.1)."""
    key = x509.load_pem_x509_certificate(certificate_pem).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def authority_certificate(key: ec.EllipticCurvePrivateKey, name: str, *, now: datetime) -> x509.Certificate:
    """Self-signed, for certificates and revocation lists only, no sub-authorities."""
    subject = _name(name)
    return (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def server_certificate(
    signer: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    *,
    names: Iterable[str],
    addresses: Iterable[str],
    now: datetime,
) -> x509.Certificate:
    """DNS-IDs and addresses in subjectAltName, no wildcard (RFC 9132, section 7.1)."""
    identities: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    identities += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    return (
        _builder(_name("dots-server"), authority.subject, key, now, SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(identities), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_issued_by(authority), critical=False)
        .sign(signer, hashes.SHA256())
    )


def client_certificate(
    signer: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    *,
    name: str,
    now: datetime,
) -> x509.Certificate:
    """For clientAuth only: a client's certificate can never stand for a server."""
    return (
        _builder(_name(name[:64]), authority.subject, key, now, CLIENT_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(_issued_by(authority), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    begin = now.astimezone(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _CLOCK_SKEW)
        .not_valid_after(begin + timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _issued_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    key = authority.public_key()
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
