"""Who a certificate names, by the map types of RFC 7589, section 7 (c); the same as in RFC 7407."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import NameOID

# What clients may be called; nothing else is a usable username (section 7 (d)): no wildcard, no NUL, no other alphabet.
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@+-]{0,253}[A-Za-z0-9])?", re.ASCII)


class MapType(StrEnum):
    SPECIFIED = "specified"  # the username stands in the entry
    SAN_RFC822_NAME = "san-rfc822-name"
    SAN_DNS_NAME = "san-dns-name"
    SAN_IP_ADDRESS = "san-ip-address"
    SAN_ANY = "san-any"
    COMMON_NAME = "common-name"


def username(certificate: x509.Certificate, map_type: MapType) -> str | None:
    """The first value of the kind decides, not the first that would do; None where there is none, or no usable one.

    For `specified` the certificate says nothing.
    """
    found = _common_name(certificate) if map_type is MapType.COMMON_NAME else _alternative(certificate, map_type)
    return found if found is not None and NAME.fullmatch(found) else None


def _alternative(certificate: x509.Certificate, map_type: MapType) -> str | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return None
    kinds = tuple(_TEXTS) if map_type is MapType.SAN_ANY else _KINDS.get(map_type, ())
    first = next((name for name in names if isinstance(name, kinds)), None)
    return None if first is None else _TEXTS[type(first)](first.value)


def _rfc822(value: str) -> str:
    local, _, host = value.rpartition("@")
    return f"{local}@{host.lower()}" if local else ""


def _address(value: object) -> str:
    """IPv6 as 32 hexadecimal digits. A network, which a name constraint may have, is nobody's."""
    if isinstance(value, ipaddress.IPv6Address):
        return value.packed.hex()
    return str(value) if isinstance(value, ipaddress.IPv4Address) else ""


_KINDS: dict[MapType, tuple[type[x509.GeneralName], ...]] = {
    MapType.SAN_RFC822_NAME: (x509.RFC822Name,),
    MapType.SAN_DNS_NAME: (x509.DNSName,),
    MapType.SAN_IP_ADDRESS: (x509.IPAddress,),
}
_TEXTS: dict[type[x509.GeneralName], Callable[..., str]] = {
    x509.RFC822Name: _rfc822,
    x509.DNSName: str.lower,
    x509.IPAddress: _address,
}


def _common_name(certificate: x509.Certificate) -> str | None:
    """Deprecated; of several none is the one."""
    try:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return None
    value = found[0].value if len(found) == 1 else None
    return value if isinstance(value, str) else None
