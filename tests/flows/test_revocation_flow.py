"""A revoked certificate over the real product: the live session is cut, and no ticket brings it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiocoap
import pytest
from aiocoap import GET, Message

from mitigation.client.identity import Files as ClientFiles
from mitigation.tls import CloseReason, NoConnection, Remote, connect
from mitigation.tls.client import Transport
from tests.harness.product import Files, Product

pytestmark = pytest.mark.flow


class Visitor:
    """Connects with one client's files, and notes when its sessions end."""

    def __init__(self, product: Product, files: Files, transport: Transport) -> None:
        self._port = product.signal_port
        self._credentials = ClientFiles(files.ca, files.cert, files.key).credentials()
        self._transport = transport
        self.context = aiocoap.Context()
        self.closed_at = asyncio.get_running_loop().create_future()

    async def connect(self, ticket: bytes | None = None) -> Remote:
        remote = await connect(
            self.context,
            "127.0.0.1",
            self._port,
            transport=self._transport,
            credentials=self._credentials,
            server_name="localhost",
            ticket=ticket,
            timeout=5,
            closed=self._closed,
        )
        assert await self.ask(remote) == "4.04"  # tickets of TLS 1.3 come behind the handshake
        return remote

    async def ask(self, remote: Remote) -> str:
        request = Message(code=GET, uri_path=(".well-known", "dots", "mitigate", "cuid=nobody"))
        request.remote = remote
        answer = await asyncio.wait_for(self.context.request(request, handle_blockwise=False).response, 5)
        return str(answer.code.dotted)

    def _closed(self, remote: Remote, reason: CloseReason) -> None:
        if not self.closed_at.done():
            self.closed_at.set_result(time.monotonic())


@pytest.mark.rows("SIG-AUT-008", "SIG-TLS-004")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_ticket_of_a_revoked_certificate_resumes_nothing(
    product: Product, transport: Transport, tell: Callable[[str], None]
) -> None:
    files = await asyncio.to_thread(lambda: product.new_client(product.new_domain(), f"dave-{transport}"))
    visitor = Visitor(product, files, transport)
    try:
        first = await visitor.connect()
        ticket = first.session_ticket()
        assert ticket
        first.cut()
        resumed = await visitor.connect(ticket)
        assert resumed.resumed, "the ticket is good while the certificate is"
        fresh = resumed.session_ticket() or ticket
        visitor.closed_at = asyncio.get_running_loop().create_future()

        await asyncio.to_thread(product.manage, "certificate", "revoke", files.serial)
        revoked = time.monotonic()
        took = await asyncio.wait_for(visitor.closed_at, 5) - revoked

        assert took < 2
        for refused in (ticket, fresh, None):
            # A client that resumes is through before the server has looked: it is told by the end of the session then.
            with pytest.raises((NoConnection, aiocoap.error.NetworkError)):
                await visitor.connect(refused)
        tell(f"revoked over {transport}: the session was cut {took:+.2f} s after the command had ended")
    finally:
        await visitor.context.shutdown()
