"""A Channels worker in the process: what arrives on the channel layer only says "look now"."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from channels.consumer import AsyncConsumer
from channels.layers import get_channel_layer
from channels.worker import Worker

from mitigation.events import GROUP

REJOIN = 3600  # seconds; a group membership expires, and a bus that lost its data has forgotten it

log = logging.getLogger(__name__)


class Hints:
    """Receives on one channel of this process, which is a member of the group of all that read the change cursor."""

    def __init__(self, channel: str, hint: Callable[[], None]) -> None:
        self._channel = channel
        self._hint = hint

    async def run(self) -> None:
        """For ever. A bus that is away is tried again; meanwhile the cursor's own look finds everything."""
        await asyncio.gather(self._stay_in_group(), self._worker().arun())

    def _worker(self) -> Worker:
        hint = self._hint

        class LookNow(AsyncConsumer):
            async def changes_hint(self, message: dict[str, Any]) -> None:
                hint()

        return _PatientWorker(LookNow.as_asgi(), [self._channel], get_channel_layer())

    async def _stay_in_group(self) -> None:
        layer = get_channel_layer()
        while True:
            try:
                await layer.group_add(GROUP, self._channel)
                delay = REJOIN
            except Exception as error:  # noqa: BLE001  whatever the bus says, later may be better
                log.debug("not in the group of hints: %s", error)
                delay = 1
            await asyncio.sleep(delay)


class _PatientWorker(Worker):  # type: ignore[misc]
    """Channels' own worker ends when receiving fails once."""

    async def listener(self, channel: str) -> None:
        delay = 0.1
        while True:
            try:
                message = await self.channel_layer.receive(channel)
                delay = 0.1
            except Exception as error:  # noqa: BLE001  see above
                log.debug("the bus is away: %s", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5)
                continue
            application = self.get_or_create_application_instance(channel, {"type": "channel", "channel": channel})
            await application.put(message)
