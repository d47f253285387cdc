"""Who the peer proved to be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Kind(StrEnum):
    """How a peer proves itself (RFC 9132, section 7.1)."""

    X509 = "x509"
    RPK = "rpk"
    PSK = "psk"


@dataclass(frozen=True, slots=True)
class Identity:
    """A proven identity: `der` is the leaf certificate, the SubjectPublicKeyInfo, or the PSK identity as sent.

    `sha256` is the lower-case hexadecimal fingerprint of `der`; `subject` is for people to read, never to compare.
    """

    kind: Kind
    der: bytes = field(repr=False)
    sha256: str
    subject: str

    @classmethod
    def from_certificate(cls, der: bytes) -> Identity:
        """:raises ValueError: when the bytes are no certificate."""
        certificate = x509.load_der_x509_certificate(der)
        return cls(Kind.X509, der, hashlib.sha256(der).hexdigest(), certificate.subject.rfc4514_string())

    def subject_public_key_info(self) -> bytes:
        """What the cuid is usually a hash of (RFC 9132, section 4.4.1.1); empty for a PSK."""
        if self.kind is Kind.PSK:
            return b""
        if self.kind is Kind.RPK:
            return self.der
        key = x509.load_der_x509_certificate(self.der).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
