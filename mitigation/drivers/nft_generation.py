"""The kernel's count of changes to nftables in this network namespace, asked by netlink in microseconds.

Every transaction of anybody raises it; elements that expire and meters that packets fill do not.
"""

from __future__ import annotations

import socket
import struct

_NETFILTER = 12  # NETLINK_NETFILTER, linux/netlink.h
_GET, _NEW = (
    10 << 8 | 16,
    10 << 8 | 15,
)  # NFT_MSG_GETGEN and NEWGEN of NFNL_SUBSYS_NFTABLES, linux/netfilter/nf_tables.h
_REQUEST = 1  # NLM_F_REQUEST
_ID = 1  # NFTA_GEN_ID
_HEADER, _GENERIC, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")


def generation() -> int | None:
    """None where the kernel does not say."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as netlink:
            netlink.settimeout(1.0)
            netlink.send(_HEADER.pack(_HEADER.size + _GENERIC.size, _GET, _REQUEST, 1, 0) + _GENERIC.pack(0, 0, 0))
            return _read(netlink.recv(4096))
    except OSError:
        return None


def _read(answer: bytes) -> int | None:
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _NEW:
        return None
    at = _HEADER.size + _GENERIC.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _ID:
            return int.from_bytes(answer[at + _ATTRIBUTE.size : at + length], "big")
        at += max(length + 3 & ~3, _ATTRIBUTE.size)
    return None
