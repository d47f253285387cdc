"""Certificates of clients: list and revoke."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from mitigation.management.commands._output import Verbs, actor, now
from mitigation.models import Credential
from mitigation.pki.authority import open_authority
from mitigation.pki.home import Home
from mitigation.services import certificates


class Command(Verbs):
    help = "List and revoke client certificates."
    verbs = {"list": "the certificates there are", "revoke": "end one and cut its sessions"}

    def arguments_revoke(self, parser: ArgumentParser) -> None:
        parser.add_argument("serial", metavar="SERIAL", help="hexadecimal, as `certificate list` shows it")
        parser.add_argument("--reason", default="revoked by an administrator")

    def do_list(self, options: Mapping[str, Any]) -> None:
        when = now()
        rows = [
            {
                "serial": row.serial,
                "client": row.client.name,
                "state": "expired" if row.state == "active" and row.not_after <= when else row.state,
                "not_after": row.not_after,
            }
            for row in Credential.objects.select_related("client").order_by("not_after")
        ]
        self.show_rows(rows, options, empty="No certificate yet; `manage.py client add` issues the first.")

    def do_revoke(self, options: Mapping[str, Any]) -> None:
        credential = certificates.revoke(options["serial"], reason=options["reason"], actor=actor(), now=now())
        certificates.publish_revocations(open_authority(Home(settings.DOTS_HOME)), now=now())
        values = {"serial": credential.serial, "client": credential.client.name, "state": credential.state}
        self.show_one(
            values,
            options,
            sentence=f"certificate {credential.serial} of {credential.client.name} is revoked;"
            " its sessions are cut within two seconds",
        )
