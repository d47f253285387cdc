"""Changes to a tree of data nodes: create, replace, merge, remove (RFC 8040, section 4), on plain JSON values.

Trees are never changed in place: what an edit touched is a new object, what it left alone is the same one. So the
entries that must be judged again, and whose lifetime starts anew, are those that are no longer identical.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mitigation.exceptions import DotsError
from mitigation.protocol.nodes import Node, Shape
from mitigation.protocol.trees import INVALID, Path, TreeFault, entry

Tree = Mapping[str, Any]


class NoSuchNode(DotsError):
    """Nothing is there (404). `path` as in TreeFault."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


class Taken(DotsError):
    """Something is there already (409)."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


@dataclass(frozen=True, slots=True)
class Step:
    """A node, and of a list or leaf-list the entry: its key or value as text, several keys with commas between."""

    node: Node
    key: str | None = None

    def __str__(self) -> str:
        if self.key is None:
            return self.node.name
        return entry(self.node.name, self.node.key or ".", self.key)


Place = tuple[Step, ...]  # from the children of the top container downwards; empty: that container itself


@dataclass(frozen=True, slots=True)
class Insert:
    """Where a new entry goes among those of a list that is ordered by its user (RFC 8040, section 4.8.5)."""

    where: Literal["first", "last", "before", "after"]
    point: str | None = None  # the key of the entry meant by before and after


def path_of(place: Place) -> Path:
    return tuple(map(str, place))


def find(tree: Tree, place: Place) -> Any:
    """What stands there. Containers without presence are there whenever what is above them is. Raises NoSuchNode.

    A leaf that was not set has its default. A list without a key gives all of its entries.
    """
    value: Any = tree
    for at, step in enumerate(place):
        found = _child(value, step)
        if found is None:
            raise NoSuchNode(path_of(place[: at + 1]), f"there is no {step}")
        value = found
    return value


def exists(tree: Tree, place: Place) -> bool:
    try:
        find(tree, place)
    except NoSuchNode:
        return False
    return True


def is_set(tree: Tree, place: Place) -> bool:
    """Whether it stands there by itself, and not by a default."""
    value: Any = tree
    for step in place:
        value = _child(value, step, defaults=False)
        if value is None:
            return False
    return True


def create(tree: Tree, place: Place, value: Any, insert: Insert | None = None) -> dict[str, Any]:
    """`place` is the new entry's own. Raises NoSuchNode for what is above it, Taken, or TreeFault for the insertion."""
    if not exists(tree, place[:-1]):
        find(tree, place[:-1])
    if is_set(tree, place):
        raise Taken(path_of(place), f"{place[-1]} exists already")
    return _changed(tree, place, lambda _: value, insert)


def replace(tree: Tree, place: Place, value: Any, insert: Insert | None = None) -> dict[str, Any]:
    """Also creates. What is replaced stays where it is unless `insert` moves it. Raises NoSuchNode."""
    find(tree, place[:-1])
    _refuse_another_key(place, value)
    return _changed(tree, place, lambda _: value, insert)


def merge(tree: Tree, place: Place, value: Any) -> dict[str, Any]:
    """Adds and overwrites, never takes away (section 4.6.1). Raises NoSuchNode."""
    find(tree, place)
    _refuse_another_key(place, value)
    node = place[-1].node
    one = Node(node.name, Shape.CONTAINER, node.children) if place[-1].key is not None else node
    return _changed(tree, place, lambda old: _merged(one, old, value))


def remove(tree: Tree, place: Place) -> dict[str, Any]:
    """Raises NoSuchNode, or TreeFault for a whole list or for the key of an entry."""
    last = place[-1]
    if not is_set(tree, place) and last.node.shape is not Shape.CONTAINER:
        raise NoSuchNode(path_of(place), f"there is no {last}")
    find(tree, place)
    if last.node.shape in (Shape.LIST, Shape.LEAF_LIST) and last.key is None:
        raise TreeFault(INVALID, path_of(place), f"one request removes one entry: name it, as {last.node.name}=NAME")
    if len(place) > 1 and place[-2].node.key == last.node.name:
        raise TreeFault(INVALID, path_of(place), f"{last.node.name} is the key of its entry and goes only with it")
    return _changed(tree, place, lambda _: None)


def _refuse_another_key(place: Place, value: Any) -> None:
    """Raises TreeFault: no PUT or PATCH gives an entry another key (RFC 8040, sections 4.5 and 4.6.1)."""
    if len(place) > 1 and place[-1].node.name in place[-2].node.key.split() and str(value) != place[-2].key:
        raise TreeFault(INVALID, path_of(place), f"{place[-1].node.name} is the key of its entry and stays as it is")


# -- inside -----------------------------------------------------------------------------------------------------------


def _child(value: Tree, step: Step, *, defaults: bool = True) -> Any:
    node = step.node
    held = value.get(node.name)
    if step.key is not None:
        return next((one for one in held or () if _is_meant(one, step)), None)
    if held is None:
        if node.shape is Shape.CONTAINER:
            return {}
        if node.shape is Shape.LIST:
            return []
        if defaults and node.default is not None and (not node.needs or node.needs in value):
            return node.default
    return held


def _is_meant(one: Any, step: Step) -> bool:
    if step.node.shape is not Shape.LIST:
        return str(one) == step.key
    return ",".join(str(one.get(key)) for key in step.node.key.split()) == step.key


def _changed(tree: Tree, place: Place, change: Callable[[Any], Any], insert: Insert | None = None) -> dict[str, Any]:
    """A copy with something else in this place; None takes it away."""
    step, rest = place[0], place[1:]
    node, copy = step.node, dict(tree)
    if step.key is None:
        old = tree.get(node.name)
        new = _changed(old or {}, rest, change, insert) if rest else change(old)
        _set(copy, node, new)
        return copy
    entries = list(tree.get(node.name, ()))
    at = next((at for at, one in enumerate(entries) if _is_meant(one, step)), None)
    old = None if at is None else entries[at]
    new = _changed(old or {}, rest, change, insert) if rest else change(old)
    if new is None:
        assert at is not None  # `remove` has looked
        del entries[at]
    elif at is None or (insert is not None and not rest):
        if at is not None:
            del entries[at]
        entries.insert(_position(entries, step, insert, place), new)
    else:
        entries[at] = new
    _set(copy, node, entries or None)
    return copy


def _set(copy: dict[str, Any], node: Node, value: Any) -> None:
    if value is None:
        copy.pop(node.name, None)
    else:
        copy[node.name] = value


def _position(entries: list[Any], step: Step, insert: Insert | None, place: Place) -> int:
    if insert is None or insert.where == "last":
        return len(entries)
    if insert.where == "first":
        return 0
    for at, one in enumerate(entries):
        if _is_meant(one, Step(step.node, insert.point)):
            return at if insert.where == "before" else at + 1
    raise TreeFault(INVALID, path_of(place), f"point names no entry of this list: {insert.point!r}")


def _merged(node: Node, old: Any, new: Any) -> Any:
    if node.shape is Shape.LEAF or old is None:
        return new
    if node.shape is Shape.LEAF_LIST:
        return [*old, *(one for one in new if one not in old)]
    if node.shape is Shape.LIST:
        return _merged_entries(node, old, new)
    found = dict(old)
    for name, value in new.items():
        child = node.children[name]
        for other in [one for one in found if child.excludes(node.children[one])]:
            del found[other]
        found[name] = _merged(child, found.get(name), value)
    return found


def _merged_entries(node: Node, old: list[Any], new: list[Any]) -> list[Any]:
    one_entry = Node(node.name, Shape.CONTAINER, node.children)
    found = {str(one[node.key]): one for one in old}
    for one in new:
        key = str(one[node.key])
        found[key] = _merged(one_entry, found.get(key), one)
    return list(found.values())
