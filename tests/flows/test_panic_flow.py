"""The kill switch of a running product: rules go at once and stay away, also while the database is away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest
from durability_state import locked

from tests.harness.environment import PRIVATE_NETWORK
from tests.harness.product import Product, running
from tests.harness.waiting import until
from tests.harness.wire import peer, scope

pytestmark = [pytest.mark.flow, pytest.mark.skipif(not PRIVATE_NETWORK, reason="nftables needs a namespace of its own")]

TABLE = "dots_panic"


def rules_of(host: str) -> int:
    """Elements for this host in the kernel."""
    listed = subprocess.run(["nft", "list", "table", "inet", TABLE], capture_output=True, text=True, check=False)
    return listed.stdout.count(host)


def test_the_kill_switch_is_at_once_and_holds(tell: Callable[[str], None]) -> None:
    with running(environment={"DOTS_NFT_TABLE": TABLE}) as product:
        domain = product.new_domain()
        with peer(product.new_client(domain, "alice"), product.signal_port) as alice:
            assert alice.put(1, scope(f"{domain.host}/32")).code == "2.01"
            watch = alice.watch(1)
            watch.until_status(2)
            assert rules_of(domain.host)

            began = time.monotonic()
            product.manage("panic", "--reason", "wrong prefixes")
            took = time.monotonic() - began
            assert rules_of(domain.host) == 0
            tell(f"panic took every rule away in {took:.2f} s, the command's start included.")

            watch.until_status(4)
            assert alice.put(2, scope(f"{domain.prefix}")).code == "2.01", "requests are still taken"
            until(lambda: product.mitigations()[0]["status"] == "exceeded", what="the new one being held")
            assert rules_of(domain.prefix[:-4]) == 0

            product.manage("panic", "--lift")
            until(lambda: rules_of(domain.prefix[:-4]), what="rules being back")
            _panic_without_a_database(product, domain.prefix[:-4], tell)


def _panic_without_a_database(product: Product, prefix: str, tell: Callable[[str], None]) -> None:
    with locked(product):
        began = time.monotonic()
        said = product.manage("panic", "--reason", "no database", "--json").json
        until(lambda: rules_of(prefix) == 0, within=5, what="every rule being gone")
        tell(f"with the database locked: gone after {time.monotonic() - began:.2f} s at the latest.")
        assert (said["removed"], said["recorded"]) == (True, False)
        assert (product.home / "panic").exists()
    until(lambda: not (product.home / "panic").exists(), within=15, what="the switch being a row")
    assert product.manage("hold", "list", "--json").json[0]["reason"] == "no database"
    assert rules_of(prefix) == 0
