"""Clients: the DOTS agents of a domain."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

from mitigation.management.commands._output import Verbs, actor, now
from mitigation.models import Client
from mitigation.pki.authority import open_authority
from mitigation.pki.certificates import describe
from mitigation.pki.home import Home, write_private, write_public
from mitigation.services import certificates, cuids, domains
from mitigation.services.units import unit_of_work


class Command(Verbs):
    help = "Add and list the clients of domains."
    verbs = {
        "add": "a client with a new certificate",
        "equate": "take what comes through one gateway for what comes through another",
        "separate": "undo that",
        "list": "the clients there are",
    }

    def arguments_add(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--domain", required=True)
        parser.add_argument("--gateway", action="store_true", help="trusted to say by cdid for whom it asks")
        parser.add_argument("--out", required=True, type=Path, help="directory for ca.pem, cert.pem and key.pem")

    def do_add(self, options: Mapping[str, Any]) -> None:
        home = Home(settings.DOTS_HOME)
        when = now()
        with unit_of_work(when):
            client = domains.add_client(
                options["name"], domain=options["domain"], actor=actor(), now=when, is_gateway=options["gateway"]
            )
            issued = certificates.issue(client, open_authority(home), actor=actor(), now=when)
        out: Path = options["out"]
        write_private(out / "key.pem", issued.key_pem)
        write_public(out / "cert.pem", issued.certificate_pem)
        write_public(out / "ca.pem", home.authority_certificate.read_bytes())
        found = describe(issued.certificate_pem)
        values = {"name": client.name, "domain": options["domain"], "serial": found.serial, "out": str(out)}
        self.show_one(
            values | {"not_after": found.not_after},
            options,
            sentence=f"client {client} of {options['domain']}: ca.pem, cert.pem and key.pem are in {out}."
            " The key is nowhere else.",
        )

    def arguments_equate(self, parser: ArgumentParser) -> None:
        parser.add_argument("gateway", metavar="GATEWAY")
        parser.add_argument("cdid", metavar="CDID", help="which it gives for a client")
        parser.add_argument("other", metavar="OTHER-GATEWAY", help="of the same domain")
        parser.add_argument("same", metavar="OTHER-CDID", help="which that one gives for the same client")

    def do_equate(self, options: Mapping[str, Any]) -> None:
        this = cuids.Behind(options["gateway"], options["cdid"])
        that = cuids.Behind(options["other"], options["same"])
        cuids.equate(this, that, actor=actor(), now=now())
        values = {"gateway": this.gateway, "cdid": this.cdid, "same_as": {"gateway": that.gateway, "cdid": that.cdid}}
        self.show_one(values, options, sentence=f"{this} is the same client as {that}")

    def arguments_separate(self, parser: ArgumentParser) -> None:
        parser.add_argument("gateway", metavar="GATEWAY")
        parser.add_argument("cdid", metavar="CDID")

    def do_separate(self, options: Mapping[str, Any]) -> None:
        this = cuids.Behind(options["gateway"], options["cdid"])
        cuids.separate(this, actor=actor(), now=now())
        self.show_one({"gateway": this.gateway, "cdid": this.cdid}, options, sentence=f"{this} stands for itself again")

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = [
            {
                "name": client.name,
                "domain": client.domain.name,
                "enabled": client.enabled,
                "certificates": client.credentials.count(),
                "sessions": client.sessions.filter(closed_at=None).count(),
            }
            for client in Client.objects.select_related("domain").order_by("domain__name", "name")
        ]
        self.show_rows(rows, options, empty="No client yet; `manage.py client add NAME --domain D --out DIR` adds one.")
