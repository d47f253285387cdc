"""Context that every template of a logged-in page has."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone

from mitigation.dashboard import formats
from mitigation.dashboard import frame as frame_
from mitigation.services.people import role_of


def frame(request: HttpRequest) -> dict[str, Any]:
    """The rail, the banner and the server's clock. Empty for who has not logged in: counts are facts, too."""
    now = timezone.now()
    clock = {"clock_ms": formats.milliseconds(now), "clock_text": formats.clock(now)}
    if not request.user.is_authenticated:
        return clock
    return {**clock, **frame_.build(now), "role": role_of(request.user).value}
