"""Make what a server needs once: keys, authority, server certificate, revocation list, database."""

from __future__ import annotations

import socket
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from mitigation.management.commands._output import now, unusable
from mitigation.pki.authority import initialise
from mitigation.pki.home import Home
from mitigation.services import authorities


class Command(BaseCommand):
    help = "Make keys, certificate authority, server certificate and database; what exists is kept."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        home = Home(settings.DOTS_HOME)
        if home.restoring.exists():
            raise CommandError(
                f"a restore into {home.root} was cut off; `manage.py restore FILE --replace` does it again"
            )
        names = dict.fromkeys(["localhost", socket.gethostname(), socket.getfqdn()])
        usable = [name for name in names if name and len(name) < 254 and " " not in name]
        made = initialise(home, names=usable, addresses=["127.0.0.1", "::1"], now=now())
        for directory in (home.run, settings.STATIC_ROOT):
            directory.mkdir(mode=0o700, exist_ok=True)
        try:
            call_command("migrate", interactive=False, verbosity=0)
        except OperationalError as error:
            raise unusable(error) from None
        authorities.publish(home)
        if options["verbosity"]:
            self.stdout.write(f"{home.root}: made {', '.join(made)}" if made else f"{home.root}: everything is there")
