"""Raw IPv4 and IPv6 packets: built, sent at a rate and counted; seen and counted.

Packets go out by AF_PACKET, so any source address, any flags and any fragments are possible and the kernel of the
sending namespace changes nothing. Run inside a namespace:

    python -m lab.packets send '[{"destination": "198.51.100.7", ...}, ...]'     flows one after the other
    python -m lab.packets receive INTERFACE                                     counts until its input is closed
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from lab.topology import ROUTER_MAC, UPLINK, Namespace

TCP, UDP, ICMP, ICMPV6, IPV6_FRAGMENT = 6, 17, 1, 58, 44
WITH_PORTS = (TCP, UDP, 33, 132)  # also DCCP and SCTP
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_BUFFER = 64 << 20
IDLE_SECONDS = 0.1


@dataclass(frozen=True)
class Flow:
    """`count` datagrams from `sources` in turn, at `rate` a second (0: as fast as can be).

    `fragment_size`, if not 0, is the largest piece of payload per fragment, a multiple of 8. `payload` in octets.
    """

    destination: str
    sources: tuple[str, ...]
    protocol: int = UDP
    source_port: int = 4000
    destination_port: int = 80
    tcp_flags: int = SYN
    icmp_type: int = 8
    payload: int = 64
    count: int = 1
    rate: int = 0
    fragment_size: int = 0


@dataclass(frozen=True)
class Sent:
    """What went out. `packets` and `octets` count all, `later_fragments` those without a transport header."""

    packets: int = 0
    octets: int = 0
    later_fragments: int = 0
    later_octets: int = 0


@dataclass(frozen=True)
class Seen:
    """Packets alike in these fields; ports are None where they cannot be read."""

    family: int
    protocol: int
    source: str
    destination: str
    source_port: int | None
    destination_port: int | None
    is_later_fragment: bool
    tcp_flags: int | None
    packets: int = 0


def send(namespace: Namespace, *flows: Flow, timeout: float = 60.0) -> list[Sent]:
    """Runs the sender in the namespace and waits until all flows are out."""
    specification = json.dumps([asdict(flow) for flow in flows])
    answer = namespace.run(sys.executable, "-m", "lab.packets", "send", specification, timeout=timeout)
    return [Sent(**one) for one in json.loads(answer)]


def start_sending(namespace: Namespace, *flows: Flow) -> subprocess.Popen[str]:
    """The same in the background: `finish_sending` waits for its end."""
    return namespace.start(sys.executable, "-m", "lab.packets", "send", json.dumps([asdict(flow) for flow in flows]))


def finish_sending(process: subprocess.Popen[str], timeout: float = 60.0) -> list[Sent]:
    answer, _ = process.communicate(timeout=timeout)
    return [Sent(**one) for one in json.loads(answer)]


@dataclass
class Receiver:
    """Counts what arrives in a namespace, from entering until `stop`; a full socket buffer is an error, not a loss.

    `linger`: seconds that it goes on at most after `stop`, for a flood that does not end.
    """

    namespace: Namespace
    interface: str = UPLINK
    linger: float = 3600.0
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def __enter__(self) -> Receiver:
        self._process = self.namespace.start_module("lab.packets", "receive", self.interface, str(self.linger))
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    def stop(self) -> list[Seen]:
        """Everything on its way is still counted: it listens until nothing has come for a tenth of a second."""
        assert self._process is not None, "not started, or stopped before"
        answer, _ = self._process.communicate(timeout=60)
        self._process = None
        found = json.loads(answer)
        if found["lost"]:
            raise RuntimeError(f"the receiver was too slow and lost {found['lost']} packets")
        return [Seen(**one) for one in found["seen"]]


def total(seen: Iterable[Seen], **wanted: Any) -> int:
    """How many packets have these values in these fields."""
    return sum(one.packets for one in seen if all(getattr(one, name) == value for name, value in wanted.items()))


def packets(flow: Flow, source: str, identification: int) -> list[bytes]:
    """The IP packets of one datagram: one, or its fragments."""
    origin, target = ip_address(source), ip_address(flow.destination)
    body = _transport(flow, origin, target)
    if not flow.fragment_size:
        return [_header(origin, target, flow.protocol, len(body), identification) + body]
    pieces = []
    for start in range(0, len(body), flow.fragment_size):
        piece = body[start : start + flow.fragment_size]
        has_more = start + flow.fragment_size < len(body)
        pieces.append(_fragment(origin, target, flow.protocol, identification, piece, start // 8, has_more=has_more))
    return pieces


def _transport(flow: Flow, origin: IPv4Address | IPv6Address, target: IPv4Address | IPv6Address) -> bytes:
    payload = bytes(flow.payload)
    if flow.protocol == UDP:
        length = 8 + len(payload)
        head = struct.pack("!HHHH", flow.source_port, flow.destination_port, length, 0)
        checksum = _checksum(_pseudo(origin, target, UDP, length) + head + payload) or 0xFFFF
        return head[:6] + struct.pack("!H", checksum) + payload
    if flow.protocol == TCP:
        head = struct.pack(
            "!HHIIBBHHH", flow.source_port, flow.destination_port, 1, 0, 5 << 4, flow.tcp_flags, 65535, 0, 0
        )
        checksum = _checksum(_pseudo(origin, target, TCP, 20 + len(payload)) + head + payload)
        return head[:16] + struct.pack("!H", checksum) + head[18:] + payload
    if flow.protocol in (ICMP, ICMPV6):
        head = struct.pack("!BBHHH", flow.icmp_type, 0, 0, flow.source_port, 1)
        length = len(head) + len(payload)
        pseudo = _pseudo(origin, target, ICMPV6, length) if flow.protocol == ICMPV6 else b""
        checksum = _checksum(pseudo + head + payload)
        return head[:2] + struct.pack("!H", checksum) + head[4:] + payload
    if flow.protocol in WITH_PORTS:  # enough for filters, not for an endpoint
        return struct.pack("!HH", flow.source_port, flow.destination_port) + payload
    return payload


def _header(
    origin: IPv4Address | IPv6Address,
    target: IPv4Address | IPv6Address,
    protocol: int,
    length: int,
    identification: int,
    offset_field: int = 0,
) -> bytes:
    if origin.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + origin.packed + target.packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, identification & 0xFFFF, offset_field, 64, protocol, 0)
    checksum = _checksum(head + origin.packed + target.packed)
    return head[:10] + struct.pack("!H", checksum) + origin.packed + target.packed


def _fragment(
    origin: IPv4Address | IPv6Address,
    target: IPv4Address | IPv6Address,
    protocol: int,
    identification: int,
    piece: bytes,
    offset: int,
    *,
    has_more: bool,
) -> bytes:
    if origin.version == 4:
        field = offset | (0x2000 if has_more else 0)
        return _header(origin, target, protocol, len(piece), identification, field) + piece
    extension = struct.pack("!BBHI", protocol, 0, offset << 3 | has_more, identification)
    return _header(origin, target, IPV6_FRAGMENT, len(piece) + 8, identification) + extension + piece


def _pseudo(origin: IPv4Address | IPv6Address, target: IPv4Address | IPv6Address, protocol: int, length: int) -> bytes:
    return origin.packed + target.packed + struct.pack("!II", length, protocol)


def _checksum(data: bytes) -> int:
    """The Internet checksum: RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    sum_ = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while sum_ >> 16:
        sum_ = (sum_ & 0xFFFF) + (sum_ >> 16)
    return ~sum_ & 0xFFFF


def _send_flows(flows: list[Flow], interface: str) -> list[Sent]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        return [_send_flow(flow, link, interface) for flow in flows]


def _send_flow(flow: Flow, link: socket.socket, interface: str) -> Sent:
    family = ip_address(flow.destination).version
    address = (interface, _ETHERTYPE[family], 0, 0, bytes.fromhex(ROUTER_MAC.replace(":", "")))
    # Datagrams repeat after a while; fragments need an identification of their own to be put together rightly.
    distinct = flow.count if flow.fragment_size else min(flow.count, len(flow.sources))
    prepared = [packets(flow, flow.sources[n % len(flow.sources)], n + 1) for n in range(distinct)]
    counts = [0, 0, 0, 0]
    started = time.monotonic()
    for number in range(flow.count):
        if flow.rate and (ahead := number / flow.rate - (time.monotonic() - started)) > 0.001:
            time.sleep(ahead)
        for position, packet in enumerate(prepared[number % distinct]):
            link.sendto(packet, address)
            is_later = position > 0
            for at, amount in enumerate((1, len(packet), is_later, is_later * len(packet))):
                counts[at] += amount
    return Sent(*counts)


def _receive(interface: str, linger: float) -> dict[str, Any]:
    counts: Counter[tuple[Any, ...]] = Counter()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as link:
        link.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        link.bind((interface, 3))  # ETH_P_ALL; not before, or packets of other interfaces come in
        print("ready", flush=True)
        for packet in _until_closed(link, linger):
            counts[_read(packet)] += 1
        lost = struct.unpack("II", link.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS
    names = [one.name for one in fields(Seen) if one.name != "packets"]
    seen = [dict(zip(names, key, strict=True)) | {"packets": n} for key, n in counts.items()]
    return {"lost": lost, "seen": seen}


def _until_closed(link: socket.socket, linger: float) -> Iterator[bytes]:
    is_open, ends = True, math.inf
    while time.monotonic() < ends:
        ready, _, _ = select.select([link, sys.stdin] if is_open else [link], [], [], None if is_open else IDLE_SECONDS)
        if sys.stdin in ready:
            is_open, ends = False, time.monotonic() + linger
        if link in ready:
            packet, (_, ethertype, packet_type, *_rest) = link.recvfrom(65535)
            if ethertype in _ETHERTYPE.values() and packet_type != socket.PACKET_OUTGOING:
                yield packet
        elif not is_open:
            return


def _read(packet: bytes) -> tuple[Any, ...]:
    if packet[0] >> 4 == 4:
        protocol, start, offset = packet[9], (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 6)[0] & 0x1FFF
        source, destination = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
    else:
        protocol, start, offset = packet[6], 40, 0
        source, destination = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
        if protocol == IPV6_FRAGMENT:
            protocol, start, offset = packet[40], 48, struct.unpack_from("!H", packet, 42)[0] >> 3
    ports: tuple[int | None, int | None] = (None, None)
    if not offset and protocol in WITH_PORTS and len(packet) >= start + 4:
        ports = struct.unpack_from("!HH", packet, start)
    flags = packet[start + 13] if not offset and protocol == TCP and len(packet) > start + 13 else None
    return packet[0] >> 4, protocol, source, destination, *ports, offset > 0, flags


def main(arguments: list[str]) -> None:
    match arguments:
        case ["send", specification]:
            flows = [Flow(**{**one, "sources": tuple(one["sources"])}) for one in json.loads(specification)]
            print(json.dumps([asdict(sent) for sent in _send_flows(flows, UPLINK)]))
        case ["receive", interface, linger]:
            print(json.dumps(_receive(interface, float(linger))))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
