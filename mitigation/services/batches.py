"""Many rows, without keeping others from writing.

SQLite has one write lock. Who waits for it asks again every few to every hundred milliseconds, so short transactions
that follow each other without a pause keep it out as a long one would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from django.db import connection

from mitigation.services.units import Unit, unit_of_work

LONGEST_PAUSE = 0.25  # seconds

Item = TypeVar("Item")


def in_batches(
    items: Sequence[Item], size: int, write: Callable[[Sequence[Item], Unit], None], *, now: datetime
) -> None:
    """`write` so many at a time, each batch in a transaction of its own, and others have as long in between.

    What is read and computed for it belongs before this. An end in the middle leaves whole batches.
    """
    for start in range(0, len(items), size):
        began = time.monotonic()
        with unit_of_work(now) as unit:
            write(items[start : start + size], unit)
        if start + size < len(items) and not connection.in_atomic_block:
            time.sleep(min(time.monotonic() - began, LONGEST_PAUSE))
