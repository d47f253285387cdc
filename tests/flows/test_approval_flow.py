"""A domain whose requests people approve: its client asks, waits, and is told the outcome, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.environment import PRIVATE_NETWORK
from tests.harness.product import Domain, Product
from tests.harness.waiting import until
from tests.harness.wire import Peer, peer, scope

pytestmark = [pytest.mark.flow, pytest.mark.skipif(not PRIVATE_NETWORK, reason="nftables needs a namespace of its own")]


@pytest.fixture
def domain(product: Product) -> Domain:
    return product.new_domain()


@pytest.fixture
def alice(product: Product, domain: Domain) -> Iterator[Peer]:
    with peer(product.new_client(domain, "alice"), product.signal_port) as opened:
        yield opened


@pytest.fixture
def mallory(product: Product) -> Iterator[Peer]:
    with peer(product.new_client(product.new_domain(), "mallory"), product.signal_port) as opened:
        yield opened


def shown(product: Product, domain: Domain, mid: int) -> dict[str, Any]:
    """The mitigation as an operator sees it."""
    found = next(one for one in product.mitigations() if (one["domain"], one["mid"]) == (domain.name, mid))
    return product.mitigation(found["id"])


def wait_for_the_enforcer(product: Product, domain: Domain, mid: int) -> int:
    """Until it has looked at the request and says what it waits for; returns the mitigation's number."""
    until(
        lambda: shown(product, domain, mid)["problem"] == "needs approval by an operator",
        what="the enforcer saying that it waits",
    )
    return int(shown(product, domain, mid)["id"])


@pytest.mark.rows("SIG-PUT-001", "SIG-PUT-004", "SIG-STA-001", "SIG-STA-003", "SIG-OBS-003")
def test_alice_asks_and_is_told_what_people_decided(
    product: Product, domain: Domain, alice: Peer, mallory: Peer
) -> None:
    product.manage("domain", "set", domain.name, "--approval", "one", "--approval-within", "600")

    # Approved: 1 until then, whatever is refreshed, and 2 as soon as the rules stand.
    assert alice.put(1, scope(f"{domain.host}/32")).code == "2.01"
    watch = alice.watch(1)
    assert watch.next().scope[16] == 1
    number = wait_for_the_enforcer(product, domain, 1)
    assert alice.put(1, scope(f"{domain.host}/32")).code == "2.04"
    assert domain.host not in product.table()

    assert mallory.get(1).code == "4.04"
    assert mallory.put(1, scope(f"{domain.host}/32")).code == "4.00"
    assert mallory.delete(1).code == "2.02", "as for any mid that she does not have"
    assert alice.get(1).scope[16] == 1

    product.manage("mitigation", "approve", str(number))
    watch.until_status(2)
    assert domain.host in product.table()

    # Rejected: 7, with the reason in its history.
    other = f"{domain.prefix[:-4]}9"
    assert alice.put(2, scope(f"{other}/32")).code == "2.01"
    watch = alice.watch(2)
    product.manage("mitigation", "reject", str(wait_for_the_enforcer(product, domain, 2)), "--reason", "not this host")
    watch.until_status(7)
    assert shown(product, domain, 2)["history"][-1]["reason"] == "rejected: not this host"
    assert other not in product.table()

    # Nobody decides: 7 when the time is over.
    product.manage("domain", "set", domain.name, "--approval-within", "2")
    assert alice.put(3, scope(f"{domain.prefix[:-4]}11/32")).code == "2.01"
    alice.watch(3).until_status(7)
    assert shown(product, domain, 3)["history"][-1]["reason"] == "nobody approved it in time"
    assert alice.get(1).scope[16] == 2, "what was approved before stands"


@pytest.mark.rows("SIG-AUT-013", "SIG-ERR-007", "SIG-ERR-023", "SIG-COA-019")
def test_alice_is_told_which_limit_she_has_met(product: Product, domain: Domain, alice: Peer) -> None:
    product.manage(
        "domain", "set", domain.name, "--widest-ipv4", "28", "--maximum-targets", "2", "--maximum-per-minute", "1",
        "--never-block", f"{domain.prefix[:-4]}128/25",
    )  # fmt: skip
    wide, never = f"{domain.prefix[:-4]}0/27", f"{domain.prefix[:-4]}200/32"
    hosts = [f"{domain.prefix[:-4]}{number}/32" for number in (1, 2, 3)]

    answers = [alice.put(1, scope(*prefixes)) for prefixes in ((wide,), (never,), hosts)]

    assert [(one.code, one.diagnostic) for one in answers] == [
        ("4.00", f"{wide} is wider than the /28 that this domain's policy allows"),
        ("4.00", f"{never} touches the domain's never-block list"),
        ("4.00", "3 targets in one request; this domain's policy allows 2"),
    ]
    assert alice.put(1, scope(hosts[0])).code == "2.01"
    refused = alice.put(2, scope(hosts[1]))
    assert (refused.code, refused.diagnostic) == (
        "5.03",
        "this domain asked for 1 mitigations within a minute, its maximum",
    )
    assert 1 <= refused.message.opt.max_age <= 60
    assert alice.put(1, scope(hosts[0])).code == "2.04", "a refresh is never refused for that"


@pytest.mark.rows("SIG-STA-001")
def test_shadow_mode_is_told_as_not_enforced(product: Product, domain: Domain, alice: Peer) -> None:
    product.manage("domain", "set", domain.name, "--shadow")
    assert alice.put(1, scope(f"{domain.host}/32")).code == "2.01"
    assert alice.get(1).scope[16] == 4
    until(lambda: domain.host in product.table(), what="what counts standing in the kernel")

    def rules() -> list[dict[str, Any]]:
        return list(shown(product, domain, 1)["rules"])

    until(lambda: {rule["state"] for rule in rules()} == {"shadow", "installed"}, what="the rules being shown")
    installed = [rule["text"] for rule in rules() if rule["state"] == "installed"]
    assert len(installed) == 1
    assert alice.get(1).scope[16] == 4

    product.manage("domain", "set", domain.name, "--no-shadow")
    alice.until_status(1, 2)
