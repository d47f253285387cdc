"""A name as target, through the running product: the lifecycle worker resolves it by its own look."""

from __future__ import annotations

import cbor2
import pytest

from tests.harness.dns import Zone, serving
from tests.harness.libcoap import GNUTLS, Libcoap
from tests.harness.product import Files, running
from tests.harness.waiting import until

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
