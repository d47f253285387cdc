"""Logins of the dashboard, and what each may do there. Django's own users, with their two flags as roles."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.services.units import unit_of_work


class Role(StrEnum):
    """Each may do what the one before it may."""

    VIEWER = "viewer"  # looks
    OPERATOR = "operator"  # stops, approves, holds back
    ADMIN = "admin"  # changes policies


_FLAGS = {Role.VIEWER: (False, False), Role.OPERATOR: (True, False), Role.ADMIN: (True, True)}


def role_of(user: User) -> Role:
    """By `is_superuser` and `is_staff`, so what `createsuperuser` makes is an admin."""
    if user.is_superuser:
        return Role.ADMIN
    return Role.OPERATOR if user.is_staff else Role.VIEWER


def add(name: str, *, role: Role, password: str, actor: str, now: datetime) -> User:
    """A login. Raises MalformedRequest where the name is taken or no name, or the password too weak."""
    is_staff, is_superuser = _FLAGS[role]
    with unit_of_work(now) as unit:
        user = User(username=User.normalize_username(name), is_staff=is_staff, is_superuser=is_superuser)
        user.date_joined = now
        try:
            validate_password(password, user)
            user.set_password(password)
            user.full_clean()
        except ValidationError as error:
            raise MalformedRequest(" ".join(error.messages)) from None
        user.save()
        unit.audit(
            door="command", actor=actor, action="person-add", subject=f"person {user.username}", after={"role": role}
        )
    return user


def set_role(name: str, role: Role, *, actor: str, now: datetime) -> User:
    """Holds from the next press of this person on. Raises NotFound."""
    with unit_of_work(now) as unit:
        user = User.objects.filter(username=name).first()
        if user is None:
            raise NotFound(f"there is no login {name}; `manage.py person list` shows those there are")
        before = role_of(user)
        user.is_staff, user.is_superuser = _FLAGS[role]
        user.save(update_fields=["is_staff", "is_superuser"])
        subject = f"person {user.username}"
        unit.audit(
            door="command", actor=actor, action="person-role", subject=subject,
            before={"role": before}, after={"role": role},
        )  # fmt: skip
    return user
