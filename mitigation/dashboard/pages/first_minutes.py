"""The check list of a server that was never asked for anything."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path

from django.conf import settings
from django.urls import reverse

from mitigation.dashboard.pages.base import Context
from mitigation.models import Client, Domain, Session


@dataclass(frozen=True, slots=True)
class FirstStep:
    title: str
    words: str
    is_done: bool = False
    is_next: bool = False
    number: int = 0
    command: str = ""
    link: str = ""
    link_words: str = ""


def context() -> Context:
    domain = Domain.objects.order_by("pk").prefetch_related("prefixes").first()
    client = Client.objects.order_by("pk").first()
    connected = Session.objects.live().exists()
    steps = [
        FirstStep(
            "The server runs",
            f"Signal channel on port {settings.DOTS_SIGNAL_PORT} (DTLS over UDP, TLS over TCP), data channel on"
            f" {settings.DOTS_DATA_PORT}, this page on {settings.DOTS_WEB_BIND}:{settings.DOTS_WEB_PORT}.",
            is_done=True,
        ),
        _domain_step(domain, client),
        FirstStep(
            "Ask for help, as a network under attack would",
            "The mitigation appears on this page within a second, without reloading.",
            is_done=False,
            command=_client_command(domain),
            link_words="A client is connected." if connected else "",
        ),
        FirstStep("Look at its proof, then stop it", "Open its row: each step has its time and its evidence."),
    ]
    pending = [i for i, step in enumerate(steps) if not step.is_done]
    return {
        "steps": [_numbered(step, i + 1, is_next=bool(pending) and i == pending[0]) for i, step in enumerate(steps)],
        "steps_done": sum(step.is_done for step in steps),
    }


def _numbered(step: FirstStep, number: int, *, is_next: bool) -> FirstStep:
    return replace(step, number=number, is_next=is_next)


def _domain_step(domain: Domain | None, client: Client | None) -> FirstStep:
    if domain is None or client is None:
        return FirstStep(
            "Make a domain and a client",
            "A domain says who may ask and for which prefixes; a client of it gets a certificate.",
            command="python manage.py domain add example.net --prefix 198.51.100.0/24\n"
            "python manage.py client add gw.example.net --domain example.net --out DIRECTORY",
        )
    prefixes = ", ".join(prefix.prefix for prefix in domain.prefixes.all()[:4]) or "nothing yet"
    words = f"{domain.name} may ask for {prefixes}; its client is {client.name}."
    return FirstStep(
        "A domain and a client exist",
        words,
        is_done=True,
        link=reverse("domain", args=[domain.pk]),
        link_words="Open the domain",
    )


def _client_command(domain: Domain | None) -> str:
    prefix = next((p.prefix for p in domain.prefixes.all() if p.family == 4), "") if domain else ""
    network = ipaddress.ip_network(prefix or "198.51.100.0/24")
    target = network[min(7, network.num_addresses - 1)]
    files = settings.DOTS_HOME / "demo" / "client"
    folder = _relative(files) if files.exists() else "DIRECTORY-OF-THE-CLIENT"
    return (
        f"python -m mitigation.client mitigate {target} \\\n"
        f"  --server localhost:{settings.DOTS_SIGNAL_PORT} --lifetime 600 \\\n"
        f"  --ca {folder}/ca.pem \\\n"
        f"  --cert {folder}/cert.pem \\\n"
        f"  --key {folder}/key.pem"
    )


def _relative(path: Path) -> str:
    return str(path.relative_to(settings.BASE_DIR)) if path.is_relative_to(settings.BASE_DIR) else str(path)
