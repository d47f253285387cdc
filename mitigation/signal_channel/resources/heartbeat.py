"""/.well-known/dots/hb: PUT only, on both ends (RFC 9132, section 4.7)."""

from __future__ import annotations

from aiocoap import Code, Message
from aiocoap.pipe import Pipe

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import messages
from mitigation.signal_channel.book import Identity


class Heartbeat:
    """Answers the peer's heartbeats. Any authenticated peer may send them; no cuid, cdid or mid belongs here."""

    methods = (Code.PUT,)
    needs_identity = False

    async def render(self, request: Message, identity: Identity | None, pipe: Pipe) -> Message:
        if len(request.opt.uri_path) != 3:
            raise MalformedRequest("hb takes no parameters")
        messages.decode_heartbeat(request.payload)
        return Message(code=Code.CHANGED)
