"""Many rows of one table in one statement. Django's own ways build an expression for each value of each row.

A PUT writes four rows: `bulk_create` and `bulk_update` took more than half of its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Field, Model

Row = TypeVar("Row")

_VALUES = 20_000  # in one statement; SQLite takes 32,766


def insert(rows: Sequence[Model]) -> None:
    """Write new rows and set their ids, in their order. Nothing else of Django's `save` happens."""
    if not rows:
        return
    model = type(rows[0])
    key = model._meta.pk
    fields = [field for field in model._meta.local_concrete_fields if field is not key or rows[0].pk is not None]
    prepare = _Prepared()
    numbers = _insert(model, fields, [list(prepare(row, fields)) for row in rows])
    for row, number in zip(rows, numbers, strict=True):
        row.pk = number
        row._state.adding, row._state.db = False, connection.alias


def insert_values(model: type[Model], names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write new rows of these fields alone, of values that the database takes as they are."""
    _insert(model, [model._meta.get_field(name) for name in names], rows)


def _insert(model: type[Model], fields: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The ids, in the order of the rows."""
    columns = ", ".join(_quoted(field) for field in fields)
    one = f"({', '.join(['%s'] * len(fields))})"
    begin = f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({columns}) VALUES "  # noqa: S608  names are ours
    numbers: list[Any] = []
    for some in _chunks(rows, len(fields)):
        values = [value for row in some for value in row]
        with connection.cursor() as cursor:
            cursor.execute(f"{begin}{', '.join([one] * len(some))} RETURNING {_quoted(model._meta.pk)}", values)
            numbers += [number for (number,) in cursor.fetchall()]
    return numbers


def update(rows: Sequence[Model], names: Sequence[str]) -> None:
    """Write these fields of rows of one model."""
    if not rows:
        return
    meta = type(rows[0])._meta
    fields = [field for field in meta.local_concrete_fields if field.name in names]
    assignments = ", ".join(f"{_quoted(field)} = %s" for field in fields)
    table = connection.ops.quote_name(meta.db_table)
    prepare = _Prepared()
    values = [[*prepare(row, fields), row.pk] for row in rows]
    with connection.cursor() as cursor:
        cursor.executemany(f"UPDATE {table} SET {assignments} WHERE {_quoted(meta.pk)} = %s", values)  # noqa: S608  as above


class _Prepared:
    """Values as the database takes them. Rows of a batch have most of theirs in common: each is prepared once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, type, Any], Any] = {}  # by place in `fields`; 1 and True are equal

    def __call__(self, row: Model, fields: Sequence[Field[Any, Any]]) -> Iterator[Any]:
        known = self._known
        for place, field in enumerate(fields):
            value = getattr(row, field.attname)
            try:
                prepared = known.get((place, type(value), value), known)
            except TypeError:  # JSON: lists and dictionaries
                yield field.get_db_prep_save(value, connection)
                continue
            if prepared is known:
                prepared = known[place, type(value), value] = field.get_db_prep_save(value, connection)
            yield prepared


def _quoted(field: Field[Any, Any]) -> str:
    return connection.ops.quote_name(str(field.column))


def _chunks(rows: Sequence[Row], width: int) -> Iterator[Sequence[Row]]:
    size = _VALUES // width
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
