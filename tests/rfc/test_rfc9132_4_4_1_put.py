"""Requesting mitigation, refreshing it, and replacing it (RFC 9132, section 4.4.1.3), as a client sees it."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import pytest
import scenes

from tests.harness.console import Console
from tests.harness.console import console as open_console
from tests.harness.product import Cast, Product
from tests.harness.waiting import until
from tests.harness.wire import Peer, scope

Join = Callable[..., Peer]


@pytest.mark.rows("SIG-PUT-001", "SIG-PUT-002")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("confirmable", [False, True])
def test_a_new_request_is_2_01_with_its_mid_and_lifetime(
    join: Join, cast: Cast, transport: str, confirmable: bool
) -> None:
    alice = join("alice", transport=transport)

    made = alice.put(7, scope(f"{cast.domain.host}/32", lifetime=900), confirmable=confirmable)

    assert made.code == "2.01"
    assert made.body == {1: {2: [{5: 7, 14: 900}]}}
    shown = alice.get(7).scope
    assert shown[16] in (1, 2)
    assert (shown[5], shown[6]) == (7, [f"{cast.domain.host}/32"])


@pytest.mark.rows("SIG-PUT-001")
def test_a_new_request_to_be_ready_is_armed(alice: Peer, cast: Cast) -> None:
    made = alice.put(7, scope(f"{cast.domain.host}/32", k45=False))

    assert (made.code, made.scope) == ("2.01", {5: 7, 14: 600})
    assert alice.get(7).scope[16] == 8


@pytest.mark.rows("SIG-AUT-007")
def test_a_prefix_of_another_domain_is_refused(mallory: Peer, cast: Cast) -> None:
    refused = mallory.put(1, scope(f"{cast.domain.host}/32"))

    assert refused.code == "4.00"
    assert cast.domain.host in refused.diagnostic
    assert mallory.get().code == "4.04"


@pytest.mark.rows("SIG-PUT-002")
def test_a_conflict_is_told_with_the_grant_and_whose_it_is_is_not(alice: Peer, bob: Peer, cast: Cast) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32"))

    made = bob.put(2, scope(cast.domain.prefix))

    assert made.code == "2.01"
    assert made.body == {1: {2: [{5: 2, 14: 600, 17: {18: 2, 19: 1, 21: {6: [f"{cast.domain.host}/32"]}}}]}}
    assert alice.cuid.encode() not in made.payload


@pytest.mark.rows("SIG-PUT-003")
@pytest.mark.parametrize(("asked", "granted"), [(999_999, 86_400), (86_400, 86_400), (1, 1), (-1, 86_400)])
def test_the_granted_lifetime_is_told_also_where_it_is_another(
    alice: Peer, cast: Cast, asked: int, granted: int
) -> None:
    made = alice.put(1, scope(f"{cast.domain.host}/32", lifetime=asked))
    refreshed = alice.put(1, scope(f"{cast.domain.host}/32", lifetime=asked))

    assert (made.code, made.scope[14]) == ("2.01", granted)
    assert (refreshed.code, refreshed.scope[14]) == ("2.04", granted)
    assert granted - 5 <= alice.get(1).scope[14] <= granted


@pytest.mark.rows("SIG-PUT-003")
def test_an_endless_lifetime_is_granted_where_the_domain_may(alice: Peer, cast: Cast, console: Console) -> None:
    console.run("Domain.objects.filter(name=name).update(grants_indefinite=True)", name=cast.domain.name)

    assert alice.put(1, scope(f"{cast.domain.host}/32", lifetime=-1)).scope == {5: 1, 14: -1}
    assert alice.get(1).scope[14] == -1


# -- refresh


@pytest.mark.rows("SIG-PUT-004")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("lifetime", [60, 3600])
def test_the_same_with_another_lifetime_refreshes(join: Join, cast: Cast, lifetime: int, transport: str) -> None:
    alice = join("alice", transport=transport)
    alice.put(1, scope(f"{cast.domain.host}/32", k10=[6]))
    before = alice.get(1).scope

    refreshed = alice.put(1, scope(f"{cast.domain.host}/32", lifetime=lifetime, k10=[6]))

    assert (refreshed.code, refreshed.scope) == ("2.04", {5: 1, 14: lifetime})
    after = alice.get(1).scope
    assert lifetime - 5 <= after[14] <= lifetime
    assert after[15] == before[15]  # it began when it began


BEFORE: dict[int, Any] = {7: [{8: 80}, {8: 1000, 9: 2000}], 10: [6, 17], 45: True}
CHANGES: dict[str, dict[int, Any]] = {
    "another prefix": {6: ["{other}/32"]},
    "one prefix more": {6: ["{host}/32", "{other}/32"]},
    "a wider prefix": {6: ["{prefix}"]},
    "another port": {7: [{8: 81}, {8: 1000, 9: 2000}]},
    "one port more": {7: [{8: 80}, {8: 443}, {8: 1000, 9: 2000}]},
    "one port less": {7: [{8: 80}]},
    "another upper port": {7: [{8: 80}, {8: 1000, 9: 2001}]},
    "no ports": {7: None},
    "another protocol": {10: [6, 1]},
    "one protocol less": {10: [6]},
    "no protocols": {10: None},
    "a name": {11: ["{domain}"]},
    "a URI": {12: ["https://{domain}/"]},
    "no trigger": {45: False},
}


def changed(cast: Cast, changes: dict[int, Any]) -> bytes:
    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        if not isinstance(value, str):
            return value
        other = cast.domain.host.removesuffix("7") + "8"
        return value.format(host=cast.domain.host, other=other, prefix=cast.domain.prefix, domain=cast.domain.name)

    entry = {6: ["{host}/32"], 14: 600, **BEFORE, **changes}
    return cbor2.dumps({1: {2: [{key: filled(value) for key, value in entry.items() if value is not None}]}})


@pytest.mark.rows("SIG-PUT-005")
@pytest.mark.parametrize("name", CHANGES)
def test_the_same_mid_with_another_parameter_is_refused(alice: Peer, bob: Peer, cast: Cast, name: str) -> None:
    alice.put(1, changed(cast, {}))
    before = alice.get(1, uri_query=["c=c"]).scope

    refused = alice.put(1, changed(cast, {14: 3600, **CHANGES[name]}))

    assert refused.code == "4.00"
    assert "mid 1 exists with other parameters" in refused.diagnostic
    after = alice.get(1, uri_query=["c=c"]).scope
    assert before[14] - 5 <= after.pop(14) <= before.pop(14)
    assert after == before
    assert alice.get(1).scope[16] in (1, 2)


@pytest.mark.rows("SIG-PUT-007")
def test_a_refresh_may_be_written_differently(alice: Peer, cast: Cast) -> None:
    host, host6 = f"{cast.domain.host}/32", f"{cast.domain.host6}/128"
    first = {
        6: [host, host6],
        7: [{8: 80}, {8: 443}],
        10: [6, 17],
        11: [f"a.{cast.domain.name}", cast.domain.name],
        14: 600,
    }
    assert alice.put(1, cbor2.dumps({1: {2: [first]}})).code == "2.01"

    reordered = {key: value[::-1] if isinstance(value, list) else value for key, value in reversed(first.items())}
    same: list[dict[int, Any]] = [
        reordered,
        {**first, 45: True},
        {**first, 7: [{9: 80, 8: 80}, {8: 443}]},
        {**first, 6: [host, host6, host]},
        {**first, 6: [host, host6.replace("2001:db8", "2001:0DB8")]},
        {**first, 11: [f"A.{cast.domain.name.upper()}.", cast.domain.name]},
        {**first, 200: "of no meaning"},
    ]
    for entry in same:
        assert alice.put(1, cbor2.dumps({1: {2: [entry]}})).code == "2.04"
    (shown,) = alice.get().scopes
    assert (shown[6], shown[7], shown[10]) == ([host, host6], [{8: 80}, {8: 443}], [6, 17])


@pytest.mark.rows("SIG-PUT-008")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_repeated_first_request_creates_nothing_twice(
    join: Join, cast: Cast, console: Console, transport: str
) -> None:
    alice = join("alice", transport=transport)

    codes = [alice.put(1, scope(f"{cast.domain.host}/32")).code for _ in range(4)]

    assert codes == ["2.01", "2.04", "2.04", "2.04"]
    assert len(alice.get().scopes) == 1
    assert console.run("result = Mitigation.objects.filter(client__name=name).count()", name=cast.alice.name) == 1


@pytest.mark.rows("SIG-PUT-015", "SIG-PUT-004")
def test_asked_for_again_while_it_ends_it_goes_on(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32"))
    alice.until_status(1, 2)
    alice.delete(1)
    ending = alice.get(1)
    assert ending.scope[16] == 5
    assert 110 <= ending.scope[14] <= 120

    again = alice.put(1, scope(f"{cast.domain.host}/32"))

    assert (again.code, again.scope) == ("2.04", {5: 1, 14: 600})
    alice.until_status(1, 2)
    assert alice.get(1).scope[14] > 120


@pytest.mark.rows("SIG-PUT-015")
def test_a_new_mid_takes_over_what_ends(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32"))
    alice.delete(1)

    assert alice.put(2, scope(f"{cast.domain.host}/32")).code == "2.01"

    assert [(entry[5], entry[16] in (1, 2)) for entry in alice.get().scopes] == [(2, True)]


# -- replacing


@pytest.mark.rows("SIG-PUT-011", "SIG-PUT-010")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("trigger", [True, False])
def test_a_higher_mid_replaces_what_it_overlaps(join: Join, cast: Cast, trigger: bool, transport: str) -> None:
    alice = join("alice", transport=transport)
    for mid, prefix in ((1, f"{cast.domain.host}/32"), (2, f"{cast.domain.host}/31"), (3, f"{cast.domain.host6}/128")):
        alice.put(mid, scope(prefix, k45=trigger))

    assert alice.put(9, scope(cast.domain.prefix, k45=trigger)).code == "2.01"

    assert [entry[5] for entry in alice.get().scopes] == [3, 9]
    assert alice.get(1).code == alice.get(2).code == "4.04"


@pytest.mark.rows("SIG-PUT-011")
def test_nothing_of_the_other_trigger_type_is_replaced(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32", k45=False))

    assert alice.put(2, scope(f"{cast.domain.host}/32")).code == "2.01"

    assert [(entry[5], entry[16] == 8) for entry in alice.get().scopes] == [(1, True), (2, False)]


@pytest.mark.rows("SIG-PUT-011")
def test_nothing_of_others_is_replaced(alice: Peer, bob: Peer, cast: Cast) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32"))
    alice.put(1, scope(f"{cast.domain.host}/32"), cuid=f"{alice.cuid}-2")

    assert bob.put(9, scope(f"{cast.domain.host}/32")).code == "2.01"

    assert alice.get(1).code == "2.05"
    assert alice.get(1, cuid=f"{alice.cuid}-2").code == "2.05"


@pytest.mark.rows("SIG-PUT-011")
def test_a_refused_request_replaces_nothing(alice: Peer, cast: Cast) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32"))

    assert alice.put(2, scope(f"{cast.domain.host}/32", "203.0.113.1/32")).code == "4.00"

    assert [entry[5] for entry in alice.get().scopes] == [1]


class Flood:
    """Answers of an NTP server that nobody asked, to port 53 of one address of this machine, as fast as Python sends."""

    def __init__(self, cast: Cast) -> None:
        host = cast.domain.host
        subprocess.run(["ip", "route", "replace", "local", f"{host}/32", "dev", "lo"], check=True)
        self._target = (host, 53)
        self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.bind(self._target)
        self._receiver.setblocking(False)
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sender.bind(("127.0.0.1", scenes.NTP))
        self.sent = self.arrived = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def reaches(self) -> bool:
        """Whether one packet gets through now."""
        self._sender.sendto(b"monlist", self._target)
        return select.select([self._receiver], [], [], 0.2)[0] != [] and self._receiver.recv(100) == b"monlist"

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=10)
        self._take()

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def _run(self) -> None:
        while not self._over.is_set():
            for _ in range(50):
                self._sender.sendto(b"monlist", self._target)
            self.sent += 50
            self._take()

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(100):
                self.arrived += 1


@pytest.fixture
def flood(cast: Cast) -> Iterator[Flood]:
    scenes.needs_enforcement()
    found = Flood(cast)
    yield found
    found.close()


@pytest.mark.rows("SIG-PUT-012")
@pytest.mark.parametrize("change", ["same scope", "wider and narrower", "other ports"])
def test_one_request_overrides_another_without_a_gap(alice: Peer, cast: Cast, flood: Flood, change: str) -> None:
    host = cast.domain.host
    scopes = {
        "same scope": [scope(f"{host}/32")],
        "wider and narrower": [scope(f"{host}/32"), scope(cast.domain.prefix), scope(f"{host}/32", f"{host[:-1]}8/32")],
        "other ports": [
            scope(f"{host}/32"),
            scope(f"{host}/32", k7=[{8: 53}], k10=[17]),
            scope(f"{host}/32", k10=[17]),
        ],
    }[change]
    assert flood.reaches(), "it arrives while nothing protects the host"
    alice.put(0, scopes[0])
    alice.until_status(0, 2)
    assert not flood.reaches()

    with flood:
        for mid in range(1, 7):
            before = flood.sent
            assert alice.put(mid, scopes[mid % len(scopes)]).code == "2.01"
            alice.until_status(mid, 2)
            until(lambda before=before: flood.sent > before + 1_000, every=0.005, what="a thousand more packets")

    assert [entry[5] for entry in alice.get().scopes] == [6]
    assert flood.arrived == 0, f"of {flood.sent} packets"


@pytest.mark.rows("SIG-PUT-012")
def test_what_ends_is_taken_over_without_a_gap(alice: Peer, cast: Cast, flood: Flood) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32"))
    alice.until_status(1, 2)

    with flood:
        alice.delete(1)
        alice.put(2, scope(f"{cast.domain.host}/32"))
        alice.until_status(2, 2)
        before = flood.sent
        until(lambda: flood.sent > before + 1_000, every=0.005, what="a thousand more packets")

    assert flood.arrived == 0, f"of {flood.sent} packets"


# -- no room, no database


@pytest.mark.rows("SIG-PUT-013")
@pytest.mark.slow
def test_a_database_that_takes_nothing_is_5_03_with_max_age(product: Product, alice: Peer, cast: Cast) -> None:
    with open_console(product) as other:
        hold = """
from django.db import connection, transaction
transaction.set_autocommit(False)
ChangeCounter.objects.update(value=models.F("value"))
if connection.vendor == "postgresql":
    connection.cursor().execute("LOCK TABLE mitigation_mitigation IN ACCESS EXCLUSIVE MODE")
"""
        other.run(f"from django.db import models\n{hold}")
        refused = alice.put(1, scope(f"{cast.domain.host}/32"))
        other.run("from django.db import transaction\ntransaction.rollback()\ntransaction.set_autocommit(True)")

    assert refused.code == "5.03"
    assert refused.message.opt.max_age == 5
    assert refused.diagnostic
    until(lambda: alice.put(1, scope(f"{cast.domain.host}/32")).code in ("2.01", "2.04"), what="room again")


@pytest.mark.rows("SIG-PUT-009", "SIG-PUT-006")
def test_our_client_refreshes_by_the_same_command(product: Product, cast: Cast) -> None:
    codes = []
    for _ in range(2):
        done = product.client(cast.alice, "mitigate", cast.domain.host, "--mid", "5")
        assert done.status == 0, done.out + done.err
        codes.append(json.loads(done.out)["code"])

    assert codes == ["2.01", "2.04"]


@pytest.mark.rows("SIG-PUT-004", "SIG-MIT-004")
def test_attack_status_needs_a_mid_that_is_known(alice: Peer, cast: Cast) -> None:
    unknown = alice.put(1, scope(f"{cast.domain.host}/32", k29=1))
    assert unknown.code == "4.00"
    assert "attack-status belongs to an existing mitigation" in unknown.diagnostic
    assert alice.get(1).code == "4.04"

    alice.put(1, scope(f"{cast.domain.host}/32"))

    assert alice.put(1, scope(f"{cast.domain.host}/32", k29=2)).code == "2.04"
    assert alice.put(1, scope(f"{cast.domain.host}/32", k29=3)).code == "4.00"


@pytest.mark.rows("SIG-MID-010", "SIG-PUT-010", "SIG-MIT-022", "SIG-PUT-006")
def test_our_client_keeps_the_mid_of_a_refresh_and_takes_a_higher_one_for_another_scope(
    product: Product, cast: Cast, join: Join
) -> None:
    narrowed = ("--port", "80", "--port", "1000-2000", "--protocol", "tcp")
    first = product.client(cast.alice, "mitigate", cast.domain.host, *narrowed, "--cuid", cast.alice.name)
    mid = first.json["scope"][0]["mid"]
    refreshed = product.client(
        cast.alice, "mitigate", cast.domain.host, *narrowed, "--cuid", cast.alice.name, "--mid", str(mid)
    )
    shown = join("alice").get().scope
    adjusted = product.client(cast.alice, "mitigate", cast.domain.prefix, "--cuid", cast.alice.name)

    assert (refreshed.json["code"], refreshed.json["scope"][0]["mid"]) == ("2.04", mid)
    assert (shown[5], shown[7], shown[10]) == (mid, [{8: 80}, {8: 1000, 9: 2000}], [6])
    assert adjusted.json["code"] == "2.01"
    assert adjusted.json["scope"][0]["mid"] > mid
    assert [entry[5] for entry in join("alice").get().scopes] == [adjusted.json["scope"][0]["mid"]]
