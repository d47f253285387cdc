"""(D)TLS sessions as rows: open, close. Cutting one is the signal worker's act; the row tells why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mitigation.models import Change, Session
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


def open_session(opened: Opened, *, now: datetime) -> int:
    """Remember a session; returns the id of its row."""
    with unit_of_work(now) as unit:
        row = Session.objects.create(
            client_id=opened.client_id,
            credential_id=opened.credential_id,
            worker=opened.worker,
            transport=opened.transport,
            peer=opened.peer,
            version=opened.version,
            cipher=opened.cipher,
            resumed=opened.resumed,
            opened_at=now,
            last_heard_at=now,
        )
        unit.tell(Change.Topic.SESSION, row.pk)
    return row.pk


def note_heard(heard: Mapping[int, datetime], *, now: datetime) -> None:
    """When each of these rows' sessions was last heard from."""
    if not heard:
        return
    with unit_of_work(now) as unit:
        rows = list(Session.objects.live().filter(pk__in=heard))
        for row in rows:
            row.last_heard_at = heard[row.pk]
            unit.tell(Change.Topic.SESSION, row.pk)
        Session.objects.bulk_update(rows, ["last_heard_at"], batch_size=500)


def close_session(session_id: int, *, reason: str, last_heard_at: datetime, now: datetime) -> None:
    """The session is gone. Closing twice changes nothing."""
    with unit_of_work(now) as unit:
        if (
            Session.objects.live()
            .filter(pk=session_id)
            .update(closed_at=now, close_reason=reason[:64], last_heard_at=last_heard_at)
        ):
            unit.tell(Change.Topic.SESSION, session_id)


def close_all_of(worker: str, *, reason: str, now: datetime) -> list[int]:
    """Close the rows that this worker left open; returns the clients they were of."""
    with unit_of_work(now) as unit:
        left = dict(Session.objects.live().filter(worker=worker).values_list("pk", "client_id"))
        Session.objects.filter(pk__in=left).update(closed_at=now, close_reason=reason)
        for session_id in left:
            unit.tell(Change.Topic.SESSION, session_id)
    return sorted(set(left.values()))
