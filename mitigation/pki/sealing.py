"""A stream sealed under a passphrase: AES-256-GCM in chunks, the key from scrypt.

    magic 8 | salt 16 | nonce prefix 7 | log2(N) 1 | r 1 | p 1 | check 32 | chunk | chunk | ... | last chunk

Each chunk is 64 KiB of plain text, the last one shorter or not, with a tag of 16 octets after it. Its nonce is the
prefix, its number and whether it is the last (the STREAM construction), and the head is associated data: chunks that
are changed, swapped, repeated, left out or missing at the end do not open. The check is a hash under a second key of
the same scrypt, so that a wrong passphrase can be told from a damaged file.
"""

from __future__ import annotations

import hmac
import io
import secrets
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from mitigation.exceptions import StorageRefused

MAGIC = b"DOTSBAK\x01"
CHUNK = 65_536
TAG = 16

_HEAD = struct.Struct("8s16s7sBBB")
_CHECK = 32
# 128 MiB and some tenths of a second for each guess.
_LOG2_N, _R, _P = 17, 8, 1
# What a file may ask of us: at most 1 GiB.
_HIGHEST = (20, 8, 4)


class Sealer(io.RawIOBase):
    """Seals what is written to it; `close` writes the last chunk. Left by an exception, the file stays unusable."""

    def __init__(self, out: BinaryIO, passphrase: bytes) -> None:
        head = _HEAD.pack(MAGIC, secrets.token_bytes(16), secrets.token_bytes(7), _LOG2_N, _R, _P)
        self._keys = _Keys.derive(head, passphrase)
        self._out = out
        self._buffer = bytearray()
        self._number = 0
        out.write(head + self._keys.check)

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._buffer += piece
        while len(self._buffer) > CHUNK:  # one is always kept back, for only the end knows which is the last
            self._seal(bytes(self._buffer[:CHUNK]), is_last=False)
            del self._buffer[:CHUNK]
        return len(piece)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self._seal(bytes(self._buffer), is_last=True)
        self._buffer.clear()
        super().close()

    def _seal(self, plain: bytes, *, is_last: bool) -> None:
        self._out.write(self._keys.seal(plain, self._number, is_last=is_last))
        self._number += 1


class Opener(io.RawIOBase):
    """Reads a sealed stream; nothing that it returns is unproven. Raises StorageRefused.

    Only the end proves that nothing is missing: read until it before believing the whole.
    """

    def __init__(self, source: BinaryIO, passphrase: bytes) -> None:
        head = source.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(MAGIC):
            raise StorageRefused("this is not a backup of this server")
        _, _, _, log2_n, r, p = _HEAD.unpack(head)
        if not (10 <= log2_n <= _HIGHEST[0] and 1 <= r <= _HIGHEST[1] and 1 <= p <= _HIGHEST[2]):
            raise StorageRefused("the head of the backup is altered or damaged")
        self._keys = _Keys.derive(head, passphrase)
        if not hmac.compare_digest(source.read(_CHECK), self._keys.check):
            raise StorageRefused("the passphrase is wrong (or the head of the file is damaged)")
        self._source = source
        self._ahead = source.read(CHUNK + TAG)
        self._plain = b""
        self._number = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._plain and not self._ended:
            self._open()
        count = min(len(view), len(self._plain))
        view[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _open(self) -> None:
        chunk, self._ahead = self._ahead, self._source.read(CHUNK + TAG)
        self._ended = not self._ahead
        try:
            self._plain = self._keys.open(chunk, self._number, is_last=self._ended)
        except InvalidTag:
            raise StorageRefused("the backup is truncated, altered or damaged") from None
        self._number += 1


@dataclass(frozen=True, slots=True)
class _Keys:
    cipher: AESGCM
    head: bytes
    check: bytes

    @classmethod
    def derive(cls, head: bytes, passphrase: bytes) -> _Keys:
        _, salt, _, log2_n, r, p = _HEAD.unpack(head)
        found = Scrypt(salt=salt, length=64, n=1 << log2_n, r=r, p=p).derive(passphrase)
        return cls(AESGCM(found[:32]), head, hmac.digest(found[32:], head, "sha256"))

    def seal(self, plain: bytes, number: int, *, is_last: bool) -> bytes:
        return self.cipher.encrypt(self._nonce(number, is_last), plain, self.head)

    def open(self, chunk: bytes, number: int, *, is_last: bool) -> bytes:
        if len(chunk) < TAG:
            raise InvalidTag
        return self.cipher.decrypt(self._nonce(number, is_last), chunk, self.head)

    def _nonce(self, number: int, is_last: bool) -> bytes:
        return self.head[24:31] + struct.pack(">I?", number, is_last)
