"""Rows as the database has them, where they are many and Django's conversion of each value takes most of the time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet


def raw(query: QuerySet[Any]) -> list[Sequence[Any]]:
    """What a `values_list` asks for. JSON stays text, moments may not say that they are UTC: see `aware`."""
    try:
        sql, parameters = query.query.sql_with_params()
    except EmptyResultSet:  # asked for those among none
        return []
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[Sequence[Any]] = cursor.fetchall()
    return rows


def aware(moment: datetime) -> datetime:
    """SQLite keeps UTC without saying so."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
