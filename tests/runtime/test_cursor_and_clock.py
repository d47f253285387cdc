"""Changes are read in order, once, with or without a hint; the wall clock is followed but not obeyed."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from mitigation.models import Change
from mitigation.runtime import cursor as module
from mitigation.runtime.clock import Clock
from mitigation.runtime.cursor import Changes, Cursor
from mitigation.services.units import unit_of_work

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def change(*ids: int) -> None:
    with unit_of_work(NOW) as unit:
        for number in ids:
            unit.tell(Change.Topic.MITIGATION, number)


@pytest.mark.django_db(transaction=True)
async def test_a_reader_hears_everything_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.02)
    heard: list[tuple[str, int]] = []

    async def listen(changes: Changes) -> None:
        heard.extend(changes)

    await sync_to_async(change)(1)
    cursor = Cursor(listen)
    await cursor.start()
    running = asyncio.ensure_future(cursor.run())
    for number in range(2, 8):
        await sync_to_async(change)(number, number)
    async with asyncio.timeout(5):
        while len(heard) < 6:
            await asyncio.sleep(0.01)
    running.cancel()

    assert heard == [("mitigation", number) for number in range(2, 8)]


@pytest.mark.django_db(transaction=True)
async def test_a_hint_shortens_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 30.0)
    came = asyncio.Event()

    async def listen(changes: Changes) -> None:
        came.set()

    cursor = Cursor(listen)
    await cursor.start()
    running = asyncio.ensure_future(cursor.run())
    await asyncio.sleep(0)
    await sync_to_async(change)(1)
    cursor.hint()

    await asyncio.wait_for(came.wait(), 2)
    running.cancel()


def test_the_clock_does_not_jump_with_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    real = time.time

    monkeypatch.setattr(time, "time", lambda: real() + 3600)

    assert abs(clock.now().timestamp() - real()) < 1
    assert clock.jumped()
    clock.follow()
    assert not clock.jumped()
    assert abs(clock.now().timestamp() - real() - 3600) < 1


def test_slow_drift_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2)

    assert not clock.jumped()
    assert abs(clock.now().timestamp() - real() - 2) < 0.5


@pytest.mark.django_db(transaction=True)
async def test_a_change_that_could_not_be_dealt_with_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.02)
    heard: list[tuple[str, int]] = []
    failures = [OperationalError("away"), OperationalError("away")]

    async def listen(changes: Changes) -> None:
        if failures:
            raise failures.pop()
        heard.extend(changes)

    cursor = Cursor(listen)
    await cursor.start()
    running = asyncio.ensure_future(cursor.run())
    await sync_to_async(change)(7)
    async with asyncio.timeout(5):
        while not heard:
            await asyncio.sleep(0.01)
    running.cancel()

    assert heard == [("mitigation", 7)]
