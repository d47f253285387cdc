"""The server that `backup` wrote, here."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command

from mitigation.management.commands._files import FileCommand, Progress, passphrase, refuse_beside_a_running_server
from mitigation.management.commands._output import actor, now
from mitigation.pki.home import Home
from mitigation.services import backups


class Command(FileCommand):
    help = "Make this server the one in FILE, or change nothing; it must not run, and `init` is not needed before."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--replace", action="store_true", help="give up the keys and rows that are here")

    def work(self, file: Path, options: Mapping[str, Any]) -> None:
        home = Home(settings.DOTS_HOME)
        with file.open("rb") as source:
            if not options["replace"]:
                backups.refuse_unless_empty(home)
            with backups.unsealed(source, home, passphrase(confirm=False)) as found:
                refuse_beside_a_running_server()
                call_command("migrate", interactive=False, verbosity=0)
                header = backups.restore(
                    found, home, actor=actor(), now=now(), replace=options["replace"], progress=Progress(self)
                )
        values = {"file": str(file), "rows": header.total, "made_at": found.made_at, "home": str(home.root)}
        self.show_one(
            values,
            options,
            sentence=f"{home.root} is the server of {found.made_at[:19]} UTC, {header.total:,} rows; certificates that"
            " were revoked since then are good again: revoke them again",
        )
