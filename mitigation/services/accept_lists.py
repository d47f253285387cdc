"""Filters that let attackers in: a mitigation that meets one tells its client which (RFC 9132, section 4.4.1.3).

The client has put the sources on its accept-list and only the client can take them off, by the signal channel too
(RFC 9133, section 4.1). Until then the filter stands as it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from mitigation.exceptions import MalformedRequest, NotFound
from mitigation.models import Acl, Mitigation
from mitigation.protocol.acls import IDENTITIES
from mitigation.protocol.filters import ActivationType
from mitigation.protocol.scope import Network, overlaps_any
from mitigation.services import locks
from mitigation.services.units import Unit, unit_of_work

MOST = 256  # sources kept with a mitigation
_SOURCES = (("ipv4", "source-ipv4-network"), ("ipv6", "source-ipv6-network"))


def report_attackers(
    mitigation_id: int, sources: Iterable[str], *, actor: str, now: datetime, door: str = "command"
) -> list[str]:
    """Sources that attack what this mitigation protects, in place of those reported before; none takes the report back.

    Returns the names of the client's filters that accept one of them. Raises MalformedRequest or NotFound.
    """
    networks = sorted({_network(text) for text in sources}, key=str)
    if len(networks) > MOST:
        raise MalformedRequest(f"at most {MOST} sources; summarise them to prefixes")
    with unit_of_work(now) as unit:
        locks.domains_of_mitigations([mitigation_id])
        row = Mitigation.objects.live().filter(pk=mitigation_id).first()
        if row is None:
            raise NotFound(f"there is no live mitigation {mitigation_id}")
        before, row.attackers = row.attackers, [str(network) for network in networks]
        unit.save(row, "attackers")
        unit.audit(
            door=door,
            actor=actor,
            action="report-attackers",
            subject=f"mitigation {mitigation_id}",
            before={"sources": before},
            after={"sources": row.attackers},
        )
        judge(row, unit)
        return list(row.accept_lists)


def judge(mitigation: Mitigation, unit: Unit) -> None:
    """Which active filters of its client accept a source that attacks it, now; its client is told when that changed."""
    accepting: list[str] = []
    if mitigation.attackers:
        rows = Acl.objects.current(unit.now).filter(awaits_operator=False, held_at=None)
        rows = rows.exclude(activation_type=ActivationType.DEACTIVATE)
        rows = rows.filter(client_id=mitigation.client_id, cdid=mitigation.cdid, cuid=mitigation.cuid)
        attackers = [_network(text) for text in mitigation.attackers]
        accepting = [row.name for row in rows.order_by("name") if _accepts(row.aces, attackers)]
    if mitigation.accept_lists != accepting:
        mitigation.accept_lists = accepting
        unit.save(mitigation, "accept_lists")


def judge_at_end(row: Acl, unit: Unit) -> None:
    """The same for every live mitigation of a filter's client, since the filter has changed."""
    unit.at_end(lambda: _judge_all_of(row, unit))


def _judge_all_of(row: Acl, unit: Unit) -> None:
    owned = Mitigation.objects.live().filter(client_id=row.client_id, cdid=row.cdid, cuid=row.cuid)
    for mitigation in owned.exclude(attackers=[]):
        judge(mitigation, unit)


def _accepts(aces: Iterable[Mapping[str, Any]], attackers: list[Network]) -> bool:
    """Whether an entry that accepts names a source that holds one of those, or lies inside one."""
    for ace in aces:
        if ace.get("actions", {}).get("forwarding", "").removeprefix(f"{IDENTITIES}:") != "accept":
            continue
        for family, leaf in _SOURCES:
            text = ace.get("matches", {}).get(family, {}).get(leaf)
            if text is not None and overlaps_any(_network(text), attackers):
                return True
    return False


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise MalformedRequest(f"{text[:60]} is not an IPv4 or IPv6 address or prefix") from None
