"""The client unique identifier that the RFC recommends (RFC 9132, section 4.4.1.1)."""

from __future__ import annotations

import base64
import hashlib


def cuid_of(subject_public_key_info: bytes) -> str:
    """base64url, without padding, of the first 16 octets of SHA-256 over the DER key: 22 characters."""
    digest = hashlib.sha256(subject_public_key_info).digest()[:16]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
