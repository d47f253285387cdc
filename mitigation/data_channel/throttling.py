"""How many requests a client may make: a bucket each, of this process (RFC 8783, section 10)."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

MOST_CLIENTS = 10_000

_buckets: dict[int, tuple[float, float]] = {}  # tokens, and when they were counted


class PerClient(BaseThrottle):
    """DOTS_CLIENT_RATE requests a second, DOTS_CLIENT_BURST at once."""

    def __init__(self) -> None:
        self._wait = 0.0

    def allow_request(self, request: Request, view: Any) -> bool:
        client_id = request.user.client.pk
        now, rate = time.monotonic(), float(settings.DOTS_CLIENT_RATE)
        tokens, at = _buckets.get(client_id, (float(settings.DOTS_CLIENT_BURST), now))
        tokens = min(float(settings.DOTS_CLIENT_BURST), tokens + (now - at) * rate)
        allowed = tokens >= 1
        if len(_buckets) >= MOST_CLIENTS:
            _buckets.clear()
        _buckets[client_id] = (tokens - 1 if allowed else tokens, now)
        self._wait = 0.0 if allowed else (1 - tokens) / rate
        return allowed

    def wait(self) -> float:
        return self._wait
