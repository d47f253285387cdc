"""Whom certificates name, by each map type of RFC 7589, section 7 (c)."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mitigation.pki.usernames import MapType, username

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
DNS, MAIL, URI = (
    x509.DNSName("Dots.Example"),
    x509.RFC822Name("A.B@Mail.Example"),
    x509.UniformResourceIdentifier("a:b"),
)
V4, V6 = (x509.IPAddress(ipaddress.ip_address(text)) for text in ("192.0.2.1", "2001:DB8::1"))
V6_TEXT = "20010db8000000000000000000000001"


def certificate(*names: x509.GeneralName, common: tuple[str, ...] = ()) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one, _validate=False) for one in common])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(KEY.public_key())
    builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256())


@pytest.mark.rows("DATA-TRN-018")
@pytest.mark.parametrize(
    ("map_type", "names", "common", "expected"),
    [
        (MapType.SAN_DNS_NAME, [MAIL, DNS], (), "dots.example"),
        (MapType.SAN_RFC822_NAME, [DNS, MAIL], (), "A.B@mail.example"),
        (MapType.SAN_IP_ADDRESS, [DNS, V4, V6], (), "192.0.2.1"),
        (MapType.SAN_IP_ADDRESS, [V6, V4], (), V6_TEXT),
        (MapType.SAN_ANY, [URI, V6, DNS], (), V6_TEXT),
        (MapType.SAN_ANY, [MAIL, DNS], (), "A.B@mail.example"),
        (MapType.COMMON_NAME, [DNS], ("Somebody",), "Somebody"),
        (MapType.SAN_DNS_NAME, [MAIL, V4], ("dots.example",), None),
        (MapType.SAN_ANY, [URI], ("dots.example",), None),
        (MapType.SAN_DNS_NAME, [], ("dots.example",), None),
        (MapType.COMMON_NAME, [DNS], (), None),
        (MapType.COMMON_NAME, [], ("a", "b"), None),
        (MapType.COMMON_NAME, [], ("\u00e4rger",), None),
        (MapType.SPECIFIED, [DNS], ("Somebody",), None),
    ],
)
def test_each_map_type_reads_its_own_field(
    map_type: MapType, names: list[x509.GeneralName], common: tuple[str, ...], expected: str | None
) -> None:
    assert username(certificate(*names, common=common), map_type) == expected
