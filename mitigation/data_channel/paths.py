"""RESTCONF resource paths to places in the tree, and back (RFC 8040, section 3.5.3)."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from mitigation.protocol.edits import NoSuchNode, Place, Step, path_of
from mitigation.protocol.nodes import Node, Shape
from mitigation.protocol.trees import INVALID, TreeFault

ROOT = "/restconf"
DATA = f"{ROOT}/data"
SCHEMAS = f"{ROOT}/yang"  # the texts of modules
LONGEST = 4_096  # octets of a path or of `point`

_SEGMENT = re.compile(r"(?:([A-Za-z_][A-Za-z0-9_.-]*):)?([A-Za-z_][A-Za-z0-9_.-]*)(?:=(.*))?", re.DOTALL)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse(text: str, root: Node) -> Place:
    """`text` as it stands in the URI after the API resource's `/data`; the steps begin with the children of `root`.

    Raises NoSuchNode for what the data model does not have, and TreeFault for what is no path.
    """
    if not text:
        return ()
    if len(text) > LONGEST or _BAD_ESCAPE.search(text):
        raise TreeFault(INVALID, (), "this is no path: it is too long, or a % is not followed by two digits")
    children, module = dict(root.children), ""
    place: Place = ()
    for segment in text.removeprefix("/").split("/"):
        found = _SEGMENT.fullmatch(segment)
        node = children.get(found[2]) if found else None
        # A prefix is needed where the module changes, and nowhere else wanted (DATA-ENC-016).
        if found is None or node is None or (found[1] or module) != node.module:
            raise NoSuchNode(path_of(place), f"there is no {segment[:60]!r} here")
        place = (*place, _step(node, found[3], place))
        children, module = dict(node.children), node.module
    return place


def _step(node: Node, key: str | None, place: Place) -> Step:
    if key is None:
        return Step(node)
    if node.shape not in (Shape.LIST, Shape.LEAF_LIST):
        raise TreeFault(INVALID, (*path_of(place), node.name), f"{node.name} is no list: it takes no key")
    wanted, given = len(node.key.split()) or 1, key.split(",")
    if len(given) != wanted:
        sentence = f"{node.name} takes {wanted} key; write a comma inside one as %2C"
        raise TreeFault(INVALID, (*path_of(place), node.name), sentence)
    try:
        return Step(node, ",".join(unquote(one, errors="strict") for one in given))
    except UnicodeDecodeError:
        raise TreeFault(INVALID, (*path_of(place), node.name), "the key is not UTF-8") from None


def to_uri(place: Place) -> str:
    """The path of a data resource, from the host on."""
    module, words = "", []
    for step in place:
        name = step.node.name if step.node.module == module else f"{step.node.module}:{step.node.name}"
        words.append(name if step.key is None else f"{name}={quote(step.key, safe='')}")
        module = step.node.module
    return "/".join((DATA, *words))
