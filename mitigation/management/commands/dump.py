"""The whole database into one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mitigation.management.commands._files import FileCommand, Progress
from mitigation.management.commands._output import now
from mitigation.pki.home import replacing
from mitigation.services import dumps


class Command(FileCommand):
    help = "Write everything in the database to FILE, as of one moment; the server may go on working."

    def work(self, file: Path, options: Mapping[str, Any]) -> None:
        with replacing(file) as out:
            header = dumps.dump(out, scratch=file.absolute().parent, now=now(), progress=Progress(self))
        values = {"file": str(file), "rows": header.total, "content": header.content}
        self.show_one(values, options, sentence=f"{file}: {header.total:,} rows; `manage.py load` takes them")
