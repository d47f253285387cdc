"""`manage.py up`: the whole server as children of one process, in order, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from dataclasses import replace

from django.conf import settings

from mitigation.runtime import bus, sockets
from mitigation.runtime.children import Child, Program, say
from mitigation.runtime.instance import Instance
from mitigation.runtime.privileges import CAP_NET_ADMIN, may_administer_network
from mitigation.runtime.signal import TCP_VARIABLE, UDP_VARIABLE
from mitigation.tls.sockets import deepen

READY_WITHIN = 60.0  # seconds; a process that says nothing for so long will not


class Up:
    """Starts the children, waits for each, restarts what dies, stops them in reverse order."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._children: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, stop: asyncio.Event, *, after_start: str) -> None:
        """Until `stop`; `after_start` is printed when everything is ready."""
        began = time.monotonic()
        try:
            await self._start(stop)
            if not stop.is_set():
                say("up", f"ready after {time.monotonic() - began:.1f} s")
                sys.stdout.write(after_start)
                sys.stdout.flush()
            await stop.wait()
        finally:
            say("up", "stopping")
            began = time.monotonic()
            await self._stop()
            say("up", f"stopped in {time.monotonic() - began:.1f} s")

    async def _start(self, stop: asyncio.Event) -> None:
        if bus.is_embedded():
            await self._launch([_bus()], stop)
        await self._launch(_programs(), stop)

    async def _launch(self, programs: list[Program], stop: asyncio.Event) -> None:
        held = self._instance.descriptor
        children = [Child(replace(program, descriptors=(*program.descriptors, held))) for program in programs]
        self._children += children
        self._tasks += [asyncio.create_task(child.run()) for child in children]
        stopped = asyncio.create_task(stop.wait())
        for child in children:
            waiting = asyncio.create_task(_until_ready(child))
            await asyncio.wait([waiting, stopped], timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if stop.is_set():
                break
            if not child.ready.is_set():
                stop.set()
                say("up", f"{child.program.name} is not ready after {READY_WITHIN:.0f} s; its lines above say why")
                break
        stopped.cancel()

    async def _stop(self) -> None:
        services = [child for child in self._children if child.program.name != "bus"]
        await asyncio.gather(*(child.stop() for child in services))
        for child in self._children:
            await child.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _until_ready(child: Child) -> None:
    if child.program.says_ready:
        await child.ready.wait()
        return
    while not await asyncio.to_thread(bus.answers):
        await asyncio.sleep(0.05)
    child.ready.set()


# It is small and on purpose without snapshots; its way of saying so is not for operators.
_BUS_CHATTER = ("overcommit", "signal-handler", "ready to exit", "User requested shutdown")


def _bus() -> Program:
    settings.BUS_SOCKET.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Program("bus", bus.command(settings.DOTS_HOME), says_ready=False, grace=2.0, muted=_BUS_CHATTER)


def _programs() -> list[Program]:
    manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
    udp, tcp = sockets.signal(settings.DOTS_BIND, settings.DOTS_SIGNAL_PORT)
    for bound in udp:
        deepen(bound)  # here, while we may: the signal worker has no capability
    descriptors = {UDP_VARIABLE: _numbers(udp), TCP_VARIABLE: _numbers(tcp)}
    # Port 443 too, which the data process may not bind; none where a proxy hands on requests.
    data = [] if settings.DOTS_DATA_SOCKET else sockets.data(settings.DOTS_BIND, settings.DOTS_DATA_PORT)
    _keep_open.extend([*udp, *tcp, *data])
    privileged = frozenset({CAP_NET_ADMIN}) if may_administer_network() else frozenset()
    return [
        Program("enforcer", _worker("enforcer", f"enforcement.{settings.DOTS_POINT}", threads=1), keeps=privileged),
        Program("worker", _worker("worker", "lifecycle", threads=2)),
        Program("pki", _worker("pki", "pki", threads=1)),
        Program(
            "signal",
            [*manage, "runsignal"],
            environment=descriptors,
            descriptors=tuple(bound.fileno() for bound in (*udp, *tcp)),
        ),
        Program("web", [*manage, "runweb"]),
        Program(
            "data",
            [*manage, "rundata"],
            environment={sockets.DATA_VARIABLE: _numbers(data)},
            descriptors=tuple(bound.fileno() for bound in data),
        ),
        Program(
            "beat", [*_celery(), "beat", "-l", "warning", "-s", str(settings.DOTS_HOME / "run" / "beat"), "--pidfile="]
        ),
    ]


# A restarted child gets the same sockets again, so nothing that arrives meanwhile is lost; they live as long as we do.
_keep_open: list[socket.socket] = []


def _numbers(bound: list[socket.socket]) -> str:
    return ",".join(str(one.fileno()) for one in bound)


def _celery() -> list[str]:
    # -W: it is told to be root on purpose where nftables needs it, and has no capability but that one.
    quiet = "ignore:You're running the worker with superuser privileges"
    return [sys.executable, "-W", quiet, "-m", "celery", "--quiet", "-A", "dotsweb"]


def _worker(name: str, queue: str, *, threads: int) -> list[str]:
    return [
        *_celery(),
        "worker",
        *("-n", f"{name}.{os.getpid()}@%h"),
        *("-Q", queue),
        *("-P", "threads", "-c", str(threads)),
        *("-l", "warning"),
        "--without-gossip",  # it raises after a restart of the bus
        "--without-mingle",
        "--without-heartbeat",
    ]
