"""Life of a mitigation: RFC 9132, section 4.4.2, Table 3, and the active-but-terminating period of section 4.4.4.

The table is the whole truth: a happening that is absent from a status is forbidden there.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from mitigation.exceptions import IllegalTransition
from mitigation.protocol.constants import FIRST_GRACE, LONGEST_GRACE


class Status(IntEnum):
    """Values of key 16, `status` (RFC 9132, section 10.6.2)."""

    IN_PROGRESS = 1
    MITIGATED = 2
    STOPPED = 3
    EXCEEDED = 4
    TERMINATING = 5
    TERMINATED = 6
    WITHDRAWN = 7
    SIGNAL_LOSS = 8


class Happening(StrEnum):
    """What can happen to a mitigation: the input of the table."""

    RULES_INSTALLED = "rules-installed"  # read back from every point that should have them
    RULES_LOST = "rules-lost"  # a point went down or no longer has them
    CAPABILITY_EXCEEDED = "capability-exceeded"  # nothing here can or may enforce it; the reason says why
    ATTACK_ENDED = "attack-ended"
    ATTACK_RESUMED = "attack-resumed"
    CLIENT_WITHDREW = "client-withdrew"
    CLIENT_RENEWED = "client-renewed"  # the same request again while it is ending or was withdrawn
    LIFETIME_ENDED = "lifetime-ended"
    GRACE_ELAPSED = "grace-elapsed"
    SERVER_WITHDREW = "server-withdrew"  # an operator or a policy
    OVERRIDDEN = "overridden"  # a higher mid of the same client overlaps (RFC 9132, section 4.4.1.3)
    SESSION_LOST = "session-lost"  # of a request with trigger-mitigation false: it starts
    PREEMPTED = "preempted"  # one type of request gives way to the other (RFC 9132, section 4.4.1.3)
    REARMED = "rearmed"  # a preconfigured request that gave way, or whose attack ended, waits for the next loss


S = Status
H = Happening

# An active mitigation ends through the terminating period when its client withdraws it or lets it run out (RFC 8612,
# SIG-006 and SIG-007). What the server withdraws, and what is overridden, has no such period (section 4.4.1.3).
_ACTIVE_ENDINGS = {
    H.CLIENT_WITHDREW: S.TERMINATING,
    H.LIFETIME_ENDED: S.TERMINATING,
    H.SERVER_WITHDREW: S.WITHDRAWN,
    H.OVERRIDDEN: S.TERMINATED,
    H.PREEMPTED: S.WITHDRAWN,
}

TRANSITIONS: dict[Status, dict[Happening, Status]] = {
    S.IN_PROGRESS: {
        H.RULES_INSTALLED: S.MITIGATED,
        H.CAPABILITY_EXCEEDED: S.EXCEEDED,
        **_ACTIVE_ENDINGS,
    },
    S.MITIGATED: {
        H.RULES_LOST: S.IN_PROGRESS,
        H.CAPABILITY_EXCEEDED: S.EXCEEDED,
        H.ATTACK_ENDED: S.STOPPED,
        **_ACTIVE_ENDINGS,
    },
    S.STOPPED: {
        H.ATTACK_RESUMED: S.MITIGATED,
        H.REARMED: S.SIGNAL_LOSS,
        H.RULES_LOST: S.IN_PROGRESS,
        H.CAPABILITY_EXCEEDED: S.EXCEEDED,
        **_ACTIVE_ENDINGS,
    },
    S.EXCEEDED: {
        H.RULES_INSTALLED: S.MITIGATED,
        H.RULES_LOST: S.IN_PROGRESS,
        **_ACTIVE_ENDINGS,
    },
    S.TERMINATING: {
        H.CLIENT_RENEWED: S.IN_PROGRESS,
        H.GRACE_ELAPSED: S.TERMINATED,
        H.SERVER_WITHDREW: S.WITHDRAWN,
        H.OVERRIDDEN: S.TERMINATED,
        H.PREEMPTED: S.WITHDRAWN,
    },
    S.WITHDRAWN: {
        H.REARMED: S.SIGNAL_LOSS,
        H.CLIENT_RENEWED: S.IN_PROGRESS,
        H.CLIENT_WITHDREW: S.TERMINATED,
        H.GRACE_ELAPSED: S.TERMINATED,
        H.OVERRIDDEN: S.TERMINATED,
    },
    S.SIGNAL_LOSS: {
        H.SESSION_LOST: S.IN_PROGRESS,
        H.CLIENT_WITHDREW: S.TERMINATED,
        H.LIFETIME_ENDED: S.TERMINATED,
        H.SERVER_WITHDREW: S.WITHDRAWN,
        H.OVERRIDDEN: S.TERMINATED,
    },
    S.TERMINATED: {},
}

# Those that want rules on equipment. A terminating one stays protected until its period ends.
ACTIVE = frozenset({S.IN_PROGRESS, S.MITIGATED, S.STOPPED, S.EXCEEDED, S.TERMINATING})


def next_status(status: Status, happening: Happening) -> Status:
    """The status after `happening`. Raises IllegalTransition where the table has no entry."""
    try:
        return TRANSITIONS[status][happening]
    except KeyError:
        raise IllegalTransition(f"{happening.value} is not possible in status {status.name}") from None


def grace_period(last_grace: int, *, first: int = FIRST_GRACE) -> int:
    """Seconds of the next terminating period: `first`, doubled for each renewal inside one, at most 300 (4.4.4)."""
    return min(last_grace * 2, LONGEST_GRACE) if last_grace else first
