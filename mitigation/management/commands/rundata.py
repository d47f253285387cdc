"""The RESTCONF data channel (RFC 8783)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "The RESTCONF data channel (RFC 8783)."

    def handle(self, *args: Any, **options: Any) -> None:
        from mitigation.runtime import data, loops

        loops.run(data.run)
