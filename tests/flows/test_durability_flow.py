"""What was acknowledged survives anything: processes killed one by one and all at once, a bus away, a database that
takes nothing. Every time is printed (`pytest -s`)."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator

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
ROOM = 4.0  # times: how much slower a machine may be that others use too


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


def assert_rows_are_as_answered(product: Product, cuid: str, ledger: Ledger) -> None:
    found, expected = rows(product, cuid), ledger.expected()
    assert found.keys() == expected.keys()
    for mid, want in expected.items():
        row = found[mid]
        assert (row.target, row.lifetime, row.ending) == (want.target, want.lifetime, want.withdrawn), mid
        assert (row.status == TERMINATING) == want.withdrawn, (mid, row)


def until_converged(product: Product, *, since: float, within: float = CONVERGED_WITHIN * ROOM) -> float:
    """Until the kernel has exactly what the rows want, and every rule row is proven; seconds since `since`."""

    said = ""

    def converged() -> bool:
        nonlocal said
        installed, wanted, unproven = installed_addresses(TABLE), wanted_addresses(product), unproven_rules(product)
        said = f"{len(wanted - installed)} missing, {len(installed - wanted)} too many, {unproven} rows unproven"
        return installed == wanted and not unproven

    try:
        until(converged, within=within, every=0.2, what="rules that agree with the rows")
    except AssertionError as late:
        raise AssertionError(f"{late}; {said}:\n{product.log()[-2000:]}") from None
    return time.monotonic() - since


def until_caught_up(product: Product, *, since: float, within: float = CONVERGED_WITHIN * ROOM) -> float:
    """The same while requests go on: everything wanted at the beginning is installed."""
    wanted = wanted_addresses(product)
    until(
        lambda: not (wanted & wanted_addresses(product)) - installed_addresses(TABLE),
        within=within,
        every=0.2,
        what="rules for all that was asked before",
    )
    return time.monotonic() - since


def until_answered_after(client: NeverDiscouraged, moment: float) -> float:
    """Until a request begun after a death is answered; seconds since `moment`."""
    before = client.count
    until(lambda: client.count > before, within=30, every=0.01, what="an answer")
    return client.last_answer() - moment


Tell = Callable[[str], None]


@pytest.mark.rows("SIG-MIT-005", "SIG-DEL-001")
def test_acknowledged_requests_survive_the_death_of_every_process(
    durable: Product, domain: Domain, alice: Files, enforcing: bool, tell: Tell
) -> None:
    with NeverDiscouraged(durable, domain, alice, cuid="survivor") as client:
        for names in ([name] for name in COMMAND_OF):
            kill_and_measure(durable, client, names, enforcing, tell)
        kill_and_measure(durable, client, list(COMMAND_OF), enforcing, tell)
        until(lambda: client.count >= REQUESTS, within=90, what="the rest of the requests")
        ledger = client.finish()

    assert_rows_are_as_answered(durable, "survivor", ledger)
    tell(f"{len(ledger.answers)} requests answered over {ledger.sessions} sessions, refused: {dict(ledger.refused)}")
    if enforcing:
        tell(f"exact agreement {until_converged(durable, since=time.monotonic()):.2f} s after the last request")


def kill_and_measure(product: Product, client: NeverDiscouraged, names: list[str], enforcing: bool, tell: Tell) -> None:
    before = client.count
    until(lambda: client.count > before + 20, within=30, what="requests under way")
    lines, alive = len(product.lines), processes(product)
    killed = time.monotonic()
    for name in names:
        kill(alive[name])
    answered = until_answered_after(client, killed)
    ready = wait_for_restart(product, set(names), lines_before=lines)
    converged = until_caught_up(product, since=ready) if enforcing else 0.0
    tell(
        f"{names[0] if len(names) == 1 else 'all':>8} killed: next answer {answered:5.2f} s, "
        f"ready again {ready - killed:5.2f} s, rules {converged:5.2f} s after that"
    )


def test_a_signal_worker_killed_amid_a_burst_has_kept_what_it_had_answered(
    durable: Product, domain: Domain, alice: Files, tell: Tell
) -> None:
    with NeverDiscouraged(durable, domain, alice, cuid="burst", rate=5_000, lanes=64, refreshes=20) as client:
        for _ in range(3):
            before, lines = client.count, len(durable.lines)
            until(lambda before=before: client.count > before + 250, within=30, every=0.002, what="requests under way")
            kill(processes(durable)["signal"])
            killed = time.monotonic()
            answered = until_answered_after(client, killed + 0.1)
            wait_for_restart(durable, {"signal"}, lines_before=lines)
            tell(f"  signal killed amid {client.count} answers: next answer {answered + 0.1:5.2f} s")
        ledger = client.finish()

    assert_rows_are_as_answered(durable, "burst", ledger)
    lost = len(list(repeated_mids(ledger)))
    tell(f"{len(ledger.answers)} requests answered, {lost} commits whose answer had died with the worker")


def test_up_killed_and_started_again_goes_on_where_it_was(
    durable: Product, domain: Domain, alice: Files, enforcing: bool, tell: Tell
) -> None:
    with NeverDiscouraged(durable, domain, alice, cuid="rebooted") as client:
        until(lambda: client.count > 50, within=30, what="requests under way")

        os.kill(durable.pid, signal.SIGKILL)
        killed = time.monotonic()
        durable.lines.clear()
        durable.start()

        ready = time.monotonic()
        answered = until_answered_after(client, killed)
        converged = until_caught_up(durable, since=ready) if enforcing else 0.0
        ledger = client.finish()
    tell(
        f"      up killed and started: next answer {answered:5.2f} s, ready again {ready - killed:5.2f} s, "
        f"rules {converged:5.2f} s after that"
    )
    assert_rows_are_as_answered(durable, "rebooted", ledger)
    if enforcing:
        until_converged(durable, since=ready)


def test_no_rule_is_left_over_after_withdrawal_expiry_and_stop(
    durable: Product, domain: Domain, alice: Files, enforcing: bool, tell: Tell
) -> None:
    if not enforcing:
        pytest.skip("rules are installed with nftables, as root")
    with NeverDiscouraged(durable, domain, alice, cuid="leaving", refreshes=0, rate=100) as client:
        until(lambda: client.count > 30, within=30, what="some mitigations")
        ledger = client.finish()
    ours = {target.target.partition("/")[0] for target in ledger.expected().values()}
    until(lambda: ours <= installed_addresses(TABLE), within=10, what="rules of them all")

    lines = len(durable.lines)
    kill(processes(durable)["enforcer"])  # while it is gone, one is stopped and the others reach their end
    stopped = next(one for one in durable.mitigations() if one["domain"] == domain.name)
    durable.manage("mitigation", "stop", str(stopped["id"]), "--reason", "test")
    past = "2026-01-01 00:00:00"  # the terminating period, two minutes, and the lifetime of the rest
    for moment in ("ends_at", "expires_at"):
        execute(
            durable,
            f"UPDATE mitigation_mitigation SET {moment} = ? WHERE {moment} IS NOT NULL"
            " AND cuid = 'leaving' AND status != 7",
            past,
        )
    back = wait_for_restart(durable, {"enforcer"}, lines_before=lines)
    until(lambda: not any(not row.ending for row in rows(durable, "leaving").values()), within=5, what="the end of all")
    execute(durable, "UPDATE mitigation_mitigation SET ends_at = ? WHERE cuid = 'leaving' AND status = 5", past)

    until(lambda: not ours & installed_addresses(TABLE), within=CONVERGED_WITHIN * ROOM, what="the end of their rules")
    tell(f"    gone {time.monotonic() - back:5.2f} s after the enforcer was back")
    until_converged(durable, since=time.monotonic())
