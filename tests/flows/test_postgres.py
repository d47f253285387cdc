"""The product on PostgreSQL: wrong passwords stay secret, connections do not pile up, a restart costs no request."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.postgres import GUARDED_PASSWORD, GUARDED_USER, Cluster
from tests.harness.product import Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]


@pytest.fixture(scope="module")
def product(cluster: Cluster) -> Iterator[Product]:
    environment = {"DATABASE_URL": cluster.create("shared"), "DOTS_DRIVER": "dryrun"}
    with running(environment=environment) as instance:
        yield instance


def connections(cluster: Cluster) -> int:
    return int(cluster.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'shared'"))


def test_doctor_names_the_database_and_not_the_password(cluster: Cluster, tmp_path: Path) -> None:
    cluster.create("guarded", owner=GUARDED_USER)
    good = Product(tmp_path, environment={"DATABASE_URL": cluster.url("guarded", GUARDED_USER, GUARDED_PASSWORD)})
    bad = Product(tmp_path, environment={"DATABASE_URL": cluster.url("guarded", GUARDED_USER, "wrong-" + "s3cret")})

    made = good.manage("init")
    fine = good.manage("doctor", check=False)
    refused = [bad.manage(*command, check=False) for command in (("doctor",), ("init",), ("up",), ("domain", "list"))]

    assert "database: PostgreSQL 1" in fine.out
    assert "guarded at " in fine.out
    assert "password authentication failed" in refused[0].out
    for result in (made, fine, *refused):
        assert GUARDED_PASSWORD not in result.out + result.err
        assert "s3cret" not in result.out + result.err
    for result in refused:
        assert result.status == 1
        assert "Traceback" not in result.out + result.err


def test_a_database_that_does_not_exist_is_said_in_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    refused = Product(tmp_path, environment={"DATABASE_URL": cluster.url("nowhere")}).manage("init", check=False)

    assert refused.status == 1
    assert "the database cannot be used: connection" in refused.err
    assert 'database "nowhere" does not exist' in refused.err
    assert "Traceback" not in refused.err


def test_connections_do_not_grow_with_requests(cluster: Cluster, product: Product) -> None:
    address = f"http://127.0.0.1:{product.web_port}/login/"

    def get(number: int) -> int:
        # A session that does not exist has to be looked for.
        request = urllib.request.Request(address, headers={"Cookie": f"dots-session={number:032d}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(32))) == {200}
    counts = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert set(pool.map(get, range(64))) == {200}
            counts.append(connections(cluster))

    print(f"connections after each 64 requests: {counts}")
    assert max(counts) <= 20


def test_a_restarted_database_costs_no_request(cluster: Cluster, product: Product) -> None:
    domain = product.new_domain()
    alice = product.new_client(domain, "alice")
    mid = product.client(alice, "mitigate", domain.host).json["scope"][0]["mid"]

    cluster.restart()

    again = product.client(alice, "mitigate", domain.host, "--mid", str(mid))
    assert again.json["code"] == "2.04", again.out
    assert product.client(alice, "status", "--mid", str(mid)).status == 0
    assert product.manage("doctor", check=False).status == 0
    began = time.monotonic()
    product.client(alice, "withdraw", "--mid", str(mid))
    until(lambda: product.mitigations()[0]["status"] == "terminating", what="the withdrawal in the rows")
    assert time.monotonic() - began < 10
