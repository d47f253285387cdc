"""coaps: one message interface per aiocoap context, and a server's many DTLS associations on few UDP sockets."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Protocol

from aiocoap import error, interfaces

from mitigation.tls.callbacks import Callbacks
from mitigation.tls.credentials import Credentials
from mitigation.tls.demultiplexer import HALF_OPEN, SESSIONS, Association, Demultiplexer, Path
from mitigation.tls.events import CloseReason, HandshakeCompleted
from mitigation.tls.gnutls import Alert
from mitigation.tls.identity import Identity
from mitigation.tls.message_layer import MessageLayer, PeerState
from mitigation.tls.messages import FormatError, UnknownVersion, decode_datagram
from mitigation.tls.remotes import BLOCK_OVERHEAD, Remote, block_size_exponent
from mitigation.tls.sockets import UdpSocket
from mitigation.tls.timer import Timer

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


class ServerRemote(DatagramRemote):
    """One association of a server's socket."""

    def __init__(self, listener: DatagramListener, association: Association) -> None:
        path, completed = association.path, association.completed
        assert completed is not None
        super().__init__(
            listener.interface,
            completed,
            (path.peer[0], path.peer[1]),
            path.socket.local_address(path.local),
            association.connection.data_mtu,
        )
        self._listener = listener
        self._association = association

    @property
    def last_heard(self) -> float:
        return self._association.heard_at

    def send_bytes(self, data: bytes) -> None:
        self._listener.table.send(self._association, data)

    def cut(self, reason: CloseReason = CloseReason.CUT, *, alert: Alert | None = None) -> None:
        self._listener.table.cut(self._association, reason, alert=alert)

    def pause(self, seconds: float) -> None:
        self._association.paused_until = asyncio.get_running_loop().time() + seconds

    def session_ticket(self) -> bytes | None:
        return None


class DatagramListener:
    """The UDP sockets of a server."""

    def __init__(
        self,
        interface: DatagramInterface,
        credentials: Credentials,
        callbacks: Callbacks,
        *,
        half_open: int = HALF_OPEN,
        sessions: int = SESSIONS,
    ) -> None:
        self.interface = interface
        self.table = Demultiplexer(credentials, self, half_open=half_open, sessions=sessions)
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self._sockets: list[UdpSocket] = []
        self._timer = Timer(self._loop, self._on_timer)
        interface.owners.add(self)

    @property
    def statistics(self) -> Counter[str]:
        return self.table.statistics

    def add_socket(self, sock: UdpSocket) -> None:
        self._sockets.append(sock)
        self._loop.add_reader(sock.fileno(), self._on_readable, sock)

    def sessions(self) -> Iterator[Remote]:
        return (association.owner for association in self.table.associations())

    def close(self) -> None:
        """End all sessions with close_notify and give the sockets back."""
        self.table.close()
        self._timer.set(None)
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        self.interface.owners.discard(self)

    # -- what the table tells --------------------------------------------------------------------------------------

    def transmit(self, path: Path, datagram: bytes) -> None:
        try:
            path.socket.send(datagram, path.peer, path.local)
        except OSError as failed:  # a full queue, no route, a firewall: to DTLS all of it is loss
            self.table.statistics["datagrams not sent"] += 1
            log.debug("a datagram to %s is lost: %s", path.peer[0], failed)

    def authorise(self, identity: Identity) -> bool:
        return self._callbacks.authorise(identity)

    def opened(self, association: Association) -> None:
        association.owner = ServerRemote(self, association)
        log.info("%r is open, %s", association.owner, "resumed" if association.owner.resumed else "new")
        self._callbacks.opened(association.owner)

    def received(self, association: Association, data: bytes) -> None:
        if association.owner is not None and self._callbacks.hears(association.owner):
            self.interface.received(association.owner, data)

    def closed(self, association: Association, reason: CloseReason, detail: str) -> None:
        remote = association.owner
        if remote is None:
            return
        log.info("%r is closed: %s (%s)", remote, reason, detail)
        self.interface.ended(remote, detail)
        self._callbacks.closed(remote, reason)

    # -- what the loop tells ---------------------------------------------------------------------------------------

    def _on_readable(self, sock: UdpSocket) -> None:
        receive, table, now = sock.receive, self.table, self._loop.time()
        for _ in range(BATCH):
            try:
                data, peer, local = receive()
            except BlockingIOError:
                break
            except OSError as failed:  # an ICMP error that the kernel reports for an earlier datagram
                log.debug("the socket reports %s", failed)
                continue
            try:
                table.receive_datagram(data, Path(sock, peer, local), now=now)
            except Exception:  # noqa: BLE001  the boundary: one peer's datagram must not stop those behind it
                table.statistics["failures"] += 1
                log.exception("a datagram from %s made this fail", peer[0])
        self._timer.set(table.get_timer())

    def _on_timer(self) -> None:
        self.table.on_timer(self._loop.time())
        self._timer.set(self.table.get_timer())
