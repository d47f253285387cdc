"""A domain and a client to try the server with, and a login for the dashboard: made by `up --demo`, never by itself."""

from __future__ import annotations

import secrets
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model

from mitigation.models import Client, Domain
from mitigation.pki.authority import open_authority
from mitigation.pki.home import Home, write_private, write_public
from mitigation.runtime import clock
from mitigation.services import certificates, domains
from mitigation.services.units import unit_of_work

DOMAIN = "demo.example"
CLIENT = "gateway.demo.example"
PREFIXES = ("198.51.100.0/24", "2001:db8:100::/48")
USER = "operator"


def client_directory() -> Path:
    return settings.DOTS_HOME / "demo" / "client"


def password_file() -> Path:
    return settings.DOTS_HOME / "demo" / "password"


def make() -> None:
    """Make what is missing of the demo; what is there is kept."""
    _make_login()
    if Client.objects.filter(name=CLIENT).exists() and (client_directory() / "key.pem").exists():
        return
    home = Home(settings.DOTS_HOME)
    now = clock.now()
    with unit_of_work(now):
        if not Domain.objects.filter(name=DOMAIN).exists():
            domains.add_domain(DOMAIN, prefixes=PREFIXES, actor="demo", now=now)
        client = Client.objects.filter(name=CLIENT).first()
        if client is None:
            client = domains.add_client(CLIENT, domain=DOMAIN, actor="demo", now=now)
        issued = certificates.issue(client, open_authority(home), actor="demo", now=now)
    write_private(client_directory() / "key.pem", issued.key_pem)
    write_public(client_directory() / "cert.pem", issued.certificate_pem)
    write_public(client_directory() / "ca.pem", home.authority_certificate.read_bytes())


def _make_login() -> None:
    users = get_user_model().objects
    if users.filter(username=USER).exists():
        return
    password = secrets.token_urlsafe(12)
    write_private(password_file(), password.encode() + b"\n")
    users.create_superuser(USER, password=password)  # what there is to try, policies too
