"""What happened to one list of filters, newest first, from the audit: who, when, by which channel."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mitigation.dashboard import formats
from mitigation.dashboard.filter_rows import ACTIVATION
from mitigation.dashboard.timeline import Event
from mitigation.models import Acl, Audit
from mitigation.protocol.filters import ActivationType
from mitigation.services.filters import subject_of

SHOWN = 30
_DOORS = {
    "data": "data channel",
    "signal": "signal channel",
    "dashboard": "dashboard",
    "command": "command line",
    "server": "",
}
_WORDS = {
    "acl-create": "Created",
    "acl-replace": "Written",
    "acl-delete": "Deleted",
    "acl-expire": "Ran out",
    "acl-release": "Released",
}
_BAD = frozenset({"acl-refused", "acl-conflict"})


def build(acl: Acl, now: datetime) -> list[Event]:
    """Also of lists that had this name before."""
    audits = Audit.objects.filter(subject=subject_of(acl)).order_by("-id")[:SHOWN]
    return [_event(one, acl, now) for one in audits]


def _event(one: Audit, acl: Acl, now: datetime) -> Event:
    actor = acl.client.name if one.actor == f"client {acl.client_id}" else one.actor
    who = ", ".join(filter(None, (actor, _DOORS.get(one.door, one.door))))
    tone = "bad" if one.action in _BAD else "human" if one.actor.startswith(("operator", "command")) else ""
    return Event(one.at, formats.moment(one.at, now), _words(one), who, tone)


def _words(one: Audit) -> str:
    before, after = one.before or {}, one.after or {}
    match one.action:
        case "acl-activate":
            return f"Switched from {_activation(before)} to {_activation(after)}"
        case "acl-refused":
            return f"Refused at {after.get('point', '')}: {after.get('reason', '')}"
        case "acl-mended":
            return f"Refused no more at {before.get('point', '')}"
        case "acl-hold":
            return f"Held: {after.get('reason', '')}"
        case "acl-conflict":
            return str(after.get("reason", "Conflict with another client"))
        case "acl-create" | "acl-replace":
            return f"{_WORDS[one.action]}{_entries(before, after)}"
    return _WORDS.get(one.action, one.action.removeprefix("acl-").replace("-", " ").capitalize())


def _activation(values: dict[str, Any]) -> str:
    try:
        return ACTIVATION[ActivationType(values.get("activation-type", 0))]
    except ValueError:
        return "?"


def _entries(before: dict[str, Any], after: dict[str, Any]) -> str:
    if before == after:
        return " again as it was"
    number = after.get("entries")
    if number is None:
        return ""
    was = before.get("entries")
    grown = f", {was:,} before" if was is not None and was != number else ""
    return f" with {formats.plural(number, 'entry', 'entries')}{grown}"
