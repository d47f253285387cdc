"""Domains: who may ask for which addresses."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Mapping
from typing import Any

from mitigation.management.commands._output import Verbs, actor, now
from mitigation.models import Domain
from mitigation.services import domains


class Command(Verbs):
    help = "Add and list the domains that may ask for protection."
    verbs = {
        "add": "let a domain ask for its prefixes",
        "set": "change a domain's policy",
        "list": "the domains there are",
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
        parser.add_argument("--attack-over-after", type=int, metavar="SECONDS", help="without a drop; 0: never")
        parser.add_argument("--https-over-udp", action=BooleanOptionalAction, help="an https URI means HTTP/3 too")

    def do_set(self, options: Mapping[str, Any]) -> None:
        values = {name: options[name] for name in domains.CHANGEABLE if options[name] is not None}
        domain = domains.change_domain(options["name"], values, actor=actor(), now=now())
        self.show_one(_values(domain), options, sentence=f"domain {domain} is changed")

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = [_values(domain) for domain in Domain.objects.order_by("name").prefetch_related("prefixes", "names")]
        self.show_rows(rows, options, empty="No domain yet; `manage.py domain add NAME --prefix ...` adds one.")


def _values(domain: Domain) -> dict[str, Any]:
    return {
        "name": domain.name,
        "prefixes": _prefixes(domain),
        "fqdns": [name.fqdn for name in domain.names.all()],
        "playbook": domain.playbook,
        "maximum_lifetime": domain.maximum_lifetime,
        "conflict_policy": domain.conflict_policy,
        "attack_over_after": domain.attack_over_after,
        "https_over_udp": domain.https_over_udp,
        "clients": domain.clients.count(),
    }


def _prefixes(domain: Domain) -> list[str]:
    return [prefix.prefix for prefix in domain.prefixes.all()]
