"""coaps as aiocoap sees it: one message interface per context, for listeners and for connections of a client."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any, Final, Protocol

from aiocoap import error, interfaces

from mitigation.tls.events import HandshakeCompleted
from mitigation.tls.message_layer import MessageLayer, PeerState
from mitigation.tls.messages import FormatError, UnknownVersion, decode_datagram
from mitigation.tls.remotes import BLOCK_OVERHEAD, Remote, block_size_exponent

log = logging.getLogger(__name__)

BATCH: Final = 64  # datagrams per readiness, so that timers and other sockets get their turn


class Closable(Protocol):
    """A listener or a client: whoever owns sockets."""

    def close(self) -> None: ...


class DatagramRemote(Remote):
    """The peer of one DTLS association."""

    scheme = "coaps"
    transport = "udp"
    maximum_block_size_exp = 6  # properties of the base class, set once the path MTU is known
    maximum_payload_size = 1024

    def __init__(
        self,
        interface: DatagramInterface,
        completed: HandshakeCompleted,
        peer: tuple[str, int],
        local: tuple[str, int],
        data_mtu: int,
    ) -> None:
        super().__init__(completed, peer, local)
        self.interface = interface
        self.messages = PeerState()
        self.maximum_block_size_exp = block_size_exponent(data_mtu)
        self.maximum_payload_size = data_mtu - BLOCK_OVERHEAD

    def send_bytes(self, data: bytes) -> None:
        """Send one encoded message.

        :raises TooLarge: when it does not fit the path MTU.
        :raises NotOpen: when the session is over.
        """
        raise NotImplementedError


class DatagramInterface(interfaces.MessageInterface):  # type: ignore[misc]
    """What the message layer of one aiocoap context sees of DTLS; connections and listeners register here."""

    def __init__(self, message_layer: MessageLayer) -> None:
        self.message_layer = message_layer
        self.statistics: Counter[str] = Counter()
        self.owners: set[Closable] = set()

    def send(self, message: Any) -> None:
        message.remote.send_bytes(message.encode())

    async def recognize_remote(self, remote: Any) -> bool:
        return isinstance(remote, DatagramRemote) and remote.interface is self

    async def determine_remote(self, message: Any) -> None:
        """Never dials by itself: sessions are opened on purpose."""
        return

    async def shutdown(self) -> None:
        for owner in list(self.owners):
            owner.close()

    def received(self, remote: DatagramRemote, data: bytes) -> None:
        """Decode one message of a session and hand it up."""
        try:
            message = decode_datagram(data, remote)
        except UnknownVersion:
            self.statistics["messages of unknown version"] += 1
        except FormatError as broken:
            self.statistics["malformed messages"] += 1
            log.info("a malformed message from %r: %s", remote, broken.reason)
            if broken.mid is not None:
                self.message_layer.reject(remote, broken.mid)
        else:
            self.message_layer.dispatch_message(message)

    def ended(self, remote: DatagramRemote, ending: str) -> None:
        """Tell the layers above that nothing will come of this session any more."""
        remote.is_open = False
        remote.ending = ending
        self.message_layer.dispatch_error(error.RemoteServerShutdown(f"the session ended: {ending}"), remote)


class Timer:
    """One asyncio timer that follows a `get_timer`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Any) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due: float | None) -> None:
        if self._handle is not None:
            if due is not None and self._handle.when() <= due:
                return  # it fires first and looks again
            self._handle.cancel()
            self._handle = None
        if due is not None:
            self._handle = self._loop.call_at(due, self._run)

    def _run(self) -> None:
        self._handle = None
        self._fire()
