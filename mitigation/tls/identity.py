"""Who the peer proved to be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KNOWN: Final = 2_048  # certificates, of 2 kB each


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

    @staticmethod
    @lru_cache(maxsize=KNOWN)
    def from_certificate(der: bytes) -> Identity:
        """The same object for the same certificate: a client comes back often, and with several sessions.

        :raises ValueError: when the bytes are no certificate.
        """
        certificate = x509.load_der_x509_certificate(der)
        return Identity(Kind.X509, der, hashlib.sha256(der).hexdigest(), certificate.subject.rfc4514_string())

    def subject_public_key_info(self) -> bytes:
        """What the cuid is usually a hash of (RFC 9132, section 4.4.1.1); empty for a PSK."""
        if self.kind is Kind.PSK:
            return b""
        if self.kind is Kind.RPK:
            return self.der
        key = x509.load_der_x509_certificate(self.der).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
