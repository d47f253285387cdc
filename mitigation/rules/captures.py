"""Captured traffic as columns: pcap and pcapng files, a million packets in seconds.

Only headers are looked at, as the equipment looks at them: protocols behind IPv6 extension headers, ports where a
packet carries them, fragments. What is no IP packet is counted and left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitigation.exceptions import DotsError
from mitigation.rules.boxes import NO_PORT, PORT_PROTOCOLS

CHUNK = 65_536  # packets looked at together
WINDOW = 192  # octets of each packet: room for link layer, extension headers and TCP
NONE = -1

Column = NDArray[Any]
Octets = NDArray[np.uint8]


class BadCapture(DotsError):
    """The file is no capture, or of a kind that is not read."""


@dataclass(frozen=True)
class Capture:
    """IP packets in the order of the file, a row each.

    `time` in seconds since 1970, `length` in octets from the IP header on. Addresses are two 64-bit halves, IPv4 in the
    lower one. `source_port`, `port` (destination), `tcp_flags` and `icmp_type` are -1 where the packet carries none
    or was cut before them. `is_later_fragment` for every fragment but the first. `others`: frames that are not IP.
    """

    time: Column
    length: Column
    family: Column
    protocol: Column
    source_high: Column
    source_low: Column
    destination_high: Column
    destination_low: Column
    source_port: Column
    port: Column
    tcp_flags: Column
    icmp_type: Column
    is_later_fragment: Column
    others: int = 0

    def __len__(self) -> int:
        return len(self.time)


COLUMNS = [one.name for one in fields(Capture) if one.name != "others"]


@dataclass(frozen=True)
class _Records:
    """Where the packets lie in the file: of equal length. `link` is the link type of each."""

    time: Column
    start: Column
    captured: Column
    link: Column


def read_capture(path: Path) -> Capture:
    """Raises BadCapture, or OSError where the file cannot be read."""
    if path.stat().st_size < 24:
        raise BadCapture(f"{path.name} is no capture: it has no header")
    octets = np.memmap(path, np.uint8, mode="r")
    return _parse(octets, _records(octets.data, path.name))


# -- the file ---------------------------------------------------------------------------------------------------------

_MAGIC = {  # byte order, and parts of a second
    b"\xd4\xc3\xb2\xa1": ("<", 1_000_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000_000_000),
    b"\xa1\xb2\x3c\x4d": (">", 1_000_000_000),
}
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_BYTE_ORDER = 0x1A2B3C4D
_TIME_RESOLUTION = 9  # option of an interface


def _records(data: memoryview, name: str) -> _Records:
    magic = bytes(data[:4])
    if magic in _MAGIC:
        found = list(_pcap(data, *_MAGIC[magic]))
    elif magic == _SECTION.to_bytes(4):
        found = list(_pcapng(data, name))
    else:
        raise BadCapture(f"{name} is no capture: it begins like neither pcap nor pcapng")
    time, start, captured, link = zip(*found, strict=True) if found else ((), (), (), ())
    return _Records(
        np.array(time, np.float64), np.array(start, np.int64), np.array(captured, np.int64), np.array(link, np.int64)
    )


def _pcap(data: memoryview, order: str, parts: int) -> Iterator[tuple[float, int, int, int]]:
    link = struct.unpack_from(order + "I", data, 20)[0] & 0x0FFFFFFF
    head, position, end = struct.Struct(order + "IIII"), 24, len(data)
    while position + 16 <= end:
        seconds, fraction, captured, _ = head.unpack_from(data, position)
        position += 16
        yield seconds + fraction / parts, position, min(captured, end - position), link
        position += captured


def _pcapng(data: memoryview, name: str) -> Iterator[tuple[float, int, int, int]]:
    order, position, end = "<", 0, len(data)
    interfaces: list[tuple[int, float]] = []  # link type, seconds in a unit of time
    while position + 12 <= end:
        kind = struct.unpack_from(order + "I", data, position)[0]
        if kind == _SECTION:  # the same in either byte order
            order = "<" if struct.unpack_from("<I", data, position + 8)[0] == _BYTE_ORDER else ">"
            interfaces = []
        length = struct.unpack_from(order + "I", data, position + 4)[0]
        if length < 12 or length % 4:
            raise BadCapture(f"{name} is damaged at octet {position}")
        body, after = position + 8, min(position + length - 4, end)
        with suppress(struct.error, IndexError):  # a block that the end of the file cut off
            if kind == _INTERFACE:
                interfaces.append(_interface(data, order, body, after))
            elif kind == _ENHANCED:
                number, high, low, captured = struct.unpack_from(order + "IIII", data, body)
                link, unit = interfaces[number]
                yield (high << 32 | low) * unit, body + 20, min(captured, after - body - 20), link
            elif kind == _SIMPLE:
                captured = min(struct.unpack_from(order + "I", data, body)[0], after - body - 4)
                yield 0.0, body + 4, captured, interfaces[0][0]
        position += length


def _interface(data: memoryview, order: str, body: int, after: int) -> tuple[int, float]:
    link, unit, position = struct.unpack_from(order + "H", data, body)[0], 1e-6, body + 8
    while position + 4 <= after:
        code, length = struct.unpack_from(order + "HH", data, position)
        if code == _TIME_RESOLUTION:
            value = data[position + 4]
            unit = 2.0 ** -(value & 0x7F) if value & 0x80 else 10.0**-value
        position += 4 + length + -length % 4
    return link, unit


# -- the packets ------------------------------------------------------------------------------------------------------

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN = (0x8100, 0x88A8, 0x9100)
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION, _MOBILITY = 0, 43, 44, 51, 60, 135
_TCP, _ICMP, _ICMPV6 = 6, 1, 58


def _parse(octets: Octets, records: _Records) -> Capture:
    known = np.isin(records.link, list(_LINKS))
    if len(known) and not known.any():
        raise BadCapture(f"link type {records.link[0]} is not read; capture with Ethernet, Linux cooked or raw IP")
    parts: list[dict[str, Column]] = []
    for link in np.unique(records.link[known]):
        rows = np.flatnonzero(records.link == link)
        for at in range(0, len(rows), CHUNK):
            parts.append(_Headers(octets, records, rows[at : at + CHUNK], int(link)).columns())
    columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS} if parts else _nothing()
    found = len(columns["time"])
    if len(np.unique(records.link)) > 1:
        order = np.argsort(columns["time"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
    return Capture(**columns, others=len(records.time) - found)


def _nothing() -> dict[str, Column]:
    return {name: np.zeros(0, np.uint64 if name.endswith(("high", "low")) else np.int64) for name in COLUMNS}


class _Headers:
    """The first octets of some packets as a matrix, and reading in it at an offset of each row's own."""

    def __init__(self, octets: Octets, records: _Records, rows: Column, link: int) -> None:
        starts, self._have = records.start[rows], records.captured[rows]
        self._time = records.time[rows]
        places = np.minimum(starts[:, None] + np.arange(WINDOW), max(len(octets) - 1, 0))
        self._matrix = octets[places]
        self._rows = np.arange(len(rows))
        self._start = _LINKS[link](self)

    def octet(self, offset: Column | int) -> Column:
        """One octet of each row; 0 beyond what was captured."""
        at = np.broadcast_to(np.asarray(offset, np.int64), self._rows.shape)
        inside = (at < WINDOW) & (at < self._have)
        return np.where(inside, self._matrix[self._rows, np.minimum(at, WINDOW - 1)], 0).astype(np.int64)

    def word(self, offset: Column | int) -> Column:
        return self.octet(offset) << 8 | self.octet(np.asarray(offset) + 1)

    def long(self, offset: Column, octets: int) -> Column:
        value = np.zeros(len(self._rows), np.uint64)
        for at in range(octets):
            value = value << np.uint64(8) | self.octet(offset + at).astype(np.uint64)
        return value

    def columns(self) -> dict[str, Column]:
        start = self._start
        version = np.where(start >= 0, self.octet(start) >> 4, 0)
        four = (version == 4) & (self._have >= start + 20)
        six = (version == 6) & (self._have >= start + 40)
        protocol6, offset6, fragment6 = self._extension_headers(start, six)
        header4 = np.maximum((self.octet(start) & 15) * 4, 20)
        protocol = np.where(four, self.octet(start + 9), protocol6)
        later = np.where(four, self.word(start + 6) & 0x1FFF, fragment6) > 0
        upper = start + np.where(four, header4, offset6)
        nothing = np.uint64(0)
        found = {
            "time": self._time,
            "length": np.where(four, self.word(start + 2), self.word(start + 4) + 40),
            "family": version,
            "protocol": protocol,
            "source_high": np.where(six, self.long(start + 8, 8), nothing),
            "source_low": np.where(six, self.long(start + 16, 8), self.long(start + 12, 4)),
            "destination_high": np.where(six, self.long(start + 24, 8), nothing),
            "destination_low": np.where(six, self.long(start + 32, 8), self.long(start + 16, 4)),
            **self._upper_layer(protocol, later, upper),
            "is_later_fragment": later,
        }
        is_ip = four | six
        return {name: column[is_ip] for name, column in found.items()}

    def _upper_layer(self, protocol: Column, later: Column, at: Column) -> dict[str, Column]:
        ports = np.isin(protocol, PORT_PROTOCOLS) & ~later & (self._have >= at + 4) & (at + 4 <= WINDOW)
        flags = (protocol == _TCP) & ~later & (self._have >= at + 14) & (at + 14 <= WINDOW)
        icmp = np.isin(protocol, (_ICMP, _ICMPV6)) & ~later & (self._have > at) & (at < WINDOW)
        return {
            "source_port": np.where(ports, self.word(at), NONE),
            "port": np.where(ports, self.word(at + 2), NO_PORT),
            "tcp_flags": np.where(flags, self.octet(at + 13), NONE),
            "icmp_type": np.where(icmp, self.octet(at), NONE),
        }

    def _extension_headers(self, start: Column, six: Column) -> tuple[Column, Column, Column]:
        """Protocol, offset of its header from the IP header, and fragment offset (RFC 8200, section 4)."""
        protocol, offset = self.octet(start + 6), np.full(len(self._rows), 40)
        fragment = np.zeros(len(self._rows), np.int64)
        for _ in range(8):
            at = start + offset
            readable = six & (at + 8 <= np.minimum(self._have, WINDOW)) & (fragment == 0)
            options = readable & np.isin(protocol, (_HOP_BY_HOP, _ROUTING, _DESTINATION, _MOBILITY))
            is_fragment = readable & (protocol == _FRAGMENT)
            authentication = readable & (protocol == _AUTHENTICATION)
            moving = options | is_fragment | authentication
            if not moving.any():
                break
            following, length = self.octet(at), self.octet(at + 1)
            fragment = np.where(is_fragment, self.word(at + 2) >> 3, fragment)
            step = np.where(options, (length + 1) * 8, np.where(is_fragment, 8, (length + 2) * 4))
            protocol = np.where(moving, following, protocol)
            offset = np.where(moving, offset + step, offset)
        return protocol, offset, fragment


def _ethernet(headers: _Headers) -> Column:
    at = np.full(len(headers._rows), 12)
    for _ in range(2):
        at = np.where(np.isin(headers.word(at), _VLAN), at + 4, at)
    return np.where(np.isin(headers.word(at), (_IPV4, _IPV6)), at + 2, NONE)


def _behind(length: int, place: int | None) -> Callable[[_Headers], Column]:
    """A link header of fixed length, with the type of what follows at `place` where it says so."""

    def find(headers: _Headers) -> Column:
        start = np.full(len(headers._rows), length)
        if place is None:
            return start
        return np.where(np.isin(headers.word(place), (_IPV4, _IPV6)), start, NONE)

    return find


# Link types (https://www.tcpdump.org/linktypes.html) and where the IP header begins; -1 for what is not IP.
_LINKS: dict[int, Callable[[_Headers], Column]] = {
    0: _behind(4, None),  # loopback of BSD
    1: _ethernet,
    12: _behind(0, None),
    101: _behind(0, None),  # raw IP
    113: _behind(16, 14),  # Linux cooked
    228: _behind(0, None),
    229: _behind(0, None),
    276: _behind(20, 0),  # Linux cooked, second form
}
