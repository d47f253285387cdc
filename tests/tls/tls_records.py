"""Records as no honest peer would send them, and authentic ones made with a live connection's own keys."""

from __future__ import annotations

import struct

import cffi
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mitigation.tls.connection import Connection
from mitigation.tls.gnutls import SONAME

_ffi = cffi.FFI()
_ffi.cdef(
    """
typedef struct { unsigned char *data; unsigned int size; } gnutls_datum_t;
int gnutls_record_get_state(void *, unsigned, gnutls_datum_t *, gnutls_datum_t *, gnutls_datum_t *, unsigned char *);
"""
)
_library = _ffi.dlopen(SONAME)


def _write_keys(connection: Connection) -> tuple[bytes, bytes]:
    """(implicit nonce, key) with which this end encrypts; AES-GCM of version 1.2 only."""
    assert connection._session.cipher == "AES-128-GCM"
    iv, key, mac = (_ffi.new("gnutls_datum_t *") for _ in range(3))
    sequence = _ffi.new("unsigned char[8]")
    pointer = _ffi.cast("void *", int(cffi.FFI().cast("uintptr_t", connection._session.pointer)))
    assert _library.gnutls_record_get_state(pointer, 0, mac, iv, key, sequence) == 0
    return bytes(_ffi.buffer(iv.data, iv.size))[:4], bytes(_ffi.buffer(key.data, key.size))


def authentic(connection: Connection, content_type: int, payload: bytes, sequence: int, *, epoch: int = 1) -> bytes:
    """A DTLS 1.2 record of any content type, under the connection's write keys."""
    nonce, key = _write_keys(connection)
    number = struct.pack(">HHI", epoch, sequence >> 32, sequence & 0xFFFFFFFF)
    header = number + bytes([content_type, 0xFE, 0xFD]) + struct.pack(">H", len(payload))
    sealed = AESGCM(key).encrypt(nonce + number, payload, header)
    body = number + sealed
    return bytes([content_type, 0xFE, 0xFD]) + number + struct.pack(">H", len(body)) + body


def authentic_tls12(connection: Connection, content_type: int, payload: bytes, sequence: int) -> bytes:
    """The same for a stream, whose records carry no number: it must be the next one."""
    nonce, key = _write_keys(connection)
    number = struct.pack(">Q", sequence)
    header = number + bytes([content_type, 3, 3]) + struct.pack(">H", len(payload))
    body = number + AESGCM(key).encrypt(nonce + number, payload, header)
    return bytes([content_type, 3, 3]) + struct.pack(">H", len(body)) + body


def plaintext(content_type: int, payload: bytes, *, sequence: int = 50, epoch: int = 0) -> bytes:
    """A record that anybody can write."""
    number = struct.pack(">HHI", epoch, 0, sequence)
    return bytes([content_type, 0xFE, 0xFD]) + number + struct.pack(">H", len(payload)) + payload


def message(kind: int, sequence: int, body: bytes, *, length: int | None = None, offset: int = 0) -> bytes:
    """A handshake message or a fragment of one, `length` being what it claims for the whole."""
    return (
        bytes([kind])
        + (len(body) if length is None else length).to_bytes(3, "big")
        + struct.pack(">H", sequence)
        + offset.to_bytes(3, "big")
        + len(body).to_bytes(3, "big")
        + body
    )


def kinds(datagram: bytes) -> list[str]:
    """What a datagram carries, as in ["22.0:11", "20.0", "22.1"]: content type, epoch, and the message in plaintext."""
    from mitigation.tls.records import split

    return [
        f"{record[0]}.{record[4]}" + (f":{record[13]}" if record[0] == 22 and not record[4] else "")
        for record in split(datagram)
    ]


def hello_extensions(hello: bytes, *, datagram: bool) -> dict[int, bytes]:
    """The extensions of a ClientHello record by number."""
    position = (13 + 12 if datagram else 5 + 4) + 2 + 32
    position += 1 + hello[position]  # session id
    if datagram:
        position += 1 + hello[position]  # cookie
    position += 2 + int.from_bytes(hello[position : position + 2], "big")  # suites
    position += 1 + hello[position]  # compression methods
    end = position + 2 + int.from_bytes(hello[position : position + 2], "big")
    position += 2
    found = {}
    while position < end:
        number, size = struct.unpack_from(">HH", hello, position)
        found[number] = hello[position + 4 : position + 4 + size]
        position += 4 + size
    return found
