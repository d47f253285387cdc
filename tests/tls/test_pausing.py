"""A session from which nothing is taken for a while, and messages that are not even looked at."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
from aiocoap import Message, error
from aiocoap.numbers.codes import CONTENT, PUT
from aiocoap.pipe import Pipe
from tls_service import ask, calling, serving

from mitigation.tls import Credentials
from mitigation.tls.token_layer import TokenLayer

BOTH = pytest.mark.parametrize("transport", ["udp", "tcp"])


@BOTH
@pytest.mark.rows("SIG-SEC-001")
async def test_a_paused_session_is_not_heard_and_then_is_again(
    server_credentials: Credentials, alice: Credentials, transport: str
) -> None:
    async with serving(server_credentials) as service, calling(alice) as caller:
        remote, other = [await caller.connect(service, transport) for _ in range(2)]
        session = next(one for one in service.opened if one.peer == remote.local)

        session.pause(0.4)
        session.pause(0.4)  # twice is once
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(caller.context, remote, "a", reliable=False), 0.2)
        assert not service.site.requests
        assert (await ask(caller.context, other, "a")).code == CONTENT

        async with asyncio.timeout(5):
            while True:
                try:
                    found = await asyncio.wait_for(ask(caller.context, remote, "a", reliable=False), 0.2)
                except TimeoutError:
                    continue
                break
        assert found.code == CONTENT
        dropped = service.listeners.statistics["udp: datagrams of paused sessions"]
        assert dropped > 0 if transport == "udp" else dropped == 0


@BOTH
async def test_a_paused_session_can_end(server_credentials: Credentials, alice: Credentials, transport: str) -> None:
    async with serving(server_credentials) as service, calling(alice) as caller:
        await caller.connect(service, transport)
        (session,) = service.opened

        session.pause(0.1)
        session.cut()
        session.pause(0.1)

        async with asyncio.timeout(5):
            while not (service.closed and caller.closed):
                await asyncio.sleep(0.01)
        assert not service.listeners.sessions()


@BOTH
async def test_a_message_that_is_not_heard_costs_nothing_above(
    server_credentials: Credentials, alice: Credentials, transport: str
) -> None:
    deaf: list[object] = []
    async with (
        serving(server_credentials, hears=lambda remote: remote not in deaf) as service,  # type: ignore[arg-type]
        calling(alice) as caller,
    ):
        remote = await caller.connect(service, transport)
        assert (await ask(caller.context, remote, "a")).code == CONTENT
        deaf += service.opened
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(caller.context, remote, "a", reliable=False), 0.2)
        deaf.clear()
        assert (await ask(caller.context, remote, "a")).code == CONTENT
        assert len(service.site.requests) == 2


def test_who_has_just_given_up_does_not_stop_what_the_others_are_told() -> None:
    context = SimpleNamespace(log=logging.getLogger("stack"), loop=None, client_credentials=None)
    tokens = TokenLayer(context)
    tokens.token_interface = SimpleNamespace(send_message=lambda message, monitor: None)
    remote = SimpleNamespace(is_open=True, outgoing={}, incoming={})
    told: list[object] = []

    def given_up(event: object) -> bool:
        raise asyncio.InvalidStateError("invalid state")  # as aiocoap does between a cancellation and its callbacks

    def waiting(event: Pipe.Event) -> bool:
        told.append(event.exception)
        return False

    for callback in (given_up, waiting):
        message = Message(code=PUT)
        message.remote = remote
        pipe = Pipe(message, context.log)
        pipe.on_event(callback)
        tokens.request(pipe)
    remote.incoming[b"t"] = (None, lambda: told.append("stopped"))

    tokens.dispatch_error(error.RemoteServerShutdown("gone"), remote)

    assert [type(one).__name__ for one in told] == ["RemoteServerShutdown", "str"]
