"""What can go wrong, in domain words. Each door translates these once; no status code stands here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mitigation.protocol.conflicts import ConflictInformation
    from mitigation.protocol.filters import AclControl


class DotsError(Exception):
    """Base of all refusals. `str(error)` is a sentence that may be shown to the peer: no secret, no internal name."""


class MalformedRequest(DotsError):
    """The request breaks the DOTS protocol or asks for what this client may not ask for (RFC 9132, section 9: 4.00)."""


class UnfitPolicy(DotsError):
    """A domain's policy would make no sense: `faults` says why, by field or playbook parameter."""

    def __init__(self, faults: dict[str, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(faults.values())))
        self.faults = faults


class OutsidePolicy(DotsError):
    """Well formed and the domain's own, and still more than its policy lets it ask for (4.00)."""


class Unauthorized(DotsError):
    """The credential is not, or no longer, good for this service (4.01)."""


class BadOption(DotsError):
    """A critical CoAP option is unknown or malformed (4.02)."""


class InvalidParameter(DotsError):
    """A value or a name in a body of the early draft is none that it knows (draft-reddy-dots-transport-05: 4.02)."""


class NotFound(DotsError):
    """Nothing of that name exists for this client (4.04)."""


class MethodNotAllowed(DotsError):
    """The resource exists and does not support the method (4.05)."""


class NotAcceptable(DotsError):
    """The peer wants a representation we do not have (4.06)."""


class UnsupportedContentFormat(DotsError):
    """The body is declared as something other than application/dots+cbor (4.15)."""


class TooLarge(DotsError):
    """The body is larger than we take (4.13)."""


class IncompleteBody(DotsError):
    """Blocks of a body are missing (4.08)."""


class Ignored(DotsError):
    """The protocol wants no answer at all: an efficacy update for what does not exist (RFC 9132, section 4.4.3)."""


class PreconditionFailed(DotsError):
    """If-None-Match on something that exists (4.12)."""


class ProxyingNotSupported(DotsError):
    """Proxy-Uri or Proxy-Scheme: we are no forward proxy (5.05)."""


class ScopeConflict(DotsError):
    """Another request stands in the way (4.09); `conflict` tells which and why."""

    def __init__(self, message: str, conflict: ConflictInformation) -> None:
        super().__init__(message)
        self.conflict = conflict


class Unavailable(DotsError):
    """Not now; `retry_after` in seconds (5.03 with Max-Age)."""

    def __init__(self, message: str, *, retry_after: int = 60) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Redirected(DotsError):
    """Another server of ours takes this client's requests from now on (RFC 9132, section 4.6: 5.03 with its name).

    `addresses` as text, may be empty; `ttl` in seconds.
    """

    def __init__(self, alt_server: str, *, addresses: tuple[str, ...], ttl: int) -> None:
        super().__init__(f"go to {alt_server}")
        self.alt_server = alt_server
        self.addresses = addresses
        self.ttl = ttl


class FilterNotApplied(DotsError):
    """Filters that a request wants switched cannot be switched now (RFC 9133, section 3.2.1: 5.03 with the list)."""

    def __init__(self, message: str, *, mid: int, acls: tuple[AclControl, ...], retry_after: int = 60) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.mid = mid
        self.acls = acls


class IllegalTransition(DotsError):
    """A happening that the state table does not allow in this status: a defect or a race, never the peer's fault."""


class NotByThisPerson(DotsError):
    """Two different people are asked, and this one has spoken already. Said to operators only."""


class StorageRefused(DotsError):
    """A dump or a backup cannot be taken as asked; nothing was changed. Said to administrators only."""


class DriverError(DotsError):
    """The equipment did not do as told; `retryable` when trying again may help."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class GaveWay(DotsError):
    """A long look that nothing pressing asked for was ended, because something pressing came."""
