"""Throw-away certificates for these tests: P-256, short names, no file outside the directory given."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mitigation.tls import CredentialFiles

DAY = datetime.timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass
class Pki:
    """A CA with a directory; every certificate becomes `<name>.pem` and `<name>.key` there."""

    directory: Path
    name: str = "ca"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    revoked: list[int] = field(default_factory=list)
    number: int = 1

    def __post_init__(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name_of(self.name))
            .issuer_name(name_of(self.name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.path("pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.write_crl()

    def path(self, suffix: str) -> Path:
        return self.directory / f"{self.name}.{suffix}"

    def write_crl(self, *, expired: bool = False) -> Path:
        now = datetime.datetime.now(datetime.UTC)
        until = now - DAY / 24 if expired else now + 10 * DAY
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name_of(self.name))
            .last_update(now - DAY)
            .next_update(until)
            .add_extension(x509.CRLNumber(self.number), critical=False)
        )
        self.number += 1
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY / 2).build()
            builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self.key, hashes.SHA256())
        self.path("crl").write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        return self.path("crl")

    def issue(
        self,
        name: str,
        *,
        usages: tuple[x509.ObjectIdentifier, ...] = (CLIENT,),
        names: tuple[x509.GeneralName, ...] = (),
        expired: bool = False,
        padding: int = 0,
    ) -> CredentialFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name_of(name))
            .issuer_name(name_of(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now - DAY if expired else now + 10 * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        alternatives = [*names, *(x509.DNSName(f"{i:03}." + "x" * 60 + ".example") for i in range(padding))]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pem, secret = self.directory / f"{self.name}-{name}.pem", self.directory / f"{self.name}-{name}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(_pem(key))
        return CredentialFiles(ca=self.path("pem"), certificate=pem, key=secret, crl=self.path("crl"))

    def issue_server(self, name: str = "server") -> CredentialFiles:
        return self.issue(
            name,
            usages=(SERVER,),
            names=(
                x509.DNSName("server.example"),
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.IPAddress(ipaddress.ip_address("::1")),
            ),
        )

    def revoke(self, files: CredentialFiles) -> None:
        """Put the certificate on the list and write the list anew; who reads it is up to the test."""
        assert files.certificate is not None
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        self.revoked.append(certificate.serial_number)
        self.write_crl()
