"""Answers from memory that are never older than what the client wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError

from mitigation.models import Mitigation
from mitigation.protocol.messages import Content, decode_reports
from mitigation.signal_channel import statuses as module
from mitigation.signal_channel.statuses import Key, Statuses

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY: Key = (1, "", "c", 7)


def row(status: int = 2) -> Mitigation:
    return Mitigation(
        client_id=1, cuid="c", mid=7, status=status, lifetime=60, scope={"target-prefix": ["198.51.100.7/32"]},
        requested_at=NOW, mitigation_start=NOW, expires_at=NOW + timedelta(seconds=60),
    )  # fmt: skip


class Table:
    """Rows that can be changed, and how often they were read."""

    def __init__(self) -> None:
        self.rows = [row()]
        self.reads = 0
        self.gate: asyncio.Event | None = None

    async def read(self, key: Key) -> list[Mitigation]:
        self.reads += 1
        found = list(self.rows)
        if self.gate is not None:
            await self.gate.wait()
        return found


async def test_what_is_asked_twice_is_read_once() -> None:
    table = Table()
    statuses = Statuses(table.read)

    for _ in range(10):
        (found,) = (await statuses.find(KEY)).rows
        assert found.status == 2

    assert table.reads == 1


@pytest.mark.rows("SIG-GET-001", "SIG-GET-002")
async def test_a_write_is_read_by_the_next_question() -> None:
    table = Table()
    statuses = Statuses(table.read)
    await statuses.find(KEY)
    await statuses.find((1, "", "c", None))

    table.rows = []
    statuses.forget(*KEY)  # type: ignore[arg-type]

    assert (await statuses.find(KEY)).rows == []
    assert (await statuses.find((1, "", "c", None))).rows == []


async def test_rows_read_before_a_change_are_not_kept_after_it() -> None:
    table = Table()
    statuses = Statuses(table.read)
    table.gate = asyncio.Event()
    slow = asyncio.ensure_future(statuses.find(KEY))
    await asyncio.sleep(0)

    table.rows = [row(5)]
    statuses.forget(*KEY)  # type: ignore[arg-type]
    table.gate.set()
    await slow

    assert (await statuses.find(KEY)).rows[0].status == 5


async def test_what_many_ask_for_at_once_is_read_once() -> None:
    table = Table()
    statuses = Statuses(table.read)
    table.gate = asyncio.Event()
    asking = [asyncio.ensure_future(statuses.find(KEY)) for _ in range(100)]
    await asyncio.sleep(0)

    asking[0].cancel()
    table.gate.set()
    found = await asyncio.gather(*asking[1:])

    assert table.reads == 1
    assert all(entry.rows[0].status == 2 for entry in found)


async def test_many_are_read_ahead_with_one_query() -> None:
    table = Table()
    statuses = Statuses(table.read)
    keys: list[Key] = [(1, "", "c", mid) for mid in (7, 8)]
    asking: list[asyncio.Future[module.Entry]] = []

    async def read(wanted: Collection[Key]) -> module.Rows:
        asking.append(asyncio.ensure_future(statuses.find(keys[0])))  # waits for what is being read
        await asyncio.sleep(0)
        return {keys[0]: [row(5)]}

    await statuses.renew(keys, read)

    assert [(await statuses.find(key)).rows for key in keys] == [[(await asking[0]).rows[0]], []]
    assert table.reads == 0


async def test_what_is_read_ahead_is_not_kept_after_a_change() -> None:
    table = Table()
    statuses = Statuses(table.read)

    async def read(wanted: Collection[Key]) -> module.Rows:
        statuses.forget(*KEY)  # type: ignore[arg-type]
        return {KEY: [row(5)]}

    await statuses.renew([KEY], read)

    assert (await statuses.find(KEY)).rows[0].status == 2


async def test_a_database_that_fails_is_asked_again() -> None:
    table = Table()
    statuses = Statuses(table.read)
    asking: list[asyncio.Future[module.Entry]] = []

    async def read(wanted: Collection[Key]) -> module.Rows:
        asking.append(asyncio.ensure_future(statuses.find(KEY)))
        await asyncio.sleep(0)
        raise OperationalError("locked")

    with pytest.raises(OperationalError):
        await statuses.renew([KEY], read)
    with pytest.raises(OperationalError):
        await asking[0]

    assert (await statuses.find(KEY)).rows[0].status == 2


@pytest.mark.rows("SIG-LIF-002")
async def test_the_lifetime_goes_on_counting_down() -> None:
    entry = await Statuses(Table().read).find(KEY)

    def left(seconds: float) -> int:
        (found,) = decode_reports(entry.encode(now=NOW + timedelta(seconds=seconds), part=Content.ALL))
        return int(found["lifetime"])

    assert [left(0), left(0.2), left(10), left(59)] == [60, 60, 50, 1]


async def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_ENTRIES", 10)
    statuses = Statuses(Table().read)

    for mid in range(100):
        await statuses.find((1, "c", mid))

    assert len(statuses) == 10
