"""Filters that a network posts over RESTCONF, with packets behind each word of theirs.

attacker --- router, with the server --- victim
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lab import packets
from lab.packets import Flow, Receiver, total
from lab.topology import VICTIM4, VICTIM6, Topology, why_impossible
from tests.harness.environment import IN_CI
from tests.harness.product import Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

ROUTER = "169.254.2.1"  # as the victim's network reaches it
CUID = "of-the-filter-tests"
NTP = 123
PARTNER, ATTACKER = "203.0.113.50", "203.0.113.60"
MODULE = "ietf-dots-data-channel"


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    reason = why_impossible()
    if reason and IN_CI:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with Topology("dots-filters") as topology:
        yield topology


@pytest.fixture(scope="module")
def router(lab: Topology) -> Iterator[Product]:
    with running(environment={"DOTS_BIND": "0.0.0.0"}, demo=True, namespace=lab.router.name) as product:
        assert Door(lab, product).ask("POST", "", {f"{MODULE}:dots-client": [{"cuid": CUID}]})[0] == 201
        yield product


@pytest.fixture
def door(lab: Topology, router: Product) -> Iterator[Door]:
    made = Door(lab, router)
    yield made
    made.ask("DELETE", f"/dots-client={CUID}/acls")
    until(lambda: not made.stands(), within=10, what="no filter left")


class Door:
    """The data channel, asked on the router itself."""

    def __init__(self, lab: Topology, product: Product) -> None:
        self._lab, self._product = lab, product
        self.files = Files("demo", "", product.home / "demo" / "client")
        self._base = f"https://localhost:{product.data_port}/restconf/data/{MODULE}:dots-data"

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        files = self.files
        command = ["curl", "-s", "-g", "-X", method, self._base + path, "-w", "\n%{http_code}", "-m", "20"]
        command += ["--cacert", str(files.ca), "--cert", str(files.cert), "--key", str(files.key)]
        if body is not None:
            command += ["-H", "Content-Type: application/yang-data+json", "-d", json.dumps(body)]
        answer, _, status = self._lab.router.run(*command).rpartition("\n")
        return int(status), json.loads(answer) if answer else None

    def put(self, name: str, *entries: tuple[dict[str, Any], dict[str, Any]], **members: str) -> None:
        aces = [{"name": f"r{at}", "matches": one, "actions": action} for at, (one, action) in enumerate(entries)]
        acl = {"name": name, "aces": {"ace": aces}} | {key.replace("_", "-"): value for key, value in members.items()}
        status, said = self.ask("PUT", f"/dots-client={CUID}/acls/acl={name}", {f"{MODULE}:acl": [acl]})
        assert status in (201, 204), said

    def statistics(self, name: str) -> list[dict[str, int]]:
        _, found = self.ask("GET", f"/dots-client={CUID}/acls/acl={name}?content=nonconfig")
        aces = found[f"{MODULE}:acl"][0]["aces"]["ace"]
        return [{key: int(value) for key, value in one.get("statistics", {}).items()} for one in aces]

    def stands(self) -> bool:
        return "jump acl_" in self._lab.router.run("nft", "list", "ruleset")


DROP, ACCEPT = {"forwarding": "drop"}, {"forwarding": "accept"}
TO_VICTIM = {"destination-ipv4-network": f"{VICTIM4}/32"}


def through(lab: Topology, *flows: Flow) -> tuple[list[packets.Sent], list[packets.Seen]]:
    with Receiver(lab.victim) as receiver:
        sent = packets.send(lab.attacker, *flows)
        return sent, receiver.stop()


def udp(source: str, count: int, *, port: int = 40_000, **more: Any) -> Flow:
    return Flow(VICTIM4, (source,), source_port=NTP, destination_port=port, count=count, rate=400, **more)


@pytest.mark.rows(
    "DATA-ACT-004", "DATA-STA-001", "DATA-DEL-001", "DATA-ACL-002", "ENF-GEN-008", "ENF-GEN-009", "ENF-STA-001"
)
def test_an_immediate_filter_drops_at_once_and_counts_to_the_octet(lab: Topology, door: Door) -> None:
    port = {"destination-port-range-or-operator": {"port": 9999}}
    door.put("now", ({"ipv4": TO_VICTIM, "udp": port}, DROP), activation_type="immediate")
    until(door.stands, within=5, what="the filter in the kernel")

    sent, seen = through(lab, udp(ATTACKER, 100, port=9999), udp(ATTACKER, 50, port=9998))

    assert total(seen, destination_port=9999) == 0
    assert total(seen, destination_port=9998) == 50
    wanted = [{"matched-packets": 100, "matched-octets": sent[0].octets}]
    until(lambda: door.statistics("now") == wanted, within=5, what=f"{wanted} in the tree")

    door.ask("DELETE", f"/dots-client={CUID}/acls/acl=now")
    until(lambda: not door.stands(), within=5, what="the filter gone")
    _, seen = through(lab, udp(ATTACKER, 20, port=9999))
    assert total(seen, destination_port=9999) == 20


@pytest.mark.rows(
    "DATA-ACT-003", "DATA-ACT-006", "DATA-ORD-003", "ENF-ACT-009", "ENF-ACT-012", "SIG-FLT-013", "ENF-GEN-008"
)
def test_an_accept_list_follows_its_clients_mitigation_and_wins_over_what_it_drops(
    lab: Topology, router: Product, door: Door
) -> None:
    door.put("partners", ({"ipv4": {"source-ipv4-network": f"{PARTNER}/32"} | TO_VICTIM}, ACCEPT))
    _, seen = through(lab, udp(PARTNER, 20), udp(ATTACKER, 20))
    assert (total(seen, source=PARTNER), total(seen, source=ATTACKER)) == (20, 20)
    assert not door.stands(), "nothing is mitigated yet"

    options = ("--cuid", CUID)
    asked = router.client(door.files, "mitigate", VICTIM4, VICTIM6, *options, server=ROUTER, namespace=lab.victim.name)
    assert asked.status == 0, asked.out + asked.err
    mid = str(asked.json["scope"][0]["mid"])
    until(door.stands, within=10, what="the accept-list in the kernel")

    def is_mitigated() -> bool:
        answer = router.client(door.files, "status", "--mid", mid, *options, server=ROUTER, namespace=lab.victim.name)
        return bool(answer.json["scope"][0]["status"] == 2)

    until(is_mitigated, within=10, what="status 2")
    _, seen = through(lab, udp(PARTNER, 200), udp(ATTACKER, 200))
    assert total(seen, source=ATTACKER) == 0, "NTP answers: the mitigation drops them"
    assert total(seen, source=PARTNER) == 200, "and the accept-list spares its partner"
    until(lambda: door.statistics("partners")[0].get("matched-packets") == 200, within=5, what="200 packets counted")

    number = router.mitigations()[0]["id"]
    router.manage("mitigation", "stop", str(number))
    until(lambda: not door.stands(), within=10, what="the accept-list gone with its mitigation")


@pytest.mark.rows("ENF-ACT-005", "ENF-STA-004", "DATA-ACL-016")
def test_a_rate_limit_holds_what_comes_to_its_rate(lab: Topology, door: Door) -> None:
    limit = ACCEPT | {"rate-limit": "50000.00"}
    door.put("slow", ({"ipv4": TO_VICTIM, "udp": {}}, limit), activation_type="immediate")
    until(door.stands, within=5, what="the filter in the kernel")

    sent, seen = through(lab, udp(ATTACKER, 1200, payload=472))

    passed = total(seen, source=ATTACKER) * 500
    assert 140_000 <= passed <= 50_000 * 6, "three seconds, one second's worth at the start; more on a slow machine"
    wanted = {"matched-packets": 1200, "matched-octets": sent[0].octets}
    until(lambda: door.statistics("slow") == [wanted], within=5, what="all of it counted, not only what was dropped")


@pytest.mark.rows("DATA-ACT-005", "DATA-STA-003")
def test_what_was_counted_outlives_the_table_and_the_filter_comes_back(lab: Topology, door: Door) -> None:
    door.put("lasting", ({"ipv4": TO_VICTIM, "udp": {}}, DROP), activation_type="immediate")
    until(door.stands, within=5, what="the filter in the kernel")
    through(lab, udp(ATTACKER, 30))
    until(lambda: door.statistics("lasting")[0].get("matched-packets") == 30, within=5, what="30 counted")

    lab.router.run("nft", "delete", "table", "inet", "dots")
    until(lambda: "table inet dots" in lab.router.run("nft", "list", "tables"), within=20, what="the table made anew")
    until(door.stands, within=20, what="the filter put back")

    _, seen = through(lab, udp(ATTACKER, 12))
    assert total(seen, source=ATTACKER) == 0
    until(lambda: door.statistics("lasting")[0].get("matched-packets") == 42, within=5, what="42 counted")


@pytest.mark.rows("ENF-STA-001")
def test_operators_see_what_stands_and_what_it_met_and_hold_it(lab: Topology, router: Product, door: Door) -> None:
    port = {"destination-port-range-or-operator": {"port": 9997}}
    door.put("shown", ({"ipv4": TO_VICTIM, "udp": port}, DROP), activation_type="immediate")
    until(lambda: words(router.page("/filters/?q=shown"), "Installed shown"), within=10, what="the word Installed")

    through(lab, udp(ATTACKER, 100, port=9997))

    until(lambda: words(router.page("/filters/?q=9997"), "Hitting shown"), within=10, what="the word Hitting")
    number = json.loads(router.manage("filter", "list", "--json").out)[0]["id"]
    list_page = router.page(f"/filters/{number}/")
    assert words(list_page, f"1 UDP to {VICTIM4}/32 port 9997 r0 drop 100")
    assert "No data" not in list_page, "the chart has its samples"

    router.console.run(
        "from mitigation.services import filters\nfilters.hold(pk, actor='op', reason='no', now=now)", pk=number
    )
    until(lambda: not door.stands(), within=10, what="the held list out of the kernel")
    assert words(router.page(f"/filters/{number}/"), "Held")
    _, seen = through(lab, udp(ATTACKER, 20, port=9997))
    assert total(seen, destination_port=9997) == 20


def words(html: str, wanted: str) -> bool:
    return wanted in re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
