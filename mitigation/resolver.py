"""Asks DNS what names stand for. Knows no model; waits, so it is never called where a request or a lock waits."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import dns.exception
import dns.flags
import dns.message
import dns.nameserver
import dns.resolver

WAIT = 4.0  # seconds for one name and family, over all servers
AT_ONCE = 16
FAMILIES = ("A", "AAAA")
NOT_AUTHENTIC = "the answer is not validated by DNSSEC"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Answer:
    """`addresses` and the seconds they may be kept. Without addresses `problem` says why.

    `failed` where nobody could be asked: then what was known before is still the best that is known.
    """

    addresses: tuple[Address, ...] = ()
    ttl: int = 0
    problem: str = ""
    failed: bool = False


class Resolver:
    """Through the given servers, or those of the machine when none is given.

    A server is `192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:5353`, or `tls://192.0.2.53:853#dns.example` for DNS
    over TLS (RFC 7858) with the name that its certificate must have; without `#`, the address. `ca` is a file with the
    certificates to trust instead of the machine's. Raises ValueError for anything else.

    With `dnssec`, an answer or a denial counts only when the server says that it validated it (AD; RFC 4035, section
    4.9.3): RFC 9132, section 11, wants names resolved by channels that are private and authentic.
    """

    def __init__(self, servers: Sequence[str] = (), *, ca: str = "", dnssec: bool = False) -> None:
        if ca and not Path(ca).is_file():
            raise ValueError(f"{ca}: there is no such file")
        self._dnssec = dnssec
        try:
            self._resolver = dns.resolver.Resolver(configure=not servers)
        except dns.resolver.NoResolverConfiguration:
            self._resolver = dns.resolver.Resolver(
                configure=False
            )  # a machine without any: every name fails, and says so
        if servers:
            self._resolver.nameservers = [_server(text, ca) for text in servers]
        self._resolver.search = []
        if dnssec:
            self._resolver.flags = dns.flags.RD | dns.flags.AD
        self._resolver.cache = None  # rows remember, by the clock that the rest goes by

    def resolve(self, names: Iterable[str]) -> Mapping[str, Answer]:
        """Each name once, several at a time; an answer for every one of them."""
        unique = list(dict.fromkeys(names))
        if not unique:
            return {}
        with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(unique)), thread_name_prefix="resolve") as pool:
            return dict(zip(unique, pool.map(self._one, unique), strict=True))

    def _one(self, name: str) -> Answer:
        addresses: list[Address] = []
        ttls: list[int] = []
        for family in FAMILIES:
            try:
                found = self._resolver.resolve(name, family, search=False, raise_on_no_answer=False, lifetime=WAIT)
            except dns.resolver.NXDOMAIN as denial:
                if not all(map(self._is_authentic, denial.responses().values())):
                    return Answer(problem=NOT_AUTHENTIC, failed=True)
                return Answer(problem="there is no such name")
            except dns.exception.DNSException as error:
                # Half an answer would take the other half's rules away: the whole is asked for again.
                return Answer(problem=f"could not be resolved ({type(error).__name__})", failed=True)
            if not self._is_authentic(found.response):
                return Answer(problem=NOT_AUTHENTIC, failed=True)
            if found.rrset is not None:
                addresses += [ipaddress.ip_address(record.address) for record in found.rrset]
                ttls.append(found.chaining_result.minimum_ttl)
        if not addresses:
            return Answer(problem="the name has no address")
        return Answer(tuple(addresses), min(ttls))

    def _is_authentic(self, response: dns.message.Message) -> bool:
        return not self._dnssec or bool(response.flags & dns.flags.AD)


def _server(text: str, ca: str) -> dns.nameserver.Nameserver:
    parts = urlsplit(text if "://" in text else f"dns://{text}")
    address = str(ipaddress.ip_address(parts.hostname or ""))
    if parts.scheme == "tls":
        return dns.nameserver.DoTNameserver(
            address, parts.port or 853, hostname=parts.fragment or address, verify=ca or True
        )
    if parts.scheme != "dns":
        raise ValueError(f"{text}: a resolver is an address with an optional port, or tls://")
    return dns.nameserver.Do53Nameserver(address, parts.port or 53)
