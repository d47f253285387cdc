"""The gate: the first look of every stage, whether a destination is in any scope at all; pure.

Most of what passes a router goes to nobody that asked for anything. It leaves each stage after a look into a hash set
of destinations in *granules*: networks of some fixed lengths, a set for each length, of which a stage asks those only
that its rules need. The granules of a rule hold all its destinations. Two rules never differ about one, so none has
ever to be taken apart or replaced: it comes with the first rule that needs it or before, and leaves after the last.
Some hold more than the rules need; packets to the rest of those are looked at for nothing, and that is all. An interval
set would hold just what is needed, at three times the price for each packet.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mitigation.rules.boxes import Family

# Lengths of granules: a network of one of these takes a single granule.
LENGTHS: dict[Family, tuple[int, ...]] = {4: (32, 24, 16, 8), 6: (128, 64, 48, 32, 8)}
MOST = 255  # granules of one range; there are 256 of the last length
_BITS: dict[Family, int] = {4: 32, 6: 128}


class Level(NamedTuple):
    """All granules of one length: one set in the kernel."""

    family: Family
    length: int

    @property
    def name(self) -> str:
        return f"{self.family}_{self.length}"

    @property
    def mask(self) -> str:
        """What makes a granule of an address, as nft writes it; nothing where they are the same."""
        bits = _BITS[self.family]
        return "" if self.length == bits else f" & {_address(self.family, (1 << bits) - (1 << bits - self.length))}"


LEVELS = tuple(Level(family, length) for family in LENGTHS for length in LENGTHS[family])


class Granule(NamedTuple):
    """`first` is its lowest address, packed, as the kernel keeps it."""

    level: Level
    first: bytes

    @property
    def value(self) -> str:
        """As nft writes it."""
        return _address(self.level.family, int.from_bytes(self.first, "big"))


@lru_cache(maxsize=1 << 16)  # the rules of a mitigation share their destinations
def granules(family: Family, first: int, last: int) -> tuple[Granule, ...]:
    """Those that hold all addresses from `first` to `last`, as small as MOST allows."""
    bits = _BITS[family]
    for length in LENGTHS[family]:
        shift = bits - length
        lowest, highest = first >> shift, last >> shift
        if highest - lowest < MOST:
            break
    level = Level(family, length)
    return tuple(Granule(level, (n << shift).to_bytes(bits // 8, "big")) for n in range(lowest, highest + 1))


def _address(family: Family, number: int) -> str:
    return str(IPv4Address(number) if family == 4 else IPv6Address(number))
