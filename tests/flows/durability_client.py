"""A client that is never discouraged: many requests at once over one session, each repeated until it is answered.

What was answered stands in a ledger, in order; `Ledger.expected` says what the server's rows must then be.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from mitigation.client.identity import Files as ClientFiles
from mitigation.client.library import Declined, DotsClient, NoAnswer, open_client
from mitigation.protocol.scope import MitigationRequest, Scope
from mitigation.tls import NoConnection
from tests.harness.product import Domain, Files, Product

PATIENCE = 2.5  # seconds without an answer until the session is given up for a new one
REFRESHES = 4  # of each mid


@dataclass(frozen=True)
class Answered:
    """One request that the server has said yes to."""

    verb: str  # "put" or "delete"
    mid: int
    lifetime: int
    code: str
    at: float  # monotonic


@dataclass(frozen=True)
class Expected:
    """What must be in the row of one mid."""

    target: str
    lifetime: int
    withdrawn: bool


@dataclass
class Ledger:
    """All answers of one client in the order in which they came."""

    base: str  # an IPv6 address to which mids are added
    answers: list[Answered] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    sessions: int = 0

    def target(self, mid: int) -> str:
        return str(ipaddress.ip_network(f"{self.base}{mid:x}/128"))

    def expected(self) -> dict[int, Expected]:
        rows: dict[int, Expected] = {}
        for one in self.answers:
            withdrawn = one.verb == "delete"
            lifetime = rows[one.mid].lifetime if withdrawn else one.lifetime
            rows[one.mid] = Expected(self.target(one.mid), lifetime, withdrawn)
        return rows


class NeverDiscouraged:
    """Runs in a thread of its own; a context manager that ends it.

    `rate` in requests a second, `lanes` of them under way at most, `refreshes` of each mid before the next one is
    begun. Every third mid is withdrawn in the end.
    """

    def __init__(
        self,
        product: Product,
        domain: Domain,
        files: Files,
        *,
        cuid: str,
        rate: float = 25.0,
        lanes: int = 8,
        refreshes: int = REFRESHES,
    ) -> None:
        self.ledger = Ledger(domain.prefix6.partition("/")[0])
        self.failure: BaseException | None = None
        self._product = product
        self._files = ClientFiles(files.ca, files.cert, files.key)
        self._cuid = cuid
        self._gap = 1 / rate
        self._lanes = lanes
        self._refreshes = refreshes
        self._next = 1
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="never-discouraged", daemon=True)

    def __enter__(self) -> NeverDiscouraged:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    @property
    def count(self) -> int:
        """Requests answered so far. Raises what made the client stop, if anything did."""
        if self.failure is not None:
            raise self.failure
        return len(self.ledger.answers)

    def last_answer(self) -> float:
        """When the newest answer came, on the monotonic clock."""
        return self.ledger.answers[-1].at if self.ledger.answers else 0.0

    def finish(self, *, within: float = 60.0) -> Ledger:
        """Begin no more mids, wait until every request is answered, and end the session."""
        self._ending.set()
        self._thread.join(timeout=within)
        assert not self._thread.is_alive(), "requests stay unanswered"
        if self.failure is not None:
            raise self.failure
        return self.ledger

    # -- in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:
            self.failure = error

    async def _all(self) -> None:
        self._renewing = asyncio.Lock()
        self._client: DotsClient | None = None
        self._open: contextlib.AsyncExitStack | None = None
        self._pace = asyncio.Semaphore(0)
        ticking = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._lanes):
                    group.create_task(self._lane())
        finally:
            ticking.cancel()
            await self._close()

    async def _tick(self) -> None:
        while True:
            self._pace.release()
            await asyncio.sleep(self._gap)

    async def _lane(self) -> None:
        while not self._ending.is_set():
            mid, self._next = self._next, self._next + 1
            for number in range(1 + self._refreshes):
                await self._put(mid, 3600 + 10 * mid + number)
            if mid % 3 == 0:
                await self._delete(mid)

    async def _put(self, mid: int, lifetime: int) -> None:
        scope = Scope(target_prefix=(ipaddress.ip_network(self.ledger.target(mid)),))
        request = MitigationRequest(cuid=self._cuid, mid=mid, scope=scope, lifetime=lifetime)
        answer = await self._until_answered("mitigate", request)
        granted = answer.entries[0]
        assert (granted["mid"], granted["lifetime"]) == (mid, lifetime), granted
        self.ledger.answers.append(Answered("put", mid, lifetime, answer.code, time.monotonic()))

    async def _delete(self, mid: int) -> None:
        answer = await self._until_answered("withdraw", mid)
        self.ledger.answers.append(Answered("delete", mid, 0, answer.code, time.monotonic()))

    async def _until_answered(self, verb: str, argument: object) -> Any:
        await self._pace.acquire()
        while True:
            client = await self._session()
            try:
                return await getattr(client, verb)(argument)
            except NoAnswer:
                await self._give_up(client)
            except Declined as refusal:
                if refusal.code != "5.03":
                    raise
                self.ledger.refused[refusal.diagnostic] += 1
                await self._pace.acquire()

    async def _session(self) -> DotsClient:
        async with self._renewing:
            while self._client is None:
                stack = contextlib.AsyncExitStack()
                try:
                    self._client = await stack.enter_async_context(self._dial())
                except NoConnection:
                    continue
                self._open = stack
                self.ledger.sessions += 1
            return self._client

    def _dial(self) -> contextlib.AbstractAsyncContextManager[DotsClient]:
        return open_client(
            "127.0.0.1",
            self._product.signal_port,
            credentials=self._files.credentials(),
            cuid=self._cuid,
            server_name="localhost",
            patience=PATIENCE,
        )

    async def _give_up(self, client: DotsClient) -> None:
        async with self._renewing:
            if self._client is client:
                await self._close()

    async def _close(self) -> None:
        stack, self._open, self._client = self._open, None, None
        if stack is not None:
            await stack.aclose()


def repeated_mids(ledger: Ledger) -> Iterator[int]:
    """Mids whose first PUT was answered 2.04: it had been committed, and its answer was lost with a process."""
    seen: set[int] = set()
    for one in ledger.answers:
        if one.mid not in seen and one.code == "2.04":
            yield one.mid
        seen.add(one.mid)
