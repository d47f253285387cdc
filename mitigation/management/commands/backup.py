"""A whole server into one sealed file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

from mitigation.management.commands._files import FileCommand, Progress, passphrase
from mitigation.management.commands._output import now
from mitigation.pki.home import Home, replacing
from mitigation.services import backups


class Command(FileCommand):
    help = (
        "Write keys, certificates and database to FILE, sealed under a passphrase that is asked for or in the file that"
        " DOTS_BACKUP_PASSPHRASE_FILE names; the server may go on working."
    )

    def work(self, file: Path, options: Mapping[str, Any]) -> None:
        secret = passphrase(confirm=True)
        with replacing(file) as out:
            made = backups.backup(out, Home(settings.DOTS_HOME), secret, now=now(), progress=Progress(self))
        octets = file.stat().st_size
        values = {"file": str(file), "rows": made.rows, "files": made.files, "octets": octets}
        self.show_one(
            values,
            options,
            sentence=f"{file}: {made.files} files and {made.rows:,} rows in {octets:,} octets; without the passphrase"
            " nobody can read it, you neither",
        )
