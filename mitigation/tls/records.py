"""DTLS 1.2 records and handshake headers, as far as a receiver must read them before it trusts them (RFC 6347).

Everything here works on bytes anybody may have sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

RECORD_HEADER: Final = 13
HANDSHAKE_HEADER: Final = 12
LONGEST_RECORD: Final = 16384 + 2048
LONGEST_MESSAGE: Final = 16384  # a certificate chain fits; a length of 0xffffff would make the engine reserve 16 MB

CHANGE_CIPHER_SPEC: Final = 20
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23

CLIENT_HELLO: Final = 1
SERVER_HELLO: Final = 2
HELLO_VERIFY_REQUEST: Final = 3
NEW_SESSION_TICKET: Final = 4
CERTIFICATE: Final = 11
SERVER_KEY_EXCHANGE: Final = 12
CERTIFICATE_REQUEST: Final = 13
SERVER_HELLO_DONE: Final = 14
CERTIFICATE_VERIFY: Final = 15
CLIENT_KEY_EXCHANGE: Final = 16
CERTIFICATE_STATUS: Final = 22

_RANDOM: Final = slice(27, 59)
_SHORTEST_HELLO: Final = 61  # up to and including the lengths of an empty session id and an empty cookie


def split(datagram: bytes) -> Iterator[bytes]:
    """The whole records of a datagram, in order; a truncated or overlong one ends it (RFC 6347, section 4.1.2.7)."""
    position, end = 0, len(datagram)
    while position + RECORD_HEADER <= end:
        length = datagram[position + 11] << 8 | datagram[position + 12]
        following = position + RECORD_HEADER + length
        if following > end or length > LONGEST_RECORD or datagram[position + 1] != 0xFE:
            return
        yield datagram[position:following]
        position = following


def is_epoch_zero(record: bytes) -> bool:
    return not (record[3] or record[4])


def is_client_hello(datagram: bytes) -> bool:
    """Whether the datagram opens with the first fragment of a plaintext ClientHello of sane length."""
    return (
        len(datagram) >= _SHORTEST_HELLO
        and datagram[0] == HANDSHAKE
        and datagram[1] == 0xFE
        and is_epoch_zero(datagram)
        and datagram[13] == CLIENT_HELLO
        and not any(datagram[19:22])
        and _first_message_fits(datagram)
    )


def client_random(hello: bytes) -> bytes:
    """The 32 bytes that tell one hello from the next; the repeat of a hello carries the same ones."""
    return hello[_RANDOM]


def handshake_messages(record: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """(type, message_seq, length, fragment offset, fragment) of each message in a plaintext handshake record.

    Stops with a negative type at the first header whose lengths contradict each other or the limits.
    """
    position, end = RECORD_HEADER, len(record)
    while position < end:
        if position + HANDSHAKE_HEADER > end:
            yield -1, 0, 0, 0, b""
            return
        length = int.from_bytes(record[position + 1 : position + 4], "big")
        sequence = record[position + 4] << 8 | record[position + 5]
        offset = int.from_bytes(record[position + 6 : position + 9], "big")
        size = int.from_bytes(record[position + 9 : position + 12], "big")
        following = position + HANDSHAKE_HEADER + size
        if following > end or length > LONGEST_MESSAGE or offset + size > length:
            yield -1, 0, 0, 0, b""
            return
        yield record[position], sequence, length, offset, record[position + HANDSHAKE_HEADER : following]
        position = following


def _first_message_fits(datagram: bytes) -> bool:
    for record in split(datagram):
        return all(kind >= 0 for kind, *_ in handshake_messages(record))
    return False
