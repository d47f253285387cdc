"""The data channel as an operator may provision it: on port 443, with small answers, on several servers."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cbor2
import pytest
from data_trees import MODULE, Connect, ace, acl, alias
from django.core.management import load_command_class

from tests.harness.console import ROOT as CHECKOUT
from tests.harness.console import Console
from tests.harness.product import Cast, Product, _free_ports, running
from tests.harness.rest import DOTS_DATA, ROOT, Rest
from tests.harness.waiting import until
from tests.harness.wire import peer, scope

ACL, ACLS = f"{MODULE}:acl", f"{MODULE}:acls"
SMALL = 4_096  # octets
OWN_COMMANDS = [path.stem for path in CHECKOUT.glob("mitigation/management/commands/[a-z]*.py")]


# -- another port, and a limit of answers


@pytest.fixture(scope="module")
def small() -> Iterator[Product]:
    environment = {"DOTS_DRIVER": "dryrun", "DOTS_DATA_PORT": "443", "DOTS_DATA_LARGEST_ANSWER": str(SMALL)}
    with running(environment=environment) as one:
        one.data_port = 443
        yield one


@pytest.fixture(scope="module")
def small_cast(small: Product) -> Cast:
    (cast,) = small.new_casts(1)
    return cast


@pytest.mark.rows("DATA-TRN-002", "DATA-ROOT-014")
def test_the_default_port_of_https_can_be_the_servers(small: Product, small_cast: Cast) -> None:
    context = ssl.create_default_context(cafile=str(small_cast.alice.ca))
    context.load_cert_chain(small_cast.alice.cert, small_cast.alice.key)
    with closing(http.client.HTTPSConnection("localhost", context=context, timeout=10)) as connection:
        assert connection.port == 443
        connection.request("GET", "/.well-known/host-meta")
        answer = connection.getresponse()
        assert (answer.status, f'href="{ROOT}"'.encode() in answer.read()) == (200, True)
    with closing(Rest(small, small_cast.mallory)) as mallory:
        assert mallory.register().headers["location"].startswith("https://localhost/restconf/data/")


@pytest.mark.rows("DATA-ERR-010")
def test_an_answer_that_is_too_big_is_asked_for_in_parts(small: Product, small_cast: Cast) -> None:
    many = [ace(small_cast, f"entry-{number}") for number in range(60)]
    with closing(Rest(small, small_cast.alice)) as alice:
        alice.register()
        assert alice.post_acl(acl(small_cast, "long", *many), acl(small_cast, "short")).status == 201

        for path in ("", "acls", "acls/acl=long"):
            answer = alice.get(path)
            assert answer.fault == (400, "too-big"), path
            assert len(answer.content) <= SMALL
            head = alice.ask("HEAD", path)
            assert (head.status, head.content) == (400, b"")
        assert alice.get("acls/acl=short").status == 200
        assert len(alice.get("acls?depth=3").json[ACLS]["acl"]) == 2
        assert len(alice.get("acls?fields=acl/name").json[ACLS]["acl"]) == 2
        assert alice.get("acls/acl=long/aces/ace=entry-7").status == 200


@pytest.mark.rows("DATA-ROOT-013")
def test_a_port_has_one_server(small: Product, small_cast: Cast) -> None:
    second = subprocess.run(
        [sys.executable, str(CHECKOUT / "manage.py"), "rundata"],
        cwd=CHECKOUT,
        env=small.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert "ddress already in use" in second.stderr
    with closing(Rest(small, small_cast.mallory)) as mallory:
        links = mallory.get("/.well-known/host-meta", headers={"Accept": "application/xrd+xml"}).content
        assert links.count(b'rel="restconf"') == 1


# -- two servers of one domain


@pytest.fixture
def second_server(product: Product) -> Iterator[Product]:
    """The data channel once more, as a process of its own on another port: what `data_port` of this product is."""
    (port,) = _free_ports(1)
    environment = {**product.environment, "DOTS_DATA_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, str(CHECKOUT / "manage.py"), "rundata"],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    other = Product(product.home, environment=environment)
    other.data_port = port
    try:
        yield other
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@pytest.mark.rows("DATA-ACT-009")
def test_a_filter_is_the_same_on_every_server_of_the_domain(
    alice: Rest, cast: Cast, product: Product, second_server: Product
) -> None:
    assert alice.post_acl(acl(cast)).status == 201
    with closing(Rest(second_server, cast.alice)) as there, peer(cast.alice, product.signal_port) as signalling:
        until(lambda: _answers(there), within=20, what="the second server")
        assert there.get("acls/acl=drops").etag == alice.get("acls/acl=drops").etag
        assert there.put("acls/acl=mine", {ACL: [acl(cast, "mine")]}).status == 201
        entry = {6: [f"{cast.domain.host}/32"], 14: 600, 53: [{23: "drops", 52: 3}, {23: "mine", 52: 2}]}
        assert signalling.put(1, cbor2.dumps({1: {2: [entry]}})).code == "2.01"

        for rest in (there, alice):
            found = {one["name"]: one["activation-type"] for one in rest.get("acls/acl").json[ACL]}
            assert found == {"drops": "deactivate", "mine": "immediate"}
        stale = alice.get("acls/acl=drops").etag
        assert there.patch("acls/acl=drops", {ACL: [{"name": "drops", "activation-type": "immediate"}]}).status == 204
        assert alice.delete("acls/acl=drops", headers={"If-Match": stale}).status == 412
        signalling.delete(1)


def _answers(rest: Rest) -> bool:
    try:
        return rest.get().status == 200
    except OSError:
        rest.close()
        return False


# -- without it


@contextlib.contextmanager
def out_of_order(product: Product) -> Iterator[None]:
    """The data channel's process answers nobody until the block ends."""
    children = Path(f"/proc/{product.pid}/task/{product.pid}/children").read_text().split()
    (data,) = [int(pid) for pid in children if b"rundata" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(data, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(data, signal.SIGCONT)


@pytest.mark.rows("DATA-OPS-008")
def test_under_attack_nothing_needs_the_data_channel(
    alice: Rest, cast: Cast, product: Product, console: Console
) -> None:
    def names() -> set[str]:
        return set(
            console.run(
                "rows = EnforcedAce.objects.filter(acl__client__name=client).exclude(state='idle')\n"
                "result = list(rows.values_list('acl__name', flat=True))",
                client=cast.alice.name,
            )
        )

    port = {"destination-port-range-or-operator": {"port": 9999}}
    always = acl(cast, "always", ace(cast, udp=port), activation_type="immediate")
    assert alice.post_acl(always, acl(cast, "ready")).status == 201
    assert alice.post_alias(alias(cast)).status == 201
    until(lambda: names() == {"always"}, within=20, what="the immediate filter")

    with out_of_order(product), peer(cast.alice, product.signal_port) as signalling:
        assert signalling.put(1, scope(k13=["web"])).code == "2.01"
        until(lambda: names() == {"always", "ready"}, within=20, what="the filter for mitigations")
        entry = {13: ["web"], 14: 600, 53: [{23: "always", 52: 3}]}
        assert signalling.put(2, cbor2.dumps({1: {2: [entry]}})).code == "2.01"
        until(lambda: names() == {"ready"}, within=20, what="the filter switched off")
    until(lambda: _answers(alice), within=20, what="the data channel being back")
    (found,) = alice.get("acls/acl=always").json[ACL]
    assert found["activation-type"] == "deactivate"


# -- direct configuration


@pytest.mark.rows("DATA-OPS-001", "DATA-OPS-002")
def test_nothing_but_the_data_channel_configures_aliases_and_filters(connect: Connect) -> None:
    """Operators judge what waits, hold lists back and set policies: no command makes or changes an alias or an entry.

    Lists that the signal channel keeps in the early draft's form are not the data channel's to change.
    """
    verbs = {name: set(getattr(load_command_class("mitigation", name), "verbs", ())) for name in OWN_COMMANDS}
    assert verbs["filter"] == {"list", "allow", "refuse", "hold", "release"}
    assert not [name for name in verbs if "alias" in name or "acl" in name]

    reserved = f"{DOTS_DATA}/dots-client=early-draft-1"
    body: dict[str, Any] = {f"{MODULE}:dots-client": [{"cuid": "early-draft-1"}]}
    assert connect("alice").put(reserved, body).fault == (403, "access-denied")
