"""What a half-open DTLS connection lets near its engine.

Before the first encrypted record nothing is authenticated, and the engine gives a handshake up at the first thing that
surprises it: a plaintext alert or heartbeat, eight messages from the future, a message of the wrong type, a length of
16 MB. Who knows the addresses and ports could send these. They are dropped here, and the handshake goes on.
"""

from __future__ import annotations

from typing import Final

from mitigation.tls.records import (
    ALERT,
    CERTIFICATE,
    CERTIFICATE_REQUEST,
    CERTIFICATE_STATUS,
    CERTIFICATE_VERIFY,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    CLIENT_KEY_EXCHANGE,
    HANDSHAKE,
    HELLO_VERIFY_REQUEST,
    NEW_SESSION_TICKET,
    RECORD_HEADER,
    SERVER_HELLO,
    SERVER_HELLO_DONE,
    SERVER_KEY_EXCHANGE,
    handshake_messages,
)

# message_seq of what a client says after the hello that brought its cookie (RFC 5246, section 7.3)
_CLIENT_ORDER: Final = {CLIENT_HELLO: 0, CERTIFICATE: 1, CLIENT_KEY_EXCHANGE: 2, CERTIFICATE_VERIFY: 3}
# a server leaves messages out, so only the furthest place of each is known
_SERVER_ORDER: Final = {
    HELLO_VERIFY_REQUEST: 0,
    SERVER_HELLO: 1,
    CERTIFICATE: 2,
    CERTIFICATE_STATUS: 3,
    SERVER_KEY_EXCHANGE: 4,
    CERTIFICATE_REQUEST: 5,
    SERVER_HELLO_DONE: 6,
    NEW_SESSION_TICKET: 7,
}


def refuse_from_client(record: bytes, first: int) -> str | None:
    """Why a server drops this record; None lets it pass. `first` is the message_seq of the hello with the cookie."""
    if (reason := _refuse_type(record)) is not None or record[0] == CHANGE_CIPHER_SPEC:
        return reason
    for kind, sequence, length, offset, fragment in handshake_messages(record):
        if kind < 0:
            return "bad length"
        if kind not in _CLIENT_ORDER:
            return "unexpected message"
        if sequence != first + _CLIENT_ORDER[kind]:
            return "out of sequence"
        if kind == CERTIFICATE and offset == 0 and not _is_certificate(fragment, length):
            return "malformed message"
    return None


def refuse_from_server(record: bytes) -> str | None:
    """Why a client drops this record; None lets it pass."""
    if (reason := _refuse_type(record)) is not None or record[0] == CHANGE_CIPHER_SPEC:
        return reason
    for kind, sequence, length, offset, fragment in handshake_messages(record):
        if kind < 0:
            return "bad length"
        if kind not in _SERVER_ORDER:
            return "unexpected message"
        if sequence > _SERVER_ORDER[kind] + 1:
            return "out of sequence"
        if kind == CERTIFICATE and offset == 0 and not _is_certificate(fragment, length):
            return "malformed message"
    return None


def plaintext_alert(record: bytes) -> int | None:
    """The description of a fatal alert that nobody vouches for."""
    if record[0] == ALERT and len(record) == RECORD_HEADER + 2 and record[RECORD_HEADER] == 2:
        return record[RECORD_HEADER + 1]
    return None


def _refuse_type(record: bytes) -> str | None:
    if record[0] == CHANGE_CIPHER_SPEC:
        return None if len(record) == RECORD_HEADER + 1 and record[RECORD_HEADER] == 1 else "bad length"
    if record[0] != HANDSHAKE:
        return "plaintext alert" if record[0] == ALERT else "unexpected record"
    return None if len(record) > RECORD_HEADER else "bad length"


def _is_certificate(fragment: bytes, length: int) -> bool:
    """The list fills the message, and its first entry, if there is one, begins like ASN.1."""
    if length < 3 or len(fragment) < 3:
        return False
    if int.from_bytes(fragment[:3], "big") != length - 3:
        return False
    return length == 3 or len(fragment) < 7 or fragment[6] == 0x30
