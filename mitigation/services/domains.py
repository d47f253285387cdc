"""Who may ask for what: domains and their clients."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from django.core.exceptions import ValidationError

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Change, Client, Domain, DomainName, DomainPrefix
from mitigation.protocol.scope import Network, ancestor_keys, range_keys
from mitigation.services import locks
from mitigation.services.units import unit_of_work

# Names stand in paths, file names and log lines; LDH and dots with room for people's own separators.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")

CHANGEABLE = frozenset({"conflict_policy", "attack_over_after", "https_over_udp"})


def add_domain(
    name: str, *, prefixes: Iterable[str], fqdns: Iterable[str] = (), actor: str, now: datetime, door: str = "command"
) -> Domain:
    """Create a domain with what it may ask for. Raises MalformedRequest, naming what is wrong or in the way.

    Prefixes of two domains never overlap, so that every address has at most one owner.
    """
    _check_name(name)
    networks = [_parse(text) for text in prefixes]
    if not networks:
        raise MalformedRequest("a domain needs at least one prefix")
    with unit_of_work(now) as unit:
        locks.table(DomainPrefix)
        if Domain.objects.filter(name=name).exists():
            raise MalformedRequest(f"a domain named {name} exists already")
        domain = Domain.objects.create(name=name, created_at=now)
        for network in networks:
            _add_prefix(domain, network)
        for fqdn in fqdns:
            _add_name(domain, fqdn)
        unit.audit(
            door=door,
            actor=actor,
            action="domain-add",
            subject=f"domain {name}",
            after={"prefixes": [str(network) for network in networks], "fqdns": list(fqdns)},
        )
        unit.tell(Change.Topic.CLIENT, domain.pk)
    return domain


def change_domain(
    name: str, values: Mapping[str, str | int | bool], *, actor: str, now: datetime, door: str = "command"
) -> Domain:
    """Change what the domain's policy leaves open: fields of CHANGEABLE. Raises NotFound or MalformedRequest."""
    unknown = ", ".join(values.keys() - CHANGEABLE)
    if unknown or not values:
        raise MalformedRequest(f"a domain has no {unknown} to change" if unknown else "there is nothing to change")
    with unit_of_work(now) as unit:
        found = locks.domains(Domain.objects.filter(name=name).values_list("pk", flat=True))
        domain = next(iter(found.values()), None)
        if domain is None:
            raise NotFound(f"there is no domain named {name}; `manage.py domain list` shows those there are")
        before = {field: getattr(domain, field) for field in values}
        for field, value in values.items():
            setattr(domain, field, value)
        try:
            domain.clean_fields(exclude={field.name for field in Domain._meta.fields} - values.keys())
        except ValidationError as error:
            raise MalformedRequest("; ".join(error.messages)) from None
        domain.save(update_fields=list(values))
        unit.audit(
            door=door, actor=actor, action="domain-set", subject=f"domain {name}", before=before, after=dict(values)
        )
        unit.tell(Change.Topic.CLIENT, domain.pk)
        unit.rules_are_stale()
    return domain


def add_client(
    name: str, *, domain: str, actor: str, now: datetime, is_gateway: bool = False, door: str = "command"
) -> Client:
    """Create a client of an existing domain. Raises NotFound or MalformedRequest.

    A gateway is trusted to say by cdid for whom it asks (RFC 9132, section 4.4.1.2).
    """
    _check_name(name)
    with unit_of_work(now) as unit:
        locks.table(Client)
        owner = Domain.objects.filter(name=domain).first()
        if owner is None:
            raise NotFound(f"there is no domain named {domain}; `manage.py domain list` shows those there are")
        if Client.objects.filter(name=name).exists():
            raise MalformedRequest(f"a client named {name} exists already")
        client = Client.objects.create(domain=owner, name=name, created_at=now, is_gateway=is_gateway)
        after: dict[str, object] = {"domain": domain} | ({"gateway": True} if is_gateway else {})
        unit.audit(door=door, actor=actor, action="client-add", subject=f"client {name}", after=after)
        unit.tell(Change.Topic.CLIENT, client.pk)
    return client


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedRequest(f"{name!r} is not a usable name: letters, digits, dots, hyphens and underscores only")


def _parse(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise MalformedRequest(f"{text} is not a prefix: {error}") from None


def _add_prefix(domain: Domain, network: Network) -> None:
    first, last = range_keys(network)
    same_family = DomainPrefix.objects.filter(family=network.version).select_related("domain")
    for other in same_family.filter(first__in=ancestor_keys(network)):
        if bytes(other.last) >= last:
            raise MalformedRequest(f"{network} lies in {other.prefix} of domain {other.domain.name}")
    inner = same_family.filter(first__gte=first, first__lte=last).first()
    if inner is not None:
        raise MalformedRequest(f"{network} contains {inner.prefix} of domain {inner.domain.name}")
    DomainPrefix.objects.create(domain=domain, prefix=str(network), family=network.version, first=first, last=last)


def _add_name(domain: Domain, fqdn: str) -> None:
    if not _NAME.fullmatch(fqdn) or "." not in fqdn:
        raise MalformedRequest(f"{fqdn!r} is not a fully qualified domain name")
    taken = DomainName.objects.filter(fqdn=fqdn.lower()).select_related("domain").first()
    if taken is not None:
        raise MalformedRequest(f"{fqdn} belongs to domain {taken.domain.name}")
    DomainName.objects.create(domain=domain, fqdn=fqdn.lower())
