"""What can go wrong between two peers before a CoAP message is read, in words an operator can act on."""

from __future__ import annotations

from mitigation.exceptions import DotsError


class TlsError(DotsError):
    """Base of everything this package raises on purpose."""


class LibraryMissing(TlsError):
    """libgnutls is absent or too old: nothing in this package works without it."""


class BadCredentials(TlsError):
    """A certificate, key, CA or revocation list that was configured cannot be used."""


class EngineError(TlsError):
    """libgnutls refused; `code` is its number, `name` its constant, `alert` the alert the peer sent, if any."""

    def __init__(self, code: int, name: str, *, alert: str | None = None) -> None:
        super().__init__(f"{name} ({code})" + (f", the peer said {alert}" if alert else ""))
        self.code = code
        self.name = name
        self.alert = alert


class TooLarge(TlsError):
    """The message does not fit the path MTU or the peer's Max-Message-Size; split it block-wise."""


class NotOpen(TlsError):
    """The association is not up, or no longer."""


class NoConnection(TlsError):
    """A client could not open a session; `str()` says why, `alert` names the peer's (D)TLS alert, if there was one."""

    def __init__(self, reason: str, *, alert: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.alert = alert
