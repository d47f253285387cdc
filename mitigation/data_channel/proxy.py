"""Behind a reverse proxy on this machine: it ends TLS and hands on the client's certificate in headers.

Only for the unix socket, which none but the proxy can reach: on the TLS port these headers mean nothing. The proxy sets
both on each request, and so replaces what a client may have sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from mitigation.data_channel.bodies import Application, Receive, Send

CERTIFICATE = b"x-client-certificate"  # PEM, percent-encoded: nginx's $ssl_client_escaped_cert
VERDICT = b"x-client-verify"  # nginx's $ssl_client_verify
MAXIMUM_OCTETS = 16_384


class BehindProxy:
    """An ASGI application whose peer certificate comes by header, and whose scheme is the proxy's: https."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            chain = _chain(scope["headers"])
            extensions = {**scope.get("extensions", {}), "tls": {"client_cert_chain": chain}}
            scope = {**scope, "scheme": "https", "extensions": extensions}
        await self._application(scope, receive, send)


def _chain(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Empty unless the proxy says that it verified the certificate, and says each thing once."""
    verdicts = [value for name, value in headers if name == VERDICT]
    certificates = [value for name, value in headers if name == CERTIFICATE]
    if verdicts != [b"SUCCESS"] or len(certificates) != 1 or len(certificates[0]) > MAXIMUM_OCTETS:
        return []
    try:
        return [unquote_to_bytes(certificates[0]).decode("ascii")]
    except UnicodeDecodeError:
        return []
