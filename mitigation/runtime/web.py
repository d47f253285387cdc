"""The web process: the dashboard on uvicorn, told of changes by a cursor of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import warnings

import uvicorn
from django.conf import settings

from mitigation.dashboard.live import hub
from mitigation.runtime import connections, loops, sockets
from mitigation.runtime.cursor import Cursor
from mitigation.runtime.hints import Hints


async def run(stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    connections.close_after_each_job()
    # WhiteNoise hands Django a file to iterate over; small files from our own disk may be read in one go.
    warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
    cursor = Cursor(hub.changed)
    await cursor.start()
    hints = Hints(f"dots-web.{os.getpid()}", cursor.hint)
    listening = sockets.tcp(settings.DOTS_WEB_BIND, settings.DOTS_WEB_PORT)
    listening.listen(128)
    config = uvicorn.Config(
        "dotsweb.asgi:application",
        lifespan="off",
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
    )
    await loops.until(stop, serve(config, listening), cursor.run(), hints.run())


async def serve(config: uvicorn.Config, *listening: socket.socket) -> None:
    """A uvicorn server as a task: says ready when it accepts, and ends when cancelled."""
    server = _Quiet(config)
    serving = asyncio.ensure_future(server.serve(sockets=list(listening)))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        loops.say_ready()
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise


class _Quiet(uvicorn.Server):
    """Leaves the signals to the program around it."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
