"""Access control lists of the data channel: JSON to frozen values and back (RFC 8783, sections 4 and 7).

The rules that the YANG module leaves to its text are in the checks here, each with the tag that RFC 8783 wants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from mitigation.protocol.filters import ActivationType
from mitigation.protocol.matches import (
    Family,
    IcmpMatch,
    IpMatch,
    Matches,
    TcpMatch,
    Transport,
    UdpMatch,
    given,
    matches_json,
    name_of,
    parse_matches,
)
from mitigation.protocol.trees import INVALID, MISSING, UNKNOWN, Path, Reader, TreeFault, entry

IDENTITIES = "ietf-access-control-list"  # the module of the identities
_CENT = Decimal("0.01")


class AclType(StrEnum):
    IPV4 = "ipv4-acl-type"
    IPV6 = "ipv6-acl-type"

    @property
    def family(self) -> Family:
        return 4 if self is AclType.IPV4 else 6


class Forwarding(StrEnum):
    ACCEPT = "accept"
    DROP = "drop"


_ACTIVATION_TYPES = {one.word: one for one in ActivationType}
_ETHERNET = (
    "eth-acl-type",
    "mixed-eth-ipv4-acl-type",
    "mixed-eth-ipv6-acl-type",
    "mixed-eth-ipv4-ipv6-acl-type",
)


@dataclass(frozen=True, slots=True)
class Action:
    """`rate_limit` in octets per second, only with `accept`; what comes faster is dropped."""

    forwarding: Forwarding
    rate_limit: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Ace:
    name: str
    matches: Matches
    action: Action


@dataclass(frozen=True, slots=True)
class Acl:
    """`type` and `activation_type` are None when they were not given: see `family_of` and `activation`."""

    name: str
    type: AclType | None
    activation_type: ActivationType | None
    aces: tuple[Ace, ...]

    @property
    def activation(self) -> ActivationType:
        """With the default of RFC 8783, section 7.2."""
        return self.activation_type or ActivationType.ACTIVATE_WHEN_MITIGATING

    @property
    def family(self) -> Family | None:
        """That of its type, else of its entries' matches; None: it says nothing and holds for both."""
        if self.type is not None:
            return self.type.family
        return next((ace.matches.ip.family for ace in self.aces if ace.matches.ip is not None), None)


# -- reading ----------------------------------------------------------------------------------------------------------


def parse_acl(tree: Any) -> Acl:
    """One entry of the list `acl`. Raises TreeFault, whose path starts at that entry."""
    reader, name = _named("acl", tree, ())
    reader.refuse_read_only("pending-lifetime")
    acl_type = _type(reader)
    word = reader.enumeration("activation-type", tuple(_ACTIVATION_TYPES))
    aces: tuple[Ace, ...] = ()
    if (container := reader.container("aces")) is not None:
        aces = tuple(_ace(one, container.path) for one in container.entries("ace"))
        container.end()
    reader.end()
    acl = Acl(name, acl_type, _ACTIVATION_TYPES[word] if word else None, aces)
    _check(acl, reader.path)
    return acl


def parse_ace(tree: Any) -> Ace:
    """One entry of the list `ace`, by itself: what depends on its list is checked by `parse_acl`. Raises TreeFault."""
    return _ace(tree, ())


def _ace(tree: Any, above: Path) -> Ace:
    reader, name = _named("ace", tree, above)
    reader.refuse_read_only("statistics")
    container = reader.container("matches")
    matches = Matches() if container is None else parse_matches(container)
    action = _action(reader)
    reader.end()
    return Ace(name, matches, action)


def _type(reader: Reader) -> AclType | None:
    word = reader.identity("type", module=IDENTITIES)
    if word is None:
        return None
    if word in _ETHERNET:
        raise reader.fault(INVALID, "type", f"{word}: there is nothing of Ethernet to match in a DOTS filter")
    if word not in set(AclType):
        raise reader.fault(INVALID, "type", f"type is none of {', '.join(AclType)}")
    return AclType(word)


def _action(ace: Reader) -> Action:
    reader = ace.container("actions")
    if reader is None:
        raise TreeFault(MISSING, (*ace.path, "actions", "forwarding"), "forwarding is missing")
    word = reader.identity("forwarding", module=IDENTITIES, mandatory=True)
    if word == "reject":
        raise reader.fault(
            INVALID,
            "forwarding",
            "DOTS filters drop and accept, they do not reject",
            app_tag="dots-action-not-supported",
        )
    if word not in set(Forwarding):
        raise reader.fault(INVALID, "forwarding", f"forwarding is none of {', '.join(Forwarding)}")
    action = Action(Forwarding(word), reader.decimal("rate-limit"))
    if action.rate_limit is not None and action.forwarding is not Forwarding.ACCEPT:
        raise reader.fault(
            INVALID, "rate-limit", "rate-limit is for accept only", app_tag="dots-rate-limit-needs-accept"
        )
    if action.rate_limit is not None and action.rate_limit < 0:
        raise reader.fault(INVALID, "rate-limit", "rate-limit is below zero")
    reader.end()
    return action


# -- what entries owe their list --------------------------------------------------------------------------------------


def _check(acl: Acl, path: Path) -> None:
    seen: set[str] = set()
    for ace in acl.aces:
        here = (*path, "aces", entry("ace", "name", ace.name))
        if ace.name in seen:
            raise TreeFault(INVALID, here, f"there are two entries named {ace.name}")
        seen.add(ace.name)
        _check_family(acl, ace, here)
        if acl.activation is ActivationType.IMMEDIATE:
            _check_destination(acl, ace, here)


def _check_family(acl: Acl, ace: Ace, path: Path) -> None:
    ip = ace.matches.ip
    if ip is not None and ip.family != acl.family:
        reason = f"the type is {acl.type}" if acl.type else f"other entries match IPv{acl.family}"
        raise TreeFault(
            INVALID,
            (*path, "matches", f"ipv{ip.family}"),
            f"IPv{ip.family} cannot be matched in this list: {reason}",
            app_tag="dots-type-mismatch",
        )
    if ip is None and isinstance(ace.matches.transport, IcmpMatch) and acl.family is None:
        raise TreeFault(
            MISSING,
            (*path, "matches", "icmp"),
            "ICMP and ICMPv6 number their messages differently: give the list a type, or match ipv4 or ipv6",
        )


def _check_destination(acl: Acl, ace: Ace, path: Path) -> None:
    ip = ace.matches.ip
    if ip is None or ip.destination is None:
        family = acl.family or 4
        raise TreeFault(
            MISSING,
            (*path, "matches", f"ipv{family}", f"destination-ipv{family}-network"),
            "an immediate filter names its destination",
            app_tag="dots-destination-required",
        )


def _named(what: str, tree: Any, above: Path) -> tuple[Reader, str]:
    """A list entry and its key, which stands in the path of whatever else is wrong with it."""
    key = tree.get("name") if isinstance(tree, Mapping) else None
    reader = Reader(tree, (*above, entry(what, "name", key[:80])) if isinstance(key, str) else above)
    return reader, reader.name()


# -- writing ----------------------------------------------------------------------------------------------------------


def to_json(acl: Acl, *, with_defaults: bool = False) -> dict[str, Any]:
    """The configuration of an entry of the list `acl` as a GET shows it; `with_defaults` (report-all) also what was
    not given and has a default. `parse_acl` takes it back."""
    found: dict[str, Any] = {"name": acl.name}
    if acl.type is not None:
        found["type"] = f"{IDENTITIES}:{acl.type}"
    if acl.activation_type is not None or with_defaults:
        found["activation-type"] = acl.activation.word
    return found | {"aces": {"ace": [ace_json(ace, with_defaults=with_defaults) for ace in acl.aces]}}


def ace_json(ace: Ace, *, with_defaults: bool = False) -> dict[str, Any]:
    actions = {"forwarding": f"{IDENTITIES}:{ace.action.forwarding}"}
    if ace.action.rate_limit is not None:
        actions["rate-limit"] = str(ace.action.rate_limit.quantize(_CENT))
    return {
        "name": ace.name,
        "matches": matches_json(ace.matches, with_defaults=with_defaults),
        "actions": actions,
    }


# -- capabilities -----------------------------------------------------------------------------------------------------

# Where a field and the leaf that promises it have different names (RFC 8783, section 4.2, figure 10).
_PROMISES = {
    "destination-ipv4-network": ("destination-prefix",),
    "source-ipv4-network": ("source-prefix",),
    "destination-ipv6-network": ("destination-prefix",),
    "source-ipv6-network": ("source-prefix",),
    "source-port-range-or-operator": ("source-port", "port-range"),
    "destination-port-range-or-operator": ("destination-port", "port-range"),
}


def check_capabilities(acl: Acl, capabilities: Mapping[str, Any]) -> None:
    """Nothing is matched or done that `capabilities` (the tree of RFC 8783, section 7.1) does not promise.

    Raises TreeFault with the path of the first such field.
    """
    for ace in acl.aces:
        path = (entry("acl", "name", acl.name), "aces", entry("ace", "name", ace.name))
        for part in (ace.matches.ip, ace.matches.transport):
            if part is not None:
                _check_part(part, capabilities, (*path, "matches"))
        if ace.action.rate_limit is not None and not capabilities.get("rate-limit"):
            raise _unsupported((*path, "actions", "rate-limit"), "rate-limit is not supported")
        if ace.action.forwarding not in _bare(capabilities.get("forwarding-actions", ())):
            raise _unsupported((*path, "actions", "forwarding"), f"{ace.action.forwarding} is not supported")


def _check_part(part: IpMatch | Transport, capabilities: Mapping[str, Any], path: Path) -> None:
    name = f"ipv{part.family}" if isinstance(part, IpMatch) else name_of(part)
    promised = capabilities.get(name)
    if promised is None:
        raise _unsupported((*path, name), f"matching {name} is not supported")
    for field, _ in given(part):
        leafs = ("hoplimit",) if (name, field) == ("ipv6", "ttl") else _PROMISES.get(field, (field,))
        if not all(promised.get(leaf) for leaf in leafs):
            raise _unsupported((*path, name, field), f"matching on {field} is not supported")


def _unsupported(path: Path, sentence: str) -> TreeFault:
    return TreeFault(UNKNOWN, path, sentence, app_tag="dots-match-not-supported")


def _bare(identities: Any) -> Iterator[str]:
    return (str(one).removeprefix(f"{IDENTITIES}:") for one in identities)


__all__ = [
    "Ace",
    "Acl",
    "AclType",
    "Action",
    "Forwarding",
    "IcmpMatch",
    "IpMatch",
    "Matches",
    "TcpMatch",
    "TreeFault",
    "UdpMatch",
    "ace_json",
    "check_capabilities",
    "parse_ace",
    "parse_acl",
    "to_json",
]
