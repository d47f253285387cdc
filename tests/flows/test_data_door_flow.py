"""The door of the data channel: who gets in by which certificate, and who no longer does."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mitigation.pki.authority import initialise, open_authority
from mitigation.pki.home import Home, write_private, write_public
from tests.harness.product import Files, Product
from tests.harness.waiting import until

pytestmark = pytest.mark.flow


class Door:
    """A connection that stays open, with or without a client's certificate."""

    def __init__(self, product: Product, files: Files, *, certificate: Files | None) -> None:
        self._context = ssl.create_default_context(cafile=str(files.ca))
        if certificate is not None:
            self._context.load_cert_chain(certificate.cert, certificate.key)
        self._port = product.data_port
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, path: str = "/restconf") -> tuple[int, bytes]:
        """Over the same connection as before."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection("localhost", self._port, context=self._context, timeout=10)
        self._connection.request("GET", path, headers={"Accept": "application/yang-data+json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def is_refused(self) -> bool:
        """By the handshake, which knows the revocation list, or by the request."""
        try:
            return self.get()[0] == 401
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@pytest.fixture
def alice(product: Product) -> Files:
    return product.new_client(product.new_domain(), "alice-data")


def test_a_client_gets_in_by_its_certificate(product: Product, alice: Files) -> None:
    door = Door(product, alice, certificate=alice)
    status, body = door.get()
    door.close()

    assert status == 200
    assert "ietf-restconf:restconf" in json.loads(body)


def test_nobody_gets_in_without_one(product: Product, alice: Files) -> None:
    door = Door(product, alice, certificate=None)
    status, body = door.get()
    door.close()

    assert status == 401
    assert b"yang-library" not in body


@pytest.mark.rows("SIG-AUT-008")
def test_a_revoked_certificate_is_out_within_two_seconds(
    product: Product, alice: Files, tell: Callable[[str], None]
) -> None:
    kept, fresh = Door(product, alice, certificate=alice), Door(product, alice, certificate=alice)
    assert kept.get()[0] == 200

    ended: list[float] = []

    def revoke() -> None:
        product.manage("certificate", "revoke", alice.serial)
        ended.append(time.monotonic())

    thread = threading.Thread(target=revoke)
    thread.start()
    # Asked all the while: a connection that idles for some seconds is closed for that.
    until(lambda: kept.get()[0] == 401, within=20, what="the open connection being refused")
    refused = time.monotonic()
    thread.join(timeout=20)
    took = refused - ended[0]

    assert took < 2
    assert fresh.is_refused()
    tell(f"revoked on the data channel: refused {took:+.2f} s after the command had ended")
    kept.close()
    fresh.close()


@pytest.mark.rows("SIG-AUT-002")
def test_a_certificate_of_another_authority_gets_nobody_in(product: Product, alice: Files, tmp_path: Path) -> None:
    home, now = Home(tmp_path / "other"), datetime.now(UTC)
    initialise(home, names=["localhost"], addresses=[], now=now)
    issued = open_authority(home).issue_client("alice", now=now)
    foreign = Files("alice", "", tmp_path)
    write_private(foreign.key, issued.key_pem)
    write_public(foreign.cert, issued.certificate_pem)

    door = Door(product, alice, certificate=foreign)
    assert door.is_refused()
    door.close()
