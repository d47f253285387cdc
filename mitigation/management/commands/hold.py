"""Change freeze and breaker: nothing new is enforced, what stands goes on."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from mitigation.management.commands._output import Verbs, actor, now
from mitigation.models import Hold
from mitigation.services import holds


class Command(Verbs):
    help = "Freeze enforcement, and lift what holds it. `manage.py panic` is the kill switch."
    verbs = {
        "freeze": "enforce nothing new; what stands goes on, and may be stopped",
        "lift": "let enforcement go on",
        "list": "what holds enforcement now",
    }

    def arguments_freeze(self, parser: ArgumentParser) -> None:
        parser.add_argument("--reason", default="change freeze")

    def arguments_lift(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", choices=Hold.Kind.values)

    def do_freeze(self, options: Mapping[str, Any]) -> None:
        hold = holds.throw(Hold.Kind.FREEZE, actor=actor(), reason=options["reason"], now=now())
        sentence = (
            "Frozen: what is asked for from now on is accepted and not enforced until `manage.py hold lift freeze`."
        )
        self.show_one(_row(hold), options, sentence=sentence)

    def do_lift(self, options: Mapping[str, Any]) -> None:
        holds.lift(options["kind"], actor=actor(), now=now())
        self.show_one({"kind": options["kind"]}, options, sentence=f"The {options['kind']} is lifted.")

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = [_row(hold) for hold in Hold.objects.order_by("since")]
        self.show_rows(rows, options, empty="Nothing holds enforcement.")


def _row(hold: Hold) -> dict[str, Any]:
    return {"kind": hold.kind, "since": hold.since, "actor": hold.actor, "reason": hold.reason}
