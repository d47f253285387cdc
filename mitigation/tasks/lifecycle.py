"""Queue `lifecycle`: what time does to mitigations, and slow chores."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from mitigation.services import escalation, mitigations, upkeep


@shared_task
def expire() -> int:
    """Also done by every lifecycle worker by itself, once a second."""
    now = timezone.now()
    return mitigations.expire(now=now) + escalation.revert_due(now=now)


@shared_task
def tidy() -> None:
    """Prune changes, thin samples."""
    upkeep.tidy(now=timezone.now())
