"""Why a client got no session, as a sentence for its operator."""

from __future__ import annotations

from typing import Final

from mitigation.tls.errors import NoConnection
from mitigation.tls.events import Closed, CloseReason
from mitigation.tls.gnutls import alert_name

# alerts by which a server speaks of the client's certificate (RFC 8446, section 6.2); handshake_failure is what
# a server of TLS 1.2 says to a client that shows none
_CERTIFICATE_ALERTS: Final = (40, 42, 43, 44, 45, 46, 48, 49, 116)


def refusal(event: Closed) -> NoConnection:
    """The error for a handshake that ended without a session."""
    if event.alert is not None:
        about_us = event.alert in {alert_name(number) for number in _CERTIFICATE_ALERTS}
        what = "your certificate was refused" if about_us else "the server ended the handshake"
        return NoConnection(f"{what}: {event.alert}", alert=event.alert)
    if event.detail.startswith("the certificate is refused: "):
        finding = event.detail.removeprefix("the certificate is refused: ")
        return NoConnection(f"the server's certificate is refused: {finding}")
    if event.reason is CloseReason.TIMED_OUT:
        return NoConnection("the server did not answer the handshake")
    return NoConnection(f"the handshake failed: {event.detail}")
