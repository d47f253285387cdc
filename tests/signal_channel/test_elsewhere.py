"""Resources outside /.well-known/dots: found by their whole path, behind the same checks as all others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from aiocoap import GET, POST, PUT, Code, Message
from coap_requests import FakePipe, request

from mitigation.signal_channel.book import Identity
from mitigation.signal_channel.dispatcher import Dispatcher
from mitigation.signal_channel.limits import Limits

SOMEBODY = Identity(1, 1, 1, "alice", "a.example", datetime.now(UTC), datetime.now(UTC) + timedelta(days=1))
PATH = (".well-known", "v1", "filter")


class Filters:
    methods = (GET, POST)
    needs_identity = True

    async def render(self, request: Message, identity: Identity | None, pipe: object) -> Message:
        return Message(code=Code.CONTENT)


async def answer(message: Message, identity: Identity | None = SOMEBODY, limits: Limits | None = None) -> Message:
    pipe = FakePipe(message)
    dispatcher = Dispatcher({}, lambda _: identity, limits, elsewhere={PATH: Filters()})
    await dispatcher.render_to_pipe(pipe)  # type: ignore[arg-type]
    return pipe.answer


def asked(code: Code, *path: str, payload: bytes = b"") -> Message:
    message = request(code, payload=payload)
    message.opt.uri_path = path
    return message


@pytest.mark.rows("SIG-LEG-007")
async def test_a_path_is_found_whole_and_nothing_near_it() -> None:
    assert (await answer(asked(GET, *PATH))).code is Code.CONTENT
    for near in ((*PATH, "list"), PATH[:2], (".well-known", "dots", "filter"), ("v1", "filter")):
        assert (await answer(asked(GET, *near))).code is Code.NOT_FOUND
    assert (await answer(asked(PUT, *PATH))).code is Code.METHOD_NOT_ALLOWED


@pytest.mark.rows("SIG-LEG-007")
async def test_a_credential_that_is_not_good_gets_4_01() -> None:
    assert (await answer(asked(POST, *PATH), None)).code is Code.UNAUTHORIZED


@pytest.mark.rows("SIG-LEG-007")
async def test_it_draws_on_the_same_account_as_all_requests() -> None:
    limits = Limits(1, 3, lambda: 1000.0)
    message = asked(POST, *PATH)
    limits.opened(message.remote, SOMEBODY.client_id)

    codes = [(await answer(message, limits=limits)).code for _ in range(4)]

    assert codes == [Code.CONTENT] * 3 + [Code.SERVICE_UNAVAILABLE]
