"""The kill switch: take away every rule of ours, now, also when the database is down."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from mitigation.drivers.nftables import NftablesDriver
from mitigation.exceptions import DriverError, NotFound
from mitigation.management.commands._output import actor, now, show_one
from mitigation.models import Hold
from mitigation.pki.home import Home, write_private
from mitigation.runtime import driver
from mitigation.services import holds

PATIENCE = 2  # seconds for the database


class Command(BaseCommand):
    help = "Take away every rule of ours at once and enforce nothing until `panic --lift`. Needs no database."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--reason", default="thrown by an operator", help="shown to operators, and in the audit log"
        )
        parser.add_argument("--lift", action="store_true", help="enforce again")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def handle(self, *args: Any, **options: Any) -> None:
        values, sentence = self._lift() if options["lift"] else self._throw(options["reason"])
        show_one(self, values, options, sentence=sentence)

    def _throw(self, reason: str) -> tuple[dict[str, object], str]:
        # The file first: whatever the enforcer is doing, it puts nothing back after this.
        file = Home(settings.DOTS_HOME).panic
        write_private(file, json.dumps({"actor": actor(), "reason": reason}).encode())
        removed, what = self._remove()
        try:
            _be_brief()
            holds.throw_from_file(file, now=now())
            recorded = True
        except DatabaseError:
            recorded = False
        finally:
            connection.close()
        sentences = [what]
        if not recorded:
            sentences.append("The database is away: a running server records it when it is back.")
        sentences.append("Nothing is enforced until `manage.py panic --lift`.")
        return {"removed": removed, "recorded": recorded, "detail": what}, " ".join(sentences)

    def _remove(self) -> tuple[bool, str]:
        name, why = driver.choose()
        if name != "nftables":
            return False, f"No rule of this machine: {why}."
        if lacking := driver.what_nftables_lacks():
            return False, f"The enforcer removes all rules within two seconds ({lacking}, so not this command)."
        table = NftablesDriver(table=settings.DOTS_NFT_TABLE, runtime_dir=settings.DOTS_LOCKS)
        try:
            table.remove_all(by_force=True)
        except DriverError as error:
            return False, f"This command could not remove the rules ({error}); the enforcer tries within two seconds."
        return True, f"All rules in the table inet {settings.DOTS_NFT_TABLE} are gone."

    def _lift(self) -> tuple[dict[str, object], str]:
        file = Home(settings.DOTS_HOME).panic
        had_file = file.exists()
        file.unlink(missing_ok=True)
        try:
            holds.lift(Hold.Kind.PANIC, actor=actor(), now=now())
        except NotFound as error:
            if not had_file:
                raise CommandError(str(error)) from None
        except DatabaseError as error:
            raise CommandError(f"the database is away, and may hold the switch still: {error}") from None
        return {"lifted": True}, "Enforcement goes on: rules that are wanted are put back within seconds."


def _be_brief() -> None:
    """Whoever throws this switch does not wait half a minute for a database."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000}")
    else:
        brief = {"connect_timeout": PATIENCE, "options": f"-c lock_timeout={PATIENCE}s"}
        connection.settings_dict["OPTIONS"] = {**connection.settings_dict["OPTIONS"], **brief}
