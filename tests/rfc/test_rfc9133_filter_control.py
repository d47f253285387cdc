"""Filters switched by mitigation requests (RFC 9133, section 3.2.1), on the wire.

The filters are made by another process on the same database, as the data channel would.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import pytest
from refusals import assert_refused

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import body as bodies
from mitigation.protocol import keys, messages
from mitigation.protocol.filters import AclControl, ActivationType
from mitigation.protocol.scope import MitigationRequest, Scope
from tests.harness.console import Console
from tests.harness.product import ROOT, Cast, Product
from tests.harness.waiting import until
from tests.harness.wire import Peer, peer, scope

Join = Callable[..., Peer]

WHEN_MITIGATING, IMMEDIATE, DEACTIVATE = 1, 2, 3

MAKE = """
from datetime import timedelta
made, left = now - timedelta(days=3), now + timedelta(days=days)
Acl.objects.create(client=Client.objects.get(name=client), cuid=cuid, name=acl, activation_type=kind, created_at=made,
                   refreshed_at=made, expires_at=left)
"""
READ = """
row = Acl.objects.get(client__name=client, cuid=cuid, name=acl)
result = [row.activation_type, (row.expires_at - now).total_seconds() / 60]
"""
SWITCH = """
from mitigation.protocol.filters import ActivationType
from mitigation.services import filters
pk = Client.objects.get(name=client).pk
filters.activate((pk, "", cuid), acl, ActivationType(kind), now=now, door="data")
"""


ACCEPT = """
from mitigation.services import accept_lists
ace = {"name": "one", "matches": {"ipv4": {"source-ipv4-network": source}}, "actions": {"forwarding": "accept"}}
Acl.objects.filter(client__name=client, cuid=cuid, name=acl).update(aces=[ace])
row = Mitigation.objects.live().get(client__name=client, cuid=cuid)
accept_lists.report_attackers(row.pk, [source], actor="test", now=now)
"""


class Filters:
    """The filters of alice of this cast, as the other process sees them."""

    def __init__(self, console: Console, cast: Cast) -> None:
        self._console = console
        self._whose = {"client": cast.alice.name, "cuid": cast.alice.name}

    def make(self, name: str, kind: int = WHEN_MITIGATING, *, days: int = 4, **whose: str) -> None:
        self._console.run(MAKE, acl=name, kind=kind, days=days, **{**self._whose, **whose})

    def kind(self, name: str, **whose: str) -> int:
        """The activation type."""
        kind: int = self._console.run(READ, acl=name, **{**self._whose, **whose})[0]
        return kind

    def pending_lifetime(self, name: str) -> float:
        """Minutes, as RFC 8783 counts them."""
        minutes: float = self._console.run(READ, acl=name, **self._whose)[1]
        return minutes

    def let_in(self, name: str, source: str) -> None:
        """This filter accepts a source that attacks what the only mitigation protects."""
        self._console.run(ACCEPT, acl=name, source=source, **self._whose)

    def drop(self, name: str, port: int) -> None:
        """This filter drops UDP to this port of all the domain."""
        self._console.run(DROPPING, acl=name, port=port, **self._whose)

    def switch(self, name: str, kind: int) -> None:
        """From outside of the signal channel."""
        self._console.run(SWITCH, acl=name, kind=kind, **self._whose)


@pytest.fixture
def filters(console: Console, cast: Cast) -> Filters:
    return Filters(console, cast)


@pytest.fixture
def ask(cast: Cast) -> Callable[..., bytes]:
    """A request for the cast's host that switches filters: pairs of name and activation type, None for none."""

    def do(*switched: tuple[str, int | None], target: str = "", **others: Any) -> bytes:
        acls = [{23: name} | ({} if kind is None else {52: kind}) for name, kind in switched]
        return scope(target or f"{cast.domain.host}/32", k53=acls, **others)

    return do


# -- what it looks like


@pytest.mark.rows("SIG-FLT-001")
def test_acl_list_is_key_53_with_names_and_activation_types() -> None:
    request = MitigationRequest("c", 1, Scope(), 60, acls=(AclControl("a", ActivationType.IMMEDIATE),))

    octets = messages.encode_mitigation(request)

    assert octets == bytes.fromhex("a1 01 a1 02 81 a2 0e 18 3c 18 35 81 a2 17 61 61 18 34 02")


@pytest.mark.rows("SIG-FLT-001")
def test_without_an_activation_type_activate_when_mitigating_is_meant(
    alice: Peer, filters: Filters, ask: Callable[..., bytes]
) -> None:
    filters.make("an-accept-list", DEACTIVATE)

    assert alice.put(1, ask(("an-accept-list", None))).code == "2.01"

    assert filters.kind("an-accept-list") == WHEN_MITIGATING
    assert alice.put(1, ask(("an-accept-list", WHEN_MITIGATING))).code == "2.04"


@pytest.mark.rows("SIG-FLT-001", "SIG-FLT-006")
@pytest.mark.parametrize(
    ("acls", "words"),
    [
        ([{52: 1}], "lacks acl-name"),
        ([{23: "", 52: 1}], "acl-list"),
        ([{23: "a", 52: 0}], "activation-type 0 is not 1, 2 or 3"),
        ([{23: "a", 52: 4}], "activation-type 4 is not 1, 2 or 3"),
        ([{23: "a", 52: "immediate"}], "activation-type (52)"),
        ([{23: 1}], "acl-name (23)"),
        ([{23: "a"}, {23: "a", 52: 3}], "names a twice"),
        ([{23: "a", 24: "ipv4"}], "acl-name and activation-type only"),
        ([{23: "a", 100: 1}], "comprehension-required CBOR key: 100"),
    ],
)
def test_what_is_no_acl_list_is_refused(alice: Peer, filters: Filters, cast: Cast, acls: Any, words: str) -> None:
    filters.make("a", IMMEDIATE)

    assert_refused(alice, scope(f"{cast.domain.host}/32", k53=acls), words)
    assert filters.kind("a") == IMMEDIATE


@pytest.mark.rows("SIG-FLT-006")
@pytest.mark.parametrize("missing", [(52, 53), (53,), (52,), (23,)])
def test_without_support_its_keys_are_refused(monkeypatch: pytest.MonkeyPatch, missing: tuple[int, ...]) -> None:
    known = {number: key for number, key in keys.BY_NUMBER.items() if number not in missing}
    monkeypatch.setattr(keys, "BY_NUMBER", known)
    wanted = cbor2.dumps({1: {2: [{6: ["192.0.2.1/32"], 14: 60, 53: [{23: "a", 52: 1}]}]}})

    with pytest.raises(MalformedRequest, match=f"comprehension-required CBOR key: .*{missing[-1]}"):
        bodies.decode(wanted)


# -- when, and which


@pytest.mark.rows("SIG-FLT-002")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_in_idle_time_no_filter_is_switched(
    join: Join, filters: Filters, ask: Callable[..., bytes], transport: str
) -> None:
    alice = join("alice", transport=transport)
    filters.make("a")

    assert_refused(alice, ask(("a", DEACTIVATE), k45=False), "while no attack goes on")
    assert filters.kind("a") == WHEN_MITIGATING


@pytest.mark.rows("SIG-FLT-002", "SIG-FLT-012")
def test_the_request_that_begins_an_attack_may_switch(alice: Peer, filters: Filters, ask: Callable[..., bytes]) -> None:
    filters.make("a")

    assert alice.put(1, ask(("a", DEACTIVATE))).code == "2.01"

    assert filters.kind("a") == DEACTIVATE


@pytest.mark.rows("SIG-FLT-002")
def test_under_attack_a_request_kept_ready_may_switch_too(
    alice: Peer, bob: Peer, cast: Cast, filters: Filters, ask: Callable[..., bytes]
) -> None:
    filters.make("a")
    bob.put(1, scope(f"{cast.domain.host}/32"))  # another client's attack is not alice's
    assert_refused(alice, ask(("a", DEACTIVATE), k45=False), "while no attack goes on")

    alice.put(7, scope(f"{cast.domain.host6}/128"))

    assert alice.put(8, ask(("a", DEACTIVATE), k45=False)).code == "2.01"
    assert filters.kind("a") == DEACTIVATE


@pytest.mark.rows("SIG-FLT-003")
def test_a_filter_control_request_takes_a_new_mid(
    alice: Peer, cast: Cast, filters: Filters, ask: Callable[..., bytes]
) -> None:
    filters.make("a")
    alice.put(1, scope(f"{cast.domain.host}/32"))

    refused = alice.put(1, ask(("a", DEACTIVATE)))

    assert refused.code == "4.00"
    assert "another scope needs a new, higher mid" in refused.diagnostic
    assert filters.kind("a") == WHEN_MITIGATING
    assert alice.put(2, ask(("a", DEACTIVATE))).code == "2.01"
    assert alice.put(2, ask(("a", IMMEDIATE))).code == "4.00"
    assert filters.kind("a") == DEACTIVATE


@pytest.mark.rows("SIG-FLT-007", "SIG-FLT-015", "SIG-MIT-025")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_unknown_name_is_4_04_and_nothing_is_applied(
    join: Join, cast: Cast, filters: Filters, ask: Callable[..., bytes], transport: str
) -> None:
    alice = join("alice", transport=transport)
    filters.make("mine")
    filters.make("bobs", client=cast.bob.name, cuid=cast.bob.name)
    filters.make("mallorys", client=cast.mallory.name, cuid=cast.mallory.name)
    filters.make("of-another-cuid", cuid="another")
    filters.make("old", days=-1)

    for name in ("nothing", "bobs", "mallorys", "of-another-cuid", "old", "MINE"):
        refused = alice.put(1, ask(("mine", DEACTIVATE), (name, DEACTIVATE)))

        assert refused.code == "4.04"
        assert refused.diagnostic == f"there is no filter named {name} of this client"
        assert alice.get().code == "4.04"
    assert filters.kind("mine") == WHEN_MITIGATING
    assert filters.kind("bobs", client=cast.bob.name, cuid=cast.bob.name) == WHEN_MITIGATING
    assert filters.kind("mallorys", client=cast.mallory.name, cuid=cast.mallory.name) == WHEN_MITIGATING


@pytest.mark.rows("SIG-FLT-015")
def test_no_filter_is_created(alice: Peer, console: Console, cast: Cast, ask: Callable[..., bytes]) -> None:
    assert alice.put(1, ask(("new", IMMEDIATE))).code == "4.04"

    assert console.run("result = Acl.objects.filter(client__name=name).count()", name=cast.alice.name) == 0


@pytest.mark.rows("SIG-FLT-015")
def test_a_name_of_two_clients_is_switched_for_one(
    alice: Peer, cast: Cast, filters: Filters, ask: Callable[..., bytes]
) -> None:
    filters.make("a")
    filters.make("a", client=cast.bob.name, cuid=cast.bob.name)

    assert alice.put(1, ask(("a", DEACTIVATE))).code == "2.01"

    assert filters.kind("a") == DEACTIVATE
    assert filters.kind("a", client=cast.bob.name, cuid=cast.bob.name) == WHEN_MITIGATING


# -- what it does


@pytest.mark.rows("SIG-FLT-008", "SIG-FLT-009")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("kind", [WHEN_MITIGATING, IMMEDIATE, DEACTIVATE])
def test_a_filter_is_switched_at_once_refreshed_and_stays_so(
    join: Join, console: Console, cast: Cast, filters: Filters, ask: Callable[..., bytes], kind: int, transport: str
) -> None:
    alice = join("alice", transport=transport)
    before = {WHEN_MITIGATING: DEACTIVATE, IMMEDIATE: DEACTIVATE, DEACTIVATE: IMMEDIATE}[kind]
    filters.make("a", before)
    filters.make("other", before)
    assert filters.pending_lifetime("a") < 4 * 1440 + 1

    assert alice.put(1, ask(("a", kind))).code == "2.01"

    assert (filters.kind("a"), filters.kind("other")) == (kind, before)
    assert 10_079 < filters.pending_lifetime("a") <= 10_080
    assert filters.pending_lifetime("other") < 4 * 1440 + 1
    alice.delete(1)
    console.run("Mitigation.objects.filter(client__name=name).update(ends_at=now)", name=cast.alice.name)
    until(lambda: alice.get(1).code == "4.04", what="the end of the mitigation")
    assert filters.kind("a") == kind


@pytest.mark.rows("SIG-FLT-013", "SIG-FLT-008")
@pytest.mark.parametrize(("kind", "acts"), [(WHEN_MITIGATING, True), (IMMEDIATE, True), (DEACTIVATE, False)])
def test_immediate_and_activate_when_mitigating_act_at_once(
    alice: Peer, cast: Cast, filters: Filters, ask: Callable[..., bytes], kind: int, acts: bool
) -> None:
    """A filter that is in force and accepts an attacker conflicts with the mitigation (RFC 9132, section 4.4.1.3)."""
    filters.make("a", DEACTIVATE)
    alice.put(1, scope(f"{cast.domain.host}/32"))
    filters.let_in("a", "203.0.113.0/24")
    assert 17 not in alice.get(1).scope

    assert alice.put(2, ask(("a", kind), target=f"{cast.domain.host6}/128")).code == "2.01"

    conflict = {19: 2, 21: {22: [{23: "a"}]}}
    if acts:
        until(lambda: alice.get(1).scope.get(17) == conflict, within=2, what="the filter being in force")
        alice.put(3, ask(("a", DEACTIVATE), target=f"{cast.domain.host6}/128"))
    until(lambda: 17 not in alice.get(1).scope, within=2, what="the filter being off")
    assert filters.kind("a") == DEACTIVATE


DROPPING = """
ace = {"name": "one", "matches": {"ipv4": {}, "udp": {"destination-port-range-or-operator": {"port": port}}},
       "actions": {"forwarding": "ietf-access-control-list:drop"}}
Acl.objects.filter(client__name=client, cuid=cuid, name=acl).update(aces=[ace], ace_count=1)
"""


class Service:
    """Of a protected host on this machine, asked over loopback."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Service:
        subprocess.run(["ip", "address", "add", f"{self._address}/32", "dev", "lo"], check=True, timeout=30)
        self._socket.bind((self._address, 0))
        self._socket.settimeout(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        subprocess.run(["ip", "address", "del", f"{self._address}/32", "dev", "lo"], check=True, timeout=30)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def is_reached(self) -> bool:
        self._socket.sendto(b"anybody there", self._socket.getsockname())
        try:
            return bool(self._socket.recv(100))
        except TimeoutError:
            return False


@pytest.mark.flow
@pytest.mark.rows("SIG-FLT-013", "SIG-FLT-008", "DATA-ACT-007")
@pytest.mark.parametrize("kind", [WHEN_MITIGATING, IMMEDIATE])
def test_a_filter_that_a_request_switches_drops_packets_at_once(
    alice: Peer, cast: Cast, filters: Filters, ask: Callable[..., bytes], kind: int
) -> None:
    filters.make("a", DEACTIVATE)
    with Service(cast.domain.host) as service:
        filters.drop("a", service.port)
        assert service.is_reached()

        assert alice.put(1, ask(("a", kind), target=f"{cast.domain.host6}/128")).code == "2.01"
        until(lambda: not service.is_reached(), within=5, what="the filter dropping")

        assert alice.put(2, ask(("a", DEACTIVATE), target=f"{cast.domain.host6}/128")).code == "2.01"
        until(service.is_reached, within=5, what="the filter being off")


@pytest.mark.rows("SIG-OVL-012", "SIG-OVL-023", "ENF-TEL-005")
def test_observers_are_told_which_filter_lets_the_attack_in(alice: Peer, cast: Cast, filters: Filters) -> None:
    filters.make("a", IMMEDIATE)
    filters.make("b", DEACTIVATE)
    alice.put(1, scope(f"{cast.domain.host}/32"))
    alice.until_status(1, 2)
    watch = alice.watch(1)
    assert 17 not in watch.next().scope

    filters.let_in("a", "203.0.113.0/24")

    def told() -> bool:
        entry = watch.next().scope
        return entry[16] in (1, 2) and entry.get(17) == {19: 2, 21: {22: [{23: "a"}]}}

    until(told, what="a notification that names the filter")


@pytest.mark.rows("SIG-FLT-008")
def test_several_filters_are_switched_by_one_request(alice: Peer, filters: Filters, ask: Callable[..., bytes]) -> None:
    for name in ("a", "b", "c"):
        filters.make(name)

    assert alice.put(1, ask(("a", IMMEDIATE), ("b", DEACTIVATE), ("c", None))).code == "2.01"

    assert [filters.kind(name) for name in ("a", "b", "c")] == [IMMEDIATE, DEACTIVATE, WHEN_MITIGATING]


@pytest.mark.rows("SIG-FLT-012")
def test_an_overriding_request_with_filters_is_2_01(
    alice: Peer, cast: Cast, filters: Filters, ask: Callable[..., bytes]
) -> None:
    filters.make("a")
    alice.put(1, scope(f"{cast.domain.host}/32"))

    made = alice.put(2, ask(("a", DEACTIVATE)))

    assert (made.code, made.scope) == ("2.01", {5: 2, 14: 600})
    assert [entry[5] for entry in alice.get().scopes] == [2]


@pytest.mark.rows("SIG-FLT-008")
def test_a_repeated_request_switches_nothing_again(alice: Peer, filters: Filters, ask: Callable[..., bytes]) -> None:
    filters.make("a")
    alice.put(1, ask(("a", DEACTIVATE)))
    filters.switch("a", IMMEDIATE)

    assert alice.put(1, ask(("a", DEACTIVATE))).code == "2.04"

    assert filters.kind("a") == IMMEDIATE


@pytest.mark.rows("SIG-FLT-010", "ENF-TEL-003")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_what_cannot_be_applied_is_5_03_with_the_list(
    join: Join, console: Console, cast: Cast, filters: Filters, ask: Callable[..., bytes], transport: str
) -> None:
    alice = join("alice", transport=transport)
    filters.make("a")
    filters.make("b")

    def refused() -> Any:
        """The enforcement point is found well again whenever it is looked at."""
        console.run("EnforcementPoint.objects.update(health=EnforcementPoint.Health.DOWN)")
        answer = alice.put(alice.mid(), ask(("a", DEACTIVATE), ("b", IMMEDIATE)))
        return answer if answer.code == "5.03" else None

    try:
        answer = until(refused, what="a refusal")
        mid = answer.scope[5]
        without = alice.put(mid, scope(f"{cast.domain.host}/32"))
    finally:
        console.run("EnforcementPoint.objects.update(health=EnforcementPoint.Health.READY)")

    assert answer.message.opt.max_age == 30
    assert answer.body == {1: {2: [{5: mid, 53: [{23: "a", 52: DEACTIVATE}, {23: "b", 52: IMMEDIATE}]}]}}
    assert without.code == "2.01"  # the mitigation itself, as section 3.2.1 has the client ask for it at once
    assert [entry[5] for entry in alice.get().scopes] == [mid]
    again = alice.put(mid + 1, ask(("a", DEACTIVATE), ("b", IMMEDIATE)))
    assert again.code == "2.01"
    assert (filters.kind("a"), filters.kind("b")) == (DEACTIVATE, IMMEDIATE)


@pytest.mark.rows("SIG-FLT-014", "SIG-FLT-016")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_switch_from_outside_is_told_to_observers_and_polls(
    join: Join, cast: Cast, filters: Filters, transport: str
) -> None:
    alice, bob = join("alice", transport=transport), join("bob", transport=transport)
    filters.make("a")
    alice.put(1, scope(f"{cast.domain.host}/32"))
    bob.put(1, scope(f"{cast.domain.host6}/128"))
    watch = alice.watch(1)
    assert 53 not in watch.next().scope

    filters.switch("a", IMMEDIATE)

    until(lambda: watch.next().scope.get(53) == [{23: "a", 52: IMMEDIATE}], what="a notification with the filter")
    assert alice.get(1).scope[53] == [{23: "a", 52: IMMEDIATE}]
    assert alice.get().scope[53] == [{23: "a", 52: IMMEDIATE}]
    assert 53 not in bob.get(1).scope
    filters.switch("a", DEACTIVATE)
    until(lambda: alice.get(1).scope[53] == [{23: "a", 52: DEACTIVATE}], what="the newest only")


@pytest.mark.rows("SIG-FLT-014")
def test_an_own_switch_is_no_news(alice: Peer, filters: Filters, ask: Callable[..., bytes]) -> None:
    filters.make("a")
    alice.put(1, ask(("a", IMMEDIATE)))

    assert 53 not in alice.get(1).scope


# -- where people are asked

APPROVE = """
from mitigation.services import mitigations
row = Mitigation.objects.live().get(client__name=name, mid=mid)
mitigations.approve(row.pk, actor="operator ann", now=now)
"""
REJECT = """
from mitigation.services import mitigations
row = Mitigation.objects.live().get(client__name=name, mid=mid)
mitigations.reject(row.pk, actor="operator ann", reason="no", now=now)
"""


@pytest.mark.rows("SIG-FLT-008", "SIG-FLT-012", "SIG-FLT-014")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_what_waits_for_people_switches_with_their_approval(
    join: Join,
    product: Product,
    console: Console,
    cast: Cast,
    filters: Filters,
    ask: Callable[..., bytes],
    transport: str,
) -> None:
    alice = join("alice", transport=transport)
    filters.make("a")
    product.manage("domain", "set", cast.domain.name, "--approval", "one")

    assert alice.put(1, ask(("a", DEACTIVATE))).code == "2.01"
    console.run(REJECT, name=cast.alice.name, mid=1)
    assert alice.get(1).scope[16] == 7
    assert alice.put(2, ask(("a", DEACTIVATE))).code == "2.01"
    watch = alice.watch(2)
    waiting = watch.next().scope
    assert (waiting[16], waiting[6]) == (1, [f"{cast.domain.host}/32"])
    assert 53 not in waiting
    assert filters.kind("a") == WHEN_MITIGATING

    console.run(APPROVE, name=cast.alice.name, mid=2)

    assert filters.kind("a") == DEACTIVATE
    until(lambda: watch.next().scope.get(53) == [{23: "a", 52: DEACTIVATE}], what="a notification with the filter")
    assert alice.get(2).scope[53] == [{23: "a", 52: DEACTIVATE}]


# -- two servers of one domain


@pytest.fixture
def second_port(product: Product) -> Iterator[int]:
    """The signal channel of another server on the same database."""
    port = product.signal_port + 1
    environment = {**product.environment, "DOTS_SIGNAL_PORT": str(port)}
    command = [sys.executable, str(ROOT / "manage.py"), "runsignal"]
    log = product.home / "second.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        until(lambda: f"signal channel on port {port}" in log.read_text(), within=30, what="the second server")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.rows("SIG-FLT-016")
def test_two_servers_of_a_domain_say_the_same(
    alice: Peer, cast: Cast, filters: Filters, ask: Callable[..., bytes], second_port: int
) -> None:
    filters.make("a")
    with peer(cast.alice, second_port) as elsewhere:
        assert alice.put(1, scope(f"{cast.domain.host}/32")).code == "2.01"
        assert elsewhere.get(1).scope[6] == [f"{cast.domain.host}/32"]
        watch = elsewhere.watch(1)
        watch.next()

        assert elsewhere.put(2, ask(("a", DEACTIVATE), target=f"{cast.domain.host6}/128")).code == "2.01"
        assert filters.kind("a") == DEACTIVATE
        filters.switch("a", IMMEDIATE)

        until(lambda: watch.next().scope.get(53) == [{23: "a", 52: IMMEDIATE}], what="a notification with the filter")
        for server in (alice, elsewhere):
            assert [entry[53] for entry in server.get().scopes] == [[{23: "a", 52: IMMEDIATE}]] * 2
        assert elsewhere.delete(1).code == "2.02"
        until(lambda: alice.get(1).scope[16] == 5, what="the withdrawal")
