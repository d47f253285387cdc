"""The server's entry: listen on sockets, on both transports, for one aiocoap context."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from mitigation.tls.callbacks import Callbacks
from mitigation.tls.credentials import Credentials
from mitigation.tls.datagram_transport import DatagramInterface, DatagramListener
from mitigation.tls.demultiplexer import HALF_OPEN, SESSIONS
from mitigation.tls.events import CloseReason
from mitigation.tls.gnutls import Alert
from mitigation.tls.identity import Identity
from mitigation.tls.message_layer import MessageLayer
from mitigation.tls.remotes import Remote
from mitigation.tls.sockets import UdpSocket
from mitigation.tls.stream_transport import StreamInterface, StreamListener
from mitigation.tls.token_layer import TokenLayer


def datagram_interface(context: Any) -> DatagramInterface:
    """The DTLS interface of a context, made on first use; requests to its remotes find their way through it."""
    for layer in context.request_interfaces:
        if isinstance(layer, TokenLayer) and isinstance(layer.token_interface, MessageLayer):
            found: DatagramInterface = layer.token_interface.message_interface
            return found
    tokens = TokenLayer(context)
    messages = MessageLayer(tokens)
    made = messages.message_interface = DatagramInterface(messages)
    tokens.token_interface = messages
    context.request_interfaces.append(tokens)
    return made


def stream_interface(context: Any) -> StreamInterface:
    """The TLS interface of a context, made on first use."""
    for layer in context.request_interfaces:
        if isinstance(layer, TokenLayer) and isinstance(layer.token_interface, StreamInterface):
            return layer.token_interface
    tokens = TokenLayer(context)
    made = tokens.token_interface = StreamInterface(tokens)
    context.request_interfaces.append(tokens)
    return made


class Listeners:
    """The open ends of a server."""

    def __init__(self, datagrams: DatagramListener, streams: StreamListener) -> None:
        self._datagrams = datagrams
        self._streams = streams

    def sessions(self) -> list[Remote]:
        """All open sessions of both transports."""
        return list(chain(self._datagrams.sessions(), self._streams.sessions()))

    def cut_where(
        self,
        predicate: Callable[[Remote], bool],
        reason: CloseReason = CloseReason.CUT,
        *,
        alert: Alert | None = None,
    ) -> int:
        """End every session the predicate names; how many that were."""
        chosen = [remote for remote in self.sessions() if predicate(remote)]
        for remote in chosen:
            remote.cut(reason, alert=alert)
        return len(chosen)

    @property
    def statistics(self) -> Counter[str]:
        """Counters since the start by name, as in "udp: handshakes completed"."""
        interface = self._datagrams.interface
        dropped = interface.statistics + interface.message_layer.statistics + self._datagrams.statistics
        counted = Counter({f"udp: {name}": number for name, number in dropped.items()})
        counted.update({f"tcp: {name}": number for name, number in self._streams.statistics.items()})
        return counted

    @property
    def sizes(self) -> dict[str, int]:
        """How much is remembered, by table: what must not grow without bound, whatever comes."""
        interface, streams = self._datagrams.interface, self._streams.interface
        return {
            "DTLS sessions": len(self._datagrams.table),
            "DTLS handshakes": self._datagrams.table.half_open,
            "TLS connections": len(streams.connections),
            "message ids": interface.message_layer.remembered,
        }

    async def close(self) -> None:
        """End all sessions in good order and close the sockets."""
        self._datagrams.close()
        self._streams.close()


async def listen(
    context: Any,
    credentials: Credentials,
    *,
    udp_sockets: Iterable[socket.socket] = (),
    tcp_sockets: Iterable[socket.socket] = (),
    authorise: Callable[[Identity], bool],
    opened: Callable[[Remote], None],
    closed: Callable[[Remote, CloseReason], None],
    hears: Callable[[Remote], bool] | None = None,
    half_open: int = HALF_OPEN,
    sessions: int = SESSIONS,
) -> Listeners:
    """Serve the context's site on bound sockets (see `sockets.open_udp`), which belong to the listeners from now on.

    The callbacks run on the event loop and must not block; `callbacks.Callbacks` says when each is called. The limits
    hold for each transport.
    """
    callbacks = Callbacks(authorise, opened, closed, *([hears] if hears is not None else []))
    datagrams = DatagramListener(
        datagram_interface(context), credentials, callbacks, half_open=half_open, sessions=sessions
    )
    streams = StreamListener(stream_interface(context), credentials, callbacks, half_open=half_open, sessions=sessions)
    for sock in udp_sockets:
        datagrams.add_socket(UdpSocket(sock))
    for sock in tcp_sockets:
        await streams.add_socket(sock)
    return Listeners(datagrams, streams)
