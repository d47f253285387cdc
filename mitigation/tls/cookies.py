"""Proof that a peer receives at the address it sends from, before anything is kept of it (RFC 6347, section 4.2.1)."""

from __future__ import annotations

from typing import Any

from mitigation.tls.credentials import Credentials
from mitigation.tls.gnutls import ffi, library
from mitigation.tls.session import PUSH


class _Reply:
    """Collects the one datagram of a cookie exchange through the same callback as a session."""

    __slots__ = ("pushed",)

    def __init__(self) -> None:
        self.pushed: list[bytes] = []


def verify_cookie(credentials: Credentials, path: bytes, hello: bytes) -> tuple[Any, bytes | None]:
    """(proof, None) when the hello carries our cookie for this path, else (None, HelloVerifyRequest or None).

    No state is kept. The proof goes into the new session as its `prestate`.
    """
    proof = ffi.new("gnutls_dtls_prestate_st *")
    key = credentials.cookie_key.pointer
    if library().gnutls_dtls_cookie_verify(key, path, len(path), ffi.from_buffer(hello), len(hello), proof) >= 0:
        return proof, None
    reply = _Reply()
    handle = ffi.new_handle(reply)
    library().gnutls_dtls_cookie_send(key, path, len(path), proof, handle, PUSH)
    return None, (reply.pushed[0] if reply.pushed else None)
