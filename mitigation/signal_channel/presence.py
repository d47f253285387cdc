"""Which clients are still there: judged per client over all its sessions, by anything heard from it.

A session is lost when nothing at all was heard for the whole span of heartbeats that may be missed (RFC 9132,
section 4.7). A client that closed its session in good order is away, not lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Many clients lost at once are more likely our own uplink than so many attacks: somebody must look first.
MASS = 5
MASS_SHARE = 0.2


@dataclass(slots=True)
class _Client:
    heard: float
    sessions: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """Clients newly lost; `is_mass` when so many at once that nothing should be started by it."""

    clients: tuple[int, ...]
    is_mass: bool


class Presence:
    """Times are seconds of one monotonic clock, handed in. `span` in seconds."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._clients: dict[int, _Client] = {}

    def expect(self, client_id: int, *, now: float) -> None:
        """It had a session when an earlier life of this worker ended: it has a whole span to come back."""
        self._clients.setdefault(client_id, _Client(now))

    def opened(self, client_id: int, *, now: float) -> None:
        client = self._clients.setdefault(client_id, _Client(now))
        client.heard = now
        client.sessions += 1

    def heard(self, client_id: int, *, at: float) -> None:
        client = self._clients.get(client_id)
        if client is not None:
            client.heard = max(client.heard, at)

    def closed(self, client_id: int, *, in_good_order: bool) -> None:
        client = self._clients.get(client_id)
        if client is None:
            return
        client.sessions = max(0, client.sessions - 1)
        if in_good_order and not client.sessions:
            del self._clients[client_id]

    def lost(self, *, now: float) -> Loss:
        """Those that have been silent for the span since the last call; each is told once, until it comes again."""
        silent = tuple(pk for pk, client in self._clients.items() if now - client.heard >= self._span)
        known = len(self._clients)
        for pk in silent:
            del self._clients[pk]
        return Loss(silent, is_mass=len(silent) >= max(MASS, math.ceil(known * MASS_SHARE)))
