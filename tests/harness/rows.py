"""A row in every table, made up from what its fields are: also of tables that come later."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.models import Permission
from django.db import models

from mitigation.models import Domain, DomainPrefix, Mitigation, Sample
from mitigation.services import dumps

NOW = datetime(2026, 11, 22, 3, 0, 0, 123_456, tzinfo=UTC)


def fill_every_table() -> None:
    """Two rows each, the second with every column empty that may be."""
    waiting = list(dumps.tables().values())
    while waiting:
        ready = [model for model in waiting if not _needs(model) & set(waiting) - {model}]
        assert ready, f"tables refer to each other in a circle: {waiting}"
        for model in ready:
            model._base_manager.bulk_create(_row(model, number) for number in (1, 2))
            waiting.remove(model)


def fill_with_samples(count: int) -> None:
    """One mitigation with many samples, as a long attack leaves them."""
    row = Mitigation.objects.first()
    assert row is not None
    for start in range(0, count, 5_000):
        Sample.objects.bulk_create(
            Sample(
                mitigation=row,
                at=datetime.fromtimestamp(1_790_000_000 + number * 10 + number % 997 / 1000, UTC),
                seconds=9.5 + number % 7 / 13,
                dropped_packets=number * 1_000_003,
                dropped_octets=number * 1_000_000_007,
                passed_packets=number,
                passed_octets=number * 512,
            )
            for number in range(start, min(start + 5_000, count))
        )


def add_domain(number: int) -> Domain:
    """By hand, so that ids are given out."""
    made = Domain.objects.create(name=f"later-{number}.example", created_at=NOW)
    DomainPrefix.objects.create(
        domain=made, prefix=f"10.{number}.0.0/16", family=4, first=b"\0" * 16, last=b"\xff" * 16
    )
    return made


def _needs(model: type[models.Model]) -> set[Any]:
    return {field.related_model for field in model._meta.concrete_fields if field.is_relation}


def _row(model: type[models.Model], number: int) -> models.Model:
    values = {}
    for field in model._meta.concrete_fields:
        if isinstance(field, models.AutoField) or (number == 2 and field.null):
            continue
        if isinstance(field, models.ForeignKey):
            others = field.related_model._base_manager.order_by("pk")
            values[field.name] = others[number] if field.related_model is Permission else others[number - 1]
        elif field.name != "revoked_at":  # belongs to a state that is not the first
            values[field.name] = _value(field, model, number)
    return model(**values)


def _value(field: models.Field[Any, Any], model: type[models.Model], number: int) -> Any:
    if field.choices:
        return list(field.choices)[number - 1 if field.unique else 0][0]
    match field:
        case models.BooleanField():
            return number == 1
        case models.DateTimeField():
            return NOW
        case models.JSONField():
            return {"z": [1, 2.5, None, True], "a": {"text": 'Zürich \u2028 \\ " \x01 😀', "empty": ""}}
        case models.BinaryField():
            return bytes(range(256))[number : number + 16]
        case models.FloatField():
            return 0.1 + number
        case models.PositiveSmallIntegerField() | models.PositiveIntegerField() | models.PositiveBigIntegerField():
            return 4 + number % 2 * 2  # also an address family
        case models.IntegerField():
            return 2**53 + number
        case models.CharField() | models.TextField():
            return f"{field.name} {number} é\n\t"[: field.max_length or 1000]
    raise TypeError(f"no value is known for {field}")
