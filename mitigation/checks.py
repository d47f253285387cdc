"""Combinations of settings that cannot work, each with an id and a hint."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from mitigation.resolver import Resolver


@register()
def ports_differ(**_: Any) -> list[CheckMessage]:
    if settings.DOTS_WEB_PORT == settings.DOTS_DATA_PORT:
        return [
            Error(
                f"DOTS_WEB_PORT and DOTS_DATA_PORT are both {settings.DOTS_WEB_PORT}.",
                hint="Give the dashboard and the data channel ports of their own.",
                id="dots.E001",
            )
        ]
    return []


@register()
def driver_is_known(**_: Any) -> list[CheckMessage]:
    if settings.DOTS_DRIVER not in ("auto", "nftables", "dryrun"):
        return [
            Error(
                f"DOTS_DRIVER={settings.DOTS_DRIVER!r} is not known.",
                hint="Use nftables, dryrun, or leave it out: nftables is taken where the process may.",
                id="dots.E002",
            )
        ]
    return []


@register()
def resolvers_are_addresses(**_: Any) -> list[CheckMessage]:
    try:
        Resolver(settings.DOTS_RESOLVERS, ca=settings.DOTS_RESOLVER_CA, dnssec=settings.DOTS_DNSSEC)
    except ValueError as error:
        return [
            Error(
                f"DOTS_RESOLVERS={','.join(settings.DOTS_RESOLVERS)!r} cannot be used: {error}.",
                hint="Name addresses: 192.0.2.53, [2001:db8::53]:53, or tls://192.0.2.53#dns.example for DNS over TLS,"
                " with the file of its authority in DOTS_RESOLVER_CA where the machine does not know it.",
                id="dots.E003",
            )
        ]
    return []
