"""Rows to what a client is told of its mitigations (RFC 9132, section 4.4.2). Runs in a database thread."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from mitigation.models import Mitigation
from mitigation.models.mitigations import Key
from mitigation.protocol import messages
from mitigation.protocol.filters import AclControl
from mitigation.protocol.messages import Content, MitigationReport
from mitigation.protocol.scope import Scope
from mitigation.protocol.status import ACTIVE, Status
from mitigation.services import conflicts


def live(key: tuple[int, str, str, int | None]) -> list[Mitigation]:
    """Those under (client, cdid, cuid, mid), or all of the cuid for mid None, in the order of their mids."""
    client_id, cdid, cuid, mid = key
    found = Mitigation.objects.live().filter(client_id=client_id, cdid=cdid, cuid=cuid)
    return list(found.order_by("mid") if mid is None else found.filter(mid=mid))


def live_by_key(keys: Iterable[Key]) -> dict[tuple[int, str, str, int | None], list[Mitigation]]:
    """The same of many single ones, with one query; keys of which nothing is live are left out."""
    return {row.key: [row] for row in Mitigation.objects.live_under(keys)}


def ended(client_id: int, cdid: str, cuid: str, mid: int | None) -> list[Mitigation]:
    """The newest one of that mid that is over: its last status is still owed to observers. Empty for the list."""
    if mid is None:
        return []
    same = Mitigation.objects.filter(client_id=client_id, cdid=cdid, cuid=cuid, mid=mid)
    return list(same.filter(ended_at__isnull=False).order_by("-pk")[:1])


def encode(mitigations: list[Mitigation], *, now: datetime, content: Content = Content.ALL) -> bytes:
    return messages.encode_reports((report(mitigation, now=now) for mitigation in mitigations), content)


def report(mitigation: Mitigation, *, now: datetime) -> MitigationReport:
    """Counters that no point can give are left out rather than said to be 0."""
    status = Status(mitigation.status)
    start = mitigation.mitigation_start if status is not Status.SIGNAL_LOSS else None
    octets, packets = mitigation.dropped_octets, mitigation.dropped_packets
    counted = status in ACTIVE and octets is not None and packets is not None
    elapsed = _elapsed(mitigation, now)
    return MitigationReport(
        mid=mitigation.mid,
        status=int(status),
        lifetime=mitigation.remaining(now),
        scope=Scope.from_json(mitigation.scope),
        trigger_mitigation=mitigation.trigger_mitigation,
        mitigation_start=int(start.timestamp()) if start else None,
        bytes_dropped=octets if counted else None,
        bps_dropped=round(octets / elapsed) if counted and octets is not None else None,
        pkts_dropped=packets if counted else None,
        pps_dropped=round(packets / elapsed) if counted and packets is not None else None,
        conflict=conflicts.told(mitigation, now=now),
        acls=tuple(map(AclControl.from_json, mitigation.acl_changes)),
    )


def _elapsed(mitigation: Mitigation, now: datetime) -> float:
    """Seconds that the totals span: from the start to the last reading, at least one."""
    begin = mitigation.mitigation_start or now
    return max(1.0, ((mitigation.counted_at or now) - begin).total_seconds())
