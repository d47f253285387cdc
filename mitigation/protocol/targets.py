"""Targets that are names: target-fqdn and target-uri (RFC 9132, section 4.4.1.1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from mitigation.exceptions import MalformedRequest
from mitigation.protocol.scope import Network, Scope, parse_target_prefix

TCP, UDP = 6, 17

# Protocols and default port of a URI scheme, each as its registration has them. A scheme that is absent needs a port.
SCHEMES: dict[str, tuple[tuple[int, ...], int]] = {
    "http": ((TCP,), 80),  # RFC 9110, section 4.2.1
    "https": ((TCP,), 443),  # RFC 9110, section 4.2.2; over UDP only where the domain's policy says so
    "ws": ((TCP,), 80),  # RFC 6455, section 3
    "wss": ((TCP,), 443),
    "coap": ((UDP,), 5683),  # RFC 7252, section 6.1
    "coaps": ((UDP,), 5684),
    "coap+tcp": ((TCP,), 5683),  # RFC 8323, section 8.1
    "coaps+tcp": ((TCP,), 5684),
    "dns": ((TCP, UDP), 53),  # RFC 4501
    "ftp": ((TCP,), 21),  # RFC 1738, section 3.2
    "ldap": ((TCP,), 389),  # RFC 4516
    "imap": ((TCP,), 143),  # RFC 5092
    "pop": ((TCP,), 110),  # RFC 2384
    "nntp": ((TCP,), 119),  # RFC 5538
    "rtsp": ((TCP,), 554),  # RFC 7826, section 4.2
    "rtsps": ((TCP,), 322),
    "telnet": ((TCP,), 23),  # RFC 4248
    "tftp": ((UDP,), 69),  # RFC 3617
}

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Location:
    """What a target-uri protects: a host, by name or as a network of one address, at one port of these protocols.

    Empty `protocols` mean any: the scheme is not known here, and the URI gave the port itself.
    """

    scheme: str
    host: str | Network
    protocols: tuple[int, ...]
    port: int

    def protocols_over(self, *, udp: bool) -> tuple[int, ...]:
        """With `udp`, https also means UDP on its port: HTTP/3 (RFC 9114)."""
        return (TCP, UDP) if udp and self.scheme == "https" else self.protocols


def parse_target_fqdn(text: str, *, attribute: str = "target-fqdn") -> str:
    """A name in lower case without the dot at its end. Raises MalformedRequest. Names in Unicode come as A-labels."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(labels) < 2 or len(name) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise MalformedRequest(f"{attribute} {_shown(text)} is not a fully qualified domain name")
    return name


def parse_target_uri(text: str) -> Location:
    """Host, protocols and port of an absolute URI. Raises MalformedRequest."""
    scheme, host, port = _split(text)
    protocols, default = SCHEMES.get(scheme, ((), None))
    chosen = port if port is not None else default
    if chosen is None:
        raise MalformedRequest(f"target-uri {_shown(text)} needs a port: the scheme {scheme[:20]} has no known one")
    return Location(scheme, _host(host), protocols, chosen)


def _split(text: str) -> tuple[str, str, int | None]:
    refusal = MalformedRequest(f"target-uri {_shown(text)} is not an absolute URI with a host")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise refusal
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refusal from None
    if not parts.scheme or not host or port == 0:
        raise refusal
    return parts.scheme, host, port


def _host(host: str) -> str | Network:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return parse_target_fqdn(host, attribute="target-uri: the host")
    return parse_target_prefix(f"{address}/{address.max_prefixlen}")


def lies_in(name: str, zones: Iterable[str]) -> bool:
    """Whether `name` is one of these names or below one."""
    return any(name == zone or name.endswith(f".{zone}") for zone in zones)


def networks(scope: Scope) -> tuple[Network, ...]:
    """Every address that the scope names by itself: prefixes, and URIs with an address as their host."""
    held = (location.host for location in map(parse_target_uri, scope.target_uri))
    return tuple(dict.fromkeys((*scope.target_prefix, *(host for host in held if not isinstance(host, str)))))


def hosts(scope: Scope) -> tuple[str, ...]:
    """Every name that must be resolved: FQDNs, and URIs with a name as their host."""
    held = (location.host for location in map(parse_target_uri, scope.target_uri))
    return tuple(dict.fromkeys((*scope.target_fqdn, *(host for host in held if isinstance(host, str)))))


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")
