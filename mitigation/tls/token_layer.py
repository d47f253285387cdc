"""CoAP's request/response layer: which response belongs to which request (RFC 7252, section 5.3).

Like aiocoap's TokenManager, with the tokens of a session kept at the session: its end does not search all others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

from aiocoap import Message, error, interfaces
from aiocoap.numbers.codes import TOO_MANY_REQUESTS
from aiocoap.pipe import Pipe

TOKEN_SIZE: Final = 8
OPEN_REQUESTS: Final = 256  # unanswered requests and observations of one session


class TokenLayer(interfaces.RequestInterface, interfaces.TokenManager):  # type: ignore[misc]
    """Between an aiocoap Context and one transport. `token_interface` is set right after construction."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.log = context.log
        self.loop = context.loop
        self.token_interface: Any = None

    @property
    def client_credentials(self) -> Any:
        return self.context.client_credentials

    async def shutdown(self) -> None:
        await self.token_interface.shutdown()

    async def fill_or_recognize_remote(self, message: Any) -> bool:
        recognized: bool = await self.token_interface.fill_or_recognize_remote(message)
        return recognized

    def dispatch_error(self, exception: Exception, remote: Any) -> None:
        """The session is gone: requests of ours fail, requests of the peer are not worked on any more."""
        if not isinstance(exception, error.NetworkError):
            cause, exception = exception, error.NetworkError(str(exception))
            exception.__cause__ = cause
        outgoing, remote.outgoing = remote.outgoing, {}
        incoming, remote.incoming = remote.incoming, {}
        for pipe in outgoing.values():
            _give(pipe.add_exception, exception)
        for _, stop in incoming.values():
            stop()

    # -- requests of the peer --------------------------------------------------------------------------------------

    def process_request(self, request: Any) -> None:
        """Hand a request to the site; one under a token in use replaces the earlier, as an observation is renewed."""
        incoming = request.remote.incoming
        earlier = incoming.pop(request.token, None)
        if earlier is not None:
            earlier[1]()
        elif len(incoming) >= OPEN_REQUESTS:
            self._refuse(request)
            return
        pipe = Pipe(request, self.log)
        stop = pipe.on_event(lambda event: self._answer(request, event, lambda *reason: stop()))
        pipe.on_interest_end(lambda: self._finish(request, pipe))
        incoming[request.token] = (pipe, stop)
        self.context.render_to_pipe(pipe)

    def _answer(self, request: Any, event: Any, stop: Callable[..., None]) -> bool:
        message = event.message
        if message is None:
            self.log.error("a request ended with %r instead of a response", event.exception)
        elif request.remote.is_open:
            message.token = request.token
            message.remote = request.remote
            message.request = request
            self.token_interface.send_message(message, stop)
        return not event.is_last

    def _finish(self, request: Any, pipe: Any) -> None:
        entry = request.remote.incoming.get(request.token)
        if entry is not None and entry[0] is pipe:
            del request.remote.incoming[request.token]

    def _refuse(self, request: Any) -> None:
        answer = Message(code=TOO_MANY_REQUESTS, payload=b"too many requests of this session are unanswered")
        answer.token, answer.remote, answer.request = request.token, request.remote, request
        self.token_interface.send_message(answer, None)

    # -- our requests ----------------------------------------------------------------------------------------------

    def request(self, pipe: Any) -> None:
        """Send a request and let its responses flow into the pipe."""
        message = pipe.request
        remote = message.remote
        if not remote.is_open:
            pipe.add_exception(error.NetworkError("the session is closed"))
            return
        token = message.token = os.urandom(TOKEN_SIZE)
        remote.outgoing[token] = pipe
        pipe.on_interest_end(lambda: remote.outgoing.pop(token, None))
        cancel = self.token_interface.send_message(message, lambda *reason: self._fail(remote, token, *reason))
        if cancel is not None:
            pipe.on_event(lambda event: bool(cancel()), is_interest=False)

    def process_response(self, response: Any) -> bool:
        """Feed a response to whom it belongs; False when nobody waits for it."""
        outgoing = response.remote.outgoing
        pipe = outgoing.get(response.token)
        if pipe is None:
            return False
        final = not (pipe.request.opt.observe == 0 and response.opt.observe is not None)
        if final:
            del outgoing[response.token]
        return _give(pipe.add_response, response, final)

    def _fail(self, remote: Any, token: bytes, reason: Exception | None = None) -> None:
        pipe = remote.outgoing.pop(token, None)
        if pipe is not None:
            _give(pipe.add_exception, reason or error.MessageError("the peer rejected the message with a Reset"))


def _give(add: Callable[..., None], *event: Any) -> bool:
    """Whether anybody took it. Who waited may have given up in this turn of the loop, and the pipe not know it yet."""
    try:
        add(*event)
    except asyncio.InvalidStateError:
        return False
    return True
