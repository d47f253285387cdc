"""Enforcement points: which there are and how they fare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import F

from mitigation.exceptions import GaveWay
from mitigation.models import Change, EnforcementPoint
from mitigation.services.units import unit_of_work


def ensure_local(
    name: str, *, driver: str, enforces: bool, filter_capabilities: Mapping[str, Any], now: datetime
) -> EnforcementPoint:
    """The point of this machine, with the driver that this start chose. Its rules are looked at anew."""
    with unit_of_work(now) as unit:
        point, created = EnforcementPoint.objects.get_or_create(name=name, defaults={"driver": driver})
        if created or (point.driver, point.enforces) != (driver, enforces):
            unit.audit(
                door="server",
                actor="server",
                action="point-driver",
                subject=f"point {name}",
                before=None if created else {"driver": point.driver},
                after={"driver": driver},
            )
        point.driver, point.enforces, point.counts = driver, enforces, enforces
        point.enabled, point.filter_capabilities = True, dict(filter_capabilities)
        point.health = EnforcementPoint.Health.UNKNOWN
        point.health_sentence = ""
        chosen = ["driver", "enforces", "counts", "enabled", "filter_capabilities"]
        point.save(update_fields=[*chosen, "health", "health_sentence"])
        EnforcementPoint.objects.filter(pk=point.pk).update(wanted=F("wanted") + 1)
        point.refresh_from_db(fields=["wanted"])
        unit.tell(Change.Topic.POINT, point.pk)
    return point


def any_is_down() -> bool:
    """Whether equipment that should enforce cannot be reached: what is asked of it now would not take effect."""
    return EnforcementPoint.objects.filter(enabled=True, enforces=True, health=EnforcementPoint.Health.DOWN).exists()


def note_health(point_id: int, *, health: str, sentence: str, now: datetime) -> None:
    """What the driver says of its equipment; others hear of it only when it changes."""
    with unit_of_work(now) as unit:
        point = EnforcementPoint.objects.get(pk=point_id)
        changed = (point.health, point.health_sentence) != (health, sentence[:255])
        point.health, point.health_sentence, point.health_at = health, sentence[:255], now
        point.save(update_fields=["health", "health_sentence", "health_at"])
        if changed:
            unit.audit(
                door="server",
                actor="server",
                action="point-health",
                subject=f"point {point.name}",
                after={"health": health, "sentence": sentence},
            )
            unit.tell(Change.Topic.POINT, point.pk)


def more_wanted(point_id: int, seen: int) -> Callable[[], None]:
    """To be called now and again: raises GaveWay once the point is wanted to hold anything else than at `seen`."""

    def give_way() -> None:
        if not EnforcementPoint.objects.filter(pk=point_id, wanted=seen).exists():
            raise GaveWay("more is wanted of this point")

    return give_way
