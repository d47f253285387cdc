"""A program of several tasks ends when it is told to, or when the first of them does."""

from __future__ import annotations

import asyncio

import pytest

from mitigation.runtime import loops


async def for_ever(cancelled: list[str], name: str, *, deaf: int = 0) -> None:
    """Takes no notice of the first `deaf` cancellations, as wait_for does when they come with what it waits for."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(name)
            if cancelled.count(name) > deaf:
                raise


async def test_a_task_that_loses_a_cancellation_does_not_keep_the_program_up() -> None:
    stop, cancelled = asyncio.Event(), list[str]()
    asyncio.get_running_loop().call_later(0.05, stop.set)

    await asyncio.wait_for(loops.until(stop, for_ever(cancelled, "good"), for_ever(cancelled, "deaf", deaf=1)), 5)

    assert sorted(cancelled) == ["deaf", "deaf", "good"]


async def test_the_first_failure_ends_the_program_with_it() -> None:
    cancelled = list[str]()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await loops.until(asyncio.Event(), for_ever(cancelled, "good"), fails())

    assert cancelled == ["good"]
