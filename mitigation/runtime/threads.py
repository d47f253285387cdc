"""Where an asyncio program writes to the database, other than by the writer: a thread that no reader waits for.

Channels gives all its database work one thread. A write that waits for the database's lock there would hold up every
GET of every client.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from channels.db import database_sync_to_async

_writes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writes")


def writing(function: Callable[..., Any]) -> Any:
    """`await writing(function)(...)`: one at a time, in order, behind the loop's back."""
    return database_sync_to_async(function, thread_sensitive=False, executor=_writes)
