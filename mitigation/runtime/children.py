"""One supervised child process: started, waited for until it says ready, restarted when it dies, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mitigation.runtime import privileges
from mitigation.runtime.loops import READY_VARIABLE

FIRST_DELAY = 0.2  # seconds before a restart, doubled each time
LONGEST_DELAY = 15.0
STABLE = 30.0  # seconds after which a death counts as the first again


@dataclass(frozen=True)
class Program:
    """What to run. `grace` in seconds between SIGTERM and SIGKILL."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()
    says_ready: bool = True  # writes to the descriptor named in DOTS_READY_FD
    keeps: frozenset[int] = frozenset()  # capabilities
    grace: float = 4.0
    muted: tuple[str, ...] = ()  # lines with one of these say nothing to an operator


class Child:
    """Runs a program until it is told to stop."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ready = asyncio.Event()
        self.restarts = 0
        self._told_to_stop = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        delay = FIRST_DELAY
        while not self._told_to_stop.is_set():
            began = time.monotonic()
            code = await self._live_once()
            self.ready.clear()
            if self._told_to_stop.is_set():
                return
            if time.monotonic() - began > STABLE:
                delay = FIRST_DELAY
            self.restarts += 1
            say(self.program.name, f"ended with {_how(code)}; starts again in {delay:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told_to_stop.wait(), delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def stop(self) -> None:
        self._told_to_stop.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.program.grace)
        except TimeoutError:
            say(self.program.name, f"did not stop within {self.program.grace:.0f} s and is killed")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _live_once(self) -> int:
        reading, writing = os.pipe()
        environment = {**os.environ, **self.program.environment}
        if self.program.says_ready:
            environment[READY_VARIABLE] = str(writing)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(writing, *self.program.descriptors),
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the children in order
                preexec_fn=privileges.before_exec(keep=self.program.keeps),
            )
        finally:
            os.close(writing)
        if self._told_to_stop.is_set():
            self._process.terminate()
        told = asyncio.create_task(self._hear_ready(reading, time.monotonic()))
        printing = asyncio.create_task(self._print())
        code = await self._process.wait()
        await printing
        told.cancel()
        return code

    async def _hear_ready(self, reading: int, began: float) -> None:
        loop = asyncio.get_running_loop()
        heard = loop.create_future()
        loop.add_reader(reading, lambda: heard.done() or heard.set_result(os.read(reading, 16)))
        try:
            if await heard:
                self.ready.set()
                if self.restarts:
                    say(self.program.name, f"ready again after {time.monotonic() - began:.1f} s")
        finally:
            loop.remove_reader(reading)
            os.close(reading)

    async def _print(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            if not any(word in text for word in self.program.muted):
                say(self.program.name, text)


def say(name: str, line: str) -> None:
    """One line of one process, on our standard output."""
    sys.stdout.write(f"{name:>8} | {line}\n")
    sys.stdout.flush()


def _how(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"status {code}"
