"""Takes each request to its resource: a look-up in a dictionary, where aiocoap's site would copy every message.

The order of checks fixes which fault is reported when there are several: how much is asked at all, options, path,
method, content format, identity, then the body (the rows on error precedence).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from aiocoap import Code, Message
from aiocoap.numbers.types import CON, NON
from aiocoap.pipe import Pipe

from mitigation.exceptions import BadOption, DotsError, Ignored, NotFound, Unauthorized
from mitigation.protocol import paths
from mitigation.protocol.constants import WELL_KNOWN
from mitigation.signal_channel import errors, options
from mitigation.signal_channel.book import Identity
from mitigation.signal_channel.limits import Limits
from mitigation.signal_channel.redirections import Redirections
from mitigation.tls import Remote

log = logging.getLogger(__name__)

HEARTBEAT = (*WELL_KNOWN, "hb")
SUPPRESS_ANY = 26  # No-Response for all classes (RFC 7967): the stack lets go of the request and sends nothing


class Resource(Protocol):
    """Something under /.well-known/dots."""

    methods: Sequence[Code]
    needs_identity: bool

    async def render(self, request: Message, identity: Identity | None, pipe: Pipe) -> Message | None:
        """The answer; None when the resource has sent it by the pipe itself. Raises DotsError."""


class Dispatcher:
    """What an aiocoap context calls its site."""

    def __init__(
        self,
        resources: Mapping[str, Resource],
        identify: Identify,
        limits: Limits | None = None,
        redirections: Redirections | None = None,
        elsewhere: Mapping[tuple[str, ...], Resource] | None = None,
        admitted: Callable[[Remote], Awaitable[None]] | None = None,
    ) -> None:
        """`resources` by name, below /.well-known/dots; `elsewhere` by the whole path.

        `admitted` returns when it is settled whose a certificate is that nobody knew at the handshake.
        """
        self._resources = resources
        self._elsewhere = elsewhere or {}
        self._identify = identify
        self._limits = limits
        self._redirections = redirections
        self._admitted = admitted

    async def render_to_pipe(self, pipe: Pipe) -> None:
        request = pipe.request
        try:
            answer = await self._answer(request, pipe)
        except Ignored:
            answer = _nothing()
        except BadOption as refusal:
            # RFC 7252, section 5.4.1: a NON with an unknown critical option is rejected without an answer.
            answer = _nothing() if request.mtype is NON else errors.answer(refusal)
        except DotsError as refusal:
            answer = errors.answer(refusal)
        except Exception:
            log.exception("request failed")
            answer = errors.internal_error()
        if answer is not None:
            pipe.add_response(answer, is_last=True)

    async def _answer(self, request: Message, pipe: Pipe) -> Message | None:
        if self._limits is not None:
            self._limits.take(request.remote, heartbeat=request.opt.uri_path == HEARTBEAT)
        options.check(request)
        name, resource = self._find(tuple(request.opt.uri_path))
        options.check_method(request, name, resource.methods)
        if request.code == Code.PUT:  # a body of GET or DELETE means nothing, whatever it says it is
            options.check_content_format(request)
        identity = self._identify(request)
        if identity is None and self._admitted is not None:
            await self._admitted(request.remote)
            identity = self._identify(request)
        if resource.needs_identity and identity is None:
            raise Unauthorized("this credential is not registered for the service, or has been revoked")
        if self._redirections and identity is not None:
            await self._redirections.check(request, identity)
        return await resource.render(request, identity, pipe)

    def _find(self, path: tuple[str, ...]) -> tuple[str, Resource]:
        """With its name. Raises NotFound."""
        if (found := self._elsewhere.get(path)) is not None:
            return path[-1], found
        name = paths.resource_name(path)
        resource = self._resources.get(name)
        if resource is None:
            raise NotFound(f"there is no resource {name[:40]!r} here")
        return name, resource


class Identify(Protocol):
    """Whose request this is, judged now; None for a credential that is not, or no longer, good."""

    def __call__(self, request: Message) -> Identity | None: ...


def is_confirmable(request: Message) -> bool:
    return bool(request.mtype is CON)


def _nothing() -> Message:
    return Message(code=Code.BAD_REQUEST, no_response=SUPPRESS_ANY)
