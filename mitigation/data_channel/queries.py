"""Query parameters (RFC 8040, section 4.8): each where its method has it, once, and in its own letters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote

from mitigation.data_channel import paths
from mitigation.protocol.edits import Insert, NoSuchNode, Place
from mitigation.protocol.nodes import Node
from mitigation.protocol.trees import INVALID, TreeFault

Fields = dict[str, "Fields | None"]  # by member: what of it; None: all

READING = frozenset({"content", "depth", "fields", "with-defaults"})
PLACING = frozenset({"insert", "point"})
_ALLOWED: dict[str, frozenset[str]] = {
    "GET": READING,
    "HEAD": READING,
    "POST": PLACING,
    "PUT": PLACING,
}
_DEEPEST = 65_535
_WHERE = ("first", "last", "before", "after")
_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_.-]*:)?([A-Za-z_][A-Za-z0-9_.-]*)")


class BadQuery(TreeFault):
    """A parameter that is not understood (400, invalid-value), or a `fields` that names nothing."""


class Content(StrEnum):
    CONFIG = "config"
    NONCONFIG = "nonconfig"
    ALL = "all"


class Defaults(StrEnum):
    """`explicit` is our basic mode: what was set is shown, also where it equals the default."""

    REPORT_ALL = "report-all"
    TRIM = "trim"
    EXPLICIT = "explicit"
    TAGGED = "report-all-tagged"


@dataclass(frozen=True, slots=True)
class Query:
    """`depth` None: unbounded. `fields` None: everything."""

    content: Content = Content.ALL
    depth: int | None = None
    fields: Fields | None = None
    defaults: Defaults = Defaults.EXPLICIT
    insert: str | None = None
    point: str | None = field(default=None)


def parse(text: str, method: str) -> Query:
    """The query of a URI, without its question mark. Raises BadQuery."""
    given = _split(text)
    for name in given:
        if name not in _ALLOWED.get(method, frozenset()):
            raise _bad(f"{method} takes no query parameter {name[:40]!r}")
    query = Query(
        content=_content(given),
        depth=_depth(given),
        fields=_fields(given["fields"]) if "fields" in given else None,
        defaults=_defaults(given),
        insert=_insert(given),
        point=given.get("point"),
    )
    if query.insert in ("before", "after") and query.point is None:
        raise _bad(f"insert={query.insert} needs point: the entry that is meant")
    if query.point is not None and query.insert not in ("before", "after"):
        raise _bad("point goes with insert=before or insert=after")
    return query


def insertion(query: Query, place: Place, root: Node) -> Insert | None:
    """Where the query wants the entry at `place`. Raises BadQuery, also for a list that its user does not order."""
    if query.insert is None:
        return None
    if not place or place[-1].key is None or not place[-1].node.by_user:
        raise _bad("insert is for entries of acl and ace, whose order is the client's")
    if query.point is None:
        return Insert(query.insert)  # type: ignore[arg-type]  # one of _WHERE
    text = query.point.removeprefix(paths.DATA)
    try:
        meant = paths.parse(text, root)
    except NoSuchNode as error:
        raise _bad(f"point: {error}") from None
    if not meant or meant[:-1] != place[:-1] or meant[-1].node is not place[-1].node or meant[-1].key is None:
        raise _bad("point names no entry of the same list")
    return Insert(query.insert, meant[-1].key)  # type: ignore[arg-type]  # one of _WHERE


def _split(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split("&")):
        name, _, value = part.partition("=")
        try:
            name, value = unquote(name, errors="strict"), unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise _bad("the query is not UTF-8") from None
        if name in found:
            raise _bad(f"query parameter {name[:40]} appears twice")
        found[name] = value
    return found


def _content(given: Mapping[str, str]) -> Content:
    # "non-config" stands in the text and a figure of RFC 8783; it can mean nothing else.
    word = given.get("content", Content.ALL).replace("non-config", "nonconfig")
    if word not in set(Content):
        raise _bad(f"content is none of {', '.join(Content)}")
    return Content(word)


def _depth(given: Mapping[str, str]) -> int | None:
    word = given.get("depth", "unbounded")
    if word == "unbounded":
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,4}", word) or int(word) > _DEEPEST:
        raise _bad(f"depth is a number from 1 to {_DEEPEST}, or unbounded")
    return int(word)


def _defaults(given: Mapping[str, str]) -> Defaults:
    word = given.get("with-defaults", Defaults.EXPLICIT)
    if word not in set(Defaults):
        raise _bad(f"with-defaults is none of {', '.join(Defaults)}")
    return Defaults(word)


def _insert(given: Mapping[str, str]) -> str | None:
    word = given.get("insert")
    if word is not None and word not in _WHERE:
        raise _bad(f"insert is none of {', '.join(_WHERE)}")
    return word


def _fields(text: str) -> Fields:
    if len(text) > paths.LONGEST:
        raise _bad("fields is too long")
    found, rest = _expression(text)
    if rest:
        raise _bad(f"fields cannot be read from {rest[:20]!r} on")
    return found


def _expression(text: str, deep: int = 0) -> tuple[Fields, str]:
    """`path(...)` and `path` between semicolons; what is left begins with what ended it."""
    found: Fields = {}
    if deep > 16:
        raise _bad("fields is nested too deep")
    while True:
        inner = found
        while True:
            name = _NAME.match(text)
            if name is None:
                raise _bad(f"fields needs a name at {text[:20]!r}")
            text = text[name.end() :]
            if not text.startswith("/"):
                break
            inner, text = _descend(inner, name[1]), text[1:]
        if text.startswith("("):
            held, text = _expression(text[1:], deep + 1)
            if not text.startswith(")"):
                raise _bad("fields: a parenthesis is not closed")
            text = text[1:]
            _descend(inner, name[1]).update(held)
        else:
            inner[name[1]] = None
        if not text.startswith(";"):
            return found, text
        text = text[1:]


def _descend(fields: Fields, name: str) -> Fields:
    below = fields.get(name)
    if below is None:
        below = fields[name] = {}
    return below


def _bad(sentence: str) -> BadQuery:
    return BadQuery(INVALID, (), sentence)
