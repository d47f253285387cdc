"""Mitigations: list, show, approve, stop."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from mitigation.management.commands import _plans
from mitigation.management.commands._output import Verbs, actor, cell, now
from mitigation.models import Mitigation
from mitigation.protocol.status import Status
from mitigation.rules.attacks import ATTACKS
from mitigation.services import accept_lists, escalation, mitigations, shadow


class Command(Verbs):
    help = "List, show, approve and stop mitigations."
    verbs = {
        "list": "those that are live",
        "show": "everything about one",
        "stop": "end one at once",
        "approve": "let one be enforced that needs approval",
        "reject": "refuse one that needs approval; its client is told",
        "plan": "what a request would do: rules, addresses, overlaps, verdict; nothing is changed",
        "replay": "what the rules of a request would have dropped and passed of a capture",
        "evidence": "say what kind of attack it is, so that its playbook suits",
        "attackers": "say from where it is attacked, so that filters letting that in are found",
    }

    def arguments_list(self, parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="ended ones too, newest first")

    def arguments_show(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=int, metavar="ID", help="as `mitigation list` shows it")

    def arguments_stop(self, parser: ArgumentParser) -> None:
        self.arguments_show(parser)
        parser.add_argument("--reason", default="stopped by an operator")

    def arguments_approve(self, parser: ArgumentParser) -> None:
        self.arguments_show(parser)

    def arguments_reject(self, parser: ArgumentParser) -> None:
        self.arguments_show(parser)
        parser.add_argument("--reason", required=True, help="for the history")

    def arguments_evidence(self, parser: ArgumentParser) -> None:
        self.arguments_show(parser)
        said = parser.add_mutually_exclusive_group(required=True)
        said.add_argument("--kind", choices=list(ATTACKS), help="what it is; docs/enforcement.md says what follows")
        said.add_argument("--clear", action="store_true", help="take back what was said")
        parser.add_argument("--source-port", type=int, action="append", default=[], metavar="N", help="may be repeated")
        parser.add_argument("--source", action="append", default=[], metavar="PREFIX", help="may be repeated")
        parser.add_argument("--from", dest="by", default="", metavar="WHO", help="who found it out; none: you")

    def arguments_attackers(self, parser: ArgumentParser) -> None:
        self.arguments_show(parser)
        parser.add_argument("sources", nargs="*", metavar="PREFIX", help="none: nothing is said of sources any more")

    def arguments_plan(self, parser: ArgumentParser) -> None:
        _plans.add_request_arguments(parser)

    def arguments_replay(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="pcap or pcapng")
        _plans.add_request_arguments(parser)

    def do_list(self, options: Mapping[str, Any]) -> None:
        query = Mitigation.objects.select_related("client", "domain").order_by("-pk")
        found = query[:1000] if options["all"] else query.live()
        when = now()
        self.show_rows([_row(one, when) for one in found], options, empty="No mitigation is live.")

    def do_show(self, options: Mapping[str, Any]) -> None:
        one = Mitigation.objects.select_related("client", "domain").filter(pk=options["id"]).first()
        if one is None:
            raise CommandError(f"there is no mitigation {options['id']}; `manage.py mitigation list --all` shows them")
        values = _row(one, now()) | _details(one)
        self.show_one(values, options, sentence="\n".join(_lines(values)))

    def do_stop(self, options: Mapping[str, Any]) -> None:
        mitigations.stop(options["id"], actor=actor(), reason=options["reason"], now=now(), door="command")
        values = {"id": options["id"], "status": int(Status.WITHDRAWN)}
        self.show_one(values, options, sentence=f"mitigation {options['id']} is stopped; its rules go within a second")

    def do_approve(self, options: Mapping[str, Any]) -> None:
        found = mitigations.approve(options["id"], actor=actor(), now=now(), door="command")
        values = {"id": options["id"], "approvals": found.given, "needed": found.needed, "approved": found.approved}
        said = (
            "is approved; its rules come within a second" if found.approved else "needs another person's approval, too"
        )
        self.show_one(values, options, sentence=f"mitigation {options['id']} {said}")

    def do_reject(self, options: Mapping[str, Any]) -> None:
        mitigations.reject(options["id"], actor=actor(), reason=options["reason"], now=now(), door="command")
        values = {"id": options["id"], "status": int(Status.WITHDRAWN)}
        self.show_one(values, options, sentence=f"mitigation {options['id']} is rejected; its client is told")

    def do_plan(self, options: Mapping[str, Any]) -> None:
        found = _plans.outlook(options)
        self.show_one(_plans.plan_values(found), options, sentence="\n".join(_plans.plan_lines(found)))
        if found.refused:
            raise SystemExit(1)

    def do_replay(self, options: Mapping[str, Any]) -> None:
        found = _plans.outlook(options)
        if found.refused:
            raise CommandError(f"there are no rules to replay: {found.refused}")
        try:
            values = _plans.replay_values(options["file"], found)
        except OSError as error:
            raise CommandError(f"{options['file']}: {error.strerror}") from None
        self.show_one(values, options, sentence="\n".join(_plans.replay_lines(values)))

    def do_evidence(self, options: Mapping[str, Any]) -> None:
        found = escalation.report(
            options["id"],
            kind=options["kind"] or "",
            source_ports=options["source_port"],
            sources=options["source"],
            by=options["by"],
            actor=actor(),
            now=now(),
        )
        values = {"id": found.pk, "evidence": found.evidence, "playbook": found.playbook}
        what = f"{options['kind']} is noted" if options["kind"] else "nothing is said of its attack any more"
        self.show_one(values, options, sentence=f"mitigation {found.pk}: {what}; its playbook is {found.playbook}")

    def do_attackers(self, options: Mapping[str, Any]) -> None:
        when = now()
        found = accept_lists.report_attackers(options["id"], options["sources"], actor=actor(), now=when)
        told = (
            f"its client is told that its filters accept them: {', '.join(found)}"
            if found
            else "no filter accepts them"
        )
        sentence = f"mitigation {options['id']}: {len(options['sources'])} sources noted; {told}"
        self.show_one({"id": options["id"], "accept_lists": found}, options, sentence=sentence)


_TARGETS = ("target-prefix", "target-fqdn", "target-uri", "alias-name")


def _status(number: int) -> str:
    return Status(number).name.lower().replace("_", "-")


def _row(one: Mitigation, when: datetime) -> dict[str, Any]:
    return {
        "id": one.pk,
        "domain": one.domain.name,
        "client": one.client.name,
        "mid": one.mid,
        "target": [target for name in _TARGETS for target in one.scope.get(name, ())],
        "status": _status(one.status),
        "remaining": one.remaining(when) if one.is_live else None,
        "approve_by": one.approve_by if one.needs_approval else None,
        "dropped_packets": one.dropped_packets,
        "dropped_octets": one.dropped_octets,
    }


def _details(one: Mitigation) -> dict[str, Any]:
    return {
        "cuid": one.cuid,
        "scope": one.scope,
        "playbook": one.playbook,
        "ladder": one.domain.ladder,
        "step_until": one.step_until,
        "redirected_packets": one.redirected_packets,
        "redirected_octets": one.redirected_octets,
        "evidence": one.evidence,
        "lifetime": one.lifetime,
        "requested_at": one.requested_at,
        "approved_at": one.approved_at,
        "approvals": one.approvals,
        "rendered_at": one.rendered_at,
        "installed_at": one.installed_at,
        "hitting_at": one.hitting_at,
        "ended_at": one.ended_at,
        "problem": one.problem,
        "notes": one.notes,
        "shadow": estimated.sentence if (estimated := shadow.estimate(one)) else "",
        "attackers": one.attackers,
        "accept_lists": one.accept_lists,
        "rules": [
            {
                "text": rule.text,
                "state": rule.state,
                "packets": rule.packets,
                "octets": rule.octets,
                "read_at": rule.read_at,
            }
            for rule in one.rules.order_by("kind", "key")
        ],
        "history": [
            {
                "at": step.at,
                "happening": step.happening,
                "old": _status(step.old) if step.old is not None else None,
                "new": _status(step.new),
                "actor": step.actor,
                "reason": step.reason,
            }
            for step in one.transitions.all()
        ],
    }


def _lines(values: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in values.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{title}:")
            lines += [
                "    " + "  ".join(cell(part) for part in row.values() if part not in ("", None)) for row in value
            ]
        else:
            lines.append(f"{title}: {cell(value) or '-'}")
    return lines
