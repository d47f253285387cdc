"""(D)TLS sessions as rows: open, close. Cutting one is the signal worker's act; the row tells why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mitigation.models import Change, Session
from mitigation.services import bulk
from mitigation.services.units import unit_of_work


@dataclass(frozen=True, slots=True)
class Opened:
    """What the transport knows of a new session."""

    client_id: int
    credential_id: int
    worker: str
    transport: str
    peer: str
    version: str
    cipher: str
    resumed: bool


def open_sessions(opened: Sequence[Opened], *, now: datetime) -> list[int]:
    """Remember sessions; returns the ids of their rows, in the same order."""
    with unit_of_work(now) as unit:
        rows = [
            Session(
                client_id=one.client_id,
                credential_id=one.credential_id,
                worker=one.worker,
                transport=one.transport,
                peer=one.peer,
                version=one.version,
                cipher=one.cipher,
                resumed=one.resumed,
                opened_at=now,
                last_heard_at=now,
            )
            for one in opened
        ]
        bulk.insert(rows)
        for row in rows:
            unit.tell(Change.Topic.SESSION, row.pk)
    return [row.pk for row in rows]


def note_heard(heard: Mapping[int, datetime], *, now: datetime) -> None:
    """When each of these rows' sessions was last heard from."""
    if not heard:
        return
    with unit_of_work(now) as unit:
        rows = list(Session.objects.live().filter(pk__in=heard))
        for row in rows:
            row.last_heard_at = heard[row.pk]
            unit.tell(Change.Topic.SESSION, row.pk)
        bulk.update(rows, ["last_heard_at"])


def close_sessions(reasons: Mapping[int, str], *, now: datetime) -> None:
    """These rows' sessions are gone, and why. Closing twice changes nothing."""
    with unit_of_work(now) as unit:
        rows = list(Session.objects.live().filter(pk__in=reasons))
        for row in rows:
            row.closed_at = row.last_heard_at = now
            row.close_reason = reasons[row.pk][:64]
            unit.tell(Change.Topic.SESSION, row.pk)
        bulk.update(rows, ["closed_at", "close_reason", "last_heard_at"])


def close_all_of(worker: str, *, reason: str, now: datetime) -> list[int]:
    """Close the rows that this worker left open; returns the clients they were of."""
    with unit_of_work(now) as unit:
        left = dict(Session.objects.live().filter(worker=worker).values_list("pk", "client_id"))
        Session.objects.filter(pk__in=left).update(closed_at=now, close_reason=reason)
        for session_id in left:
            unit.tell(Change.Topic.SESSION, session_id)
    return sorted(set(left.values()))
