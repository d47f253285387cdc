"""The pictures in docs/img, taken from the product itself: PICTURES=1 pytest tests/dashboard -k pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import dashboard_cast
import dashboard_scenes as scenes
import pytest
from dashboard_browser import DESK, PHONE, Looked, Served, chromium, log_in
from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone

pytestmark = [
    pytest.mark.flow,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("PICTURES"), reason="pictures are taken on demand: PICTURES=1"),
]
FOLDER = Path(os.environ.get("PICTURES_IN") or settings.BASE_DIR / "docs" / "img")
ALL = os.environ.get("PICTURES") == "all"

Scene = Callable[[datetime], object]
SCENES: dict[str, tuple[Scene, tuple[tuple[str, str], ...]]] = {
    "attack": (
        scenes.under_attack,
        (
            ("now", "/"),
            ("mitigation", "/mitigations/1/"),
            ("not-enforced", "/mitigations/6/"),
            ("mitigations", "/mitigations/"),
            ("sessions", "/sessions/"),
            ("domains", "/domains/"),
            ("points", "/points/"),
            ("switch", "/points/switches/panic/"),
            ("domain", "/domains/3/"),
            ("stop", "/mitigations/1/"),
        ),
    ),
    "waiting": (
        scenes.waiting,
        (
            ("waiting", "/"),
            ("waiting-list", "/mitigations/"),
            ("waiting-mitigation", "/mitigations/2/"),
            ("approve", "/mitigations/3/approve/"),
            ("reject", "/mitigations/2/reject/"),
            ("shadow", "/mitigations/4/"),
            ("policy", "/domains/2/"),
            ("policy-shadow", "/domains/4/"),
        ),
    ),
    "filters": (
        scenes.filtered,
        (
            ("filters", "/filters/"),
            ("filter", "/filters/2/"),
            ("filter-long", "/filters/3/"),
            ("filter-refused", "/filters/4/"),
            ("filter-waits", "/filters/8/"),
            ("filter-hold", "/filters/1/hold/"),
            ("filters-empty", "/filters/?q=192.0.2.99"),
            ("points-refused", "/points/"),
            ("now-refused", "/"),
        ),
    ),
    "policy": (scenes.waiting, (("policy-form", "/domains/1/policy/"),)),
    "redirected": (scenes.redirected, (("redirected", "/mitigations/1/"), ("redirected-now", "/"))),
    "quiet": (scenes.quiet, (("quiet", "/"),)),
    "empty": (scenes.first_day, (("empty", "/"),)),
    "dry": (scenes.dry_run, (("dry-run", "/"), ("dry-run-mitigation", "/mitigations/1/"))),
}


# Whole pages in both themes and widths are for looking at while working; these few are shown in the documentation.
SHOWN = {
    "now-light", "now-dark", "mitigation-light", "mitigation-dark", "not-enforced-light", "stop-light", "dry-run-light",
    "empty-light", "quiet-light", "filter-light", "login-dark", "now-dark-phone", "mitigation-light-phone",
}  # fmt: skip


@pytest.mark.django_db(transaction=True, reset_sequences=True)
@pytest.mark.parametrize("scene", SCENES)
def test_pictures(scene: str, served: Served, operator: User) -> None:
    prepare, shots = SCENES[scene]
    prepare(timezone.now())
    FOLDER.mkdir(parents=True, exist_ok=True)

    for suffix, size in (("", DESK), ("-phone", PHONE)):
        with chromium(viewport=size, color_scheme="light") as looked:
            if scene == "empty":
                _shoot(looked, served, "login", "/login/", suffix)
            operator.is_superuser = scene == "policy"
            operator.save()
            log_in(looked, served.url, operator)
            for name, path in shots:
                _shoot(looked, served, name, path, suffix)
            assert looked.errors == []


def _shoot(looked: Looked, served: Served, name: str, path: str, suffix: str) -> None:
    for theme in ("light", "dark"):
        full = f"{name}-{theme}{suffix}"
        if not ALL and full not in SHOWN:
            continue
        looked.page.emulate_media(color_scheme=theme)
        dashboard_cast.go_on(now=timezone.now())
        looked.page.goto(served.url + path)
        looked.page.evaluate("document.fonts.ready")
        if name != "login":
            looked.page.locator(".live:not(.off)").wait_for()
        if name == "stop":
            looked.page.locator("a[data-dialog]").first.click()
            looked.page.locator("dialog[open]").wait_for()
        looked.page.screenshot(path=FOLDER / f"{full}.png", full_page=ALL and name != "stop")
