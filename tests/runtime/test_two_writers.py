"""Several signal workers write at once: with real threads, each with a connection of its own, on either database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from mitigation.exceptions import MalformedRequest
from mitigation.models import (
    Acl,
    Change,
    Client,
    DomainPrefix,
    EnforcedAce,
    EnforcementPoint,
    Mitigation,
    Sample,
    Transition,
)
from mitigation.protocol.scope import MitigationRequest, Scope, parse_target_prefix
from mitigation.protocol.status import Status
from mitigation.runtime import cursor
from mitigation.runtime.writer import Item, Writer
from mitigation.services import domains, filter_enforcement, locks, mitigations, upkeep
from mitigation.services.batches import in_batches
from mitigation.services.mitigations import Evidence, Granted, Outcome, Submission, Withdrawal

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ROUNDS = 25
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def clients(transactional_db: None) -> list[Client]:
    """One client in each of four domains, with 10.<n>.0.0/16."""
    EnforcementPoint.objects.create(name="local", driver="nftables", enforces=True)
    for number in range(4):
        domains.add_domain(f"d{number}.example", prefixes=[f"10.{number}.0.0/16"], actor="test", now=NOW)
    return [
        domains.add_client(f"client-{number}", domain=f"d{number}.example", actor="test", now=NOW)
        for number in range(4)
    ]


def put(client: Client, mid: int, *, host: int | None = None, cuid: str = "") -> Submission:
    octet = int(client.name.removeprefix("client-"))
    host = mid if host is None else host
    scope = Scope(target_prefix=(parse_target_prefix(f"10.{octet}.{host // 256}.{host % 256}/32"),))
    return Submission(client.pk, MitigationRequest(cuid=cuid or f"of-{client.name}", mid=mid, scope=scope, lifetime=60))


@contextmanager
def threads(count: int) -> Iterator[Callable[..., Future[object]]]:
    """Run functions in threads that close their connection at the end."""
    with ThreadPoolExecutor(count) as pool:

        def submit(function: Callable[..., object], *arguments: object) -> Future[object]:
            def job() -> object:
                try:
                    return function(*arguments)
                finally:
                    connection.close()

            return pool.submit(job)

        yield submit


def commit(items: list[Item]) -> list[Outcome | None]:
    """What a writer's thread does with one batch; an exception is one here too."""
    return Writer(now=lambda: NOW)._commit(items)


@pytest.mark.slow
def test_writers_with_the_same_domains_in_any_order_do_not_deadlock(clients: list[Client]) -> None:
    together = threading.Barrier(2)

    def write(order: list[Client], first: int) -> list[Outcome | None]:
        found: list[Outcome | None] = []
        for turn in range(ROUNDS):
            together.wait(timeout=60)
            # A withdrawal between them: the runs of a batch ask for their domains one after the other.
            items: list[Item] = []
            for client in order:
                items += [put(client, first + turn), Withdrawal(client.pk, f"of-{client.name}", first + turn - 1)]
            found += commit(items)
        return found

    with threads(2) as run:
        forwards = run(write, clients, 1)
        backwards = run(write, clients[::-1], 1001)
        outcomes = [*forwards.result(timeout=120), *backwards.result(timeout=120)]  # type: ignore[misc]

    granted = [outcome for outcome in outcomes if outcome is not None]
    assert len(granted) == 2 * ROUNDS * len(clients)
    assert all(isinstance(outcome, Granted) and outcome.created for outcome in granted)
    assert Mitigation.objects.count() == len(granted)
    assert Mitigation.objects.filter(status=Status.TERMINATING).count() == 2 * (ROUNDS - 1) * len(clients)


def test_everybody_who_changes_mitigations_waits_for_the_others(clients: list[Client]) -> None:
    """Writer, enforcer and lifecycle worker at once: no step of a life is lost, and none is taken twice."""
    mids = range(1, 41)
    commit([put(client, mid) for client in clients for mid in mids])
    rows = list(Mitigation.objects.values_list("pk", flat=True))
    together = threading.Barrier(4)

    def enforce() -> None:
        together.wait(timeout=60)
        for ids in (rows, rows[::-1]):
            mitigations.advance([Evidence(pk, None, (), True, "") for pk in ids], now=NOW)

    def expire() -> None:
        together.wait(timeout=60)
        while mitigations.expire(now=NOW + timedelta(seconds=61), limit=17):
            pass

    def withdraw(order: list[Client]) -> None:
        together.wait(timeout=60)
        for mid in mids:
            commit([Withdrawal(client.pk, f"of-{client.name}", mid) for client in order])

    with threads(4) as run:
        running = [run(enforce), run(expire), run(withdraw, clients), run(withdraw, clients[::-1])]
        for one in running:
            one.result(timeout=120)

    assert set(Mitigation.objects.values_list("status", flat=True)) == {int(Status.TERMINATING)}
    for pk in rows:
        steps = list(Transition.objects.filter(mitigation=pk).values_list("old", "new"))
        assert [old for old, _ in steps] == [None, *(new for _, new in steps[:-1])], steps
        assert [new for _, new in steps].count(int(Status.TERMINATING)) == 1, steps


def test_numbers_of_changes_are_in_the_order_of_commits(clients: list[Client]) -> None:
    """A reader that goes on from the last number it saw misses none, however many write."""
    done = threading.Event()
    begin = cursor.latest()

    def write(client: Client) -> None:
        for mid in range(1, ROUNDS + 1):
            commit([put(client, mid)])

    def read() -> list[int]:
        number, seen = begin, []
        while True:
            last = done.wait(0.002)  # a reader that never rests takes the interpreter from the writers
            rows = list(Change.objects.filter(number__gt=number).order_by("number").values_list("number", flat=True))
            seen += rows
            number = rows[-1] if rows else number
            if last:
                return seen

    with threads(5) as run:
        reading = run(read)
        try:
            for one in [run(write, client) for client in clients]:
                one.result(timeout=120)
        finally:
            done.set()
        seen = reading.result(timeout=60)

    assert seen == list(range(begin + 1, cursor.latest() + 1))
    assert len(seen) == ROUNDS * len(clients)


def test_the_first_change_ever_may_come_from_two_at_once(transactional_db: None) -> None:
    assert cursor.latest() == 0
    together = threading.Barrier(2)

    def add(name: str, prefix: str) -> None:
        together.wait(timeout=60)
        domains.add_domain(name, prefixes=[prefix], actor="test", now=NOW)

    with threads(2) as run:
        for one in [run(add, "one.example", "10.1.0.0/16"), run(add, "two.example", "10.2.0.0/16")]:
            one.result(timeout=60)

    assert cursor.latest() == 2
    assert sorted(Change.objects.values_list("number", flat=True)) == [1, 2]


def test_one_mid_asked_for_on_two_workers_is_one_mitigation(clients: list[Client]) -> None:
    alice = clients[0]
    together = threading.Barrier(2)

    def ask() -> list[bool]:
        found = []
        for mid in range(1, ROUNDS + 1):
            together.wait(timeout=60)
            (outcome,) = commit([put(alice, mid)])
            assert isinstance(outcome, Granted)
            found.append(outcome.created)
        return found

    with threads(2) as run:
        asking = [run(ask), run(ask)]
        one, other = (running.result(timeout=120) for running in asking)

    assert [first != second for first, second in zip(one, other, strict=True)] == [True] * ROUNDS  # type: ignore[call-overload]
    assert Mitigation.objects.live().count() == ROUNDS


def test_the_database_itself_refuses_a_second_live_row_of_a_mid(clients: list[Client]) -> None:
    commit([put(clients[0], 1)])
    row = Mitigation.objects.get()

    row.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)
    row.ended_at = NOW
    row.save(force_insert=True)

    assert Mitigation.objects.count() == 2


async def test_the_same_new_cuid_in_two_domains_is_granted_to_one(
    clients: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    """The loser's batch does not commit; each of it is tried alone, and only the colliding one is refused."""
    import asyncio

    caplog.set_level(logging.WARNING)
    one, other = Writer(now=lambda: NOW), Writer(now=lambda: NOW)
    one.start()
    other.start()

    outcomes = await asyncio.gather(
        *(one.submit(put(clients[0], mid, cuid=f"shared-{mid}")) for mid in range(1, 11)),
        *(other.submit(put(clients[1], mid, cuid=f"shared-{mid}")) for mid in range(1, 11)),
    )
    one.stop()
    other.stop()

    firsts, seconds = outcomes[:10], outcomes[10:]
    for first, second in zip(firsts, seconds, strict=True):
        assert isinstance(first, Granted) != isinstance(second, Granted)


def test_overlapping_domains_made_at_once_are_refused_to_one(transactional_db: None) -> None:
    for turn in range(5):
        together = threading.Barrier(2)

        def add(name: str, prefix: str, together: threading.Barrier = together) -> bool:
            together.wait(timeout=60)
            try:
                domains.add_domain(name, prefixes=[prefix], actor="test", now=NOW)
            except MalformedRequest:
                return False
            return True

        with threads(2) as run:
            wide = run(add, f"wide-{turn}.example", f"10.{turn}.0.0/16")
            narrow = run(add, f"narrow-{turn}.example", f"10.{turn}.7.0/24")
            assert wide.result(timeout=60) != narrow.result(timeout=60)

    assert DomainPrefix.objects.count() == 5


def test_samples_thinned_by_two_workers_are_counted_once(clients: list[Client]) -> None:
    commit([put(client, 1) for client in clients])
    rows = list(Mitigation.objects.all())
    old = NOW - timedelta(hours=7)
    Sample.objects.bulk_create(
        Sample(mitigation=row, at=old + timedelta(seconds=10 * i), seconds=10.0, dropped_packets=1)
        for row in rows
        for i in range(120)
    )
    together = threading.Barrier(2)

    def tidy() -> None:
        together.wait(timeout=60)
        upkeep.tidy(now=NOW)

    with threads(2) as run:
        for one in [run(tidy), run(tidy)]:
            one.result(timeout=60)

    for row in rows:
        assert sum(row.samples.values_list("dropped_packets", flat=True)) == 120


def test_what_the_enforcer_notes_of_a_list_waits_for_whoever_deletes_it(clients: list[Client]) -> None:
    """Else the deletion, which its client asked for, fails by what came to refer to the list meanwhile."""
    point, client = EnforcementPoint.objects.get(), clients[0]
    fields = {"created_at": NOW, "refreshed_at": NOW, "expires_at": NOW + timedelta(days=7), "activation_type": 2}
    row = Acl.objects.create(client=client, cuid="c", name="drops", **fields)
    proof = EnforcedAce(point=point, acl=row, ace="one", key="k", text="t", drops=True, state="installed", since=NOW)
    held, noted = threading.Event(), threading.Event()

    def delete() -> None:
        with transaction.atomic():
            locks.domains_of_clients([client.pk])
            assert not EnforcedAce.objects.filter(acl=row).exists()
            held.set()
            noted.wait(timeout=0.5)  # which it does not, when it waits for us
            Acl.objects.filter(pk=row.pk)._raw_delete("default")  # type: ignore[attr-defined]  # the row alone: nothing is collected first

    def note() -> None:
        assert held.wait(timeout=60)
        in_batches([proof], 100, filter_enforcement._insert, now=NOW)
        noted.set()

    with threads(2) as run:
        for running in (run(delete), run(note)):
            running.result(timeout=60)

    assert not Acl.objects.exists()
    assert not EnforcedAce.objects.exists()
