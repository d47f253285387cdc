"""Logins and their roles, by the command."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from mitigation.models import Audit
from mitigation.services.people import Role, role_of

pytestmark = pytest.mark.django_db


def run(*words: str) -> Any:
    out = io.StringIO()
    call_command("person", *words, "--json", stdout=out)
    return json.loads(out.getvalue())


def add(monkeypatch: pytest.MonkeyPatch, name: str, role: str, password: str = "a long enough password") -> Any:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    return run("add", name, "--role", role)


@pytest.mark.parametrize("role", list(Role))
def test_a_login_has_the_role_it_was_added_with(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    assert add(monkeypatch, "bea", role.value)["role"] == role

    user = User.objects.get()
    assert role_of(user) is role
    assert user.check_password("a long enough password")
    told = Audit.objects.get()
    assert (told.action, told.subject, told.after) == ("person-add", "person bea", {"role": role.value})


def test_createsuperuser_makes_an_admin() -> None:
    assert role_of(User.objects.create_superuser("root", password="x")) is Role.ADMIN


def test_a_role_is_changed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "bea", "admin")

    assert run("role", "bea", "viewer")["role"] == "viewer"

    assert role_of(User.objects.get()) is Role.VIEWER
    told = Audit.objects.first()
    assert told is not None
    assert (told.action, told.before, told.after) == ("person-role", {"role": "admin"}, {"role": "viewer"})


@pytest.mark.parametrize(
    ("name", "password", "why"),
    [
        ("bea", "a long enough password", "already exists"),
        ("carol", "short", "too short"),
        ("carol", "password1234", "too common"),
        ("no spaces", "a long enough password", "valid username"),
    ],
)
def test_what_is_no_login_is_refused(name: str, password: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "bea", "operator")

    with pytest.raises(CommandError, match=why):
        add(monkeypatch, name, "operator", password)

    assert User.objects.count() == 1


def test_the_role_of_nobody_is_refused_with_the_way_to_the_right_name() -> None:
    with pytest.raises(CommandError, match="person list"):
        run("role", "nobody", "viewer")
