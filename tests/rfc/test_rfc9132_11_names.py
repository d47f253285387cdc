"""Names of targets are resolved in private and authentically (RFC 9132, section 11)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import scenes

from mitigation.pki.authority import initialise
from mitigation.pki.home import Home
from tests.harness.dns import Zone, serving_tls
from tests.harness.product import Files, running
from tests.harness.wire import peer, scope


@pytest.mark.rows("SIG-MIT-012")
def test_no_name_of_a_target_is_asked_for_in_clear(tmp_path: Path) -> None:
    scenes.needs_enforcement()
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
