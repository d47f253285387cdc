"""A certification authority of somebody else's, with certificates as clients of other services may have them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mitigation.pki.certificates import key_pem
from tests.harness.product import Files


def subject(*common_names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in common_names])


class OutsideAuthority:
    """`ca` and `crl` are PEM files. `issuer`: the authority that has signed this one; none: itself."""

    def __init__(self, directory: Path, name: str = "outside", *, issuer: OutsideAuthority | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer, signed_by = (issuer.key, issuer.certificate.subject) if issuer else (self.key, subject(name))
        self.certificate = (
            _builder(subject(name), signed_by, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(signer, hashes.SHA256())
        )
        self.ca, self.crl = directory / "ca.pem", directory / "crl.pem"
        self.ca.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        self._revoked: list[int] = []
        self.sign_list()

    def sign_list(self, *revoked: x509.Certificate, good_for: timedelta = timedelta(days=1)) -> None:
        """Write the revocation list anew, these added."""
        now = datetime.now(UTC)
        self._revoked += [one.serial_number for one in revoked]
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - timedelta(days=2)).next_update(now + good_for)
        for serial in self._revoked:
            one = (
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(days=1)).build()
            )
            builder = builder.add_revoked_certificate(one)
        self.crl.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(
        self, label: str, *names: x509.GeneralName, common_names: Sequence[str] = ("x",), server: Files, **more: int
    ) -> Files:
        """PEM files of a client; `server` has the authority that the client believes. `serial` where it matters."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject(*common_names), self.certificate.subject, key.public_key(), **more)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        out = self._directory / label
        out.mkdir()
        (out / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
        (out / "key.pem").write_bytes(key_pem(key))
        (out / "ca.pem").write_bytes(server.ca.read_bytes())
        return Files(label, f"{made.serial_number:x}", out)


def certificate_of(files: Files) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.cert.read_bytes())


def _builder(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, serial: int = 0
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
