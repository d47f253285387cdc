"""Listening sockets: opened once by `up` and handed to children, or by a process for itself."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path

DATA_VARIABLE = "DOTS_DATA_FDS"


def udp(address: str, port: int) -> socket.socket:
    """A bound UDP socket; an IPv6 one takes IPv6 only, so that both wildcard addresses can be bound side by side."""
    return _bound(address, port, socket.SOCK_DGRAM)


def tcp(address: str, port: int) -> socket.socket:
    """A bound TCP socket that does not listen yet."""
    return _bound(address, port, socket.SOCK_STREAM)


def signal(addresses: Iterable[str], port: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """UDP and TCP sockets of the signal channel, for each address that this machine has."""
    usable = [address for address in addresses if is_usable(address)]
    return [udp(address, port) for address in usable], [tcp(address, port) for address in usable]


def data(addresses: Iterable[str], port: int) -> list[socket.socket]:
    """Listening TCP sockets of the data channel, for each address that this machine has."""
    listening = [tcp(address, port) for address in filter(is_usable, addresses)]
    for bound in listening:
        bound.listen(128)
    return listening


def unix(path: Path, *, mode: int) -> socket.socket:
    """A listening unix socket; what a dead process left of it is replaced, a live one is OSError."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _refuse_live(path)
            path.unlink()
        previous = os.umask(0o777 & ~mode)
        try:
            bound.bind(str(path))
        finally:
            os.umask(previous)
        bound.listen(128)
    except BaseException:
        bound.close()
        raise
    return bound


def is_usable(address: str) -> bool:
    """Whether the machine has the address's family at all; IPv6 may be switched off."""
    try:
        _bound(address, 0, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno not in (97, 99)  # EAFNOSUPPORT, EADDRNOTAVAIL
    return True


def inherited(variable: str, kind: socket.SocketKind) -> list[socket.socket]:
    """Sockets whose descriptors a parent named in the environment, "3,4"; none where it did not."""
    numbers = [int(word) for word in os.environ.get(variable, "").split(",") if word]
    return [socket.socket(fileno=number, type=kind) for number in numbers]


def _refuse_live(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise OSError(98, f"somebody listens on {path}")


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    version = ipaddress.ip_address(address).version
    bound = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind)
    try:
        if version == 6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit it; asyncio sets it only on those that name their protocol, and an answer in two
            # writes would wait 40 ms for the peer's delayed acknowledgement.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind((address, port))
    except BaseException:
        bound.close()
        raise
    return bound
