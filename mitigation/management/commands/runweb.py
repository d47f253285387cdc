"""The operators' dashboard."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "The operators' dashboard."

    def handle(self, *args: Any, **options: Any) -> None:
        from mitigation.runtime import loops, web

        loops.run(web.run)
