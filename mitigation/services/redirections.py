"""Sending clients to another server of the same operator (RFC 9132, section 4.6): before maintenance, or for good."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from datetime import datetime

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Change, Mitigation, Redirection
from mitigation.models.redirections import FOR_EVER
from mitigation.protocol import targets
from mitigation.services import domains
from mitigation.services.units import LONGEST, unit_of_work

MOST_ADDRESSES = 16


def redirect(
    alt_server: str,
    *,
    addresses: Iterable[str] = (),
    ttl: int,
    domain_name: str | None = None,
    actor: str,
    now: datetime,
    door: str = "command",
) -> Redirection:
    """Send the domain's clients, or without a name everybody, there; in place of what was said before.

    A domain with an active mitigation is left alone until that has ended. Raises MalformedRequest or NotFound.
    """
    name = targets.parse_target_fqdn(alt_server, attribute="alt-server")
    records = [_address(text) for text in addresses]
    if len(records) > MOST_ADDRESSES:
        raise MalformedRequest(f"at most {MOST_ADDRESSES} addresses")
    if not 0 <= ttl <= FOR_EVER:
        raise MalformedRequest(f"the ttl is a number of seconds from 0 to {FOR_EVER} (for ever)")
    domain = domains.find_domain(domain_name) if domain_name else None
    with unit_of_work(now) as unit:
        Redirection.objects.filter(domain=domain).delete()
        row = Redirection.objects.create(
            domain=domain, alt_server=name, alt_server_record=records, ttl=ttl, since=now, actor=actor[:LONGEST]
        )
        after = {"alt-server": name, "alt-server-record": records, "ttl": ttl}
        unit.audit(door=door, actor=actor, action="redirect", subject=_subject(domain_name), after=after)
        unit.tell(Change.Topic.REDIRECTION, row.pk)
    return row


def lift(*, domain_name: str | None = None, actor: str, now: datetime, door: str = "command") -> None:
    """Clients are served here again. Raises NotFound when they are not redirected."""
    domain = domains.find_domain(domain_name) if domain_name else None
    with unit_of_work(now) as unit:
        row = Redirection.objects.filter(domain=domain).first()
        if row is None:
            raise NotFound(f"{_subject(domain_name)} is not redirected")
        pk, before = row.pk, {"alt-server": row.alt_server}
        row.delete()
        unit.audit(door=door, actor=actor, action="redirect-lift", subject=_subject(domain_name), before=before)
        unit.tell(Change.Topic.REDIRECTION, pk)


def busy_domains(ids: Collection[int]) -> set[int]:
    """Those of these that are under attack: nobody is sent away then (RFC 8612, SIG-005)."""
    return set(Mitigation.objects.enforced().filter(domain_id__in=ids).values_list("domain_id", flat=True).distinct())


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise MalformedRequest(f"{text[:60]} is not an IPv4 or IPv6 address") from None


def _subject(domain_name: str | None) -> str:
    return f"domain {domain_name}" if domain_name else "everybody"
