"""The signal worker: CoAP over DTLS and TLS, the writer, observers, and the change cursor in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial

import aiocoap
from aiocoap import Code, Message
from aiocoap.numbers.types import NON
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError

from mitigation.models import Change, Mitigation
from mitigation.pki.home import Home
from mitigation.protocol import messages
from mitigation.protocol.constants import CONTENT_FORMAT, HEARTBEAT_INTERVAL, WELL_KNOWN
from mitigation.runtime import clock, loops, sockets
from mitigation.runtime.cursor import Changes, Cursor
from mitigation.runtime.hints import Hints
from mitigation.runtime.session_rows import SessionRows
from mitigation.runtime.threads import writing
from mitigation.runtime.writer import Writer
from mitigation.services import authorities, early_filters, mitigations, redirections
from mitigation.signal_channel import errors, reports
from mitigation.signal_channel.book import Book, Identity
from mitigation.signal_channel.dispatcher import Dispatcher, Resource
from mitigation.signal_channel.limits import Limits
from mitigation.signal_channel.observers import Observers
from mitigation.signal_channel.presence import Presence
from mitigation.signal_channel.redirections import Redirections
from mitigation.signal_channel.resources.early_filters import WITH_VERSION, WITHOUT_VERSION, EarlyFilters
from mitigation.signal_channel.resources.heartbeat import Heartbeat
from mitigation.signal_channel.resources.mitigate import Mitigate
from mitigation.signal_channel.statuses import Statuses
from mitigation.tls import Alert, CloseReason, CredentialFiles, Credentials, Listeners, Remote, listen
from mitigation.tls.identity import Identity as Proven
from mitigation.tls.identity import Kind

UDP_VARIABLE = "DOTS_SIGNAL_UDP_FDS"
TCP_VARIABLE = "DOTS_SIGNAL_TCP_FDS"

log = logging.getLogger(__name__)


class SignalWorker:
    """Everything one signal worker is made of."""

    def __init__(self) -> None:
        self._book = Book()
        self._admitting: dict[int, asyncio.Task[None]] = {}  # sessions whose certificate was not registered
        self._observers = Observers(settings.DOTS_NOTIFICATION_PERIOD)
        self._redirections = Redirections(database_sync_to_async(redirections.busy_domains))
        self._statuses = Statuses(database_sync_to_async(reports.live))
        self._writer = Writer()
        self._cursor = Cursor(self._heard)
        self._rows = SessionRows()
        self._presence = Presence(settings.DOTS_SESSION_LOSS_AFTER)
        self._credentials = _credentials(Home(settings.DOTS_HOME))
        self._listeners: Listeners | None = None
        self._limits = Limits(settings.DOTS_CLIENT_RATE, settings.DOTS_CLIENT_BURST)
        self._client_of: dict[int, int] = {}  # session to client

    async def run(self, stop: asyncio.Event) -> None:
        await self._cursor.start()
        await database_sync_to_async(self._book.load)()
        await database_sync_to_async(self._redirections.load)()
        for client_id in await self._rows.start():
            self._presence.expect(client_id, now=time.monotonic())
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
            hears=self._limits.hears,
        )
        loops.tune_garbage_collection()
        loops.share_processor_with_threads()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._say_sizes)
        loops.say_ready()
        log.info("signal channel on port %d", settings.DOTS_SIGNAL_PORT)
        try:
            hints = Hints(f"dots-signal.{os.getpid()}", self._cursor.hint)
            await loops.until(
                stop, self._cursor.run(), hints.run(), self._heartbeats(), self._losses(), self._rows.run()
            )
        finally:
            await self._listeners.close()
            self._writer.stop()
            await self._rows.close_all("server stopped")

    def _site(self) -> Dispatcher:
        self._mitigate = Mitigate(self._writer, self._observers, self._statuses, clock.now)
        return Dispatcher(
            {"mitigate": self._mitigate, "hb": Heartbeat()},
            self._identify,
            self._limits,
            self._redirections,
            _early_forms() if settings.DOTS_EARLY_DRAFT else None,
            self._admitted,
        )

    def _say_sizes(self) -> None:
        """On SIGUSR1: how much is remembered, for whoever wonders where memory goes."""
        assert self._listeners is not None
        sizes = {
            **self._listeners.sizes,
            **self._mitigate.sizes,
            "statuses": len(self._statuses),
            "observers": len(self._observers),
            "clients": len(self._limits),
            "tasks": len(asyncio.all_tasks()),
        }
        log.warning("remembered: %s", ", ".join(f"{name} {number}" for name, number in sizes.items()))
        counted = self._listeners.statistics + self._limits.statistics
        log.warning("counted: %s", ", ".join(f"{name} {number}" for name, number in sorted(counted.items())))

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
        # Who is not registered gets 4.01, and not too often either.
        self._limits.opened(remote, identity.client_id if identity is not None else remote.identity.sha256)
        if identity is not None:
            self._known(remote, identity)
        elif remote.identity.kind is Kind.X509:
            self._admitting[remote.session_id] = asyncio.create_task(self._admit(remote))

    def _known(self, remote: Remote, identity: Identity) -> None:
        self._client_of[remote.session_id] = identity.client_id
        self._presence.opened(identity.client_id, now=time.monotonic())
        self._rows.opened(remote, identity)

    async def _admit(self, remote: Remote) -> None:
        """A certificate that is not registered may be one of another authority, and lead to a client by the list."""
        try:
            pk = await database_sync_to_async(_admitted_as)(remote.identity.der)
            if pk is None:
                return
            await database_sync_to_async(self._book.refresh)([(Change.Topic.CREDENTIAL, pk)])
        except DatabaseError as error:
            log.error("session %d: whose certificate it is cannot be looked up: %s", remote.session_id, error)
            return
        identity = self._book.find(remote.identity.sha256, now=clock.now())
        if identity is not None and remote.session_id in self._admitting:
            log.info("session %d is of %s by its certificate's name", remote.session_id, _who(identity))
            self._known(remote, identity)

    async def _admitted(self, remote: Remote) -> None:
        looking = self._admitting.get(remote.session_id)
        if looking is not None:
            await asyncio.wait([looking])

    def _closed(self, remote: Remote, reason: CloseReason) -> None:
        log.info("session %d closed: %s", remote.session_id, reason.value)
        self._admitting.pop(remote.session_id, None)
        self._limits.closed(remote)
        self._redirections.closed(remote.session_id)
        self._rows.closed(remote, "lost" if reason is CloseReason.TIMED_OUT else reason.value)
        client_id = self._client_of.pop(remote.session_id, None)
        if client_id is not None:
            self._presence.heard(client_id, at=remote.last_heard)
            # A revoked client must not start anything by going; nor one that said goodbye (RFC 9132, section 4.7).
            in_good_order = reason in (CloseReason.PEER_CLOSED, CloseReason.REVOKED, CloseReason.CUT)
            self._presence.closed(client_id, in_good_order=in_good_order)

    # -- what changed

    async def _heard(self, changes: Changes) -> None:
        if self._book.concerns(changes):
            await database_sync_to_async(self._book.refresh)(changes)
            self._cut_revoked()
        ids = {object_id for topic, object_id in changes if topic == Change.Topic.MITIGATION}
        redirected = any(topic == Change.Topic.REDIRECTION for topic, _ in changes)
        if redirected:
            await database_sync_to_async(self._redirections.load)()
        if redirected or (ids and self._redirections):  # the end of an attack lets its clients be sent away
            await self._send_away()
        if ids and (len(self._statuses) or len(self._observers)):
            await self._tell(await database_sync_to_async(_keys_of)(ids))

    async def _tell(self, changed: Sequence[tuple[int, str, str, int]]) -> None:
        """A change may concern a thousand observers: what they are told is read before they are woken, at once."""
        for key in changed:
            self._statuses.forget(*key)
        watched = [key for key in changed if self._observers.watches(key)]
        if watched:
            await self._statuses.renew(watched, database_sync_to_async(reports.live_by_key))
        for key in changed:
            self._observers.wake(*key)

    async def _send_away(self) -> None:
        """Tell observers that another server takes over; whoever observes nothing hears it with the next answer."""
        assert self._listeners is not None
        identities = {
            remote.session_id: self._book.find(remote.identity.sha256, now=clock.now())
            for remote in self._listeners.sessions()
        }
        known = ((session_id, one) for session_id, one in identities.items() if one is not None)
        due = await self._redirections.due(known)
        for session_id in self._observers.dismiss({pk: partial(errors.answer, why) for pk, why in due.items()}):
            self._redirections.sent_away(session_id)

    def _cut_revoked(self) -> None:
        assert self._listeners is not None
        self._credentials.reload()
        cut = self._listeners.cut_where(self._is_no_longer, CloseReason.REVOKED, alert=Alert.ACCESS_DENIED)
        if cut:
            log.warning("%d sessions cut: their credentials were revoked", cut)

    def _is_no_longer(self, remote: Remote) -> bool:
        """Its certificate is revoked, or stands for another client than when it came, or for nobody."""
        fingerprint = remote.identity.sha256
        was = self._client_of.get(remote.session_id)
        return self._book.refuses(fingerprint) or (was is not None and was != self._book.client_of(fingerprint))

    # -- who is still there

    async def _losses(self) -> None:
        """Once a second: what a client that fell silent asked to be started then."""
        assert self._listeners is not None
        while True:
            await asyncio.sleep(1)
            for remote in self._listeners.sessions():
                client_id = self._client_of.get(remote.session_id)
                if client_id is not None:
                    self._presence.heard(client_id, at=remote.last_heard)
            loss = self._presence.lost(now=time.monotonic())
            self._cut_silent()
            self._cut_sent_away()
            if loss.is_mass:
                log.error("%d clients fell silent at once: nothing is started; is it our own line?", len(loss.clients))
                continue
            for client_id in loss.clients:
                await self._start_preconfigured(client_id)

    async def _start_preconfigured(self, client_id: int) -> None:
        """Until it is done: a database that takes nothing now must not cost a client its protection."""
        while True:
            try:
                started = await writing(mitigations.session_lost)(client_id, now=clock.now())
            except DatabaseError as error:
                log.error("preconfigured mitigations of client %d did not start, again soon: %s", client_id, error)
                await asyncio.sleep(1)
            else:
                log.warning("client %d fell silent; %d preconfigured mitigations started", client_id, started)
                return

    def _cut_silent(self) -> None:
        """Sessions that nothing came over for the whole span are no more (RFC 9132, section 4.7)."""
        assert self._listeners is not None
        limit = time.monotonic() - settings.DOTS_SESSION_LOSS_AFTER
        self._listeners.cut_where(lambda remote: remote.last_heard < limit, CloseReason.TIMED_OUT)

    def _cut_sent_away(self) -> None:
        """Sessions of clients that another server serves now (RFC 8811, section 3.2.2)."""
        assert self._listeners is not None
        if self._redirections:
            self._listeners.cut_where(lambda remote: self._redirections.is_over(remote.session_id), CloseReason.CUT)

    # -- heartbeats (RFC 9132, section 4.7)

    async def _heartbeats(self) -> None:
        assert self._listeners is not None
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            for remote in list(self._listeners.sessions()):
                if not self._redirections.is_told(remote.session_id):
                    self._beat(remote)
                await asyncio.sleep(0)
            await self._rows.note_heard(self._listeners.sessions())

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


def _credentials(home: Home) -> Credentials:
    files = CredentialFiles(
        ca=home.authority_certificate,
        certificate=home.server_certificate,
        key=home.server_key,
        crl=home.revocation_list,
        more_ca=home.trusted_authorities,
        more_crl=home.trusted_revocations,
    )
    return Credentials(files, ticket_key=home.ticket.read_bytes(), cookie_key=home.cookie.read_bytes())


def _listening_sockets() -> tuple[Sequence[socket.socket], Sequence[socket.socket]]:
    udp = sockets.inherited(UDP_VARIABLE, socket.SOCK_DGRAM)
    tcp = sockets.inherited(TCP_VARIABLE, socket.SOCK_STREAM)
    if udp or tcp:
        return udp, tcp
    return sockets.signal(settings.DOTS_BIND, settings.DOTS_SIGNAL_PORT)


def _admitted_as(der: bytes) -> int | None:
    found = authorities.admit(der, now=clock.now())
    return found.pk if found is not None else None


def _keys_of(ids: set[int]) -> list[tuple[int, str, str, int]]:
    return list(Mitigation.objects.filter(pk__in=ids).values_list("client_id", "cdid", "cuid", "mid"))


def _who(identity: Identity | None) -> str:
    return f"{identity.client_name} of {identity.domain_name}" if identity else "unregistered client"


def _early_forms() -> Mapping[tuple[str, ...], Resource]:
    """What draft-reddy-dots-transport-05 has at paths of its own."""

    def at_path(*methods: Code) -> EarlyFilters:
        return EarlyFilters(
            methods,
            store=writing(early_filters.store),
            remove=writing(early_filters.remove),
            shown=database_sync_to_async(early_filters.shown),
            now=clock.now,
        )

    return {
        WITH_VERSION: at_path(Code.GET, Code.POST, Code.DELETE),
        WITHOUT_VERSION: at_path(Code.GET, Code.DELETE),
    }
