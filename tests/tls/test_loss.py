"""Handshakes under every single and double loss, every copy, every overtaking. Virtual time, no randomness.

The patterns are enumerated over the datagrams of an undisturbed handshake, in both directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations

import pytest
from tls_harness import Wire, closed_reasons, virtual_time

from mitigation.tls import Credentials

Datagram = tuple[str, int]
SLOWEST = 16.0  # s; five datagrams in a row lost, each repeated a little later than the one before


@dataclass(frozen=True)
class Pattern:
    """What happens to which datagram: lost, doubled, or late by so many seconds."""

    name: str
    lost: frozenset[Datagram] = frozenset()
    doubled: frozenset[Datagram] = frozenset()
    late: tuple[tuple[Datagram, float], ...] = ()

    def __call__(self, sender: str, number: int, datagram: bytes) -> list[float]:
        which = (sender, number)
        if which in self.lost:
            return []
        delay = dict(self.late).get(which, 0.0)
        return [delay, delay + 0.001] if which in self.doubled else [delay]


def patterns(counts: dict[str, int]) -> Iterator[Pattern]:
    """Every pattern over the datagrams of an undisturbed run."""
    every = [(end, number) for end, count in counts.items() for number in range(count)]
    for one in every:
        yield Pattern(f"lost {one}", lost=frozenset({one}))
        yield Pattern(f"doubled {one}", doubled=frozenset({one}))
        yield Pattern(f"overtaken {one}", late=((one, 0.0015),))
        yield Pattern(f"late {one}", late=((one, 0.9),))
        yield Pattern(f"later than its repeat {one}", late=((one, 1.1),))
    for one, other in combinations(every, 2):
        yield Pattern(f"lost {one} and {other}", lost=frozenset({one, other}))
        yield Pattern(f"doubled {one} and {other}", doubled=frozenset({one, other}))
    for one, other in permutations(every, 2):
        yield Pattern(f"lost {one}, late {other}", lost=frozenset({one}), late=((other, 0.5),))
    for end, count in counts.items():
        for first in range(1, count):
            yield Pattern(f"lost {end} from {first}", lost=frozenset((end, number) for number in range(first, count)))


def run_all(server: Credentials, client: Credentials, ticket: bytes | None) -> tuple[Counter[str], list[str]]:
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    with virtual_time():
        undisturbed = Wire(server, client, ticket=ticket).run()
        assert undisturbed.echoed
        counts = {end: len(sent) for end, sent in undisturbed.sent.items()}
        undisturbed.close()
        for pattern in patterns(counts):
            wire = Wire(server, client, ticket=ticket, fate=pattern).run()
            outcomes["connected" if wire.echoed else "failed"] += 1
            if not wire.echoed or wire.elapsed > SLOWEST:
                failures.append(f"{pattern.name}: {closed_reasons(wire, 'client')} {closed_reasons(wire, 'server')}")
            wire.close()
    return outcomes, failures


@pytest.fixture
def without_tickets(shared_pki: object) -> Credentials:
    return Credentials(shared_pki.issue_server("plain"), cookie_key=b"c" * 16)


@pytest.mark.rows("SIG-TLS-011")
def test_every_pattern_of_loss_copies_and_overtaking_ends_in_a_session(
    server_credentials: Credentials, alice: Credentials
) -> None:
    outcomes, failures = run_all(server_credentials, alice, None)

    assert not failures
    assert outcomes["connected"] > 100


def test_the_same_without_tickets(without_tickets: Credentials, alice: Credentials) -> None:
    outcomes, failures = run_all(without_tickets, alice, None)

    assert not failures
    assert outcomes["connected"] > 100


@pytest.mark.rows("SIG-TLS-011")
def test_the_same_for_resumption(server_credentials: Credentials, alice: Credentials) -> None:
    with virtual_time():
        first = Wire(server_credentials, alice).run()
        ticket = first.client.session_ticket()
        first.close()

    outcomes, failures = run_all(server_credentials, alice, ticket)

    assert not failures
    assert outcomes["connected"] > 100


def test_flights_that_fill_several_datagrams_survive_as_well(shared_pki: object) -> None:
    server = Credentials(shared_pki.issue_server("wide"), ticket_key=b"t" * 64, cookie_key=b"c" * 16)
    client = Credentials(shared_pki.issue("big", padding=25))
    with virtual_time():
        first = Wire(server, client).run()
        assert first.echoed
        assert sum(len(datagram) > 1000 for datagram in first.sent["client"]) >= 2
        ticket = first.client.session_ticket()
        first.close()

    outcomes, failures = run_all(server, client, ticket)

    assert not failures
    assert outcomes["connected"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_thirty_percent_loss_each_way_lets_everyone_in(
    seed: int, server_credentials: Credentials, alice: Credentials
) -> None:
    import random

    chance = random.Random(seed)
    with virtual_time():
        for _ in range(100):
            fate: Callable[[str, int, bytes], list[float]] = lambda *_: [] if chance.random() < 0.3 else [0.0]  # noqa: E731
            wire = Wire(server_credentials, alice, fate=fate, limit=200).run()
            assert wire.echoed or closed_reasons(wire, "client"), wire.events
            assert wire.echoed
            wire.close()
