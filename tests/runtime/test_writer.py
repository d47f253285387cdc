"""Group commit: together where possible, alone where one spoils it, and never an answer before the commit."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.db.models import Model

from mitigation.exceptions import Unavailable
from mitigation.models import Client, EnforcementPoint, Mitigation, Target
from mitigation.protocol.scope import MitigationRequest, Scope, parse_target_prefix
from mitigation.runtime.writer import PATIENCE, RETRY_AFTER, Writer
from mitigation.services import bulk, domains, mitigations
from mitigation.services.mitigations import Granted, Submission, Withdrawal
from tests.harness.databases import on_postgres
from tests.harness.waiting import until

NOW = datetime(2026, 11, 22, tzinfo=UTC)
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice(transactional_db: None) -> Client:
    domains.add_domain("a.example", prefixes=["10.0.0.0/8"], actor="test", now=NOW)
    EnforcementPoint.objects.create(name="local", driver="nftables", enforces=True)
    return domains.add_client("alice", domain="a.example", actor="test", now=NOW)


def put(client: Client, mid: int) -> Submission:
    scope = Scope(target_prefix=(parse_target_prefix(f"10.0.{mid // 256}.{mid % 256}/32"),))
    return Submission(client.pk, MitigationRequest(cuid="c", mid=mid, scope=scope, lifetime=60))


async def test_what_arrives_together_is_committed_together(alice: Client) -> None:
    writer = Writer(now=lambda: NOW)
    writer.start()

    outcomes = await asyncio.gather(*(writer.submit(put(alice, mid)) for mid in range(200)))

    assert all(isinstance(outcome, Granted) and outcome.created for outcome in outcomes)
    assert await sync_to_async(Mitigation.objects.count)() == 200
    assert writer.items == 200
    assert writer.batches < 20
    writer.stop()


async def test_an_answer_means_that_another_connection_can_read_it(alice: Client) -> None:
    writer = Writer(now=lambda: NOW)
    writer.start()

    for mid in range(20):
        await writer.submit(put(alice, mid))
        assert await sync_to_async(Mitigation.objects.filter(mid=mid).exists)()
    writer.stop()


async def test_puts_and_deletes_keep_their_order(alice: Client) -> None:
    writer = Writer(now=lambda: NOW)
    writer.start()

    first, gone, again = await asyncio.gather(
        writer.submit(put(alice, 1)), writer.submit(Withdrawal(alice.pk, "c", 1)), writer.submit(put(alice, 1))
    )

    assert isinstance(first, Granted) and first.created
    assert gone is None
    assert isinstance(again, Granted) and not again.created
    row = await sync_to_async(Mitigation.objects.get)()
    steps = await sync_to_async(lambda: [step.happening for step in row.transitions.all()])()
    assert steps == ["submitted", "client-withdrew", "client-renewed"]
    assert row.status == 1
    writer.stop()


async def test_a_poison_item_harms_no_other(alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    original = mitigations.submit_many

    def fails_on_13(submissions: Any, *, now: datetime) -> Any:
        if any(one.request.mid == 13 for one in submissions):
            raise RuntimeError("poison")
        return original(submissions, now=now)

    monkeypatch.setattr(mitigations, "submit_many", fails_on_13)
    writer = Writer(now=lambda: NOW)
    writer.start()

    outcomes = await asyncio.gather(*(writer.submit(put(alice, mid)) for mid in range(10, 20)), return_exceptions=True)

    assert [isinstance(outcome, RuntimeError) for outcome in outcomes] == [mid == 13 for mid in range(10, 20)]
    assert await sync_to_async(Mitigation.objects.count)() == 9
    writer.stop()


@pytest.mark.rows("SIG-PUT-013", "SIG-ERR-023")
async def test_a_database_that_fails_is_unavailable_and_nothing_is_half_written(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = bulk.insert

    def full(rows: Sequence[Model]) -> None:
        if any(isinstance(row, Target) for row in rows):  # after the mitigation itself was written
            raise OperationalError("disk full")
        insert(rows)

    monkeypatch.setattr(bulk, "insert", full)
    writer = Writer(now=lambda: NOW)
    writer.start()
    with pytest.raises(Unavailable) as refused:
        await writer.submit(put(alice, 1))
    monkeypatch.undo()

    assert refused.value.retry_after > 0
    assert await sync_to_async(Mitigation.objects.count)() == 0
    assert isinstance(await writer.submit(put(alice, 1)), Granted)
    writer.stop()


async def test_who_waits_behind_a_failed_batch_is_told_with_it(alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def locked(*_: Any, **__: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            until(lambda: writer._queue.qsize() == 30, what="more requests behind")
        raise OperationalError("database is locked")

    monkeypatch.setattr(mitigations, "submit_many", locked)
    writer = Writer(now=lambda: NOW)
    writer.start()
    first = asyncio.ensure_future(writer.submit(put(alice, 1)))
    while not tries:
        await asyncio.sleep(0.001)
    others = [asyncio.ensure_future(writer.submit(put(alice, mid))) for mid in range(2, 32)]

    outcomes = await asyncio.wait_for(asyncio.gather(first, *others, return_exceptions=True), 5)

    assert all(isinstance(outcome, Unavailable) and outcome.retry_after == RETRY_AFTER for outcome in outcomes)
    assert len(tries) == 1, "not each alone, one after the other"
    monkeypatch.undo()
    assert isinstance(await writer.submit(put(alice, 1)), Granted)
    writer.stop()


@pytest.mark.skipif(on_postgres(), reason="the file's lock is SQLite's")
@pytest.mark.slow
async def test_the_lock_is_waited_for_no_longer_than_a_client_waits_for_us(alice: Client) -> None:
    writer = Writer(now=lambda: NOW)
    writer.start()
    await writer.submit(put(alice, 1))

    with closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await writer.submit(put(alice, 2))
        took = time.monotonic() - began
        other.execute("ROLLBACK")

    assert PATIENCE <= took < PATIENCE + 1
    assert isinstance(await writer.submit(put(alice, 2)), Granted)
    writer.stop()
