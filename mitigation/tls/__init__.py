"""(D)TLS on GnuTLS: engines without sockets, and aiocoap transports on top of them.

listeners = await tls.listen(context, credentials, udp_sockets=[...], tcp_sockets=[...], authorise=..., ...)
remote = await tls.connect(context, host, transport="udp", credentials=credentials, server_name=...)
"""

from mitigation.tls.client import connect
from mitigation.tls.credentials import CredentialFiles, Credentials
from mitigation.tls.errors import BadCredentials, LibraryMissing, NoConnection, NotOpen, TlsError, TooLarge
from mitigation.tls.events import CloseReason
from mitigation.tls.gnutls import Alert, available
from mitigation.tls.identity import Identity, Kind
from mitigation.tls.remotes import Remote
from mitigation.tls.server import Listeners, listen
from mitigation.tls.sockets import open_tcp, open_udp

__all__ = [
    "Alert",
    "BadCredentials",
    "CloseReason",
    "CredentialFiles",
    "Credentials",
    "Identity",
    "Kind",
    "LibraryMissing",
    "Listeners",
    "NoConnection",
    "NotOpen",
    "Remote",
    "TlsError",
    "TooLarge",
    "available",
    "connect",
    "listen",
    "open_tcp",
    "open_udp",
]
