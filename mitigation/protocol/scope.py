"""What a mitigation request wants protected (RFC 9132, section 4.4.1.1)."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mitigation.exceptions import MalformedRequest
from mitigation.protocol.filters import AclControl

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class PortRange:
    """Both ends included; a single port has equal ends."""

    lower: int
    upper: int


@dataclass(frozen=True, slots=True)
class Scope:
    """Targets in the order received. An empty `target_port_range` or `target_protocol` means any."""

    target_prefix: tuple[Network, ...] = ()
    target_port_range: tuple[PortRange, ...] = ()
    target_protocol: tuple[int, ...] = ()
    target_fqdn: tuple[str, ...] = ()
    target_uri: tuple[str, ...] = ()
    alias_name: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values under RFC names, empty attributes left out; `from_json` is the inverse."""
        values: dict[str, list[Any]] = {
            "target-prefix": [str(prefix) for prefix in self.target_prefix],
            "target-port-range": [
                {"lower-port": ports.lower, "upper-port": ports.upper} for ports in self.target_port_range
            ],
            "target-protocol": list(self.target_protocol),
            "target-fqdn": list(self.target_fqdn),
            "target-uri": list(self.target_uri),
            "alias-name": list(self.alias_name),
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Scope:
        return cls(
            target_prefix=tuple(ipaddress.ip_network(text) for text in values.get("target-prefix", ())),
            target_port_range=tuple(
                PortRange(ports["lower-port"], ports["upper-port"]) for ports in values.get("target-port-range", ())
            ),
            target_protocol=tuple(values.get("target-protocol", ())),
            target_fqdn=tuple(values.get("target-fqdn", ())),
            target_uri=tuple(values.get("target-uri", ())),
            alias_name=tuple(values.get("alias-name", ())),
        )

    def joined(self, *others: Scope) -> Scope:
        """The values of each attribute together, each once (RFC 9132, section 4.4.1.3: aliases beside other targets).

        An attribute that means "any" by its absence is narrowed by another's values, as the section has it.
        """
        everything = (self, *others)
        return Scope(
            **{
                one.name: tuple(dict.fromkeys(value for scope in everything for value in getattr(scope, one.name)))
                for one in fields(Scope)
            }
        )

    def digest(self, *, trigger_mitigation: bool = True, acls: Iterable[AclControl] = ()) -> str:
        """The same for every encoding and order of the same request: a refresh must repeat it (section 4.4.1.3)."""
        values = {name: sorted(map(_canonical, items)) for name, items in self.as_json().items()}
        values["trigger-mitigation"] = [str(trigger_mitigation)]
        if switched := sorted(_canonical(one.as_json()) for one in acls):
            values["acl-list"] = switched
        return hashlib.sha256(_canonical(values).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MitigationRequest:
    """One decoded PUT on /mitigate: cdid, cuid and mid from the path. `lifetime` in seconds, -1 indefinite.

    An efficacy update has `attack_status`, and may leave `lifetime` out (None): what remains is kept then.
    """

    cuid: str
    mid: int
    scope: Scope
    lifetime: int | None
    trigger_mitigation: bool = True
    attack_status: int | None = None
    cdid: str = ""
    acls: tuple[AclControl, ...] = ()  # filters to switch with it (RFC 9133)
    digest: str = field(default="")

    def __post_init__(self) -> None:
        if not self.digest:
            digest = self.scope.digest(trigger_mitigation=self.trigger_mitigation, acls=self.acls)
            object.__setattr__(self, "digest", digest)


def parse_target_prefix(text: str) -> Network:
    """A target-prefix as a network; host bits are cleared. Raises MalformedRequest.

    A bare address is refused: inet:ip-prefix has a length. Broadcast, loopback and multicast addresses are refused
    (section 4.4.1.1), also when an IPv4 one is held in an IPv6 prefix; and what nothing can be routed to.
    """
    if "/" not in text:
        raise MalformedRequest(f"target-prefix {_shown(text)} has no prefix length; write {_shown(text)}/32 or /128")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise MalformedRequest(f"target-prefix {_shown(text)} is not an IPv4 or IPv6 prefix") from None
    if "%" in text:
        raise MalformedRequest(f"target-prefix {_shown(text)} has a zone")
    if network.prefixlen == 0:
        raise MalformedRequest(f"target-prefix {network} is every address there is; name what is attacked")
    _refuse_special(network, network)
    return network


def _refuse_special(network: Network, shown: Network) -> None:
    if isinstance(network, ipaddress.IPv6Network):
        held = _held_ipv4(network)
        if held is not None:
            _refuse_special(held, shown)
    for kind, special in _SPECIAL:
        if special.version == network.version and special.overlaps(network) and not _contains_unicast(network, special):
            raise MalformedRequest(f"target-prefix {shown} is a {kind} address")


def _contains_unicast(network: Network, special: Network) -> bool:
    """A prefix that merely contains a special range (0.0.0.0/1, say) is wide, not special: the domain check decides."""
    return network.prefixlen < special.prefixlen


_SPECIAL: tuple[tuple[str, Network], ...] = (
    ("loopback", ipaddress.ip_network("127.0.0.0/8")),
    ("multicast", ipaddress.ip_network("224.0.0.0/4")),
    ("broadcast", ipaddress.ip_network("255.255.255.255/32")),
    ("loopback", ipaddress.ip_network("::1/128")),
    ("multicast", ipaddress.ip_network("ff00::/8")),
    # Beyond what the RFC names: nothing that a packet could be routed to (RFC 6890), whatever a domain's prefixes say.
    ("unspecified", ipaddress.ip_network("0.0.0.0/8")),
    ("unspecified", ipaddress.ip_network("::/128")),
    ("link-local", ipaddress.ip_network("169.254.0.0/16")),
    ("link-local", ipaddress.ip_network("fe80::/10")),
)

_MAPPED = ipaddress.ip_network("::ffff:0:0/96")  # RFC 4291, section 2.5.5.2
_EMBEDDED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052, section 2.1


def _held_ipv4(network: ipaddress.IPv6Network) -> ipaddress.IPv4Network | None:
    for outer in (_MAPPED, _EMBEDDED):
        if network.prefixlen >= outer.prefixlen and network.subnet_of(outer):  # type: ignore[arg-type]
            address = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
            return ipaddress.IPv4Network((address, network.prefixlen - outer.prefixlen))
    return None


def covered_by(prefix: Network, allowed: Iterable[Network]) -> bool:
    """Whether one allowed prefix contains the whole of `prefix`."""
    return any(
        outer.version == prefix.version and prefix.subnet_of(outer)  # type: ignore[arg-type]
        for outer in allowed
    )


def overlaps_any(network: Network, others: Iterable[Network]) -> bool:
    """Whether one of the others has an address in common with `network`."""
    return any(network.version == other.version and network.overlaps(other) for other in others)


def address_key(value: int) -> bytes:
    """16 octets that sort like the address; IPv4 keeps its family in a column of its own."""
    return value.to_bytes(16, "big")


def range_keys(network: Network) -> tuple[bytes, bytes]:
    """First and last address as keys."""
    first = int(network.network_address)
    return address_key(first), address_key(first + network.num_addresses - 1)


def ancestor_keys(network: Network) -> list[bytes]:
    """First-address keys of every prefix that contains `network`, itself included: at most 33 or 129."""
    first = int(network.network_address)
    width = network.max_prefixlen
    return sorted({address_key(first >> shift << shift) for shift in range(width - network.prefixlen, width + 1)})


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
