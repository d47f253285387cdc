"""Why a request stands in another's way (RFC 9132, section 4.4.1.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mitigation.protocol.scope import Scope


class ConflictStatus(IntEnum):
    """Key 18 (RFC 9132, section 10.6.3)."""

    REQUEST_INACTIVE_OTHER_ACTIVE = 1
    REQUEST_ACTIVE = 2
    ALL_REQUESTS_INACTIVE = 3


class ConflictCause(IntEnum):
    """Key 19 (RFC 9132, section 10.6.4)."""

    OVERLAPPING_TARGETS = 1
    CONFLICT_WITH_ACCEPTLIST = 2
    CUID_COLLISION = 3


@dataclass(frozen=True, slots=True)
class ConflictInformation:
    """Key 17. `mid` only towards the client that owns both requests; `retry_timer` (seconds) only when deactivated.

    `acl_names`: the client's own filters, with CONFLICT_WITH_ACCEPTLIST and nothing else. No other request is part of
    that conflict, so it has no status.
    """

    cause: ConflictCause
    status: ConflictStatus | None = None
    scope: Scope | None = None
    mid: int | None = None
    retry_timer: int | None = None
    acl_names: tuple[str, ...] = ()
