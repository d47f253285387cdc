"""The pictures in docs/img, taken from the product itself: DOTS_PICTURES=1 pytest tests/dashboard -k pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import dashboard_scenes as scenes
import pytest
from conftest import Served
from dashboard_browser import DESK, PHONE, chromium, log_in
from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone

pytestmark = [
    pytest.mark.flow,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("DOTS_PICTURES"), reason="pictures are taken on demand: DOTS_PICTURES=1"),
]
FOLDER = Path(os.environ.get("DOTS_PICTURES_IN") or settings.BASE_DIR / "docs" / "img")

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
            ("domain", "/domains/3/"),
            ("stop", "/mitigations/1/"),
        ),
    ),
    "quiet": (scenes.quiet, (("quiet", "/"),)),
    "empty": (scenes.first_day, (("empty", "/"),)),
    "dry": (scenes.dry_run, (("dry-run", "/"), ("dry-run-mitigation", "/mitigations/1/"))),
}


@pytest.mark.django_db(transaction=True, reset_sequences=True)
@pytest.mark.parametrize("scene", SCENES)
def test_pictures(scene: str, served: Served, operator: User) -> None:
    prepare, shots = SCENES[scene]
    prepare(timezone.now())
    FOLDER.mkdir(parents=True, exist_ok=True)

    for size_name, size in (("", DESK), ("-phone", PHONE)):
        with chromium(viewport=size, device_scale_factor=1, color_scheme="light") as looked:
            if scene == "empty":
                _login_page(looked, served, size_name)
            log_in(looked, served.url, operator)
            for name, path in shots:
                for theme in ("light", "dark"):
                    looked.page.emulate_media(color_scheme=theme)
                    looked.page.goto(served.url + path)
                    looked.page.locator(".live:not(.off)").wait_for()
                    looked.page.evaluate("document.fonts.ready")
                    if name == "stop":
                        looked.page.locator("a[data-dialog]").first.click()
                        looked.page.locator("dialog[open]").wait_for()
                    looked.page.screenshot(path=FOLDER / f"{name}-{theme}{size_name}.png", full_page=name != "stop")
            assert looked.errors == []


def _login_page(looked: object, served: Served, size_name: str) -> None:
    for theme in ("light", "dark"):
        looked.page.emulate_media(color_scheme=theme)
        looked.page.goto(served.url + "/login/")
        looked.page.screenshot(path=FOLDER / f"login-{theme}{size_name}.png")
