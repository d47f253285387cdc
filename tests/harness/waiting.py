"""Conditions are waited for, never slept for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], *, within: float = 10.0, every: float = 0.05, what: str = "the condition") -> T:
    """The first true value of `condition`; AssertionError with `what` and the last value when time is up."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {within:g} s; last seen: {value!r}")
        time.sleep(every)
