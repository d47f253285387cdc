"""coaps+tcp for a server: its listening sockets, and who finds room."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator

from mitigation.tls.callbacks import Callbacks
from mitigation.tls.credentials import Credentials
from mitigation.tls.demultiplexer import HALF_OPEN, SESSIONS
from mitigation.tls.events import CloseReason
from mitigation.tls.remotes import Remote
from mitigation.tls.sockets import BACKLOG, allow_fast_open
from mitigation.tls.stream_connection import StreamConnection
from mitigation.tls.stream_interface import StreamInterface
from mitigation.tls.stream_protocol import TlsProtocol


class StreamListener:
    """The TCP sockets of a server."""

    def __init__(
        self,
        interface: StreamInterface,
        credentials: Credentials,
        callbacks: Callbacks,
        *,
        half_open: int = HALF_OPEN,
        sessions: int = SESSIONS,
    ) -> None:
        self.interface = interface
        self.credentials = credentials
        self._callbacks = callbacks
        self._most_half_open = half_open
        self._most_sessions = sessions
        self._servers: list[asyncio.Server] = []
        interface.owners.add(self)

    @property
    def statistics(self) -> Counter[str]:
        return self.interface.statistics

    async def add_socket(self, sock: socket.socket) -> None:
        allow_fast_open(sock)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._accept, sock=sock, backlog=BACKLOG))

    def sessions(self) -> Iterator[Remote]:
        return (protocol.remote for protocol in list(self.interface.connections) if protocol.remote is not None)

    def close(self) -> None:
        """Stop listening and end all sessions."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for protocol in list(self.interface.connections):
            protocol.release(CloseReason.SHUTDOWN)
        self.interface.owners.discard(self)

    def _accept(self) -> asyncio.Protocol:
        half_open = len(self.interface.half_open)
        if half_open >= self._most_half_open or len(self.interface.connections) - half_open >= self._most_sessions:
            self.interface.statistics["refused: too many connections"] += 1
            return _Turned()
        return TlsProtocol(self.interface, self._callbacks, StreamConnection(self.credentials, server=True))


class _Turned(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
