"""Everything that is remembered, moved between databases: SQLite and PostgreSQL, either way.

All tables of ours with their ids, the change counter, and the logins with their groups and permissions. Browser
sessions stay behind: people log in again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session as BrowserSession
from django.core.management.color import no_style
from django.db import DataError, IntegrityError, OperationalError, connection, models, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from mitigation.exceptions import StorageRefused
from mitigation.services import dump_file
from mitigation.services.dump_file import Header, Progress, Row, Table, silent

_BATCH = 2_000  # rows read or written at once
_APPS = ("auth", "mitigation")

Model = type[models.Model]


def dump(out: BinaryIO, *, scratch: Path, now: datetime, progress: Progress = silent) -> Header:
    """Write everything as of one moment, while others go on writing. Not inside a transaction."""
    with _one_moment():
        header = Header(
            made_at=now.isoformat(),
            migrations=_applied(),
            rows={name: model._base_manager.count() for name, model in tables().items()},
        )
        contents = (Table(name, _columns(model), _read(model)) for name, model in tables().items())
        return dump_file.write(out, contents, header, scratch=scratch, progress=progress)


def load(source: BinaryIO, *, replace: bool = False, progress: Progress = silent) -> Header:
    """Make the database hold exactly what the dump does, or change nothing. Raises StorageRefused.

    A database with any row of ours is refused unless `replace`. `source` is read twice: the whole file is checked
    before anything is written. No process of the server may run meanwhile: what it remembers would be of another life.
    """
    header = dump_file.verify(source, progress=progress)
    check_migrations(header)
    try:
        with transaction.atomic():
            _lock_all()
            if not replace:
                refuse_unless_empty()
            _delete_all()
            _write_all(source, header, progress)
            connection.check_constraints()
            _go_on_counting()
    except (IntegrityError, DataError) as error:
        raise StorageRefused(f"the database refuses what is in the dump: {_first_line(error)}") from None
    except OperationalError as error:
        raise StorageRefused(f"the database did not take the dump: {_first_line(error)}") from None
    return header


def refuse_unless_empty() -> None:
    """Raises StorageRefused when there is anything that a load would replace."""
    found = [name for name, model in tables().items() if model._base_manager.exists()]
    if found:
        raise StorageRefused(f"the database is not empty ({', '.join(found[:3])}); --replace replaces what is there")


def check_migrations(header: Header) -> None:
    """Raises StorageRefused when the dump is of other tables than this server has."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise StorageRefused("this database lacks tables of this version; run `manage.py init` first")
    if header.migrations == _applied():
        return
    last = {app: names[-1] if names else "none" for app, names in sorted(header.migrations.items())}
    ours = {app: names[-1] if names else "none" for app, names in sorted(_applied().items())}
    theirs, here = (", ".join(f"{app} {name}" for app, name in found.items()) for found in (last, ours))
    raise StorageRefused(
        f"this dump is of other migrations (it: {theirs}; here: {here}); load it with the version that wrote it,"
        " and upgrade after that"
    )


def tables() -> dict[str, Model]:
    """What is moved, by name: each model of ours, also those that join two, and the logins."""
    found: list[Model] = list(apps.get_app_config("mitigation").get_models(include_auto_created=True))
    joins = (User.groups.through, User.user_permissions.through, Group.permissions.through)
    found += [User, Group, *joins]
    return {model._meta.label_lower: model for model in sorted(found, key=lambda model: model._meta.label_lower)}


# -- reading ----------------------------------------------------------------------------------------------------------


@contextmanager
def _one_moment() -> Iterator[None]:
    """All queries inside see the same rows, and nobody waits for them."""
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")  # `atomic` would take the write lock, and hold up every request
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


def _read(model: Model) -> Iterator[Row]:
    encoders = [_encoder(field) for field in model._meta.concrete_fields]
    names = [field.attname for field in model._meta.concrete_fields]
    for values in model._base_manager.order_by("pk").values_list(*names).iterator(chunk_size=_BATCH):
        yield [encode(value) for encode, value in zip(encoders, values, strict=True)]


def _columns(model: Model) -> list[str]:
    return [field.attname for field in model._meta.concrete_fields]


def _applied() -> dict[str, list[str]]:
    applied = MigrationRecorder(connection).applied_migrations()
    return {app: sorted(name for found, name in applied if found == app) for app in _APPS}


# -- writing ----------------------------------------------------------------------------------------------------------


def _lock_all() -> None:
    """Nobody reads or writes while everything changes. SQLite holds its one write lock already."""
    if connection.vendor == "postgresql":
        names = ", ".join(connection.ops.quote_name(name) for name in _table_names())
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")


def _table_names() -> list[str]:
    every: list[Model] = [*tables().values(), BrowserSession]
    return [model._meta.db_table for model in every]


def _delete_all() -> None:
    with connection.cursor() as cursor:
        for statement in connection.ops.sql_flush(no_style(), _table_names()):
            cursor.execute(statement)


def _write_all(source: BinaryIO, header: Header, progress: Progress) -> None:
    known, done = tables(), 0
    for table in dump_file.read(source):
        model = known.pop(table.name, None)
        if model is None or table.columns != _columns(model):
            raise StorageRefused(f"the dump has a table {table.name} that this server has not, or not like this")
        decoders = [_decoder(field) for field in model._meta.concrete_fields]
        while batch := list(islice(table.rows, _BATCH)):
            rows = [_row(model, table.columns, decoders, values) for values in batch]
            model._base_manager.bulk_create(rows)
            done += len(rows)
            progress("loaded", done, header.total)
    if known:
        raise StorageRefused(f"the dump lacks the table {next(iter(known))}")


def _row(model: Model, columns: list[str], decoders: list[Callable[[Any], Any]], values: Row) -> models.Model:
    try:
        named = {name: decode(value) for name, decode, value in zip(columns, decoders, values, strict=True)}
    except (TypeError, ValueError) as error:
        raise StorageRefused(f"the dump has a row of {model._meta.label_lower} that makes no sense: {error}") from None
    return model(**named)


def _go_on_counting() -> None:
    """New rows get ids after the loaded ones. SQLite sees to that by itself."""
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), list(tables().values())):
            cursor.execute(statement)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# -- values -----------------------------------------------------------------------------------------------------------

_PLAIN = (models.BooleanField, models.CharField, models.FloatField, models.IntegerField, models.JSONField)


def _target(field: models.Field[Any, Any]) -> models.Field[Any, Any]:
    """A foreign key holds what the key that it refers to holds."""
    return _target(field.target_field) if isinstance(field, models.ForeignKey) else field


def _encoder(field: models.Field[Any, Any]) -> Callable[[Any], Any]:
    """A column's value as JSON. A kind of field that nobody has thought of is an error here, not a loss later."""
    if field.remote_field is not None and field.remote_field.model is Permission:
        return _permission_names().__getitem__
    kind = _target(field)
    if isinstance(kind, models.DateTimeField):
        return lambda value: value and value.isoformat()
    if isinstance(kind, models.BinaryField):
        return lambda value: None if value is None else base64.b64encode(bytes(value)).decode()
    if isinstance(kind, (*_PLAIN, models.TextField)):
        return lambda value: value
    raise TypeError(f"dumps do not know how to write {type(kind).__name__} ({field})")


def _decoder(field: models.Field[Any, Any]) -> Callable[[Any], Any]:
    if field.remote_field is not None and field.remote_field.model is Permission:
        ids = {tuple(names): pk for pk, names in _permission_names().items()}
        return lambda names: _permission(ids, names)
    kind = _target(field)
    if isinstance(kind, models.DateTimeField):
        return lambda value: value and datetime.fromisoformat(value)
    if isinstance(kind, models.BinaryField):
        return lambda value: None if value is None else base64.b64decode(value, validate=True)
    return lambda value: value


def _permission_names() -> dict[int, list[str]]:
    """Permissions have other ids in each database; these names are the same in all."""
    rows = Permission.objects.values_list("pk", "content_type__app_label", "content_type__model", "codename")
    return {pk: [app, model, codename] for pk, app, model, codename in rows}


def _permission(ids: dict[tuple[str, ...], int], names: list[str]) -> int:
    try:
        return ids[tuple(names)]
    except KeyError:
        raise ValueError(f"there is no permission {' '.join(names)}") from None
