"""What commands have in common: --json or a table for people, and refusals as one line."""

from __future__ import annotations

import getpass
import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, OperationalError, ProgrammingError
from django.utils import timezone

from mitigation.exceptions import DotsError
from mitigation.runtime import doctor


class Verbs(BaseCommand):
    """A command with verbs: `manage.py domain add ...`. Subclasses name each in `verbs` and define `do_<verb>`."""

    verbs: Mapping[str, str] = {}

    def add_arguments(self, parser: ArgumentParser) -> None:
        subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        for verb, help_text in self.verbs.items():
            sub = subparsers.add_parser(verb, help=help_text, description=help_text)
            sub.add_argument("--json", action="store_true", help="machine-readable output")
            getattr(self, f"arguments_{verb}", lambda _: None)(sub)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"do_{options['verb']}")(options)
        except DotsError as refusal:
            raise CommandError(str(refusal)) from None
        except (OperationalError, ProgrammingError) as error:
            raise unusable(error) from None

    def show_rows(self, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any], *, empty: str) -> None:
        """A list: JSON array, or columns; `empty` tells how the first row will come."""
        if options["json"]:
            self.stdout.write(json.dumps(list(rows), default=plain, indent=2))
        elif not rows:
            self.stdout.write(empty)
        else:
            for line in table(rows):
                self.stdout.write(line)

    def show_one(self, values: Mapping[str, Any], options: Mapping[str, Any], *, sentence: str) -> None:
        show_one(self, values, options, sentence=sentence)


def show_one(command: BaseCommand, values: Mapping[str, Any], options: Mapping[str, Any], *, sentence: str) -> None:
    """One object: JSON, or what was done in a sentence."""
    command.stdout.write(json.dumps(values, default=plain, indent=2) if options["json"] else sentence)


def unusable(error: DatabaseError) -> CommandError:
    """The database is away, or is not ours yet."""
    return CommandError(f"the database cannot be used: {doctor.sentence_of(error)}; `manage.py doctor` looks closer")


def actor() -> str:
    """Who runs the command, for the audit."""
    try:
        return f"command {getpass.getuser()}"
    except (KeyError, OSError):
        return "command"


def now() -> datetime:
    return timezone.now()


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(value)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns as wide as they need to be, titles from the keys."""
    titles = [key.replace("_", " ") for key in rows[0]]
    cells = [[cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    return [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in [titles, *cells]
    ]


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, dict):
        return "; ".join(f"{name} {cell(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "-"
    return str(value)
