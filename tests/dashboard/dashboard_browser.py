"""Chromium as tests use it: headless, its own profile, and every complaint of a page remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import BrowserContext, Page, sync_playwright

from mitigation.dashboard.live import hub

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


NAME, PASSWORD = "noc-desk-2", "a long enough password"


@dataclass
class Served:
    """The dashboard on a real socket, with its own event loop in a thread."""

    url: str
    loop: asyncio.AbstractEventLoop

    def changed(self, *changes: tuple[str, int]) -> None:
        """What the web process does when the change cursor moves."""
        asyncio.run_coroutine_threadsafe(hub.changed(changes), self.loop).result(timeout=5)


@dataclass
class Looked:
    """A page, and what it complained of: console errors (CSP violations too), uncaught errors, foreign requests."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    @property
    def context(self) -> BrowserContext:
        return self.page.context

    def listen(self) -> Looked:
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._host(request.url))
        self.page.on("websocket", lambda socket: self._host(socket.url))
        return self

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def _host(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.hosts.add(urlsplit(url).hostname or "")


@contextmanager
def chromium(**context: Any) -> Iterator[Looked]:
    with TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=str(CHROMIUM),
            args=ARGUMENTS,
            headless=True,
            viewport=context.pop("viewport", DESK),
            timezone_id="UTC",
            **context,
        )
        browser.set_default_timeout(10_000)
        yield Looked(browser.new_page()).listen()
        browser.close()


def log_in(looked: Looked, url: str, user: User) -> None:
    """With a session made on the server: the login form has a test of its own."""
    client = Client()
    client.force_login(user)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    looked.context.add_cookies(
        [{"name": cookie.key, "value": cookie.value, "url": url, "httpOnly": True, "sameSite": "Strict"}]
    )
