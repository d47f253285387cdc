"""DATABASE_URL: what it means, what it refuses, and that it never says what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from dotsweb import databases


def parsed(url: str) -> dict[str, Any]:
    return databases.postgresql(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p@db.example:6432/dots", ("u", "p", "db.example", "6432", "dots")),
        ("postgresql://u@[2001:db8::5]/dots", ("u", "", "2001:db8::5", "", "dots")),
        ("postgres:///dots?host=/run/postgresql", ("", "", "/run/postgresql", "", "dots")),
        ("postgres:///dots?host=/run/Other&port=5433&user=u", ("u", "", "/run/Other", "5433", "dots")),
        ("postgres://%2Frun%2FPostgreSQL/dots", ("", "", "/run/PostgreSQL", "", "dots")),
        ("postgres://u%40x:p%2F%3A%3F%23%40%25@h/d%20e", ("u@x", "p/:?#@%", "h", "", "d e")),
        ("postgres://u:p@w@h/dots", ("u", "p@w", "h", "", "dots")),
        ("postgres:///dots", ("", "", "", "", "dots")),
    ],
)
def test_a_url_says_where_the_database_is(url: str, expected: tuple[str, ...]) -> None:
    found = parsed(url)

    assert tuple(found[name] for name in ("USER", "PASSWORD", "HOST", "PORT", "NAME")) == expected
    assert found["ENGINE"] == "django.db.backends.postgresql"


def test_the_query_goes_to_the_library_and_wins_over_our_defaults() -> None:
    options = parsed(
        "postgres://u@h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem&connect_timeout=3&options=-c%20work_mem%3D64MB"
    )["OPTIONS"]

    assert options["sslmode"] == "verify-full"
    assert options["sslrootcert"] == "/etc/ca.pem"
    assert options["connect_timeout"] == "3"
    assert options["options"] == "-c lock_timeout=20s -c work_mem=64MB"
    assert options["application_name"] == "dots"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:hush@h/d", "must begin with postgres://"),
        ("dots.sqlite3", "must begin with postgres://"),
        ("postgres://u:hush@h", "names no database"),
        ("postgres://u:hush@h/", "names no database"),
        ("postgres://u:hush@h:port/d", "no usable host and port"),
        ("postgres://u:hush@h:70000/d", "no usable host and port"),
        ("postgres://u:hush@h:0/d", "no usable host and port"),
        ("postgres://u:hush@[h/d", "is not a URL"),
        ("postgres://u:hu/sh@h/d", "no usable host and port"),
        ("postgres://u:12/hush@h/d", "names no database"),
        ("postgres://u:hu?sh@h/d", "no usable host and port"),
        ("postgres://u:12?hush@h/d", "not name=value"),
        ("postgres://u:12?hush=@h/d", "a parameter that PostgreSQL's library does not know"),
        ("postgres://u:hu#sh@h/d", "has a #"),
        ("postgres://h/d?hush", "not name=value"),
        ("postgres://h/d?hush@x=1", "a parameter that PostgreSQL's library does not know"),
    ],
)
def test_what_makes_no_sense_is_refused_without_repeating_it(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        parsed(url)

    sentence = str(refused.value)
    assert "DATABASE_URL" in sentence
    assert words in sentence
    assert "hush" not in sentence
    assert "sh@" not in sentence


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="'ssl_mode'"):
        parsed("postgres://h/d?ssl_mode=require")


def test_without_a_url_it_is_sqlite_in_the_home_and_syncs() -> None:
    found: dict[str, Any] = databases.sqlite(Path("/srv/dots"))

    assert found["NAME"] == Path("/srv/dots/db.sqlite3")
    assert "synchronous=FULL" in found["OPTIONS"]["init_command"]
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
