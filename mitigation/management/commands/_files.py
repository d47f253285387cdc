"""What commands about files of everything have in common: progress on stderr, passphrases, refusals as one line."""

from __future__ import annotations

import getpass
import os
import stat
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, ProgrammingError, connection

from mitigation.exceptions import DotsError
from mitigation.management.commands._output import show_one, unusable
from mitigation.runtime import doctor

FILE_VARIABLE = "DOTS_BACKUP_PASSPHRASE_FILE"
SHORTEST_PASSPHRASE = 12


class FileCommand(BaseCommand):
    """`manage.py <command> FILE [--json]`. Subclasses define `work`."""

    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", type=Path)
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.work(options["file"], options)
        except DotsError as refusal:
            raise CommandError(str(refusal)) from None
        except (OperationalError, ProgrammingError) as error:
            raise unusable(error) from None
        except OSError as error:
            raise CommandError(f"{error.filename or options['file']}: {error.strerror or error}") from None

    def work(self, file: Path, options: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def show_one(self, values: Mapping[str, Any], options: Mapping[str, Any], *, sentence: str) -> None:
        show_one(self, values, options, sentence=sentence)


class Progress:
    """A line each second to stderr; what is done sooner says nothing."""

    def __init__(self, command: BaseCommand) -> None:
        self._stderr = command.stderr
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._last >= 1:
            self._last = time.monotonic()
            self._stderr.write(f"{done:,} of {total:,} rows {what}", str)  # str: not red, it is no error
            self._stderr.flush()


def refuse_beside_a_running_server() -> None:
    """What its processes remember, such as the last change they have shown, would be of another database."""
    if doctor.is_running():
        raise CommandError("the server is running; stop it first")
    others = _other_connections()
    if others:
        raise CommandError(f"{others} other connections of this server use the database; stop it first")


def _other_connections() -> int:
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = current_setting('application_name') AND pid <> pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


def passphrase(*, confirm: bool) -> bytes:
    """From the file that DOTS_BACKUP_PASSPHRASE_FILE names, else asked for. Raises CommandError."""
    named = os.environ.get(FILE_VARIABLE)
    found = _from_file(Path(named)) if named else _asked_for(confirm=confirm)
    if confirm and len(found) < SHORTEST_PASSPHRASE:
        raise CommandError(f"a passphrase has at least {SHORTEST_PASSPHRASE} characters: the file holds every key")
    return found.encode()


def _from_file(path: Path) -> str:
    try:
        found = path.read_text().rstrip("\r\n")
        others_read = stat.S_IMODE(path.stat().st_mode) & 0o077
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{FILE_VARIABLE}={path} cannot be read: {error}") from None
    if others_read:
        raise CommandError(f"{path} can be read by others; chmod 600 {path}")
    return found


def _asked_for(*, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise CommandError(f"there is nobody to ask for a passphrase; put it into a file and set {FILE_VARIABLE}")
    found = getpass.getpass("Passphrase of the backup: ")
    if confirm and getpass.getpass("Once more: ") != found:
        raise CommandError("the two passphrases differ")
    return found
