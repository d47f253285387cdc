"""Certificates, keys at rest, revocation lists."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from mitigation.pki.authority import initialise, open_authority
from mitigation.pki.certificates import describe
from mitigation.pki.home import Home, write_private

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    initialise(made, names=["localhost", "dots.example.net"], addresses=["127.0.0.1", "::1"], now=NOW)
    return made


def test_everything_is_made_once(home: Home) -> None:
    before = home.authority_key.read_bytes()

    assert initialise(home, names=["other"], addresses=[], now=NOW) == []

    assert home.authority_key.read_bytes() == before
    assert (len(home.ticket.read_bytes()), len(home.cookie.read_bytes())) == (64, 16)


def test_keys_are_private_and_the_authoritys_is_encrypted(home: Home) -> None:
    for path in home.keys.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with pytest.raises(TypeError):
        load_pem_private_key(home.authority_key.read_bytes(), password=None)
    write_private(home.kek, b"another")
    with pytest.raises(ValueError, match=r".+"):
        open_authority(home)


@pytest.mark.rows("SIG-TLS-006", "SIG-TLS-007")
def test_the_server_certificate_names_its_hosts_and_no_wildcard(home: Home) -> None:
    certificate = x509.load_pem_x509_certificate(home.server_certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == ["localhost", "dots.example.net"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_client_certificate_can_only_be_a_clients(home: Home) -> None:
    issued = open_authority(home).issue_client("gw-a.example.net", now=NOW)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem)

    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(home.authority_certificate.read_bytes()))
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert len(certificate.public_bytes(Encoding.DER)) < 450
    found = describe(issued.certificate_pem)
    assert found.not_before < NOW < found.not_after == NOW + timedelta(days=365)
    assert len(found.fingerprint) == 64


def test_a_revocation_list_is_signed_and_numbered_upwards(home: Home) -> None:
    authority = open_authority(home)
    first = x509.load_pem_x509_crl(home.revocation_list.read_bytes())

    authority.write_revocation_list([(0xABC, NOW)], now=NOW + timedelta(seconds=1))

    second = x509.load_pem_x509_crl(home.revocation_list.read_bytes())
    assert second.is_signature_valid(authority.certificate.public_key())  # type: ignore[arg-type]
    assert [entry.serial_number for entry in second] == [0xABC]

    def number(crl: x509.CertificateRevocationList) -> int:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    assert number(second) > number(first)
