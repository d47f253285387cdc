"""Targets that are names (RFC 9132, section 4.4.1.1): what they stand for is checked at each resolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cbor2
import pytest

from tests.harness.console import Console
from tests.harness.console import console as open_console
from tests.harness.dns import Zone, serving
from tests.harness.product import Cast, Product, running
from tests.harness.waiting import until
from tests.harness.wire import Peer, peer, scope


@dataclass(frozen=True)
class Named:
    """A product of its own that asks a DNS server of the test's."""

    zone: Zone
    product: Product
    console: Console

    def look_again(self) -> None:
        """As if the answers that are known had run out."""
        self.console.run("TargetName.objects.update(due_at=now)")

    def why(self, name: str) -> str:
        """What operators are told of this name."""
        row = self.console.run("result = list(TargetName.objects.filter(name=name).values_list('problem'))", name=name)
        return str(row[0][0])


@pytest.fixture(scope="module")
def named() -> Iterator[Named]:
    zone = Zone()
    with (
        serving(zone),
        running(environment={"DOTS_RESOLVERS": zone.server}) as product,
        open_console(product) as console,
    ):
        yield Named(zone, product, console)


@pytest.fixture
def cast(named: Named) -> Cast:
    (made,) = named.product.new_casts(1)
    return made


@pytest.fixture
def alice(named: Named, cast: Cast) -> Iterator[Peer]:
    with peer(cast.alice, named.product.signal_port) as opened:
        until(lambda: opened.get().code != "4.01", what="the signal channel knowing the new client")
        yield opened


def for_name(name: str) -> bytes:
    return cbor2.dumps({1: {2: [{11: [name], 14: 600}]}})


@pytest.mark.rows("SIG-MIT-011", "SIG-MIT-020")
def test_an_address_that_becomes_foreign_is_no_longer_protected(named: Named, cast: Cast, alice: Peer) -> None:
    name = f"www.{cast.domain.name}"
    named.zone.addresses[name] = [cast.domain.host, cast.domain.host6]
    assert alice.put(1, for_name(name)).code == "2.01"
    alice.until_status(1, 2)
    assert cast.domain.host in named.product.table()

    named.zone.addresses[name] = ["192.0.2.1"]
    named.look_again()

    alice.until_status(1, 1)
    until(lambda: cast.domain.host not in named.product.table(), what="the rules being gone")
    assert "192.0.2.1" not in named.product.table()
    assert "192.0.2.1 outside the domain's prefixes" in named.why(name)

    named.zone.addresses[name] = [cast.domain.host6]
    named.look_again()

    alice.until_status(1, 2)
    assert cast.domain.host6 in named.product.table()
    assert cast.domain.host not in named.product.table()


@pytest.mark.rows("SIG-MIT-011")
@pytest.mark.parametrize("address", ["127.0.0.1", "224.0.0.1", "255.255.255.255", "::1", "ff02::1", "::ffff:127.0.0.1"])
def test_an_address_that_is_nobodys_is_left_out(named: Named, cast: Cast, alice: Peer, address: str) -> None:
    name = f"www.{cast.domain.name}"
    named.zone.addresses[name] = [address, cast.domain.host]

    alice.put(1, for_name(name))
    alice.until_status(1, 2)

    assert "left out" in named.why(name)
    assert cast.domain.host in named.product.table()
    texts = named.console.run(
        "result = list(Mitigation.objects.get(client__name=client).rules.values_list('text', flat=True))",
        client=cast.alice.name,
    )
    assert texts
    assert not any(address in text for text in texts)


@pytest.mark.rows("SIG-MIT-013")
@pytest.mark.parametrize(("uri", "port"), [("https://{name}/", 443), ("http://{name}:8080/", 8080)])
def test_a_uri_is_resolved_and_checked_like_a_name(named: Named, cast: Cast, alice: Peer, uri: str, port: int) -> None:
    name = f"web.{cast.domain.name}"
    named.zone.addresses[name] = [cast.domain.host, "203.0.113.1"]

    assert alice.put(1, cbor2.dumps({1: {2: [{12: [uri.format(name=name)], 14: 600}]}})).code == "2.01"
    alice.until_status(1, 2)

    texts = named.console.run(
        "result = list(Mitigation.objects.get(client__name=client).rules.values_list('text', flat=True))",
        client=cast.alice.name,
    )
    assert any(f"port {port}" in text for text in texts)
    assert all(cast.domain.host in text and "203.0.113.1" not in text for text in texts)


@pytest.mark.rows("SIG-MIT-029", "SIG-MIT-028")
@pytest.mark.parametrize("fails", [False, True], ids=["NXDOMAIN", "SERVFAIL"])
@pytest.mark.parametrize("kind", ["fqdn", "uri"])
def test_a_name_that_does_not_resolve_is_taken_and_waited_for(
    named: Named, cast: Cast, alice: Peer, kind: str, fails: bool
) -> None:
    name = f"later.{cast.domain.name}"
    if fails:
        named.zone.failing.add(name)

    made = alice.put(
        1, for_name(name) if kind == "fqdn" else cbor2.dumps({1: {2: [{12: [f"https://{name}/"], 14: 600}]}})
    )

    assert made.code == "2.01"
    until(lambda: named.why(name), what="the name having been asked for")
    assert alice.get(1).scope[16] == 1
    network = cast.domain.host.removesuffix(".7")
    assert f"{network}." not in named.product.table()  # neither the host nor the whole domain

    named.zone.failing.discard(name)
    named.zone.addresses[name] = [cast.domain.host]
    alice.until_status(1, 2)
    assert cast.domain.host in named.product.table()


@pytest.mark.rows("SIG-MIT-029")
def test_other_targets_are_protected_meanwhile(named: Named, cast: Cast, alice: Peer) -> None:
    name = f"never.{cast.domain.name}"

    assert alice.put(1, scope(f"{cast.domain.host}/32", k11=[name])).code == "2.01"

    until(lambda: cast.domain.host in named.product.table(), what="rules for the prefix")
    assert alice.get(1).scope[16] == 1
    until(lambda: named.why(name), what="the name having been asked for")
    assert alice.put(1, scope(f"{cast.domain.host}/32", k11=[name])).code == "2.04"
