"""Seeds, and what becomes of them: a mutator for where no coverage-guided one is installed, and for live traffic."""

from __future__ import annotations

import random
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
_INTERESTING = (0x00, 0x01, 0x0D, 0x0E, 0x0F, 0x1F, 0x7F, 0x80, 0xBF, 0xFF)
LONGEST = 4_096


def seeds(target: str) -> list[bytes]:
    """The corpus of a target, in an order that is always the same."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


class Mutator:
    """Always the same sequence for one number."""

    def __init__(self, corpus: list[bytes], number: int) -> None:
        self._corpus = corpus
        self._random = random.Random(number)

    def next(self) -> bytes:
        """One to eight changes to some seed."""
        data = bytearray(self._random.choice(self._corpus))
        for _ in range(self._random.randint(1, 8)):
            self._change(data)
        return bytes(data[:LONGEST])

    def _change(self, data: bytearray) -> None:
        pick = self._random
        at = pick.randrange(len(data) + 1)
        match pick.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << pick.randrange(8)
            case 1 if at < len(data):
                data[at] = pick.choice(_INTERESTING)
            case 2:
                del data[at : at + pick.randint(1, 8)]
            case 3:
                data[at:at] = pick.randbytes(pick.randint(1, 8))
            case 4:
                data[at:at] = data[at : at + pick.randint(1, 32)]
            case 5:
                other = pick.choice(self._corpus)
                data[at:] = other[pick.randrange(len(other) + 1) :]
            case 6:
                del data[at:]
            case _:
                data += bytes([pick.choice(_INTERESTING)]) * pick.randint(1, 64)
