"""Who is connected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from mitigation.dashboard import formats, states
from mitigation.dashboard.pages.base import Context, Page, Rows
from mitigation.models import Session

# Closed ones keep their place this long, so that a loss is seen where it happened.
KEPT = timedelta(minutes=10)
SHOWN = 200

_TRANSPORTS = {"udp": "over UDP", "tcp": "over TCP"}


@dataclass(frozen=True, slots=True)
class SessionRow:
    session: Session
    state: states.State
    transport: str
    since: str
    opened: int
    lasting: str
    fingerprint: str

    @property
    def key(self) -> str:
        return f"session-{self.session.pk}"

    @property
    def is_over(self) -> bool:
        return self.session.closed_at is not None


def build(now: datetime, query: Mapping[str, str]) -> Context:
    recent = Q(closed_at=None) | Q(closed_at__gt=now - KEPT)
    sessions = Session.objects.filter(recent).select_related("client__domain", "credential")
    found = [_row(session, now) for session in sessions.order_by("closed_at", "-opened_at", "-pk")[:SHOWN]]
    found.sort(key=lambda row: row.state.rank)
    words = [row.state.word for row in found]
    return {
        "rows": found,
        "live_count": Session.objects.live().count(),
        "late": words.count("Late"),
        "lost": words.count("Lost"),
        "kept": int(KEPT.total_seconds() // 60),
    }


def _row(session: Session, now: datetime) -> SessionRow:
    return SessionRow(
        session=session,
        state=states.of_session(session, now),
        transport=f"{session.version} {_TRANSPORTS.get(session.transport, session.transport)}",
        since=formats.moment(session.opened_at, now),
        opened=formats.milliseconds(session.opened_at),
        lasting=formats.left(((session.closed_at or now) - session.opened_at).total_seconds()),
        fingerprint=formats.fingerprint(session.credential.fingerprint),
    )


SESSIONS = Page(
    "sessions",
    "sessions.html",
    build,
    regions={"sessions-count": "partials/sessions_count.html"},
    lists={"sessions": Rows("partials/session_row.html", "rows")},
)
