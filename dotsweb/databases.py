"""`DATABASE_URL` to Django's settings. A bad one stops the start with a sentence that never shows what it holds."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_FORM = "postgres://USER:PASSWORD@HOST:PORT/NAME"
_ESCAPE = "a password with : / ? # @ or % in it is written with percent signs, such as %2F for /"
_NAME = re.compile(r"[^/@\x00]{1,63}")
_PARAMETER = re.compile(r"[a-z_]{2,40}")

# What libpq gets unless the query of the URL says otherwise. Waiting ends: a server that is gone, and a lock that
# somebody holds in a forgotten session, are errors after 20 s as with SQLite, not silence.
_DEFAULTS = {
    "application_name": "dots",
    "connect_timeout": "10",
    "tcp_user_timeout": "20000",
    "keepalives_idle": "30",
    "options": "-c lock_timeout=20s",
}
# These stand elsewhere in the URL or in Django's settings.
_OWN_PLACE = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "dbname": "NAME"}


def sqlite(home: Path) -> dict[str, object]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": home / "db.sqlite3",
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "timeout": 20,
            # Take the write lock at BEGIN: Django ignores select_for_update here, and a lock that is upgraded
            # in the middle of a transaction fails at once instead of waiting.
            "transaction_mode": "IMMEDIATE",
            # FULL: what was acknowledged survives a power cut, not only a crash of the process.
            "init_command": (
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=20000;"
                # 16 MB a connection: with 64 nothing was faster, since the kernel has the file in memory as well.
                "PRAGMA cache_size=-16000; PRAGMA foreign_keys=ON;"
            ),
        },
        "TEST": {"NAME": home / "test.sqlite3"},  # a file: threads of a test share it
    }


def postgresql(url: str) -> dict[str, object]:
    """`postgres://user:pass@host:port/name`, or `postgres:///name?host=/run/postgresql`; the query goes to libpq."""
    parts = _split(url)
    credentials, _, address = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    host, port = _address(address)
    found = {
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(user),
        "PASSWORD": unquote(password),
        "HOST": unquote(host),
        "PORT": port,
    }
    options = dict(_DEFAULTS)
    for name, value in _query(parts.query):
        if name in _OWN_PLACE:
            found[_OWN_PLACE[name]] = value
        elif name == "options":
            options[name] = f"{_DEFAULTS[name]} {value}".rstrip()
        else:
            options[name] = value
    if not _NAME.fullmatch(found["NAME"]):
        raise ImproperlyConfigured(f"DATABASE_URL names no database; it is {_FORM}, and {_ESCAPE}")
    return {
        "ENGINE": "django.db.backends.postgresql",
        **found,
        "CONN_MAX_AGE": None,
        # Before each job a connection that was kept is asked whether it still works: the database may have restarted.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ImproperlyConfigured(f"DATABASE_URL is not a URL; it is {_FORM}, and {_ESCAPE}") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured(f"DATABASE_URL must begin with postgres:// or be unset; it is {_FORM}")
    if parts.fragment or "#" in url:
        raise ImproperlyConfigured(f"DATABASE_URL has a # in it: {_ESCAPE}")
    return parts


def _address(address: str) -> tuple[str, str]:
    """Host and port; an IPv6 address stands in brackets, the path of a socket's directory with percent signs."""
    found = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]/]*))(?::(?P<port>[0-9]*))?", address)
    if found is None or int(found["port"] or 1) not in range(1, 65_536):
        raise ImproperlyConfigured(f"DATABASE_URL has no usable host and port; it is {_FORM}, and {_ESCAPE}")
    return found["v6"] or found["name"] or "", found["port"] or ""


def _query(query: str) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ImproperlyConfigured(
            f"what follows the ? in DATABASE_URL is not name=value&name=value; {_ESCAPE}"
        ) from None
    known = _known_parameters()
    for name, _ in pairs:
        if name not in known:
            # An unescaped password may have ended up here: a name is repeated only where it cannot be one.
            shown = f" {name!r}" if _PARAMETER.fullmatch(name) and "@" not in query else ""
            raise ImproperlyConfigured(f"DATABASE_URL has a parameter{shown} that PostgreSQL's library does not know")
    return pairs


def _known_parameters() -> set[str]:
    try:
        from psycopg import pq
    except ImportError as error:
        raise ImproperlyConfigured(
            f"DATABASE_URL needs psycopg, which cannot be loaded ({error}); pip install -r requirements.txt"
        ) from None
    return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
