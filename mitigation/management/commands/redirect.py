"""Send clients to another server of yours, and take them back."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from mitigation.management.commands._output import Verbs, actor, now
from mitigation.models import Redirection
from mitigation.models.redirections import FOR_EVER
from mitigation.services import redirections

DAY = 86_400


class Command(Verbs):
    help = "Send clients to another server (RFC 9132, section 4.6); whoever is under attack is sent when it is over."
    verbs = {
        "to": "send a domain's clients, or everybody, to another server",
        "lift": "serve them here again",
        "list": "who is sent where",
    }

    def arguments_to(self, parser: ArgumentParser) -> None:
        parser.add_argument("alt_server", metavar="NAME", help="of the other server, as in its certificate")
        parser.add_argument("--address", action="append", default=[], help="of that server, so that nobody needs DNS")
        parser.add_argument("--domain", help="only this one; without it everybody")
        parser.add_argument(
            "--ttl",
            type=int,
            default=DAY,
            help=f"seconds after which clients come back here, by default a day; {FOR_EVER}: never; "
            "0: only the mitigation that is being asked for goes there",
        )

    def arguments_lift(self, parser: ArgumentParser) -> None:
        parser.add_argument("--domain", help="this one; without it what was said for everybody")

    def do_to(self, options: Mapping[str, Any]) -> None:
        row = redirections.redirect(
            options["alt_server"],
            addresses=options["address"],
            ttl=options["ttl"],
            domain_name=options["domain"],
            actor=actor(),
            now=now(),
        )
        whom = f"Clients of {options['domain']}" if options["domain"] else "All clients"
        sentence = f"{whom} are sent to {row.alt_server}; those under attack stay until it is over."
        self.show_one(_row(row), options, sentence=sentence)

    def do_lift(self, options: Mapping[str, Any]) -> None:
        redirections.lift(domain_name=options["domain"], actor=actor(), now=now())
        whom = f"Clients of {options['domain']}" if options["domain"] else "Clients"
        self.show_one({"domain": options["domain"]}, options, sentence=f"{whom} are served here again.")

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = [_row(row) for row in Redirection.objects.select_related("domain").order_by("domain__name")]
        self.show_rows(rows, options, empty="Nobody is sent elsewhere.")


def _row(row: Redirection) -> dict[str, Any]:
    return {
        "domain": row.domain.name if row.domain else "(everybody)",
        "alt_server": row.alt_server,
        "addresses": ", ".join(row.alt_server_record),
        "ttl": "for ever" if row.ttl == FOR_EVER else row.ttl,
        "since": row.since,
        "actor": row.actor,
    }
