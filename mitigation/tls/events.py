"""What an engine tells its owner."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from mitigation.tls.identity import Identity


class CloseReason(StrEnum):
    """Why an association ended."""

    PEER_CLOSED = "peer closed"  # close_notify: authenticated, unlike a reset or a plaintext alert
    REPLACED = "replaced"  # the same peer, address and port completed a new handshake
    REVOKED = "revoked"  # its credential is no longer good
    CUT = "cut"  # an operator or the server program ended it
    TIMED_OUT = "timed out"
    ERROR = "error"
    SHUTDOWN = "shutdown"


class HandshakeCompleted(NamedTuple):
    """Both ends have proved who they are; the certificate was verified now, also when the session was resumed."""

    identity: Identity
    resumed: bool
    version: str
    cipher: str


class PlaintextReceived(NamedTuple):
    """One record's worth on a datagram connection, any number of bytes on a stream."""

    data: bytes


class Closed(NamedTuple):
    """The last event of a connection. `alert` is the (D)TLS alert the peer sent, if that was what ended it."""

    reason: CloseReason
    detail: str
    alert: str | None = None


Event = HandshakeCompleted | PlaintextReceived | Closed
