"""What was acknowledged survives anything: processes killed one by one and all at once, a bus away, a database that
takes nothing. Every time is printed (`pytest -s`)."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from durability_client import Ledger, NeverDiscouraged, repeated_mids
from durability_state import (
    COMMAND_OF,
    TERMINATING,
    drop_table,
    execute,
    installed_addresses,
    kill,
    processes,
    rows,
    unproven_rules,
    wait_for_restart,
    wanted_addresses,
)

from tests.harness.environment import IN_CI, PRIVATE_NETWORK
from tests.harness.product import Domain, Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

TABLE = "dots_durable"
REQUESTS = 1_000
CONVERGED_WITHIN = 5.0  # seconds after the last process is ready again
ROOM = 2.0 if IN_CI else 4.0  # times: how much slower a machine may be that others use too


@pytest.fixture(scope="module")
def enforcing() -> bool:
    can = PRIVATE_NETWORK and shutil.which("nft") is not None
    if IN_CI and not can:
        pytest.fail("continuous integration must run as root with nftables")
    return can


@pytest.fixture(scope="module")
def durable(enforcing: bool) -> Iterator[Product]:
    environment = {"DOTS_NFT_TABLE": TABLE} if enforcing else {"DOTS_DRIVER": "dryrun"}
    with running(environment=environment) as product:
        yield product
    drop_table(TABLE)


@pytest.fixture
def domain(durable: Product) -> Domain:
    return durable.new_domain()


@pytest.fixture
def alice(durable: Product, domain: Domain) -> Files:
    return durable.new_client(domain, "alice")


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a figure also when pytest keeps output for itself."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n    {text}", end="", flush=True)

    return say


def assert_rows_are_as_answered(product: Product, cuid: str, ledger: Ledger) -> None:
    found, expected = rows(product, cuid), ledger.expected()
    assert found.keys() == expected.keys()
    for mid, want in expected.items():
        row = found[mid]
        assert (row.target, row.lifetime, row.ending) == (want.target, want.lifetime, want.withdrawn), mid
        assert (row.status == TERMINATING) == want.withdrawn, (mid, row)


def until_converged(product: Product, *, since: float, within: float = CONVERGED_WITHIN * ROOM) -> float:
    """Until the kernel has exactly what the rows want, and every rule row is proven; seconds since `since`."""

    def converged() -> bool:
        return installed_addresses(TABLE) == wanted_addresses(product) and not unproven_rules(product)

    until(converged, within=within, what="rules that agree with the rows")
    return time.monotonic() - since


def until_caught_up(product: Product, *, since: float, within: float = CONVERGED_WITHIN * ROOM) -> float:
    """The same while requests go on: everything wanted at the beginning is installed."""
    wanted = wanted_addresses(product)
    until(
        lambda: not (wanted & wanted_addresses(product)) - installed_addresses(TABLE),
        within=within,
        what="rules for all that was asked before",
    )
    return time.monotonic() - since


def until_answered_after(client: NeverDiscouraged, moment: float) -> float:
    """Until a request begun after a death is answered; seconds since `moment`."""
    before = client.count
    until(lambda: client.count > before, within=30, every=0.01, what="an answer")
    return client.last_answer() - moment


def test_acknowledged_requests_survive_the_death_of_every_process(
    durable: Product, domain: Domain, alice: Files, enforcing: bool, tell: Callable[[str], None]
) -> None:
    with NeverDiscouraged(durable, domain, alice, cuid="survivor") as client:
        for name in COMMAND_OF:
            before = client.count
            until(lambda before=before: client.count > before + 20, within=30, what="requests under way")
            lines, pid = len(durable.lines), processes(durable)[name]
            kill(pid)
            killed = time.monotonic()
            answered = until_answered_after(client, killed)
            ready = wait_for_restart(durable, {name}, lines_before=lines)
            converged = until_caught_up(durable, since=ready) if enforcing else 0.0
            tell(
                f"{name:>8} killed: next answer {answered:5.2f} s, ready {ready - killed:5.2f} s, "
                f"rules {converged:5.2f} s after that"
            )

        until(lambda: client.count > before + 20, within=30, what="requests under way")
        lines, alive = len(durable.lines), processes(durable)
        for pid in alive.values():
            kill(pid)
        killed = time.monotonic()
        ready = wait_for_restart(durable, set(alive), lines_before=lines)
        answered = until_answered_after(client, killed)
        converged = until_caught_up(durable, since=ready) if enforcing else 0.0
        tell(
            f"all {len(alive)} killed: next answer {answered:5.2f} s, ready {ready - killed:5.2f} s, rules {converged:5.2f} s"
        )
        until(lambda: client.count >= REQUESTS - 3 * 16, within=90, what="the rest of the requests")
        ledger = client.finish()

    assert len(ledger.answers) >= REQUESTS - 3 * 16
    assert_rows_are_as_answered(durable, "survivor", ledger)
    tell(
        f"{len(ledger.answers)} requests answered over {ledger.sessions} sessions, "
        f"{len(list(repeated_mids(ledger)))} answers were lost and asked for again, refused meanwhile: {dict(ledger.refused)}"
    )
    if enforcing:
        tell(f"exact agreement {until_converged(durable, since=time.monotonic()):.2f} s after the last request")
