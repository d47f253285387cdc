"""The memory of Message IDs is bounded for each peer and for all."""

from __future__ import annotations

from mitigation.tls.duplicates import Duplicates, Received

Table = dict[int, Received]


def test_a_message_id_is_forgotten_after_its_lifetime() -> None:
    store, table = Duplicates(lifetime=100), Table()
    store.remember(table, 1, 0.0)
    store.remember(table, 2, 50.0)

    store.sweep(99.9)
    assert set(table) == {1, 2}
    store.sweep(100.0)
    assert set(table) == {2}
    store.sweep(150.0)
    assert not table and len(store) == 0


def test_one_peer_is_remembered_only_so_far() -> None:
    store, busy, quiet = Duplicates(lifetime=100, per_peer=3), Table(), Table()
    store.remember(quiet, 7, 0.0)

    for mid in range(10):
        store.remember(busy, mid, 0.0)

    assert set(busy) == {7, 8, 9}
    assert set(quiet) == {7}


def test_all_peers_together_are_remembered_only_so_far() -> None:
    store, tables = Duplicates(lifetime=100, in_total=5), [Table() for _ in range(8)]

    for table in tables:
        store.remember(table, 1, 0.0)

    assert [len(table) for table in tables] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert len(store) == 5


def test_an_id_used_again_after_eviction_is_not_forgotten_with_its_predecessor() -> None:
    store, table = Duplicates(lifetime=100, per_peer=1), Table()
    store.remember(table, 1, 0.0)
    store.remember(table, 2, 10.0)
    store.remember(table, 1, 20.0)

    store.sweep(100.0)

    assert set(table) == {1}
    store.sweep(120.0)
    assert not table


def test_a_busy_peer_pushes_out_only_its_own() -> None:
    store, busy, quiet = Duplicates(lifetime=100, per_peer=3, in_total=10), Table(), Table()
    store.remember(quiet, 7, 0.0)

    for mid in range(5000):
        store.remember(busy, mid, 0.0)

    assert set(quiet) == {7}
    assert store.live == 4
    assert len(store) < 1100


def test_a_peer_that_is_gone_leaves_nothing() -> None:
    store, table = Duplicates(lifetime=100), Table()
    for mid in range(5):
        store.remember(table, mid, 0.0)

    for entry in list(table.values()):
        entry.forget()

    assert not table and store.live == 0
    store.sweep(100.0)
    assert len(store) == 0
