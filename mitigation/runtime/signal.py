"""The signal worker: CoAP over DTLS and TLS, the writer, observers, and the change cursor in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Sequence

import aiocoap
from aiocoap import Code, Message
from aiocoap.numbers.types import NON
from channels.db import database_sync_to_async
from django.conf import settings

from mitigation.models import Change, Mitigation
from mitigation.pki.home import Home
from mitigation.protocol import messages
from mitigation.protocol.constants import CONTENT_FORMAT, HEARTBEAT_INTERVAL, WELL_KNOWN
from mitigation.runtime import clock, loops, sockets
from mitigation.runtime.cursor import Changes, Cursor
from mitigation.runtime.hints import Hints
from mitigation.runtime.writer import Writer
from mitigation.services import sessions
from mitigation.signal_channel.book import Book, Identity
from mitigation.signal_channel.dispatcher import Dispatcher
from mitigation.signal_channel.observers import Observers
from mitigation.signal_channel.resources.heartbeat import Heartbeat
from mitigation.signal_channel.resources.mitigate import Mitigate
from mitigation.tls import CloseReason, CredentialFiles, Credentials, Listeners, Remote, listen
from mitigation.tls.identity import Identity as Proven

UDP_VARIABLE = "DOTS_SIGNAL_UDP_FDS"
TCP_VARIABLE = "DOTS_SIGNAL_TCP_FDS"

log = logging.getLogger(__name__)


def worker_name() -> str:
    """The same for every life of this worker, so that a new one can tidy up after the last."""
    return f"{socket.gethostname()[:48]}:{settings.DOTS_SIGNAL_PORT}"


class SignalWorker:
    """Everything one signal worker is made of."""

    def __init__(self) -> None:
        self._book = Book()
        self._observers = Observers()
        self._writer = Writer()
        self._cursor = Cursor(self._heard)
        self._rows = SessionRows()
        self._credentials = _credentials(Home(settings.DOTS_HOME))
        self._listeners: Listeners | None = None

    async def run(self, stop: asyncio.Event) -> None:
        await self._cursor.start()
        await database_sync_to_async(self._book.load)()
        await self._rows.start()
        self._writer.start()
        self._context = aiocoap.Context(serversite=self._site(), loggername="mitigation.coap")
        udp, tcp = _listening_sockets()
        self._listeners = await listen(
            self._context,
            self._credentials,
            udp_sockets=udp,
            tcp_sockets=tcp,
            authorise=self._authorise,
            opened=self._opened,
            closed=self._closed,
        )
        loops.tune_garbage_collection()
        loops.say_ready()
        log.info("signal channel on port %d", settings.DOTS_SIGNAL_PORT)
        try:
            hints = Hints(f"dots-signal.{os.getpid()}", self._cursor.hint)
            await loops.until(stop, self._cursor.run(), hints.run(), self._heartbeats(), self._rows.run())
        finally:
            await self._listeners.close()
            self._writer.stop()
            await self._rows.close_all("server stopped")

    def _site(self) -> Dispatcher:
        mitigate = Mitigate(self._writer, self._observers, clock.now)
        return Dispatcher({"mitigate": mitigate, "hb": Heartbeat()}, self._identify)

    # -- who is who

    def _identify(self, request: Message) -> Identity | None:
        return self._book.find(request.remote.identity.sha256, now=clock.now())

    def _authorise(self, proven: Proven) -> bool:
        """After each handshake, resumed or not. An unknown certificate of our authority may connect and gets 4.01."""
        return not self._book.refuses(proven.sha256)

    def _opened(self, remote: Remote) -> None:
        identity = self._book.find(remote.identity.sha256, now=clock.now())
        log.info(
            "session %d opened: %s over %s from %s", remote.session_id, _who(identity), remote.transport, remote.peer
        )
        if identity is not None:
            self._rows.opened(remote, identity)

    def _closed(self, remote: Remote, reason: CloseReason) -> None:
        log.info("session %d closed: %s", remote.session_id, reason.value)
        self._rows.closed(remote, reason.value)

    # -- what changed

    async def _heard(self, changes: Changes) -> None:
        if await database_sync_to_async(self._book.refresh)(changes):
            self._cut_revoked()
        ids = {object_id for topic, object_id in changes if topic == Change.Topic.MITIGATION}
        if ids and len(self._observers):
            for client_id, cuid, mid in await database_sync_to_async(_keys_of)(ids):
                self._observers.wake(client_id, cuid, mid)

    def _cut_revoked(self) -> None:
        assert self._listeners is not None
        self._credentials.reload()
        cut = self._listeners.cut_where(lambda remote: self._book.refuses(remote.identity.sha256), CloseReason.REVOKED)
        if cut:
            log.warning("%d sessions cut: their credentials were revoked", cut)

    # -- heartbeats (RFC 9132, section 4.7)

    async def _heartbeats(self) -> None:
        assert self._listeners is not None
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            for remote in list(self._listeners.sessions()):
                self._beat(remote)
                await asyncio.sleep(0)

    def _beat(self, remote: Remote) -> None:
        loop = asyncio.get_running_loop()
        heard = loop.time() - remote.last_heard < 2 * HEARTBEAT_INTERVAL
        beat = Message(
            code=Code.PUT,
            uri_path=(*WELL_KNOWN, "hb"),
            payload=messages.encode_heartbeat(peer_hb_status=heard),
            content_format=CONTENT_FORMAT,
        )
        beat.remote = remote
        if remote.transport == "udp":
            beat.mtype = NON
        request = self._context.request(beat, handle_blockwise=False)
        loop.create_task(_forget(request.response))


async def _forget(response: asyncio.Future[Message]) -> None:
    """Any answer shows that the peer lives, and the transport has noted it; none by the next interval is noted too."""
    with contextlib.suppress(aiocoap.error.Error, TimeoutError, OSError):
        await asyncio.wait_for(response, HEARTBEAT_INTERVAL)


class SessionRows:
    """Rows of live sessions, written behind the loop's back: a handshake never waits for the database."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, Remote, object]] = asyncio.Queue()
        self._row_of: dict[int, int] = {}

    async def start(self) -> None:
        await database_sync_to_async(sessions.close_all_of)(worker_name(), reason="worker restarted", now=clock.now())

    def opened(self, remote: Remote, identity: Identity) -> None:
        self._queue.put_nowait(("opened", remote, identity))

    def closed(self, remote: Remote, reason: str) -> None:
        self._queue.put_nowait(("closed", remote, reason))

    async def run(self) -> None:
        while True:
            what, remote, detail = await self._queue.get()
            try:
                if isinstance(detail, Identity):
                    self._row_of[remote.session_id] = await database_sync_to_async(self._open)(remote, detail)
                elif (row := self._row_of.pop(remote.session_id, None)) is not None:
                    await database_sync_to_async(self._close)(row, str(detail))
            except Exception:
                log.exception("session %s was not noted as %s", remote.session_id, what)

    async def close_all(self, reason: str) -> None:
        self._row_of.clear()
        await database_sync_to_async(sessions.close_all_of)(worker_name(), reason=reason, now=clock.now())

    @staticmethod
    def _open(remote: Remote, identity: Identity) -> int:
        peer = f"[{remote.peer[0]}]:{remote.peer[1]}" if ":" in remote.peer[0] else f"{remote.peer[0]}:{remote.peer[1]}"
        opened = sessions.Opened(
            client_id=identity.client_id,
            credential_id=identity.credential_id,
            worker=worker_name(),
            transport=remote.transport,
            peer=peer,
            version=remote.version,
            cipher=remote.cipher,
            resumed=remote.resumed,
        )
        return sessions.open_session(opened, now=clock.now())

    @staticmethod
    def _close(row: int, reason: str) -> None:
        now = clock.now()
        sessions.close_session(row, reason=reason, last_heard_at=now, now=now)


def _credentials(home: Home) -> Credentials:
    files = CredentialFiles(
        ca=home.authority_certificate,
        certificate=home.server_certificate,
        key=home.server_key,
        crl=home.revocation_list,
    )
    return Credentials(files, ticket_key=home.ticket.read_bytes(), cookie_key=home.cookie.read_bytes())


def _listening_sockets() -> tuple[Sequence[socket.socket], Sequence[socket.socket]]:
    udp = sockets.inherited(UDP_VARIABLE, socket.SOCK_DGRAM)
    tcp = sockets.inherited(TCP_VARIABLE, socket.SOCK_STREAM)
    if udp or tcp:
        return udp, tcp
    return sockets.signal(settings.DOTS_BIND, settings.DOTS_SIGNAL_PORT)


def _keys_of(ids: set[int]) -> list[tuple[int, str, int]]:
    return list(Mitigation.objects.filter(pk__in=ids).values_list("client_id", "cuid", "mid"))


def _who(identity: Identity | None) -> str:
    return f"{identity.client_name} of {identity.domain_name}" if identity else "unregistered client"
