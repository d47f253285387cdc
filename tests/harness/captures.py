"""Packets as octets, and files of them as tcpdump and Wireshark write them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from mitigation.rules.packets import Packet

ETHERNET, RAW = 1, 101
_PROTOCOL_OF_FRAGMENT = 44


def wire(packet: Packet, *, payload: int = 8, extensions: Sequence[int] = ()) -> bytes:
    """An IP packet with `payload` octets; IPv6 with these extension headers (0, 43, 60: eight octets each)."""
    upper = _upper(packet) + bytes(payload)
    source, destination = packet.source.packed, packet.destination.packed
    if isinstance(packet.destination, IPv4Address):
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(upper), 7, packet.fragment_offset, 64, packet.protocol, 0)
        return head + source + destination + upper
    following = packet.protocol
    if packet.fragment_offset:
        upper = struct.pack("!BBHI", following, 0, packet.fragment_offset << 3, 7) + upper
        following = _PROTOCOL_OF_FRAGMENT
    for extension in reversed(extensions):
        upper = bytes((following, 0, 1, 4, 0, 0, 0, 0)) + upper
        following = extension
    return struct.pack("!IHBB", 6 << 28, len(upper), following, 64) + source + destination + upper


def _upper(packet: Packet) -> bytes:
    if packet.fragment_offset:
        return b""
    if packet.source_port is not None and packet.destination_port is not None:
        ports = struct.pack("!HH", packet.source_port, packet.destination_port)
        flags = int(packet.tcp_flags or 0)
        return ports + (struct.pack("!IIBBHHH", 1, 1, 5 << 4, flags, 0, 0, 0) if packet.protocol == 6 else bytes(4))
    if packet.icmp_type is not None:
        return bytes((packet.icmp_type, 0, 0, 0, 0, 0, 0, 0))
    return b""


def framed(packet: bytes, *, vlans: int = 0) -> bytes:
    """With an Ethernet header."""
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return bytes(12) + b"\x81\x00\x00\x05" * vlans + kind + packet


def pcap(
    packets: Iterable[tuple[float, bytes]],
    *,
    link: int = RAW,
    order: str = "<",
    nanoseconds: bool = False,
    cut: int = 0,
) -> bytes:
    """`cut`: octets captured of each packet at most."""
    parts = 1_000_000_000 if nanoseconds else 1_000_000
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, cut or 65_535, link)]
    for when, packet in packets:
        kept = packet[:cut] if cut else packet
        head = struct.pack(order + "IIII", int(when), round(when % 1 * parts), len(kept), len(packet))
        out.append(head + kept)
    return b"".join(out)


def pcapng(packets: Iterable[tuple[float, bytes]], *, link: int = RAW, order: str = "<") -> bytes:
    """One section, one interface with times in nanoseconds."""
    resolution = struct.pack(order + "HHBxxxHH", 9, 1, 9, 0, 0)
    out = [
        _block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        _block(order, 1, struct.pack(order + "HHI", link, 0, 0) + resolution),
    ]
    for when, packet in packets:
        time = round(when * 1_000_000_000)
        head = struct.pack(order + "IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(packet), len(packet))
        out.append(_block(order, 6, head + packet + bytes(-len(packet) % 4)))
    return b"".join(out)


def _block(order: str, kind: int, body: bytes) -> bytes:
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length
