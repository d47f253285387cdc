"""Filters that clients keep on the data channel: those there are, and those that wait for an operator."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from mitigation.management.commands._output import Verbs, actor, now
from mitigation.models import Acl
from mitigation.protocol.filters import ActivationType
from mitigation.services import filter_conflicts, filters


class Command(Verbs):
    help = "List clients' filters, and decide about those that contradict another client's."
    verbs = {
        "list": "the filters there are",
        "allow": "enforce one that waits, beside the one that it contradicts",
        "refuse": "remove one that waits",
        "hold": "take one out of force, whatever its client has it do, until it is released",
        "release": "have one that is held stand again as its client has it",
    }

    def arguments_list(self, parser: ArgumentParser) -> None:
        parser.add_argument("--waiting", action="store_true", help="only those that an operator has to decide about")

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = Acl.objects.current(now()).select_related("client__domain")
        if options["waiting"]:
            rows = rows.filter(awaits_operator=True)
        shown = [
            {
                "id": row.pk,
                "domain": row.client.domain.name,
                "client": row.client.name,
                "cuid": row.cuid,
                "name": row.name,
                "activation": ActivationType(row.activation_type).word,
                "entries": row.ace_count,
                "waits": row.awaits_operator,
                "held": row.held_reason if row.held_at else None,
                "expires": row.expires_at,
            }
            for row in rows.order_by("client__domain__name", "client__name", "cuid", "position", "pk").defer("aces")
        ]
        self.show_rows(shown, options, empty="No filter waits." if options["waiting"] else "No client keeps a filter.")

    def arguments_allow(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=int, metavar="ID")

    def do_allow(self, options: Mapping[str, Any]) -> None:
        row = filter_conflicts.allow(options["id"], actor=actor(), now=now())
        sentence = f"filter {row.name} of {row.client} is enforced from now on"
        self.show_one({"id": options["id"], "name": row.name}, options, sentence=sentence)

    def arguments_refuse(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=int, metavar="ID")
        parser.add_argument("--reason", required=True)

    def do_refuse(self, options: Mapping[str, Any]) -> None:
        row = filter_conflicts.refuse(options["id"], reason=options["reason"], actor=actor(), now=now())
        sentence = f"filter {row.name} of {row.client} is removed"
        self.show_one({"id": options["id"], "name": row.name}, options, sentence=sentence)

    def arguments_hold(self, parser: ArgumentParser) -> None:
        self.arguments_refuse(parser)

    def do_hold(self, options: Mapping[str, Any]) -> None:
        filters.hold(options["id"], reason=options["reason"], actor=actor(), now=now(), door="command")
        self.show_one({"id": options["id"]}, options, sentence=f"filter {options['id']} is held")

    def arguments_release(self, parser: ArgumentParser) -> None:
        self.arguments_allow(parser)

    def do_release(self, options: Mapping[str, Any]) -> None:
        filters.release(options["id"], actor=actor(), now=now(), door="command")
        self.show_one({"id": options["id"]}, options, sentence=f"filter {options['id']} is released")
