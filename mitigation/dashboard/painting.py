"""Renders the parts of a page that change. Pages that are equal share one rendering, however many look at them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from channels.db import database_sync_to_async
from django.http import Http404, QueryDict
from django.template.loader import render_to_string
from django.urls import Resolver404, resolve
from django.utils import timezone

from mitigation.dashboard import formats, frame
from mitigation.dashboard.live import Hub, hub
from mitigation.dashboard.pages import PAGES, Page
from mitigation.dashboard.rows import MitigationRow


@dataclass(frozen=True, slots=True)
class Watch:
    """A page as somebody looks at it: its URL name, the arguments in its path, its query."""

    name: str
    arguments: tuple[tuple[str, Any], ...]
    query: str

    @property
    def page(self) -> Page:
        return PAGES[self.name]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """HTML by key, the order of each list, and how each mitigation is called now: (word, sentence, is broken)."""

    at: int
    layout: str
    parts: Mapping[str, str]
    lists: Mapping[str, list[str]]
    states: Mapping[str, tuple[str, str, bool]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def find(path: str, query: str) -> Watch | None:
    """The page at this path; None where there is none that changes."""
    try:
        match = resolve(path)
    except Resolver404:
        return None
    if match.url_name not in PAGES:
        return None
    arguments = {name: value for name, value in match.kwargs.items() if name != "page"}  # without what urls.py adds
    return Watch(match.url_name, tuple(sorted(arguments.items())), query)


def snapshot(watch: Watch, now: datetime) -> Snapshot | None:
    """None where the object of the page is gone."""
    page = watch.page
    try:
        context = page.context(now, QueryDict(watch.query), **dict(watch.arguments))
    except Http404:
        return None
    # Texts that only the clock changes are left to the script: else every row would differ every second.
    context |= {**frame.build(now), "live": True}
    layout = context.get("layout", "running")
    regions = {**frame.REGIONS, **(page.regions if layout == "running" else page.first_regions)}
    parts = {name: render_to_string(template, context) for name, template in regions.items()}
    lists = {}
    for name, rows in page.lists.items():
        found = context[rows.context_name]
        lists[name] = [row.key for row in found]
        parts |= {row.key: render_to_string(rows.template, {"row": row, **_shared(context)}) for row in found}
    return Snapshot(formats.milliseconds(now), layout, parts, lists, *_words(context))


def _shared(context: Mapping[str, Any]) -> dict[str, Any]:
    return {"live": True, "now": context["now"]}


def _words(context: Mapping[str, Any]) -> tuple[dict[str, tuple[str, str, bool]], dict[str, str]]:
    found = [context["row"]] if "row" in context else context.get("rows", ())
    rows = [row for row in found if isinstance(row, MitigationRow)]
    states = {row.key: (row.state.word, f"{row.target}: {row.state.word}", row.state.is_broken) for row in rows}
    return states, {row.key: row.version for row in rows}


def digest(html: str) -> bytes:
    return hashlib.blake2b(html.encode(), digest_size=16).digest()


class Painter:
    """Shares renderings within one generation of the hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._generation = -1
        self._tasks: dict[Watch, asyncio.Task[Snapshot | None]] = {}

    async def snapshot(self, watch: Watch) -> Snapshot | None:
        if self._generation != self._hub.generation:
            self._generation = self._hub.generation
            self._tasks.clear()
        task = self._tasks.get(watch)
        if task is None:
            rendering = database_sync_to_async(snapshot)(watch, timezone.now())
            task = self._tasks[watch] = asyncio.ensure_future(rendering)
        # Others wait for it too: one page that is closed must not cancel it for them.
        return await asyncio.shield(task)


painter = Painter(hub)
