"""How much one client may ask of this server (RFC 9132, section 11): token buckets over all its sessions and cuids.

Three steps, each cheaper than the one before, so that a flood costs the others next to nothing:

- a request above the rate is answered 5.03 with Max-Age before its body is looked at;
- refusals are counted too: whoever goes on regardless has its session paused, and for a second nothing of it is even
  decrypted (over TCP: nothing is read);
- every message counts, whatever it is, since also pings and nonsense must be decrypted.

Heartbeats have a bucket of their own: a client that asks too much stays connected, and one that keeps many sessions
alive may ask no less. Only what was authenticated counts, so that nobody can use up the tokens of another.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from mitigation.exceptions import Ignored, Unavailable

REFUSALS = 50.0  # answers 5.03 a second that one client gets
MESSAGES = 10.0  # times the rate of requests: of anything at all
PAUSE = 1.0  # seconds
LONGEST_WAIT = 30  # seconds, the highest Max-Age
MANY = 1_024  # accounts after which those that are full again are forgotten


class Session(Protocol):
    """As much of a session as is needed here."""

    @property
    def session_id(self) -> int: ...

    def pause(self, seconds: float) -> None: ...


@dataclass(slots=True)
class Bucket:
    """`rate` tokens a second, `burst` at most."""

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def is_full(self, now: float) -> bool:
        return self.tokens + (now - self.at) * self.rate >= self.burst


@dataclass(slots=True)
class _Account:
    """The buckets of one client."""

    requests: Bucket
    heartbeats: Bucket
    refusals: Bucket
    messages: Bucket

    def is_full(self, now: float) -> bool:
        return all(bucket.is_full(now) for bucket in (self.requests, self.heartbeats, self.refusals, self.messages))


class Limits:
    """The accounts of all clients of one signal worker."""

    def __init__(self, rate: float, burst: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.statistics: Counter[str] = Counter()
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._accounts: dict[Hashable, _Account] = {}
        self._of_session: dict[int, _Account] = {}
        # When a good part of the burst is there again: with one second, all that were refused would come back at once.
        self.retry_after = max(1, min(LONGEST_WAIT, math.ceil(burst / rate / 2)))

    def __len__(self) -> int:
        return len(self._accounts)

    def opened(self, session: Session, client: Hashable) -> None:
        """From now on this session draws on the account of this client."""
        if len(self._accounts) >= MANY and client not in self._accounts:
            self._forget_idle()
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = self._new_account()
        self._of_session[session.session_id] = account

    def closed(self, session: Session) -> None:
        self._of_session.pop(session.session_id, None)

    def hears(self, session: Session) -> bool:
        """Whether one more message of this session is looked at. Asked before it is decoded."""
        account = self._of_session.get(session.session_id)
        if account is None or account.messages.take(self._monotonic()):
            return True
        self.statistics["messages dropped"] += 1
        self._pause(session)
        return False

    def take(self, session: Session, *, heartbeat: bool = False) -> None:
        """One more request. Raises Unavailable, or Ignored when even that has been said too often."""
        account = self._of_session.get(session.session_id)
        now = self._monotonic()
        if account is None or (account.heartbeats if heartbeat else account.requests).take(now):
            return
        if account.refusals.take(now):
            self.statistics["requests refused"] += 1
            raise Unavailable("this client asks too much at once; ask again later", retry_after=self.retry_after)
        self._pause(session)
        raise Ignored("too much was refused already")

    def _pause(self, session: Session) -> None:
        self.statistics["pauses"] += 1
        session.pause(PAUSE * random.uniform(0.75, 1.25))  # not all sessions of a flood come back at once

    def _new_account(self) -> _Account:
        now = self._monotonic()

        def bucket(rate: float, burst: float) -> Bucket:
            return Bucket(rate, burst, burst, now)

        return _Account(
            bucket(self._rate, self._burst),
            bucket(self._rate, self._burst),
            bucket(REFUSALS, REFUSALS),
            bucket(MESSAGES * self._rate, MESSAGES * self._burst),
        )

    def _forget_idle(self) -> None:
        """Accounts without a session that are full again: a new one would be no different."""
        now, used = self._monotonic(), {id(account) for account in self._of_session.values()}
        self._accounts = {
            client: account
            for client, account in self._accounts.items()
            if id(account) in used or not account.is_full(now)
        }
