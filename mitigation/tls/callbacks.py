"""What the transports ask and tell the program that uses them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mitigation.tls.events import CloseReason
from mitigation.tls.identity import Identity
from mitigation.tls.remotes import Remote


def _anyone(identity: Identity) -> bool:
    return True


def _nothing(remote: Remote) -> None:
    return


def _nobody(remote: Remote, reason: CloseReason) -> None:
    return


def _anything(remote: Remote) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Callbacks:
    """All are called on the event loop and must not block.

    `authorise` decides after every handshake, full or resumed: False answers with a fatal access_denied alert and the
    session is never opened. `opened` comes before the first message of the session, `closed` after its last. `hears`
    is asked for each message of a session before it is decoded, whether it is to be looked at.
    """

    authorise: Callable[[Identity], bool] = _anyone
    opened: Callable[[Remote], None] = _nothing
    closed: Callable[[Remote, CloseReason], None] = _nobody
    hears: Callable[[Remote], bool] = _anything
