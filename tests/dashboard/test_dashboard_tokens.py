"""Colours and assets: contrast computed from the stylesheet, and vendored files as pinned."""

from __future__ import annotations

import re
import runpy

import pytest
from django.conf import settings

CSS = (settings.BASE_DIR / "static" / "dots.css").read_text()


def _tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})[;\s]", block))


def _block(start: str) -> dict[str, str]:
    begin = CSS.index(start)
    return _tokens(CSS[begin : CSS.index("}", begin)])


THEMES = {"light": _block(":root {"), "dark": _block(':root[data-theme="dark"] {')}
TEXT = [
    (ink, ground)
    for ink in ("ink", "ink-2", "ink-3", "good", "warn", "bad", "allowed", "dropped")
    for ground in ("bg", "surface", "sunken")
]
MARKED = [("ink", f"{tone}-bg") for tone in ("good", "warn", "bad")]


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1.4.3."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("ink", "ground"), [*TEXT, *MARKED])
def test_text_can_be_read(theme: str, ink: str, ground: str) -> None:
    tokens = THEMES[theme]

    assert contrast(tokens[ink], tokens[ground]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_edges_of_inputs_can_be_seen(theme: str) -> None:
    tokens = THEMES[theme]

    assert contrast(tokens["control"], tokens["surface"]) >= 3
    assert contrast(tokens["focus"], tokens["bg"]) >= 3


def test_both_ways_into_the_dark_have_the_same_colours() -> None:
    assert _block(':root:not([data-theme="light"]) {') == THEMES["dark"]


def test_only_tokens_name_a_colour() -> None:
    rules = CSS[CSS.index("/* ---------- base ---------- */") :]

    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(", rules) == []


def test_nothing_is_smaller_than_12_pixels() -> None:
    sizes = [float(rem) for rem in re.findall(r"--t-\d+: ([\d.]+)rem", CSS)]

    assert min(sizes) * 16 >= 12
    assert re.findall(r"font(?:-size)?:[^;]*\b(?:\d|1[01])(?:\.\d+)?px", CSS) == []


def test_the_stylesheet_asks_nobody_else() -> None:
    assert re.findall(r"url\((?!\"?(?:vendor/|#))[^)]*\)|@import", CSS) == []


def test_vendored_files_are_those_that_were_pinned() -> None:
    script = runpy.run_path(str(settings.BASE_DIR / "scripts" / "vendor_assets.py"))

    script["check"]()

    pinned = {name for package in script["PACKAGES"] for name in package.files}
    assert {path.name for path in script["VENDOR"].iterdir()} == pinned
