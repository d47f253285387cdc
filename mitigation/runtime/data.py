"""The data process: the RESTCONF data channel over HTTPS with client certificates, with a URL conf of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import uvicorn
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mitigation.pki.home import Home
from mitigation.runtime import connections, loops, sockets
from mitigation.runtime.web import serve

PATIENCE = 4.0  # seconds for the database's lock, then 503: other clients wait behind


async def run(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    loops.share_processor_with_threads()
    connections.wait_at_most(PATIENCE)
    if settings.DOTS_DATA_SOCKET:
        await _behind_proxy(stop, Path(settings.DOTS_DATA_SOCKET))
        return
    listening = sockets.inherited(sockets.DATA_VARIABLE, socket.SOCK_STREAM)
    listening = listening or sockets.data(settings.DOTS_BIND, settings.DOTS_DATA_PORT)
    config = _config(
        "mitigation.data_channel.asgi:application",
        http=_WithPeerCertificate,
        ssl_context_factory=lambda config, default: _Contexts(Home(settings.DOTS_HOME)).first,
        ssl_certfile=str(Home(settings.DOTS_HOME).server_certificate),
    )
    await loops.until(stop, serve(config, *listening))


async def _behind_proxy(stop: asyncio.Event, path: Path) -> None:
    """On a unix socket for a reverse proxy that ends TLS; nobody but its owner and group may connect."""
    bound = sockets.unix(path, mode=0o660)
    try:
        await loops.until(stop, serve(_config("mitigation.data_channel.asgi:behind_proxy"), bound))
    finally:
        path.unlink(missing_ok=True)


def _config(application: str, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        ws="none",
        lifespan="off",
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,  # clients make many requests over one connection, and a handshake costs both ends
        **more,
    )


class _WithPeerCertificate(HttpToolsProtocol):
    """Puts the peer's certificate where the ASGI TLS extension has it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.app = _Extended(self.app, tls.getpeercert(binary_form=True))


class _Extended:
    """An ASGI application that knows the certificate of its one connection."""

    __slots__ = ("_app", "_extension")

    def __init__(self, app: Any, certificate: bytes | None) -> None:
        self._app = app
        chain = [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else []
        self._extension = {"client_cert_chain": chain}

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        scope.setdefault("extensions", {})["tls"] = self._extension
        return self._app(scope, receive, send)


class _Contexts:
    """A TLS context that follows the files: a new revocation list counts for the next connection."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._more = (home.trusted_authorities, home.trusted_revocations)
        self._files = (home.revocation_list, home.authority_certificate, home.server_certificate, *self._more)
        self._seen = self._stamp()
        self.first = self._make()
        self._current = self.first
        self.first.sni_callback = self._follow

    def _follow(self, connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        stamp = self._stamp()
        if stamp != self._seen:
            self._current, self._seen = self._make(), stamp
        if self._current is not self.first:
            connection.context = self._current

    def _stamp(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in self._files)

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(_text(self._home.server_certificate), _text(self._home.server_key))
        context.load_verify_locations(_text(self._home.authority_certificate))
        context.load_verify_locations(_text(self._home.revocation_list))
        for path in filter(Path.exists, self._more):
            context.load_verify_locations(_text(path))
        # An authority that we trust may itself be signed by one that we do not know.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        # Optional here and required by the views: a peer without a certificate gets a clean 401, not a cut line.
        context.verify_mode = ssl.CERT_OPTIONAL
        # No resumption: each connection meets the revocation list.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        context.set_alpn_protocols(["http/1.1"])
        return context


def _text(path: Path) -> str:
    return str(path)
