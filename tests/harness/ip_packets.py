"""IP packets octet by octet, with every field a filter may ask for; and a sender of such octets.

Run inside a namespace: `python -m tests.harness.ip_packets` sends what it reads, one packet in hex a line.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable
from ipaddress import ip_address

from lab.packets import _ETHERTYPE, _checksum
from lab.topology import ATTACKER4, ATTACKER6, ROUTER_MAC, UPLINK, VICTIM4, VICTIM6, Namespace

SOURCE = {4: ATTACKER4, 6: ATTACKER6}
HOST = {4: VICTIM4, 6: VICTIM6}


def ip(
    family: int,
    protocol: int,
    transport: bytes = b"",
    *,
    source: str = "",
    destination: str = "",
    dscp: int = 0,
    ecn: int = 0,
    ttl: int = 64,
    identification: int = 1,
    flags: int = 0,
    offset: int = 0,
    more: bool = False,
    options: bytes = b"",
    flow_label: int = 0,
    fragment_header: bool = False,
    hop_by_hop: bool = False,
) -> bytes:
    """`flags` as in IPv4's word (0x8000 reserved, 0x4000 DF); `more` and `offset` (in 8 octets) for both families."""
    origin, target = ip_address(source or SOURCE[family]), ip_address(destination or HOST[family])
    if family == 4:
        word = flags | (0x2000 if more else 0) | offset
        head = struct.pack(
            "!BBHHHBBH",
            0x45 + len(options) // 4,
            dscp << 2 | ecn,
            20 + len(options) + len(transport),
            identification,
            word,
            ttl,
            protocol,
            0,
        )
        head += origin.packed + target.packed + options
        return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + transport
    body, following = transport, protocol
    if fragment_header or offset or more:
        body, following = struct.pack("!BBHI", following, 0, offset << 3 | more, identification) + body, 44
    if hop_by_hop:
        body, following = bytes((following, 0, 1, 4, 0, 0, 0, 0)) + body, 0
    first = 6 << 28 | dscp << 22 | ecn << 20 | flow_label
    return struct.pack("!IHBB", first, len(body), following, ttl) + origin.packed + target.packed + body


def tcp_header(
    *,
    source_port: int = 4000,
    destination_port: int = 80,
    sequence: int = 1,
    acknowledgement: int = 0,
    reserved: int = 0,
    flags: int = 2,
    window: int = 65535,
    urgent: int = 0,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    word = (5 + len(options) // 4) << 12 | reserved << 8 | flags
    head = struct.pack(
        "!HHIIHHHH", source_port, destination_port, sequence, acknowledgement, word, window, 0, urgent
    )  # filters do not look at the checksum
    return head + options + payload


def udp_header(*, source_port: int = 4000, destination_port: int = 80, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def icmp_message(*, type: int = 8, code: int = 0, rest: bytes = bytes(4)) -> bytes:
    return struct.pack("!BBH", type, code, 0) + rest


def send_octets(namespace: Namespace, packets: Iterable[bytes]) -> None:
    """From the namespace to its router, all of them, in this order."""
    namespace.run(sys.executable, "-m", "tests.harness.ip_packets", text="\n".join(one.hex() for one in packets))


def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        router = bytes.fromhex(ROUTER_MAC.replace(":", ""))
        for line in sys.stdin:
            packet = bytes.fromhex(line.strip())
            link.sendto(packet, (UPLINK, _ETHERTYPE[packet[0] >> 4], 0, 0, router))


if __name__ == "__main__":
    main()
