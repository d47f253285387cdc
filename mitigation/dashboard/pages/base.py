"""A page: what it shows, and which parts of it change while it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Context = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """A list that grows and shrinks: the partial of one row, and where in the context the rows are."""

    template: str
    context_name: str


@dataclass(frozen=True, slots=True)
class Page:
    """`build(now, query, **arguments)` reads the models and raises Http404; it never writes.

    Regions are partials whose root element carries `data-live=<name>`; a row's carries `data-live=<row.key>`.
    The page's template includes the same partials.
    """

    name: str
    template: str
    build: Callable[..., Context]
    regions: Mapping[str, str] = field(default_factory=dict)
    first_regions: Mapping[str, str] = field(default_factory=dict)  # while its layout is "first"
    lists: Mapping[str, Rows] = field(default_factory=dict)
    rail: str = ""  # the rail entry it belongs to, where that is not its own name

    def context(self, now: datetime, query: Mapping[str, str], **arguments: Any) -> Context:
        return {"now": now, "current": self.rail or self.name, **self.build(now, query, **arguments)}
