"""Reads settings from the environment; a bad value stops the start with a sentence that names the variable."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def text(name: str, default: str) -> str:
    return os.environ.get(name) or default


def number(name: str, default: int, *, lowest: int = 0, highest: int = 2**31) -> int:
    raw = os.environ.get(name)
    if not raw:
        return default
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name}={raw!r} is not a whole number") from None
    if not lowest <= value <= highest:
        raise ImproperlyConfigured(f"{name}={value} is not between {lowest} and {highest}")
    return value


def port(name: str, default: int) -> int:
    return number(name, default, lowest=1, highest=65_535)


def boolean(name: str, default: bool) -> bool:
    raw = os.environ.get(name)
    if not raw:
        return default
    if raw.lower() in ("1", "true", "yes", "on"):
        return True
    if raw.lower() in ("0", "false", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name}={raw!r} is neither yes nor no")


def words(name: str, default: str) -> list[str]:
    """Comma-separated, blanks ignored."""
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def path(name: str, default: Path) -> Path:
    raw = os.environ.get(name)
    return Path(raw).expanduser().resolve() if raw else default


def secret(name: str, default_file: Path) -> str:
    """The content of the file that `name`_FILE points to, else of `default_file`; empty where neither exists yet."""
    file = path(f"{name}_FILE", default_file)
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ImproperlyConfigured(f"{file} cannot be read: {error.strerror}") from None
