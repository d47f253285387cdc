"""What a POST, PUT, PATCH or DELETE makes of a client's tree (RFC 8040, section 4; RFC 8783, sections 5 to 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mitigation.data_channel import bodies, queries
from mitigation.data_channel.library import ROOT
from mitigation.data_channel.queries import Query
from mitigation.protocol import edits
from mitigation.protocol.edits import Insert, Place, Step, path_of
from mitigation.protocol.nodes import DOTS_CLIENT, Node, Shape, normalised
from mitigation.protocol.trees import INVALID, UNKNOWN, TreeFault

Change = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Edit:
    """`place` is what the answer speaks of: what was made, or changed. Places begin with `dots-data`."""

    change: Change
    place: Place


def post(place: Place, body: Any, query: Query) -> Edit:
    """New children of `place`. Raises TreeFault for a body that does not fit."""
    node, value = _child_of(place, body)
    if node.shape is Shape.LIST:
        one = _only(node, value, place)
        made = (*place, Step(node, str(one[node.key])))
        insert = queries.insertion(query, made, ROOT)
        return Edit(lambda tree: edits.create(tree, made[1:], one, insert), made)
    if query.insert is not None:
        queries.insertion(query, (*place, Step(node)), ROOT)
    inner = _list_in(node)
    made = (*place, Step(node))
    if inner is None:
        return Edit(lambda tree: edits.create(tree, made[1:], value), made)
    entries = value.get(inner.name, [])
    if not entries:
        raise TreeFault(INVALID, path_of(made[1:]), f"{node.name} holds no {inner.name}")

    def create_all(tree: dict[str, Any]) -> dict[str, Any]:
        for one in entries:
            tree = edits.create(tree, (*made[1:], Step(inner, str(one[inner.key]))), one)
        return tree

    return Edit(create_all, (*made, Step(inner, str(entries[0][inner.key]))) if len(entries) == 1 else made)


def put(place: Place, body: Any, query: Query) -> Edit:
    value = _value_for(place, body)
    insert: Insert | None = queries.insertion(query, place, ROOT)
    return Edit(lambda tree: edits.replace(tree, place[1:], value, insert), place)


def patch(place: Place, body: Any) -> Edit:
    value = _value_for(place, body)
    return Edit(lambda tree: edits.merge(tree, place[1:], value), place)


def delete(place: Place) -> Edit:
    return Edit(lambda tree: edits.remove(tree, place[1:]), place)


def _child_of(place: Place, body: Any) -> tuple[Node, Any]:
    name, held = bodies.only_member(body)
    node = place[-1].node.children.get(name)
    if node is None:
        raise TreeFault(UNKNOWN, path_of(place[1:]), f"{name[:60]} is not known in {place[-1].node.name}")
    return node, normalised(node, held, path_of((*place[1:], Step(node))))


def _value_for(place: Place, body: Any) -> Any:
    step = place[-1]
    if step.node.shape is Shape.LIST and step.key is None:
        raise TreeFault(INVALID, path_of(place[1:]), f"name the entry that is meant, as {step.node.name}=NAME")
    name, held = bodies.only_member(body)
    above = place[-2].node if len(place) > 1 else None
    if above is not None and name == above.name and name in ("acls", "aliases"):
        # The figures of RFC 8783 wrap the entry in its container.
        held = normalised(above, held, path_of(place[1:-1])).get(step.node.name, [])
        return _only(step.node, held, place[:-1], step.key)
    if name != step.node.name:
        raise TreeFault(INVALID, path_of(place[1:]), f"the body holds {name[:60]}, not {step.node.name}")
    value = normalised(step.node, held, path_of((*place[1:-1], Step(step.node))))
    if step.node.shape is Shape.LIST:
        return _only(step.node, value, place[:-1], step.key)
    return value


def _only(node: Node, entries: list[Any], above: Place, key: str | None = None) -> Any:
    """Of a list in a body the one entry, which is the one that is meant."""
    if len(entries) != 1:
        app_tag = "dots-one-client-only" if node is DOTS_CLIENT else ""
        raise TreeFault(INVALID, path_of(above[1:]), f"a request holds one {node.name}", app_tag=app_tag)
    if key is not None and str(entries[0][node.key]) != key:
        path = path_of((*above[1:], Step(node, key), Step(node.children[node.key])))
        raise TreeFault(INVALID, path, f"{node.key} in the body is not that of the path")
    return entries[0]


def _list_in(node: Node) -> Node | None:
    """Of a container that is there for one list alone."""
    if node.shape is not Shape.CONTAINER or len(node.children) != 1:
        return None
    (only,) = node.children.values()
    return only if only.shape is Shape.LIST else None
