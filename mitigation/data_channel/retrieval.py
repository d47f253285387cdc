"""What of a tree a GET shows (RFC 8040, section 4.8): by content, depth, fields and the handling of defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mitigation.data_channel.queries import BadQuery, Content, Defaults, Fields, Query
from mitigation.protocol.nodes import Node, Shape
from mitigation.protocol.trees import INVALID

TAG = {"ietf-netconf-with-defaults:default": True}


def shown(node: Node, value: Any, query: Query) -> Any:
    """A node's value by the query; of a list all its entries. The node itself is level 1. Raises BadQuery."""
    return _Reader(query).value(node, value, query.depth, query.fields)


class _Reader:
    def __init__(self, query: Query) -> None:
        self._content = query.content
        self._defaults = query.defaults

    def value(self, node: Node, value: Any, depth: int | None, fields: Fields | None) -> Any:
        """`depth` levels may be shown, this one included."""
        if node.shape in (Shape.LEAF, Shape.LEAF_LIST):
            return value
        if node.shape is Shape.LIST:
            return [self._members(node, one, depth, fields) for one in value]
        return self._members(node, value, depth, fields)

    def _members(
        self, node: Node, value: Mapping[str, Any], depth: int | None, fields: Fields | None
    ) -> dict[str, Any]:
        if fields is not None and (unknown := sorted(set(fields) - set(node.children))):
            raise BadQuery(INVALID, (), f"fields: there is no {unknown[0][:60]} in {node.name}")
        found: dict[str, Any] = {}
        for child, held, is_default in self._held(node, value):
            if fields is not None and child.name not in fields:
                continue
            below = None if fields is None else fields[child.name]
            # What fields picks, and what is above it, counts as level 1 (RFC 8040, section 4.8.2).
            left = depth if fields is not None else depth and depth - 1
            if left == 0:
                continue
            inner = self._cut(child) if left == 1 and below is None and fields is None else None
            inner = self.value(child, held, left, below) if inner is None else inner
            if not self._is_wanted(node, child, inner):
                continue
            name = child.name if child.module == node.module else f"{child.module}:{child.name}"
            found[name] = inner
            if is_default and self._defaults is Defaults.TAGGED:
                found[f"@{name}"] = TAG
        return found

    @staticmethod
    def _cut(child: Node) -> Any:
        """A list or container of the last level has nothing inside (RFC 9244, figure 34, prints a list as `[]`)."""
        return {Shape.LIST: [], Shape.CONTAINER: {}}.get(child.shape)

    def _held(self, node: Node, value: Mapping[str, Any]) -> Iterator[tuple[Node, Any, bool]]:
        """The children that are there, in the order of the data model, and those that a default stands for."""
        for child in node.children.values():
            if child.name in value:
                held = value[child.name]
                if self._defaults is Defaults.TRIM and child.default is not None and held == child.default:
                    continue
                yield child, held, False
            elif self._reports(child) and (not child.needs or child.needs in value):
                yield child, child.default, True

    def _reports(self, child: Node) -> bool:
        return child.default is not None and self._defaults in (Defaults.REPORT_ALL, Defaults.TAGGED)

    def _is_wanted(self, parent: Node, child: Node, inner: Any) -> bool:
        if self._content is Content.ALL or child.name in parent.key.split():
            return True
        if self._content is Content.CONFIG:
            return child.config
        if child.shape in (Shape.LEAF, Shape.LEAF_LIST):
            return not child.config
        return bool(inner) or not child.config
