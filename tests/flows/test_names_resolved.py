"""A name as target, through the running product: the lifecycle worker resolves it by its own look."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest

from mitigation.pki.authority import initialise
from mitigation.pki.home import Home
from tests.harness.dns import Zone, serving, serving_tls
from tests.harness.libcoap import GNUTLS, Libcoap
from tests.harness.product import Files, running
from tests.harness.waiting import until
from tests.harness.wire import peer, scope

pytestmark = pytest.mark.flow


@pytest.mark.rows("SIG-MIT-011", "SIG-MIT-029", "SIG-SEC-014")
def test_a_name_is_protected_once_it_has_an_address_of_the_domain() -> None:
    zone = Zone(addresses={"www.names.example": ["10.9.0.7", "192.0.2.7"]})
    with serving(zone), running(environment={"DOTS_RESOLVERS": zone.server}) as product:
        product.manage("domain", "add", "names.example", "--prefix", "10.9.0.0/24", "--fqdn", "names.example")
        out = product.home / "clients" / "alice"
        product.manage("client", "add", "alice", "--domain", "names.example", "--out", str(out))
        peer = Libcoap(GNUTLS, Files("alice", "", out), server="127.0.0.1", port=product.signal_port, transport="udp")

        put = peer.ask("put", "/mitigate/cuid=c/mid=1", cbor2.dumps({1: {2: [{11: ["www.names.example"], 14: 600}]}}))
        foreign = peer.ask("put", "/mitigate/cuid=c/mid=2", cbor2.dumps({1: {2: [{11: ["www.b.example"], 14: 600}]}}))

        assert (put.code, foreign.code) == ("2.01", "4.00")
        (row,) = product.mitigations()
        until(lambda: product.mitigation(row["id"])["status"] == "mitigated", within=20, what="status 2")
        shown = product.mitigation(row["id"])
        text = str(shown["rules"])
        assert "10.9.0.7" in text
        assert "192.0.2.7" not in text
        assert "192.0.2.7" in str(shown["notes"])
        assert row["target"] == ["www.names.example"]


@pytest.mark.rows("SIG-MIT-012")
def test_no_name_of_a_target_is_asked_for_in_clear(tmp_path: Path) -> None:
    home, zone = Home(tmp_path), Zone(addresses={"www.names.example": ["10.9.0.7"]}, validated=True)
    initialise(home, names=["localhost"], addresses=[], now=datetime.now(UTC))
    with serving_tls(zone, home.server_certificate, home.server_key) as server:
        environment = {
            "DOTS_RESOLVERS": server,
            "DOTS_RESOLVER_CA": str(home.authority_certificate),
            "DOTS_DNSSEC": "yes",
        }
        with running(environment=environment) as product:
            product.manage("domain", "add", "names.example", "--prefix", "10.9.0.0/24", "--fqdn", "names.example")
            out = product.home / "clients" / "alice"
            product.manage("client", "add", "alice", "--domain", "names.example", "--out", str(out))
            with peer(Files("alice", "", out), product.signal_port) as alice:
                assert alice.put(1, scope(k11=["www.names.example"])).code == "2.01"
                alice.watch(1).until_status(2)
            doctor = product.manage("doctor").out

    assert "www.names.example" in zone.asked
    assert "DNS over TLS, validated answers only" in doctor
