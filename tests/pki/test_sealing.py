"""Sealed streams: what goes in comes out, and whatever was done to the file does not open."""

from __future__ import annotations

import io
import random

import pytest

from mitigation.exceptions import StorageRefused
from mitigation.pki import sealing
from mitigation.pki.sealing import CHUNK, TAG, Opener, Sealer

PASSPHRASE = b"correct horse battery staple"
HEAD = sealing._HEAD.size + sealing._CHECK


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_LOG2_N", 10)


def seal(plain: bytes, *, pieces: int = 10_000) -> bytes:
    out = io.BytesIO()
    with Sealer(out, PASSPHRASE) as sealer:
        for start in range(0, len(plain), pieces):
            sealer.write(plain[start : start + pieces])
    return out.getvalue()


def unseal(sealed: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    return io.BufferedReader(Opener(io.BytesIO(sealed), passphrase)).read()


def chunks(sealed: bytes) -> list[bytes]:
    body = sealed[HEAD:]
    return [body[start : start + CHUNK + TAG] for start in range(0, len(body), CHUNK + TAG)]


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_what_goes_in_comes_out(length: int) -> None:
    plain = random.Random(length).randbytes(length)

    sealed = seal(plain)

    assert unseal(sealed) == plain
    assert len(sealed) == HEAD + length + TAG * max(1, -(-length // CHUNK))
    assert length < 50 or plain[:50] not in sealed


def test_the_same_is_never_sealed_the_same() -> None:
    assert seal(b"x") != seal(b"x")


def test_a_wrong_passphrase_is_said_plainly() -> None:
    with pytest.raises(StorageRefused, match="the passphrase is wrong"):
        unseal(seal(b"secret"), b"incorrect horse")


def test_no_octet_can_be_changed() -> None:
    plain = random.Random(1).randbytes(2 * CHUNK + 100)
    sealed = seal(plain)
    places = [*range(HEAD), HEAD, HEAD + CHUNK, HEAD + CHUNK + TAG, len(sealed) - TAG - 1, len(sealed) - 1]

    for place in places:
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(StorageRefused):
            unseal(bytes(altered))


def test_no_end_can_be_cut_off_and_nothing_added() -> None:
    sealed = seal(random.Random(2).randbytes(2 * CHUNK + 100))

    for length in (0, 5, HEAD - 1, HEAD, HEAD + 1, HEAD + CHUNK + TAG, HEAD + 2 * (CHUNK + TAG), len(sealed) - 1):
        with pytest.raises(StorageRefused):
            unseal(sealed[:length])
    for more in (b"\0", sealed[HEAD:]):
        with pytest.raises(StorageRefused):
            unseal(sealed + more)


def test_chunks_keep_their_places_and_their_file() -> None:
    sealed, other = seal(random.Random(3).randbytes(3 * CHUNK)), seal(random.Random(4).randbytes(3 * CHUNK))
    one, two, three = chunks(sealed)

    for order in ([two, one, three], [one, three], [one, one, two, three], [one, chunks(other)[1], three], [three]):
        with pytest.raises(StorageRefused):
            unseal(sealed[:HEAD] + b"".join(order))


def test_a_file_cannot_ask_for_more_memory_than_there_is() -> None:
    altered = bytearray(seal(b"x"))
    altered[31] = 31

    with pytest.raises(StorageRefused, match="head of the backup"):
        unseal(bytes(altered))


def test_an_interrupted_writer_leaves_what_does_not_open() -> None:
    out = io.BytesIO()
    with pytest.raises(OSError, match="disk full"), Sealer(out, PASSPHRASE) as sealer:
        sealer.write(bytes(CHUNK + 1))
        raise OSError("disk full")

    with pytest.raises(StorageRefused):
        unseal(out.getvalue())


def test_other_files_are_told_from_backups() -> None:
    for content in (b"", b"\x1f\x8b\x08\x00", bytes(200)):
        with pytest.raises(StorageRefused, match="not a backup"):
            unseal(content)


def test_a_real_key_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    assert unseal(seal(b"secret")) == b"secret"
    assert sealing._LOG2_N == 17
