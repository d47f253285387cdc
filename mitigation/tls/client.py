"""The client's entry: open a session with a server, over UDP or TCP, anew or by ticket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Literal

from mitigation.tls.callbacks import Callbacks
from mitigation.tls.credentials import Credentials
from mitigation.tls.datagram_client import DatagramClient
from mitigation.tls.errors import EngineError, NoConnection
from mitigation.tls.events import CloseReason
from mitigation.tls.remotes import PORT, Remote
from mitigation.tls.server import datagram_interface, stream_interface
from mitigation.tls.sockets import try_fast_open
from mitigation.tls.stream_connection import StreamConnection
from mitigation.tls.stream_protocol import TlsClientProtocol

Transport = Literal["udp", "tcp"]


async def connect(
    context: Any,
    host: str,
    port: int = PORT,
    *,
    transport: Transport = "udp",
    credentials: Credentials,
    server_name: str | None = None,
    ticket: bytes | None = None,
    timeout: float = 15.0,
    closed: Callable[[Remote, CloseReason], None] | None = None,
) -> Remote:
    """Open a session; set the Remote on a request as `message.remote` and give it to `context.request`.

    `server_name` is what the server's certificate must name, DNS name or IP address; `host` when not given (RFC 9132,
    section 7.1). `ticket` is what `Remote.session_ticket` of an earlier session gave; an old one costs nothing. The
    addresses of a name are tried in turn within `timeout` seconds. The server may send requests over the session too:
    the context's site answers them. `closed` is called once when the session ends, whoever ends it.

    :raises NoConnection: with a sentence that says why.
    """
    callbacks = Callbacks(closed=closed) if closed is not None else Callbacks()
    name = server_name or host
    failed: NoConnection | None = None
    try:
        async with asyncio.timeout(timeout):
            for family, address in await _resolve(host, port, transport):
                try:
                    if transport == "udp":
                        return await _open_datagram(context, family, address, credentials, callbacks, name, ticket)
                    return await _open_stream(context, family, address, credentials, callbacks, name, ticket)
                except NoConnection as error:
                    failed = error
    except TimeoutError:
        failed = failed or NoConnection(f"{host} did not answer within {timeout:g} s")
    assert failed is not None
    raise failed


async def _resolve(host: str, port: int, transport: Transport) -> list[tuple[int, Any]]:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)
    except socket.gaierror as error:
        raise NoConnection(f"the name {host} cannot be resolved: {error.strerror}") from None
    return [(family, address) for family, _, _, _, address in found]


async def _open_datagram(
    context: Any,
    family: int,
    address: Any,
    credentials: Credentials,
    callbacks: Callbacks,
    name: str,
    ticket: bytes | None,
) -> Remote:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect(address)
        client = DatagramClient(datagram_interface(context), credentials, callbacks, sock, name=name, ticket=ticket)
    except (OSError, EngineError) as error:
        sock.close()
        raise NoConnection(f"{address[0]} cannot be reached: {error}") from None
    return await client.open()


async def _open_stream(
    context: Any,
    family: int,
    address: Any,
    credentials: Credentials,
    callbacks: Callbacks,
    name: str,
    ticket: bytes | None,
) -> Remote:
    loop = asyncio.get_running_loop()
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try_fast_open(sock)
    try:
        await loop.sock_connect(sock, address)
        connection = StreamConnection(credentials, server=False, name=name, ticket=ticket)
        interface = stream_interface(context)
        _, protocol = await loop.create_connection(
            lambda: TlsClientProtocol(interface, callbacks, connection), sock=sock
        )
    except (OSError, EngineError) as error:
        sock.close()
        raise NoConnection(f"{address[0]} cannot be reached: {error}") from None
    except BaseException:
        sock.close()
        raise
    try:
        return await protocol.opening
    except BaseException:
        protocol.end(CloseReason.SHUTDOWN)
        raise
