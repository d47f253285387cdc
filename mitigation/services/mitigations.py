"""The verbs of a mitigation's life under one name, for doors and tasks: each has its page beside this one."""

from mitigation.services.approvals import Approval, approve, reject
from mitigation.services.endings import Withdrawal, expire, session_lost, stop, withdraw, withdraw_many
from mitigation.services.evidence import Evidence, advance
from mitigation.services.submissions import (
    MAXIMUM_CUIDS,
    Granted,
    Outcome,
    Refused,
    Submission,
    submit,
    submit_many,
)

__all__ = [
    "MAXIMUM_CUIDS",
    "Approval",
    "Evidence",
    "Granted",
    "Outcome",
    "Refused",
    "Submission",
    "Withdrawal",
    "advance",
    "approve",
    "expire",
    "reject",
    "session_lost",
    "stop",
    "submit",
    "submit_many",
    "withdraw",
    "withdraw_many",
]
