"""Where the search box jumps to: an address, a prefix, a domain or a mid."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlencode

from django.db.models import Q
from django.urls import reverse

from mitigation.models import Client, Domain, DomainName, DomainPrefix, Mitigation, Target
from mitigation.models.mitigations import MitigationQuerySet
from mitigation.protocol.scope import Network, ancestor_keys, range_keys

LONGEST = 200


def find(words: str) -> str:
    """The address of the best match; the list of mitigations, filtered by the words, where nothing matches alone."""
    words = words.strip()[:LONGEST]
    if not words:
        return reverse("now")
    return _mid(words) or _address(words) or _name(words) or _list(words)


def _mid(words: str) -> str:
    number = words.lower().removeprefix("mid").strip()
    if not (number.isascii() and number.isdigit() and len(number) <= 10):
        return ""
    return _only(Mitigation.objects.filter(mid=int(number)))


def _address(words: str) -> str:
    try:
        network = ipaddress.ip_network(words, strict=False)
    except ValueError:
        return ""
    first, last = range_keys(network)
    inside = Q(first__gte=first, first__lte=last)
    targets = Target.objects.filter(
        Q(first__in=ancestor_keys(network), last__gte=last) | inside, family=network.version
    )
    return _only(Mitigation.objects.filter(targets__in=targets).distinct()) or _domain_of(network)


def _domain_of(network: Network) -> str:
    first, last = range_keys(network)
    covering = DomainPrefix.objects.filter(family=network.version, first__in=ancestor_keys(network), last__gte=last)
    prefix = covering.first()
    return reverse("domain", args=[prefix.domain_id]) if prefix else ""


def _name(words: str) -> str:
    """A domain, a client of it, or a name it may ask for: whole, else as the only one that contains the words."""
    for lookup in ("iexact", "icontains"):
        ids = {
            *Domain.objects.filter(**{f"name__{lookup}": words}).values_list("pk", flat=True)[:2],
            *Client.objects.filter(**{f"name__{lookup}": words}).values_list("domain_id", flat=True)[:2],
            *DomainName.objects.filter(**{f"fqdn__{lookup}": words}).values_list("domain_id", flat=True)[:2],
        }
        if len(ids) == 1:
            return reverse("domain", args=[ids.pop()])
    return ""


def _only(found: MitigationQuerySet) -> str:
    """The only live one, else the only one at all."""
    for candidates in (found.live(), found):
        ids = list(candidates.values_list("pk", flat=True)[:2])
        if len(ids) == 1:
            return reverse("mitigation", args=ids)
    return ""


def _list(words: str) -> str:
    return f"{reverse('mitigations')}?{urlencode({'show': 'all', 'q': words})}"
