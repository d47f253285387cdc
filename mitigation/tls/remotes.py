"""The peer of one session, as aiocoap and the server program see it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from aiocoap import interfaces, util
from aiocoap.numbers.constants import TransportTuning

from mitigation.tls.events import CloseReason, HandshakeCompleted
from mitigation.tls.gnutls import Alert

PORT: Final = 4646  # RFC 9132, section 10.1
_session_ids: Final = count(1)

# Room for header, token and options beside a block. Five path segments of a mitigation request take about 80 bytes.
BLOCK_OVERHEAD: Final = 128


class DotsTuning(TransportTuning):  # type: ignore[misc]
    """Transmission parameters of a session before anything else is negotiated (RFC 9132, section 4.5.2)."""

    ACK_TIMEOUT = 2.0
    ACK_RANDOM_FACTOR = 1.5
    MAX_RETRANSMIT = 3
    EMPTY_ACK_DELAY = 0.2
    MAX_LATENCY = 100.0
    NON_REPEAT: float | None = None
    """Seconds between repeats of a NON request under the same token until it is answered; never below 3 (4.4)."""


DOTS_TUNING: Final = DotsTuning()


def block_size_exponent(message_size: int) -> int:
    """The largest block that fits a message of so many bytes: 6 is 1024, the most DOTS uses (RFC 7252, section 4.6)."""
    exponent = 6
    while exponent > 0 and (16 << exponent) + BLOCK_OVERHEAD > message_size:
        exponent -= 1
    return exponent


class Remote(interfaces.EndpointAddress):  # type: ignore[misc]
    """One session with one authenticated peer. Two sessions are never equal, not even with the same peer.

    `opened_at` and `last_heard` are on the monotonic clock; `session_id` is unique in this process.
    """

    transport: str
    is_multicast = False
    is_multicast_locally = False

    def __init__(
        self, completed: HandshakeCompleted, peer: tuple[str, int], local: tuple[str, int], *, port: int = PORT
    ) -> None:
        self.identity = completed.identity
        self.resumed = completed.resumed
        self.version = completed.version
        self.cipher = completed.cipher
        self.peer = peer
        self.local = local
        self.session_id = next(_session_ids)
        self.opened_at = time.monotonic()
        self.tuning: Any = DOTS_TUNING
        self.is_open = True
        self.ending = ""  # a sentence on why the session ended, once it has
        self.outgoing: dict[bytes, Any] = {}  # token -> Pipe of a request of ours
        self.incoming: dict[bytes, tuple[Any, Callable[[], None]]] = {}  # token -> (Pipe, stop)
        self._port = port

    @property
    @abstractmethod
    def last_heard(self) -> float:
        """When the last authenticated bytes came."""

    @abstractmethod
    def cut(self, reason: CloseReason = CloseReason.CUT, *, alert: Alert | None = None) -> None:
        """End the session now, with close_notify or the fatal alert given; `closed` is called with the reason."""

    def pause(self, seconds: float) -> None:
        """Take nothing from this session for so long: datagrams are dropped as they come, a stream is not read."""

    @abstractmethod
    def session_ticket(self) -> bytes | None:
        """What a later `connect` resumes with (clients only); None until the server has sent one."""

    @property
    def hostinfo(self) -> str:
        return self._hostinfo(self.peer)

    @property
    def hostinfo_local(self) -> str:
        return self._hostinfo(self.local)

    @property
    def uri_base(self) -> str:
        return f"{self.scheme}://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        return f"{self.scheme}://{self.hostinfo_local}"

    @property
    def authenticated_claims(self) -> tuple[Any, ...]:
        return (self.identity,)

    @property
    def blockwise_key(self) -> tuple[int]:
        return (self.session_id,)

    def __repr__(self) -> str:
        return f"<{self.scheme} session {self.session_id} with {self.hostinfo} ({self.identity.subject})>"

    def _hostinfo(self, address: tuple[str, int]) -> str:
        name: str = util.hostportjoin(address[0], None if address[1] == self._port else address[1])
        return name
