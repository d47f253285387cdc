"""The nodes of the data channel's tree (YANG ietf-dots-data-channel@2020-05-28, with its groupings of RFC 8519).

Only names and shapes stand here, for paths, edits and retrieval; which values a leaf takes is judged where the tree of
an alias or of an ACL is parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from mitigation.protocol.trees import INVALID, MISSING, MODULE, UNKNOWN, Path, TreeFault, entry


class Shape(StrEnum):
    CONTAINER = "container"
    LIST = "list"
    LEAF = "leaf"
    LEAF_LIST = "leaf-list"


@dataclass(frozen=True, slots=True)
class Node:
    """`key` of a list, several with spaces between. `config` False: state, which no client writes. `needs`: a sibling
    without which the default means nothing.

    `choice` and `case`: of nodes of one choice only those of one case are there together (RFC 7950, section 7.9).
    """

    name: str
    shape: Shape = Shape.LEAF
    children: Mapping[str, Node] = field(default_factory=dict)
    key: str = ""
    by_user: bool = False
    config: bool = True
    default: Any = None
    needs: str = ""
    module: str = MODULE
    choice: str = ""
    case: str = ""

    def excludes(self, other: Node) -> bool:
        """Whether the two are of different cases of one choice."""
        return bool(self.choice) and self.choice == other.choice and self.case != other.case


def leaf(name: str, *, config: bool = True, default: Any = None, needs: str = "") -> Node:
    return Node(name, config=config, default=default, needs=needs)


def leaf_list(name: str, *, config: bool = True) -> Node:
    return Node(name, Shape.LEAF_LIST, config=config)


def container(name: str, *children: Node, config: bool = True, module: str = MODULE) -> Node:
    return Node(name, Shape.CONTAINER, _by_name(children), config=config, module=module)


def listed(name: str, key: str, *children: Node, by_user: bool = False, config: bool = True) -> Node:
    return Node(name, Shape.LIST, _by_name(children), key=key, by_user=by_user, config=config)


def either(choice: str, **cases: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes of a choice, by case."""
    return tuple(replace(node, choice=choice, case=case) for case, nodes in cases.items() for node in nodes)


def _by_name(nodes: Iterable[Node]) -> dict[str, Node]:
    return {node.name: node for node in nodes}


def _ports(side: str) -> Node:
    return container(
        f"{side}-port-range-or-operator",
        *either(
            "port-range-or-operator",
            range=(leaf("lower-port"), leaf("upper-port")),
            operator=(leaf("operator", default="eq", needs="port"), leaf("port")),
        ),
    )


def _fragment() -> Node:
    return container("fragment", leaf("operator", default="match"), leaf("type"))


_IP = ("dscp", "ecn", "length", "ttl", "protocol")

_IPV4 = container(
    "ipv4",
    *map(leaf, _IP),
    *map(leaf, ("ihl", "flags", "offset", "identification")),
    *map(leaf, ("destination-ipv4-network", "source-ipv4-network")),
    _fragment(),
)
_IPV6 = container(
    "ipv6",
    *map(leaf, _IP),
    *map(leaf, ("destination-ipv6-network", "source-ipv6-network", "flow-label")),
    _fragment(),
)
_TCP = container(
    "tcp",
    *map(leaf, ("sequence-number", "acknowledgement-number", "data-offset", "reserved", "flags", "window-size")),
    *map(leaf, ("urgent-pointer", "options")),
    container("flags-bitmask", leaf("operator", default="match"), leaf("bitmask")),
    _ports("source"),
    _ports("destination"),
)
_UDP = container("udp", leaf("length"), _ports("source"), _ports("destination"))
_ICMP = container("icmp", *map(leaf, ("type", "code", "rest-of-header")))

MATCHES = container(
    "matches", *either("l3", ipv4=[_IPV4], ipv6=[_IPV6]), *either("l4", tcp=[_TCP], udp=[_UDP], icmp=[_ICMP])
)

ACE = listed(
    "ace",
    "name",
    leaf("name"),
    MATCHES,
    container("actions", leaf("forwarding"), leaf("rate-limit")),
    container("statistics", leaf("matched-packets", config=False), leaf("matched-octets", config=False), config=False),
    by_user=True,
)

ACL = listed(
    "acl",
    "name",
    leaf("name"),
    leaf("type"),
    leaf("activation-type", default="activate-when-mitigating"),
    leaf("pending-lifetime", config=False),
    container("aces", ACE),
    by_user=True,
)

ALIAS = listed(
    "alias",
    "name",
    leaf("name"),
    leaf_list("target-prefix"),
    listed("target-port-range", "lower-port", leaf("lower-port"), leaf("upper-port")),
    leaf_list("target-protocol"),
    leaf_list("target-fqdn"),
    leaf_list("target-uri"),
    leaf("pending-lifetime", config=False),
)

DOTS_CLIENT = listed(
    "dots-client",
    "cuid",
    leaf("cuid"),
    leaf("cdid"),
    container("aliases", ALIAS),
    container("acls", ACL),
)

# Its leaves depend on the equipment; as state they are only read, whole or by name.
CAPABILITIES = container(
    "capabilities",
    leaf_list("address-family", config=False),
    leaf_list("forwarding-actions", config=False),
    leaf("rate-limit", config=False),
    leaf_list("transport-protocols", config=False),
    *(
        container(name, *(leaf(one, config=False) for one in names), config=False)
        for name, names in {
            "ipv4": (
                *("dscp", "ecn", "length", "ttl", "protocol", "ihl", "flags", "offset", "identification"),
                *("source-prefix", "destination-prefix", "fragment"),
            ),
            "ipv6": (
                *("dscp", "ecn", "length", "hoplimit", "protocol", "destination-prefix", "source-prefix"),
                *("flow-label", "fragment"),
            ),
            "tcp": (
                *("sequence-number", "acknowledgement-number", "data-offset", "reserved", "flags", "window-size"),
                *("urgent-pointer", "options", "flags-bitmask", "source-port", "destination-port", "port-range"),
            ),
            "udp": ("length", "source-port", "destination-port", "port-range"),
            "icmp": ("type", "code", "rest-of-header"),
        }.items()
    ),
    config=False,
)

DOTS_DATA = container("dots-data", DOTS_CLIENT, CAPABILITIES)


def normalised(node: Node, value: Any, path: Path = ()) -> Any:
    """The same value with bare member names, in the shape of the node; members of other modules are left out.

    `path` leads to the node itself. Raises TreeFault for an unknown or read-only member, a wrong shape, or an entry
    that is named twice. A list is given as its array of entries.
    """
    if node.shape is Shape.LEAF:
        if isinstance(value, dict | list):
            raise _wrong(node, "one value", path)
        return value
    if node.shape is Shape.LEAF_LIST:
        if not isinstance(value, list) or any(isinstance(one, dict | list) for one in value):
            raise _wrong(node, "an array of values", path)
        return list(value)
    if node.shape is Shape.LIST:
        return _entries(node, value, path)
    if not isinstance(value, dict):
        raise _wrong(node, "an object", path)
    return _members(node, value, path)


def _entries(node: Node, value: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _wrong(node, "an array of objects", path)
    found: dict[Any, dict[str, Any]] = {}
    for one in value:
        if not isinstance(one, dict):
            raise _wrong(node, "an array of objects", path)
        key = one.get(node.key, one.get(f"{MODULE}:{node.key}"))
        if key is None:
            message = f"{node.key} is missing: each entry of {node.name} is named by it"
            raise TreeFault(MISSING, path[:-1], message)
        if isinstance(key, dict | list | bool):
            raise TreeFault(INVALID, path, f"{node.key} is one value")
        if key in found:
            raise TreeFault(INVALID, path, f"{node.name} {key!r} is there twice")
        found[key] = _members(node, one, (*path[:-1], entry(node.name, node.key, str(key))))
    return list(found.values())


def _members(node: Node, value: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for member, inner in value.items():
        prefix, colon, bare = member.rpartition(":")
        if member.startswith("@") or (colon and prefix != node.module):
            continue  # of a vendor's module, or one not served here (RFC 8783, section 6.1)
        child = node.children.get(bare)
        if child is None:
            raise TreeFault(UNKNOWN, path, f"{bare[:60]} is not known in {node.name}")
        if not child.config:
            sentence = f"{bare} is told by the server and cannot be set"
            raise TreeFault(INVALID, (*path, bare), sentence, app_tag="dots-read-only")
        if bare in found:
            raise TreeFault(INVALID, (*path, bare), f"{bare} is there twice")
        found[bare] = normalised(child, inner, (*path, bare))
    return found


def _wrong(node: Node, what: str, path: Path) -> TreeFault:
    return TreeFault(INVALID, path, f"{node.name} is {what}")


def inherits(node: Node, module: str) -> Node:
    """The node and all below it, of another module."""
    return replace(node, module=module, children={name: inherits(one, module) for name, one in node.children.items()})
