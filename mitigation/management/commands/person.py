"""Who may log in to the dashboard, and what they may do there."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import User

from mitigation.exceptions import MalformedRequest
from mitigation.management.commands._output import Verbs, actor, now
from mitigation.services import people
from mitigation.services.people import Role

ROLES = [role.value for role in Role]


class Command(Verbs):
    help = "Logins of the dashboard: viewers look, operators act on what runs, admins change policies too."
    verbs = {
        "add": "let somebody log in; the password is asked for, or read from standard input",
        "role": "change what somebody may do",
        "list": "who may log in",
    }

    def arguments_add(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--role", choices=ROLES, required=True)

    def do_add(self, options: Mapping[str, Any]) -> None:
        user = people.add(options["name"], role=Role(options["role"]), password=_password(), actor=actor(), now=now())
        self.show_one(_row(user), options, sentence=f"{user.username} may log in as {options['role']}")

    def arguments_role(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("role", choices=ROLES)

    def do_role(self, options: Mapping[str, Any]) -> None:
        user = people.set_role(options["name"], Role(options["role"]), actor=actor(), now=now())
        self.show_one(_row(user), options, sentence=f"{user.username} is {options['role']} from now on")

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = [_row(user) for user in User.objects.order_by("username")]
        self.show_rows(rows, options, empty="Nobody may log in yet; `manage.py person add NAME --role admin` adds one.")


def _row(user: User) -> dict[str, Any]:
    return {
        "name": user.username,
        "role": people.role_of(user).value,
        "active": user.is_active,
        "last_login": user.last_login,
    }


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass()
    if getpass.getpass("Again: ") != password:
        raise MalformedRequest("the two passwords differ")
    return password
