"""An asyncio program: runs until SIGTERM or SIGINT, tells its parent when it is ready, fails as a whole."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

READY_VARIABLE = "DOTS_READY_FD"


def run(program: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `program(stop)`; it returns after `stop` is set. A signal sets it."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await program(stop)

    asyncio.run(main())


def say_ready() -> None:
    """Tell the parent, if it asked by naming a descriptor."""
    descriptor = os.environ.pop(READY_VARIABLE, "")
    if descriptor:
        os.write(int(descriptor), b"ready\n")
        os.close(int(descriptor))


def tune_garbage_collection() -> None:
    """What lives now lives for ever: with the default thresholds, looking at it again costs 180 ms at p99."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def share_processor_with_threads() -> None:
    """Let a thread that computes give way after half a millisecond.

    The loop asks for the interpreter anew after each system call. With the default of 5 ms a GET beside a busy writer
    waited 50 to 150 ms at p99, now 15.
    """
    sys.setswitchinterval(0.0005)


async def until(stop: asyncio.Event, *tasks: Awaitable[Any]) -> None:
    """Wait for `stop`, or for the first task to end: an exception of one ends the program with it."""
    running = [asyncio.ensure_future(task) for task in tasks]
    stopped = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([stopped, *running], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        left = {stopped, *running}
        while left:
            # Again and again: Python 3.11's wait_for loses a cancellation that comes with what it waits for.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.5)
        for task in running:
            task.cancelled() or task.exception()  # seen, so that nobody complains of it later
