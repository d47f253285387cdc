"""Filters in the form of draft-reddy-dots-transport-05, section 6.1: their JSON to access control lists and back.

An access control list is of one family, so a policy whose addresses are of both becomes two lists. What a list says is
all that is kept: the JSON that a GET shows is made from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

from mitigation.exceptions import InvalidParameter, MalformedRequest
from mitigation.protocol import strict_json
from mitigation.protocol.acls import IDENTITIES
from mitigation.protocol.body import MAXIMUM_OCTETS
from mitigation.protocol.constants import MAXIMUM_LIFETIME, RECOMMENDED_LIFETIME
from mitigation.protocol.matches import Family
from mitigation.protocol.scope import Network
from mitigation.protocol.trees import LARGEST_DECIMAL

MAXIMUM_POLICY_ID = 2**64 - 1
MAXIMUM_ENTRIES = 2_000  # combinations of addresses in one policy
INDEFINITE = 0  # as a lifetime

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "dccp": 33}
_WITH_PORTS = ("tcp", "udp")  # of which RFC 8783 matches ports
_MANDATORY = ("policy-id", "traffic-protocol", "traffic-rate")
_PORTS = ("source-protocol-port", "destination-protocol-port")
_KNOWN = {*_MANDATORY, *_PORTS, "destination-ip", "source-ip", "lifetime"}
_CENT = Decimal("0.01")
_PORT_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")
_CUID = re.compile(r"early-draft-[0-9]+")
_NAME = re.compile(r"policy-([0-9]{1,20})-ipv[46]")


@dataclass(frozen=True, slots=True)
class EarlyFilter:
    """`rate` in octets per second, 0 drops; `lifetime` in seconds, 0 is indefinite; ports are (lower, upper)."""

    policy_id: int
    protocol: str
    rate: Decimal
    lifetime: int
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    destinations: tuple[Network, ...] = ()
    sources: tuple[Network, ...] = ()


def cuid_for(client_id: int) -> str:
    """Under which the data channel shows what this client filters in this form. Nobody can take it as its own."""
    return f"early-draft-{client_id}"


def is_reserved(cuid: object) -> bool:
    return isinstance(cuid, str) and _CUID.fullmatch(cuid) is not None


def policy_id_of(name: str) -> int | None:
    """That of the policy which the list of this name belongs to."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


# -- reading ----------------------------------------------------------------------------------------------------------


def read(payload: bytes) -> dict[str, Any]:
    """The object that a request's body is. Raises MalformedRequest."""
    if len(payload) > MAXIMUM_OCTETS:
        raise MalformedRequest(f"the body has {len(payload)} octets, at most {MAXIMUM_OCTETS} are read")
    try:
        found = strict_json.loads(payload)
    except ValueError as error:
        raise MalformedRequest(str(error)) from None
    if not isinstance(found, dict):
        raise MalformedRequest("the body is not a JSON object")
    return found


def parse(body: Mapping[str, Any]) -> EarlyFilter:
    """A POST. Raises MalformedRequest for what is missing, InvalidParameter for what is wrong or not known."""
    _refuse_unknown(body, _KNOWN)
    for name in _MANDATORY:
        if name not in body:
            raise MalformedRequest(f"{name} is missing")
    protocol = body["traffic-protocol"]
    if not isinstance(protocol, str) or protocol not in _PROTOCOLS:
        raise InvalidParameter(f"traffic-protocol is none of {', '.join(_PROTOCOLS)}")
    source_ports, destination_ports = (_ports(body, name, protocol) for name in _PORTS)
    found = EarlyFilter(
        policy_id=_integer(body, "policy-id", MAXIMUM_POLICY_ID),
        protocol=protocol,
        rate=_rate(body["traffic-rate"]),
        lifetime=_integer(body, "lifetime", MAXIMUM_LIFETIME) if "lifetime" in body else RECOMMENDED_LIFETIME,
        source_ports=source_ports,
        destination_ports=destination_ports,
        destinations=_networks(body, "destination-ip"),
        sources=_networks(body, "source-ip"),
    )
    if len(found.destinations) * len(found.sources) > MAXIMUM_ENTRIES:
        raise InvalidParameter(f"more than {MAXIMUM_ENTRIES:,} combinations of addresses; make several policies")
    return found


def parse_policy_id(body: Mapping[str, Any]) -> int:
    """The body of a GET of one policy or a DELETE. Raises MalformedRequest or InvalidParameter."""
    _refuse_unknown(body, {"policy-id"})
    if "policy-id" not in body:
        raise MalformedRequest("policy-id is missing")
    return _integer(body, "policy-id", MAXIMUM_POLICY_ID)


def _refuse_unknown(body: Mapping[str, Any], known: set[str]) -> None:
    for name in body:
        if name not in known:
            raise InvalidParameter(f"{name[:60]} is not known here")


def _integer(body: Mapping[str, Any], name: str, highest: int) -> int:
    value = body[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise InvalidParameter(f"{name} is not a number from 0 to {highest}")
    return value


def _rate(value: Any) -> Decimal:
    """Rounded to what a list can say, and never to 0, which would drop."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_DECIMAL:
        raise InvalidParameter(f"traffic-rate is not a number of octets per second from 0 to {LARGEST_DECIMAL}")
    if not value:
        return Decimal(0)
    assert math.isfinite(value)  # it is below the largest
    return max(_CENT, min(LARGEST_DECIMAL, Decimal(value).quantize(_CENT)))


def _ports(body: Mapping[str, Any], name: str, protocol: str) -> tuple[int, int] | None:
    if name not in body:
        return None
    if protocol not in _WITH_PORTS:
        raise InvalidParameter(f"{name}: ports of {protocol} cannot be matched here")
    found = _PORT_RANGE.fullmatch(body[name]) if isinstance(body[name], str) else None
    if found is None:
        raise InvalidParameter(f'{name} is not a string like "443" or "1024-65535"')
    lower, upper = int(found[1]), int(found[2] or found[1])
    if not lower <= upper <= 65_535:
        raise InvalidParameter(f"{name} is no range of ports")
    return lower, upper


def _networks(body: Mapping[str, Any], name: str) -> tuple[Network, ...]:
    if name not in body:
        return ()
    if not isinstance(body[name], str):
        raise InvalidParameter(f"{name} is not a string of addresses or prefixes with commas between")
    found: dict[Network, None] = {}
    for text in (one.strip() for one in body[name].split(",")):
        try:
            if not _ADDRESS.fullmatch(text):
                raise ValueError(text)
            found[ip_network(text, strict=False)] = None
        except ValueError:
            raise InvalidParameter(f"{name}: {text[:60]!r} is no address or prefix") from None
    return tuple(found)


# -- as access control lists ------------------------------------------------------------------------------------------


def as_acls(one: EarlyFilter, prefixes: Iterable[Network]) -> list[dict[str, Any]]:
    """The lists of this policy, as RFC 8783 has them in JSON; `prefixes` of the domain stand in for no destination.

    Raises InvalidParameter when sources and destinations have no family in common.
    """
    destinations = one.destinations or tuple(prefixes)
    found = []
    families: tuple[Family, ...] = (4, 6)
    for family in families:
        aces = _aces(one, family, [each for each in destinations if each.version == family])
        if aces:
            acl_type = f"{IDENTITIES}:ipv{family}-acl-type"
            name = f"policy-{one.policy_id}-ipv{family}"
            found.append(
                {"name": name, "type": acl_type, "activation-type": "immediate", "aces": {"ace": aces}},
            )
    if not found:
        raise InvalidParameter("no source-ip is of the family of a destination-ip: nothing would be filtered")
    return found


def _aces(one: EarlyFilter, family: Family, destinations: Sequence[Network]) -> list[dict[str, Any]]:
    sources: list[Network | None] = [each for each in one.sources if each.version == family]
    if not one.sources:
        sources = [None]
    pairs = [(destination, source) for destination in destinations for source in sources]
    return [
        {"name": str(number), "matches": _matches(one, family, *pair), "actions": _actions(one)}
        for number, pair in enumerate(pairs, start=1)
    ]


def _matches(one: EarlyFilter, family: Family, destination: Network, source: Network | None) -> dict[str, Any]:
    ip: dict[str, Any] = {f"destination-ipv{family}-network": str(destination)}
    if source is not None:
        ip[f"source-ipv{family}-network"] = str(source)
    if one.protocol not in _WITH_PORTS:
        return {f"ipv{family}": {**ip, "protocol": _PROTOCOLS[one.protocol]}}
    ports = {
        f"{side}-port-range-or-operator": {"lower-port": given[0], "upper-port": given[1]}
        for side, given in (("source", one.source_ports), ("destination", one.destination_ports))
        if given is not None
    }
    return {f"ipv{family}": ip, one.protocol: ports}


def _actions(one: EarlyFilter) -> dict[str, Any]:
    if not one.rate:
        return {"forwarding": f"{IDENTITIES}:drop"}
    return {"forwarding": f"{IDENTITIES}:accept", "rate-limit": str(one.rate)}


# -- and back ---------------------------------------------------------------------------------------------------------


def as_json(policy_id: int, aces: Iterable[Mapping[str, Any]], lifetime: int) -> dict[str, Any]:
    """A policy as a GET shows it: what stands, with the lifetime that is left. `aces` of all of its lists."""
    found: dict[str, Any] = {"policy-id": policy_id}
    addresses: dict[str, dict[str, None]] = {"destination-ip": {}, "source-ip": {}}
    for ace in aces:
        ip = ace["matches"].get("ipv4") or ace["matches"]["ipv6"]
        for side in ("destination", "source"):
            network = ip.get(f"{side}-ipv4-network") or ip.get(f"{side}-ipv6-network")
            if network:
                addresses[f"{side}-ip"][network] = None
        found |= _protocol_json(ace["matches"], ip)
        found["traffic-rate"] = float(ace["actions"].get("rate-limit", 0))
    found |= {name: ",".join(held) for name, held in addresses.items() if held}
    return {**found, "lifetime": lifetime}


def _protocol_json(matches: Mapping[str, Any], ip: Mapping[str, Any]) -> dict[str, Any]:
    name = next((one for one in _WITH_PORTS if one in matches), None)
    if name is None:
        return {"traffic-protocol": next(one for one, number in _PROTOCOLS.items() if number == ip["protocol"])}
    found = {"traffic-protocol": name}
    for side in ("source", "destination"):
        ports = matches[name].get(f"{side}-port-range-or-operator")
        if ports is not None:
            lower, upper = ports["lower-port"], ports["upper-port"]
            found[f"{side}-protocol-port"] = str(lower) if lower == upper else f"{lower}-{upper}"
    return found
