"""What a domain's policy lets its clients ask for: how wide, how much at once, how often, by which playbooks.

The one place for each limit, for requests at the door, for rules when they are rendered, and for plans on paper. All
of it stands in the Domain row, which is read anyway.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from math import ceil

from django.conf import settings

from mitigation.exceptions import OutsidePolicy, Unavailable
from mitigation.models import Domain, Mitigation, Transition
from mitigation.protocol import targets
from mitigation.protocol.constants import INDEFINITE_LIFETIME
from mitigation.protocol.scope import Network, Scope, overlaps_any
from mitigation.protocol.status import Happening
from mitigation.rules.parameters import BadParameter, read_parameters

MINUTE = timedelta(minutes=1)
QUOTA_RETRY = 60  # seconds after which a place may be free
BEGINNINGS = ("submitted", Happening.CLIENT_RENEWED)  # in history, of something new


def check(domain: Domain, scope: Scope, playbook: str) -> None:
    """Raises OutsidePolicy, naming the first thing that the domain may not ask for; aliases are expanded in `scope`."""
    if domain.allowed_playbooks and playbook not in domain.allowed_playbooks:
        raise OutsidePolicy(f"this domain's policy does not allow the playbook {playbook}")
    if playbook == "redirect" and (taken := mark_taken(domain)):
        raise OutsidePolicy(taken)
    number = len(scope.target_prefix) + len(scope.target_fqdn) + len(scope.target_uri)
    if domain.maximum_targets and number > domain.maximum_targets:
        raise OutsidePolicy(f"{number} targets in one request; this domain's policy allows {domain.maximum_targets}")
    for network in targets.networks(scope):
        widest = domain.widest_ipv4 if network.version == 4 else domain.widest_ipv6
        if network.prefixlen < widest:
            raise OutsidePolicy(f"{network} is wider than the /{widest} that this domain's policy allows")
        if never_blocks(domain, network):
            raise OutsidePolicy(f"{network} touches the domain's never-block list")


def mark_taken(domain: Domain) -> str:
    """Why the domain's redirections may not use their part of the packet mark; empty where they may."""
    try:
        mask = read_parameters("redirect", domain.playbook_parameters)["redirect_mask"]
    except BadParameter:  # said where its rules are rendered
        return ""
    if not mask & settings.DOTS_NFT_MARK:
        return ""
    return f"redirect_mask {mask:#x} holds {settings.DOTS_NFT_MARK:#x}, the bit of clients' filters (DOTS_NFT_MARK_BIT)"


def never_blocks(domain: Domain, network: Network) -> bool:
    """Whether nothing may ever be dropped towards some of these addresses."""
    return overlaps_any(network, never_block(domain))


def never_block(domain: Domain) -> tuple[Network, ...]:
    return _networks(tuple(domain.never_block))


@lru_cache(maxsize=1_024)
def _networks(never_block: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, never_block))


def grant(domain: Domain, asked: int) -> int:
    """The lifetime that is granted, in seconds, for the one that is asked for; -1 is indefinite."""
    if asked == INDEFINITE_LIFETIME:
        return INDEFINITE_LIFETIME if domain.grants_indefinite else domain.maximum_lifetime
    return min(asked, domain.maximum_lifetime)


class Quotas:
    """How much more the domains of one transaction may ask for: live requests, and new ones a minute.

    Counted in rows, one query a domain and limit, so that a restart forgets nothing and several workers count together.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._live: dict[int, int] = {}
        self._recent: dict[int, list[datetime]] = {}

    def take(self, domain: Domain, *, replaced: int = 0) -> None:
        """One more request, in the place of `replaced` others. Raises Unavailable, and then nothing is taken."""
        live = self.live(domain) - replaced
        if live >= domain.maximum_mitigations:
            raise Unavailable(
                f"this domain has {domain.maximum_mitigations} mitigations, its maximum", retry_after=QUOTA_RETRY
            )
        self.take_again(domain)
        self._live[domain.pk] = live + 1

    def take_again(self, domain: Domain) -> None:
        """One that is live still and begins anew. Raises Unavailable as `take`, but never for their number."""
        if not domain.maximum_per_minute:
            return
        recent = self.recent(domain)
        if len(recent) >= domain.maximum_per_minute:
            left = recent[-domain.maximum_per_minute] + MINUTE - self._now
            raise Unavailable(
                f"this domain asked for {domain.maximum_per_minute} mitigations within a minute, its maximum",
                retry_after=max(1, ceil(left.total_seconds())),
            )
        recent.append(self._now)

    def live(self, domain: Domain) -> int:
        if domain.pk not in self._live:
            self._live[domain.pk] = Mitigation.objects.live().filter(domain=domain).count()
        return self._live[domain.pk]

    def recent(self, domain: Domain) -> list[datetime]:
        """When those of the last minute were asked for, the newest last; no more than the limit lets matter."""
        if domain.pk not in self._recent:
            self._recent[domain.pk] = _newest(domain, since=self._now - MINUTE)
        return self._recent[domain.pk]


def _newest(domain: Domain, *, since: datetime) -> list[datetime]:
    asked = Transition.objects.filter(mitigation__domain=domain, happening__in=BEGINNINGS, at__gt=since)
    newest: Iterable[datetime] = asked.order_by("-at").values_list("at", flat=True)[: domain.maximum_per_minute]
    return list(newest)[::-1]
