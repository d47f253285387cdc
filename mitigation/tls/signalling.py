"""CoAP over a byte stream: capabilities, ping, release, abort (RFC 8323, sections 3.3 and 5). No socket here.

    channel = Channel(remote)
    to_send = channel.hello()                  # our CSM, first of all
    for message in channel.receive(data): ...  # requests and responses only
    to_send = channel.take_output()

Errors of the peer end the channel: `channel.ended` says why, and the Abort is in the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from aiocoap import Message, optiontypes
from aiocoap.numbers.codes import ABORT, CSM, EMPTY, PING, PONG, RELEASE

from mitigation.tls.messages import LONGEST_TOKEN, FormatError, decode_frame, encode_frame, frame_layout, options

BASE_MESSAGE_SIZE: Final = 1152  # until the peer's CSM says otherwise (5.3.1)
OUR_MESSAGE_SIZE: Final = 16384
_MAX_MESSAGE_SIZE: Final = 2
_BLOCK_WISE: Final = 4
_BAD_CSM_OPTION: Final = 2  # of Abort


class Channel:
    """What both ends know of one connection beside its requests and responses.

    `hears` is asked for each frame whether it is looked at: in one read there may be a hundred thousand pings.
    """

    def __init__(self, remote: Any, hears: Callable[[Any], bool] = lambda remote: True) -> None:
        self._remote = remote
        self._hears = hears
        self._spool = bytearray()
        self._output = bytearray()
        self.peer_message_size = BASE_MESSAGE_SIZE
        self.has_peer_csm = False
        self.released = False
        self.ended: str | None = None

    def hello(self) -> None:
        """Put our CSM first; nobody waits for the other's (3.3)."""
        csm = Message(code=CSM)
        csm.opt.add_option(optiontypes.UintOption(_MAX_MESSAGE_SIZE, OUR_MESSAGE_SIZE))
        csm.opt.add_option(optiontypes.OpaqueOption(_BLOCK_WISE, b""))
        self._output += encode_frame(csm)

    def send(self, data: bytes) -> None:
        """Queue one encoded message."""
        self._output += data

    def ping(self) -> None:
        self._output += encode_frame(Message(code=PING))

    def release(self) -> None:
        """Tell the peer that we shall close (5.5)."""
        self._output += encode_frame(Message(code=RELEASE))

    def abort(self, reason: str, *, bad_csm_option: int | None = None) -> None:
        """Tell the peer what it did wrong; nothing that comes later is read (5.6)."""
        message = Message(code=ABORT, payload=reason.encode())
        if bad_csm_option is not None:
            message.opt.add_option(optiontypes.UintOption(_BAD_CSM_OPTION, bad_csm_option))
        self._output += encode_frame(message)
        self.ended = reason

    def take_output(self) -> bytes:
        output = bytes(self._output)
        self._output.clear()
        return output

    def receive(self, data: bytes) -> Iterator[Any]:
        """The requests and responses that are complete now; signalling is dealt with on the way."""
        self._spool += data
        while self.ended is None and (frame := self._next_frame()):
            if not self._hears(self._remote):
                continue
            try:
                message = decode_frame(frame, self._remote)
            except FormatError as broken:
                self.abort(f"malformed message: {broken.reason}")
                return
            if message.code.is_signalling():
                self._signal(message)
            elif not self.has_peer_csm:
                self.abort("no Capabilities and Settings Message came first")
            elif message.code is not EMPTY:  # Empty messages are a way to keep a NAT open (3.4)
                yield message

    def _next_frame(self) -> bytes:
        """The next whole frame, or nothing."""
        layout = frame_layout(self._spool)
        if layout is None:
            return b""
        size, _, token = layout
        if token > LONGEST_TOKEN:
            self.abort("malformed message: bad token length")
            return b""
        if size > OUR_MESSAGE_SIZE:
            self.abort("the message is larger than our Max-Message-Size")
            return b""
        if len(self._spool) < size:
            return b""
        frame = bytes(self._spool[:size])
        del self._spool[:size]
        return frame

    def _signal(self, message: Any) -> None:
        # critical options are odd, and RFC 8323 defines none for any signalling code (5.2)
        unknown = next((number for number, _ in options(message) if number & 1), None)
        if unknown is not None:
            bad = unknown if message.code == CSM else None
            self.abort(f"unknown critical option {unknown} in {message.code}", bad_csm_option=bad)
        elif message.code == CSM:
            self._learn(message)
        elif not self.has_peer_csm:
            self.abort("no Capabilities and Settings Message came first")
        elif message.code == PING:
            self._output += encode_frame(Message(code=PONG, _token=message.token))
        elif message.code == RELEASE:
            self.released = True
        elif message.code == ABORT:
            self.ended = f"the peer aborted: {message.payload.decode(errors='replace')}"
        elif message.code != PONG:
            self.abort(f"unknown signalling code {message.code}")

    def _learn(self, message: Any) -> None:
        for number, value in options(message):
            if number == _MAX_MESSAGE_SIZE:
                self.peer_message_size = int.from_bytes(value, "big")
        self.has_peer_csm = True
