"""The CoAP signal channel (RFC 9132) over DTLS and TLS."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "The CoAP signal channel (RFC 9132) over DTLS and TLS."

    def handle(self, *args: Any, **options: Any) -> None:
        from mitigation.runtime import loops
        from mitigation.runtime.signal import SignalWorker

        loops.run(lambda stop: SignalWorker().run(stop))
