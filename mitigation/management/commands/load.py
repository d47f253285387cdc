"""What `dump` wrote, into this database."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mitigation.management.commands._files import FileCommand, Progress, refuse_beside_a_running_server
from mitigation.services import dumps


class Command(FileCommand):
    help = "Make the database hold exactly what FILE does, or change nothing; the server must not run."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--replace", action="store_true", help="delete what the database holds")

    def work(self, file: Path, options: Mapping[str, Any]) -> None:
        with file.open("rb") as source:
            refuse_beside_a_running_server()
            header = dumps.load(source, replace=options["replace"], progress=Progress(self))
        values = {"file": str(file), "rows": header.total, "content": header.content, "made_at": header.made_at}
        self.show_one(values, options, sentence=f"{header.total:,} rows of {header.made_at[:19]} UTC are loaded")
