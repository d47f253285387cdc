"""Names in aliases: resolved by the server over TLS with DNSSEC, each address judged at each resolution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from data_trees import MODULE

from mitigation.pki.authority import initialise
from mitigation.pki.home import Home
from tests.harness.dns import Zone, serving_tls
from tests.harness.product import Cast, Product, running
from tests.harness.rest import Rest
from tests.harness.waiting import until
from tests.harness.wire import Peer, peer, scope

FOREIGN = "203.0.113.9"


@dataclass
class Resolved:
    """A product whose resolver is ours, and a domain of it that no other test has."""

    product: Product
    zone: Zone
    cast: Cast

    @property
    def www(self) -> str:
        return f"www.{self.cast.domain.name}"

    def again(self) -> None:
        """The answers have run out."""
        self.product.console.run("from mitigation.models import TargetName\nTargetName.objects.update(due_at=now)")

    def shown(self, mid: int) -> dict[str, Any]:
        (row,) = [
            one for one in self.product.mitigations() if (one["client"], one["mid"]) == (self.cast.alice.name, mid)
        ]
        return self.product.mitigation(row["id"])


@pytest.fixture(scope="module")
def resolving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Zone]]:
    home = Home(tmp_path_factory.mktemp("resolver"))
    initialise(home, names=["localhost"], addresses=["127.0.0.1"], now=datetime.now(UTC))
    zone = Zone(validated=True)
    with serving_tls(zone, home.server_certificate, home.server_key) as server:
        environment = {
            "DOTS_RESOLVERS": server,
            "DOTS_RESOLVER_CA": str(home.authority_certificate),
            "DOTS_DNSSEC": "yes",
            "DOTS_DRIVER": "dryrun",
        }
        with running(environment=environment) as product:
            yield product, zone


@pytest.fixture
def resolved(resolving: tuple[Product, Zone]) -> Resolved:
    product, zone = resolving
    (cast,) = product.new_casts(1)
    with peer(cast.mallory, product.signal_port) as last:
        until(lambda: last.get().code == "4.04", what="the signal channel knowing new clients")
    zone.validated = True
    return Resolved(product, zone, cast)


@pytest.fixture
def alice(resolved: Resolved) -> Iterator[Rest]:
    with closing(Rest(resolved.product, resolved.cast.alice)) as rest:
        rest.register()
        yield rest


@pytest.fixture
def signalling(resolved: Resolved) -> Iterator[Peer]:
    with peer(resolved.cast.alice, resolved.product.signal_port) as opened:
        yield opened


def targets(resolved: Resolved, mid: int = 1) -> str:
    return str(resolved.shown(mid)["rules"])


@pytest.mark.rows("DATA-ALI-015", "DATA-ALI-016", "DATA-ALI-018")
@pytest.mark.parametrize("kind", ["target-fqdn", "target-uri"])
def test_each_address_of_a_name_is_judged_like_a_prefix(
    resolved: Resolved, alice: Rest, signalling: Peer, kind: str
) -> None:
    host, www = resolved.cast.domain.host, resolved.www
    resolved.zone.addresses[www] = [host, FOREIGN, "127.0.0.1", "224.0.0.1", "::1"]
    text = www if kind == "target-fqdn" else f"https://{www}:8443/"
    prefix = f"{host.rpartition('.')[0]}.99/32"

    foreign = {"name": "bad", kind: [text.replace(www, "www.example.org")]}
    assert alice.post_alias(foreign).error["error-app-tag"] == "dots-target-not-authorized"
    assert alice.post_alias({"name": "web", kind: [text], "target-prefix": [prefix]}).status == 201
    assert signalling.put(1, scope(k13=["web"])).code == "2.01"

    until(lambda: host in targets(resolved), within=20, what="the address in a rule")
    found = targets(resolved)
    assert prefix.removesuffix("/32") in found
    for text in (FOREIGN, "127.0.0.1", "224.0.0.1", "::1"):
        assert text not in found
    notes = str(resolved.shown(1)["notes"])
    assert FOREIGN in notes
    assert "outside the domain's prefixes" in notes


@pytest.mark.rows("DATA-ALI-017")
def test_names_are_asked_for_in_private_and_only_proven_answers_count(
    resolved: Resolved, alice: Rest, signalling: Peer
) -> None:
    host = resolved.cast.domain.host
    resolved.zone.validated = False
    resolved.zone.addresses[resolved.www] = [host]
    alice.post_alias({"name": "web", "target-fqdn": [resolved.www]})
    assert signalling.put(1, scope(k13=["web"])).code == "2.01"

    until(lambda: "not validated by DNSSEC" in str(resolved.shown(1)["notes"]), within=20, what="the refusal")
    assert host not in targets(resolved)
    resolved.zone.validated = True
    resolved.again()
    until(lambda: host in targets(resolved), within=20, what="the address in a rule")
    assert resolved.www in resolved.zone.asked


@pytest.mark.rows("DATA-AUZ-005")
def test_an_address_that_leaves_the_domain_goes_from_enforcement_and_is_logged(
    resolved: Resolved, alice: Rest, signalling: Peer
) -> None:
    host, www = resolved.cast.domain.host, resolved.www
    other = f"{host.rpartition('.')[0]}.8"
    resolved.zone.addresses[www] = [host, other]
    alice.post_alias({"name": "web", "target-fqdn": [www]})
    assert signalling.put(1, scope(k13=["web"])).code == "2.01"
    until(lambda: other in targets(resolved), within=20, what="both addresses in rules")

    resolved.zone.addresses[www] = [host, FOREIGN]
    resolved.again()

    until(lambda: other not in targets(resolved), within=20, what="the address gone")
    assert host in targets(resolved)
    assert FOREIGN not in targets(resolved)
    said = f"{www} is {FOREIGN} outside the domain's prefixes, left out"
    until(lambda: any(said in line for line in resolved.product.lines), within=10, what="the event in the log")
    assert alice.get("aliases/alias=web?content=config").json == {
        f"{MODULE}:alias": [{"name": "web", "target-fqdn": [www]}]
    }, "the alias is as it was"
