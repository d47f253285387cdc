"""Who may ask for what: domains and their clients."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError

from mitigation.exceptions import MalformedRequest, NotFound, UnfitPolicy
from mitigation.models import Change, Client, Domain, DomainName, DomainPrefix
from mitigation.pki.usernames import NAME
from mitigation.protocol.scope import Network, ancestor_keys, overlaps_any, range_keys
from mitigation.rules.parameters import PARAMETERS, BadParameter, read_parameters
from mitigation.services import escalation, locks, policies
from mitigation.services.units import unit_of_work

# Names stand in paths, file names and log lines; LDH and dots with room for people's own separators.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")

CHANGEABLE = frozenset(
    {
        "allowed_playbooks",
        "approval",
        "approval_within",
        "attack_over_after",
        "conflict_policy",
        "filter_conflict",
        "filter_lifetime",
        "grants_indefinite",
        "https_over_udp",
        "ladder",
        "maximum_lifetime",
        "maximum_mitigations",
        "maximum_per_minute",
        "maximum_targets",
        "never_block",
        "playbook",
        "playbook_parameters",
        "shadow",
        "step_down_after",
        "step_lasts",
        "step_octets",
        "step_packets",
        "step_up_after",
        "widest_ipv4",
        "widest_ipv6",
    }
)


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


def find_client(name: str) -> Client:
    """Raises NotFound."""
    found = Client.objects.filter(name=name).first()
    if found is None:
        raise NotFound(f"there is no client named {name}; `manage.py client list` shows those there are")
    return found


def find_domain(name: str) -> Domain:
    """Raises NotFound, with a way to the right name."""
    domain = Domain.objects.filter(name=name).first()
    if domain is None:
        raise NotFound(f"there is no domain named {name}; `manage.py domain list` shows those there are")
    return domain


def change_domain(
    name: str,
    values: Mapping[str, str | int | bool | list[str] | dict[str, Any]],
    *,
    actor: str,
    now: datetime,
    door: str = "command",
) -> Domain:
    """Change what the domain's policy leaves open: fields of CHANGEABLE. Numbers may be text.

    `playbook_parameters` leaves those that it does not name as they are; None takes one back to its default.
    Raises NotFound, MalformedRequest, and UnfitPolicy, which says what is wrong by field.
    """
    unknown = ", ".join(values.keys() - CHANGEABLE)
    if unknown or not values:
        raise MalformedRequest(f"a domain has no {unknown} to change" if unknown else "there is nothing to change")
    with unit_of_work(now) as unit:
        domain = locks.domains([find_domain(name).pk]).popitem()[1]
        before = {field: getattr(domain, field) for field in values}
        if isinstance(some := values.get("playbook_parameters"), dict):
            merged = {one: value for one, value in (domain.playbook_parameters | some).items() if value is not None}
            values = {**values, "playbook_parameters": merged}
        for field, value in values.items():
            setattr(domain, field, value)
        faults = {**_unfit_fields(domain, values), **_unfit_playbooks(domain), **_unfit_parameters(domain)}
        if faults:
            raise UnfitPolicy(faults)
        _check_never_block(domain)
        domain.save(update_fields=list(values))
        after = {field: getattr(domain, field) for field in values}
        unit.audit(door=door, actor=actor, action="domain-set", subject=f"domain {name}", before=before, after=after)
        unit.tell(Change.Topic.CLIENT, domain.pk)
        unit.rules_are_stale()
        escalation.follow_policy(domain, unit)
    return domain


def _unfit_fields(domain: Domain, names: Iterable[str]) -> dict[str, str]:
    """Of values that are of no use by themselves; the others become what their fields hold."""
    try:
        domain.clean_fields(exclude={field.name for field in Domain._meta.fields} - set(names))
    except ValidationError as error:
        return {field: f"{field}: {' '.join(said)}" for field, said in error.message_dict.items()}
    return {}


def _unfit_playbooks(domain: Domain) -> dict[str, str]:
    """The domain's own one is among those it allows, and all of them exist."""
    known = f"known are {', '.join(sorted(PARAMETERS))}"
    asked = {"playbook": [domain.playbook], "allowed_playbooks": domain.allowed_playbooks, "ladder": domain.ladder}
    faults = {}
    for field, names in asked.items():
        if unknown := [one for one in names if one not in PARAMETERS]:
            faults[field] = f"there is no playbook {unknown[0]}; {known}"
    if faults:
        return faults
    if domain.allowed_playbooks and domain.playbook not in domain.allowed_playbooks:
        allowed = ", ".join(domain.allowed_playbooks)
        faults["allowed_playbooks"] = f"the domain's playbook is {domain.playbook}, and only {allowed} would be allowed"
    barred = [rung for rung in domain.ladder if domain.allowed_playbooks and rung not in domain.allowed_playbooks]
    if domain.ladder and domain.playbook not in domain.ladder:
        faults["ladder"] = f"the domain's playbook {domain.playbook}, where requests begin, is no rung of the ladder"
    elif len(set(domain.ladder)) < len(domain.ladder):
        faults["ladder"] = "a ladder has each playbook once"
    elif barred:
        faults["ladder"] = f"the ladder has {', '.join(barred)}, which the domain does not allow"
    return faults


def _unfit_parameters(domain: Domain) -> dict[str, str]:
    """Each value is one that its playbook takes, whichever of them is used."""
    given, faults = domain.playbook_parameters, {}
    for parameter in (one for some in PARAMETERS.values() for one in some if one.name in given):
        try:
            parameter.read(parameter.name, given[parameter.name])
        except BadParameter as error:
            faults[parameter.name] = str(error)
    if faults:
        return faults
    for playbook in PARAMETERS:  # what goes together, and names that none knows
        try:
            read_parameters(playbook, given)
        except BadParameter as error:
            return {"redirect_mark" if playbook == "redirect" else "playbook_parameters": str(error)}
    if "redirect_mask" in given and (taken := policies.mark_taken(domain)):
        return {"redirect_mask": taken}
    return {}


def _check_never_block(domain: Domain) -> None:
    """Prefixes as they are written everywhere; one that touches none of the domain's is a slip."""
    networks = [_parse(text) for text in domain.never_block]
    own = [ipaddress.ip_network(prefix.prefix) for prefix in domain.prefixes.all()]
    for network in networks:
        if not overlaps_any(network, own):
            raise MalformedRequest(f"{network} touches none of the domain's prefixes, so it could never be blocked")
    domain.never_block = [str(network) for network in networks]


def add_client(
    name: str, *, domain: str, actor: str, now: datetime, is_gateway: bool = False, door: str = "command"
) -> Client:
    """Create a client of an existing domain. Raises NotFound or MalformedRequest.

    A gateway is trusted to say by cdid for whom it asks (RFC 9132, section 4.4.1.2).
    """
    if not NAME.fullmatch(name):
        raise MalformedRequest(f"{name!r} is not a usable name: letters, digits and any of . _ @ + - only")
    with unit_of_work(now) as unit:
        locks.table(Client)
        owner = find_domain(domain)
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
