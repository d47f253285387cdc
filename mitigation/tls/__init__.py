"""(D)TLS on GnuTLS: engines without sockets, and aiocoap transports on top of them."""

from mitigation.tls.credentials import CredentialFiles, Credentials
from mitigation.tls.events import CloseReason
from mitigation.tls.gnutls import available
from mitigation.tls.identity import Identity, Kind

__all__ = ["CloseReason", "CredentialFiles", "Credentials", "Identity", "Kind", "available"]
