"""The recommended cuid (RFC 9132, section 4.4.1.1)."""

import base64
import hashlib

import pytest

from mitigation.protocol.cuid import cuid_of


@pytest.mark.rows("SIG-CUI-002")
def test_a_cuid_is_half_a_hash_in_22_characters() -> None:
    cuid = cuid_of(b"any key")

    assert len(cuid) == 22
    assert "=" not in cuid
    assert base64.urlsafe_b64decode(cuid + "==") == hashlib.sha256(b"any key").digest()[:16]
