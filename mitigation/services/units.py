"""One transaction, its history and its news: what every verb is wrapped in.

Within a unit, verbs collect transitions, audits and changes; when the outermost unit ends they are written, the change
counter last, and after the commit the other processes get a hint. Nested units join the outer one, so a batch of
many verbs is one transaction with one increment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import F

from mitigation import dispatch, events
from mitigation.models import Audit, Change, ChangeCounter, EnforcementPoint, Mitigation, Transition
from mitigation.services import bulk, locks

LONGEST = 255  # characters of a name or a reason in history; what is longer is cut, as PostgreSQL refuses it


class Unit:
    """What one transaction still has to write."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.transitions: list[Transition] = []
        self._audits: list[Audit] = []
        self._changed: dict[Mitigation, set[str]] = {}
        self._news: dict[tuple[str, int], None] = {}  # in the order first said
        self._rules_are_stale = False
        self._at_end: list[Callable[[], None]] = []

    def at_end(self, work: Callable[[], None]) -> None:
        """Have this done once everything else of the transaction is written and can be read."""
        self._at_end.append(work)

    def audit(self, *, door: str, actor: str, action: str, subject: str, before: Any = None, after: Any = None) -> None:
        """Who did what. `before` and `after` are plain JSON values."""
        who, what = actor[:LONGEST], subject[:LONGEST]
        self._audits.append(
            Audit(at=self.now, door=door, actor=who, action=action, subject=what, before=before, after=after)
        )

    def save(self, mitigation: Mitigation, *fields: str) -> None:
        """Have these fields of an existing row written with the rest of the batch."""
        self._changed.setdefault(mitigation, set()).update(fields)
        self.tell(Change.Topic.MITIGATION, mitigation.pk)

    def tell(self, topic: str, object_id: int) -> None:
        """Let readers of the change cursor know, once a transaction however often it is said."""
        self._news[(topic, object_id)] = None

    def rules_are_stale(self) -> None:
        """The set of rules that should stand at the enforcement points may have changed."""
        self._rules_are_stale = True

    def flush(self) -> None:
        """Write rows and history, so that the next verb in the same transaction reads them. Ends every nested unit."""
        self._write_mitigations()
        bulk.insert(self.transitions)
        bulk.insert(self._audits)
        self.transitions.clear()
        self._audits.clear()

    def finish(self) -> None:
        """The rest, once: points marked, changes counted. Nothing may be written in the transaction after this."""
        self.flush()
        while self._at_end:
            self._at_end.pop(0)()
            self.flush()
        if self._rules_are_stale:
            self._mark_points()
        if self._news:
            self._write_changes()
            events.hint_on_commit()

    def _write_mitigations(self) -> None:
        by_fields: dict[frozenset[str], list[Mitigation]] = {}
        for mitigation, fields in self._changed.items():
            by_fields.setdefault(frozenset(fields), []).append(mitigation)
        for names, mitigations in by_fields.items():
            bulk.update(mitigations, sorted(names))
        self._changed.clear()

    def _mark_points(self) -> None:
        locks.points()
        EnforcementPoint.objects.filter(enabled=True).update(wanted=F("wanted") + 1)
        dispatch.reconcile_soon()

    def _write_changes(self) -> None:
        """Last in the transaction: the lock on the counter makes commit order and number order the same."""
        count = len(self._news)
        last = _count_up(count)
        if last is None:  # the first change ever; beside another first one this waits for it and then adds to it
            ChangeCounter.objects.bulk_create([ChangeCounter(pk=1)], ignore_conflicts=True)
            last = _count_up(count)
            assert last is not None
        numbered = enumerate(self._news, start=last - count + 1)
        bulk.insert([Change(number=number, topic=topic, object_id=pk, at=self.now) for number, (topic, pk) in numbered])


_current: ContextVar[Unit | None] = ContextVar("unit", default=None)


@contextmanager
def unit_of_work(now: datetime) -> Iterator[Unit]:
    """The running unit, or a new one in a transaction of its own."""
    running = _current.get()
    if running is not None:
        yield running
        running.flush()
        return
    with transaction.atomic():
        unit = Unit(now)
        token = _current.set(unit)
        try:
            yield unit
        finally:
            _current.reset(token)
        unit.finish()


def _count_up(count: int) -> int | None:
    """The counter's new value; None before the first change."""
    table = connection.ops.quote_name(ChangeCounter._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET value = value + %s WHERE id = 1 RETURNING value", [count])  # noqa: S608
        found = cursor.fetchone()
    return int(found[0]) if found else None
