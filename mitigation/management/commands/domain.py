"""Domains: who may ask for which addresses."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Mapping
from typing import Any

from mitigation.management.commands._output import Verbs, actor, cell, now
from mitigation.models import Domain
from mitigation.rules.parameters import PARAMETERS, parse_parameter
from mitigation.services import domains


class Command(Verbs):
    help = "Add and list the domains that may ask for protection."
    verbs = {
        "add": "let a domain ask for its prefixes",
        "set": "change a domain's policy",
        "list": "the domains there are",
        "show": "everything about one: what it may ask for, and its policy",
        "parameters": "what a playbook lets a policy set, with the reason of each default",
    }

    def arguments_add(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--prefix", action="append", required=True, help="may be given several times")
        parser.add_argument("--fqdn", action="append", default=[], help="may be given several times")

    def do_add(self, options: Mapping[str, Any]) -> None:
        domain = domains.add_domain(
            options["name"], prefixes=options["prefix"], fqdns=options["fqdn"], actor=actor(), now=now()
        )
        self.show_one(_values(domain), options, sentence=f"domain {domain} may ask for {', '.join(_prefixes(domain))}")

    def arguments_set(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--conflict-policy", choices=Domain.ConflictPolicy.values)
        parser.add_argument(
            "--filter-conflict",
            choices=Domain.FilterConflict.values,
            help="what becomes of a filter that does the opposite of another client's",
        )
        parser.add_argument(
            "--filter-lifetime",
            type=int,
            metavar="MINUTES",
            help="of aliases and filters that nobody refreshes; 10080 at least",
        )
        parser.add_argument("--attack-over-after", type=int, metavar="SECONDS", help="without a drop; 0: never")
        parser.add_argument("--https-over-udp", action=BooleanOptionalAction, help="an https URI means HTTP/3 too")
        parser.add_argument("--playbook", metavar="NAME", help="what its requests are turned into rules by")
        parser.add_argument(
            "--ladder", nargs="*", metavar="NAME", help="playbooks to go up by, narrowest first; none: no"
        )
        parser.add_argument(
            "--step-packets", type=int, metavar="N", help="passing a second: one step up; 0: not by them"
        )
        parser.add_argument("--step-octets", type=int, metavar="N", help="the same in octets a second")
        parser.add_argument("--step-up-after", type=int, metavar="SECONDS", help="above that, before a step up")
        parser.add_argument("--step-down-after", type=int, metavar="SECONDS", help="below that, before a step down")
        parser.add_argument(
            "--step-lasts", type=int, metavar="SECONDS", help="a step reverts then, unless it is needed"
        )
        parser.add_argument("--allowed-playbooks", nargs="*", metavar="NAME", help="none: all there are")
        parser.add_argument(
            "--parameter",
            action="append",
            dest="playbook_parameters",
            metavar="NAME=VALUE",
            help="of a playbook, as `domain parameters` shows them; VALUE may be `default`; may be given several times",
        )
        parser.add_argument("--approval", choices=Domain.Approval.values, help="who lets a request be enforced")
        parser.add_argument("--approval-within", type=int, metavar="SECONDS", help="after that it is withdrawn")
        parser.add_argument(
            "--never-block", nargs="*", metavar="PREFIX", help="nothing is dropped there; none: no list"
        )
        parser.add_argument("--widest-ipv4", type=int, metavar="LENGTH", help="24: a /23 is refused; 0: no limit")
        parser.add_argument("--widest-ipv6", type=int, metavar="LENGTH", help="48: a /47 is refused; 0: no limit")
        parser.add_argument("--maximum-targets", type=int, metavar="N", help="of one request; 0: no limit")
        parser.add_argument("--maximum-mitigations", type=int, metavar="N", help="at once, over all its clients")
        parser.add_argument("--maximum-per-minute", type=int, metavar="N", help="new ones; 0: no limit")
        parser.add_argument("--maximum-lifetime", type=int, metavar="SECONDS", help="what is granted at most")
        parser.add_argument("--grants-indefinite", action=BooleanOptionalAction, help="lifetime -1 is granted as asked")
        parser.add_argument("--shadow", action=BooleanOptionalAction, help="everything but installing")

    def do_set(self, options: Mapping[str, Any]) -> None:
        values = {name: options[name] for name in domains.CHANGEABLE if options[name] is not None}
        if "playbook_parameters" in values:
            values["playbook_parameters"] = dict(map(parse_parameter, values["playbook_parameters"]))
        domain = domains.change_domain(options["name"], values, actor=actor(), now=now())
        self.show_one(_values(domain), options, sentence=f"domain {domain} is changed")

    def arguments_show(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")

    def do_show(self, options: Mapping[str, Any]) -> None:
        values = _values(domains.find_domain(options["name"]))
        self.show_one(
            values,
            options,
            sentence="\n".join(f"{name.replace('_', ' ')}: {cell(value)}" for name, value in values.items()),
        )

    def arguments_parameters(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", nargs="?", help="a domain: what holds there; none: the defaults")

    def do_parameters(self, options: Mapping[str, Any]) -> None:
        given = domains.find_domain(options["name"]).playbook_parameters if options["name"] else {}
        rows = [
            {
                "playbook": playbook,
                "parameter": parameter.name,
                "value": parameter.read(parameter.name, given[parameter.name])
                if parameter.name in given
                else parameter.default,
                "meaning": parameter.meaning,
                "source": parameter.source,
            }
            for playbook, parameters in PARAMETERS.items()
            for parameter in parameters
        ]
        if options["json"]:
            self.show_rows(rows, options, empty="")
            return
        for row in rows:
            self.stdout.write(f"{row['playbook']}  {row['parameter']} = {cell(row['value'])}")
            self.stdout.write(f"    {row['meaning']}")
            self.stdout.write(f"    default from {row['source']}")

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = [_row(domain) for domain in Domain.objects.order_by("name").prefetch_related("prefixes", "names")]
        self.show_rows(rows, options, empty="No domain yet; `manage.py domain add NAME --prefix ...` adds one.")


def _row(domain: Domain) -> dict[str, Any]:
    """The columns of a list; `domain show` has the rest."""
    values = _values(domain)
    return {name: values[name] for name in _COLUMNS}


_COLUMNS = (
    "name", "prefixes", "fqdns", "playbook", "maximum_lifetime", "conflict_policy", "attack_over_after",
    "https_over_udp", "approval", "shadow", "clients",
)  # fmt: skip


def _values(domain: Domain) -> dict[str, Any]:
    return {
        "name": domain.name,
        "prefixes": _prefixes(domain),
        "fqdns": [name.fqdn for name in domain.names.all()],
        **{field: getattr(domain, field) for field in sorted(domains.CHANGEABLE)},
        "clients": domain.clients.count(),
    }


def _prefixes(domain: Domain) -> list[str]:
    return [prefix.prefix for prefix in domain.prefixes.all()]
