"""Filters over RESTCONF (RFC 8783, section 7), as API clients see them."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from data_trees import ACCEPT, DROP, IPV4, IPV6, MODULE, ace, acl

from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.rest import DOTS_DATA, Rest
from tests.harness.waiting import until
from tests.harness.wire import peer, scope

ACL, ACLS, ACE = f"{MODULE}:acl", f"{MODULE}:acls", f"{MODULE}:ace"


def read(rest: Rest, name: str = "drops", query: str = "?content=config") -> dict[str, Any]:
    (only,) = rest.get(f"acls/acl={name}{query}").json[ACL]
    return dict(only)


def names(rest: Rest) -> list[str]:
    return [one["name"] for one in rest.get("acls?content=config").json[ACLS].get("acl", [])]


def to(cast: Cast, **more: Any) -> dict[str, Any]:
    return {"destination-ipv4-network": f"{cast.domain.host}/32", **more}


@pytest.mark.rows("DATA-ACL-002", "DATA-TREE-005", "DATA-TREE-006", "DATA-ACT-002", "DATA-ACL-020", "DATA-ENC-011")
def test_a_filter_is_read_as_it_was_posted(alice: Rest, cast: Cast) -> None:
    posted = acl(
        cast,
        "mixed",
        ace(cast, "frags", ipv4=to(cast, fragment={"operator": "match", "type": "isf"})),
        ace(
            cast,
            "ntp",
            action=ACCEPT,
            rate="125000.00",
            ipv4=to(cast, protocol=17) | {"source-ipv4-network": "192.0.2.0/24"},
            udp={"source-port-range-or-operator": {"operator": "eq", "port": 123}},
        ),
        activation_type="deactivate",
    )
    answer = alice.post_acl(posted)

    assert (answer.status, answer.content) == (201, b"")
    assert answer.headers["location"].endswith("/acls/acl=mixed")
    assert read(alice, "mixed") == posted
    assert read(alice, "mixed", "")["pending-lifetime"] == 10_080


@pytest.mark.rows("DATA-ENC-014", "DATA-DEC-01")
def test_identities_are_taken_with_and_without_their_module(alice: Rest, cast: Cast) -> None:
    short = acl(cast, "short", ace(cast, action="drop"), type="ipv4-acl-type")
    assert alice.post_acl(short).status == 201
    found = read(alice, "short")
    assert (found["type"], found["aces"]["ace"][0]["actions"]) == (IPV4, {"forwarding": DROP})


@pytest.mark.rows("DATA-ACL-003")
def test_filters_and_entries_are_also_posted_one_by_one(alice: Rest, cast: Cast) -> None:
    answer = alice.post("acls", {ACL: [acl(cast)]})
    assert (answer.status, answer.headers["location"].rpartition("/")[2]) == (201, "acl=drops")
    answer = alice.post("acls/acl=drops/aces", {ACE: [ace(cast, "two")]})
    assert (answer.status, answer.headers["location"].rpartition("/")[2]) == (201, "ace=two")
    answer = alice.post("acls/acl=drops", {f"{MODULE}:aces": {"ace": [ace(cast, "three")]}})
    assert answer.status == 201
    assert [one["name"] for one in read(alice)["aces"]["ace"]] == ["one", "two", "three"]


@pytest.mark.rows("DATA-ACL-004", "DATA-ACL-005", "DATA-DEC-05")
def test_a_put_takes_the_entry_plain_and_in_its_container(alice: Rest, cast: Cast) -> None:
    assert alice.put("acls/acl=drops", {ACL: [acl(cast)]}).status == 201
    assert alice.put("acls/acl=drops", {ACLS: {"acl": [acl(cast, activation_type="deactivate")]}}).status == 204
    assert read(alice)["activation-type"] == "deactivate"


@pytest.mark.rows("DATA-ACL-006")
def test_a_taken_name_is_a_conflict(alice: Rest, cast: Cast) -> None:
    alice.post_acl(acl(cast))
    answer = alice.post_acl(acl(cast))
    assert answer.fault == (409, "resource-denied")
    assert answer.error["error-path"].endswith("/acls/acl[name='drops']")


@pytest.mark.rows("DATA-ACL-028")
def test_names_are_a_clients_own(alice: Rest, bob: Rest, cast: Cast) -> None:
    assert (alice.post_acl(acl(cast)).status, bob.post_acl(acl(cast)).status) == (201, 201)


def _matches(**matches: Any) -> Any:
    return lambda cast: acl(cast, "bad", ace(cast, "good"), ace(cast, "r1", **matches))


def _fields(**fields: Any) -> Any:
    return lambda cast: acl(cast, "bad", ace(cast, "r1", ipv4=to(cast, **fields)))


def _actions(actions: Any) -> Any:
    return lambda cast: acl(cast, "bad", ace(cast, "r1") | {"actions": actions})


R1 = "/acls/acl[name='bad']/aces/ace[name='r1']"
FAULTS: dict[str, tuple[Any, str, str | None, str]] = {
    "no name": (lambda cast: acl(cast) | {"name": None}, "missing-attribute", "", "/acls"),
    "empty name": (lambda cast: acl(cast, ""), "invalid-value", "", "/name"),
    "long name": (lambda cast: acl(cast, "x" * 65), "invalid-value", "", "/name"),
    "twice one name": (lambda cast: acl(cast, "bad", ace(cast, "r1"), ace(cast, "r1")), "invalid-value", "", "/ace"),
    "unknown type": (lambda cast: acl(cast, "bad", type="ipv5-acl-type"), "invalid-value", "", "/type"),
    "Ethernet": (lambda cast: acl(cast, "bad", type="eth-acl-type"), "invalid-value", "", "/type"),
    "no action": (_actions({}), "missing-attribute", "", f"{R1}/actions/forwarding"),
    "reject": (
        _actions({"forwarding": "reject"}),
        *("invalid-value", "dots-action-not-supported", f"{R1}/actions/forwarding"),
    ),
    "rate with drop": (
        _actions({"forwarding": "drop", "rate-limit": "20.00"}),
        *("invalid-value", "dots-rate-limit-needs-accept", f"{R1}/actions/rate-limit"),
    ),
    "rate below zero": (
        _actions({"forwarding": "accept", "rate-limit": "-1.00"}),
        *("invalid-value", "", f"{R1}/actions/rate-limit"),
    ),
    "rate as number": (
        _actions({"forwarding": "accept", "rate-limit": 20.0}),
        *("invalid-value", "", f"{R1}/actions/rate-limit"),
    ),
    "rate in thousandths": (
        _actions({"forwarding": "accept", "rate-limit": "20.001"}),
        *("invalid-value", "", f"{R1}/actions/rate-limit"),
    ),
    "immediate for everybody": (
        lambda cast: acl(cast, "bad", ace(cast, "r1", ipv4={"protocol": 17}), activation_type="immediate"),
        *("missing-attribute", "dots-destination-required", f"{R1}/matches/ipv4/destination-ipv4-network"),
    ),
    "others' destination": (
        _matches(ipv4={"destination-ipv4-network": "203.0.113.0/24"}),
        *("invalid-value", "dots-target-not-authorized", f"{R1}/matches/ipv4/destination-ipv4-network"),
    ),
    "more than its own": (
        _matches(ipv4={"destination-ipv4-network": "10.0.0.0/8"}),
        *("invalid-value", "dots-target-not-authorized", f"{R1}/matches/ipv4/destination-ipv4-network"),
    ),
    "IPv6 in an IPv4 list": (
        _matches(ipv6={"protocol": 17}),
        *("invalid-value", "dots-type-mismatch", f"{R1}/matches/ipv6"),
    ),
    "two families": (_matches(ipv4={}, ipv6={}), "bad-element", None, f"{R1}/matches"),
    "tcp and udp": (_matches(tcp={}, udp={}), "bad-element", None, f"{R1}/matches"),
    "match any": (
        _matches(tcp={"flags-bitmask": {"operator": "match any", "bitmask": 2}}),
        *("invalid-value", "dots-operator-invalid", f"{R1}/matches/tcp/flags-bitmask/operator"),
    ),
    "no operator": (
        _fields(fragment={"operator": "not", "type": "isf"}),
        *("invalid-value", "dots-operator-invalid", f"{R1}/matches/ipv4/fragment/operator"),
    ),
    "fragment without type": (
        _fields(fragment={"operator": "match"}),
        *("missing-attribute", "", f"{R1}/matches/ipv4/fragment/type"),
    ),
    "df in IPv6": (
        lambda cast: acl(cast, "bad", ace(cast, "r1", ipv6={"fragment": {"type": "df"}}), type=IPV6),
        *("invalid-value", "dots-df-not-in-ipv6", f"{R1}/matches/ipv6/fragment/type"),
    ),
    "fragment and flags": (
        _fields(fragment={"type": "isf"}, flags="more"),
        *("invalid-value", "dots-fragment-and-flags", f"{R1}/matches/ipv4/flags"),
    ),
    "bitmask and flags": (
        _matches(tcp={"flags-bitmask": {"bitmask": 2}, "flags": "syn"}),
        *("invalid-value", None, "/matches/tcp/flags"),
    ),
    "bitmask too wide": (
        _matches(tcp={"flags-bitmask": {"bitmask": 4096}}),
        *("invalid-value", None, "/flags-bitmask/bitmask"),
    ),
    "lower-port alone": (
        _matches(udp={"destination-port-range-or-operator": {"lower-port": 80}}),
        *("missing-attribute", "", "/destination-port-range-or-operator/upper-port"),
    ),
    "ports the wrong way": (
        _matches(udp={"destination-port-range-or-operator": {"lower-port": 80, "upper-port": 79}}),
        *("invalid-value", "must-violation", ""),
    ),
    "range and operator": (
        _matches(udp={"destination-port-range-or-operator": {"lower-port": 80, "upper-port": 90, "port": 8}}),
        *("bad-element", None, ""),
    ),
    "port as text": (
        _matches(udp={"destination-port-range-or-operator": {"port": "443"}}),
        *("invalid-value", "", "/destination-port-range-or-operator/port"),
    ),
    "RFC 8519's port": (_matches(udp={"source-port": {"port": 1}}), "unknown-element", "", f"{R1}/matches/udp"),
    "hoplimit": (
        lambda cast: acl(cast, "bad", ace(cast, "r1", ipv6={"hoplimit": 3}), type=IPV6),
        *("unknown-element", "", f"{R1}/matches/ipv6"),
    ),
    "dscp too high": (_fields(dscp=64), "invalid-value", "", f"{R1}/matches/ipv4/dscp"),
    "ecn too high": (_fields(ecn=4), "invalid-value", "", f"{R1}/matches/ipv4/ecn"),
    "ihl too low": (_fields(ihl=4), "invalid-value", None, f"{R1}/matches/ipv4/ihl"),
    "offset too low": (_fields(offset=19), "invalid-value", None, f"{R1}/matches/ipv4/offset"),
    "prefix of the other family": (
        _fields(**{"source-ipv4-network": "2001:db8::/32"}),
        *("invalid-value", "", f"{R1}/matches/ipv4/source-ipv4-network"),
    ),
    "bits in an array": (
        _fields(fragment={"operator": ["not", "any"], "type": "isf"}),
        *("invalid-value", "", "/operator"),
    ),
    "flow label too high": (
        lambda cast: acl(cast, "bad", ace(cast, "r1", ipv6={"flow-label": 1_048_576}), type=IPV6),
        *("invalid-value", "", f"{R1}/matches/ipv6/flow-label"),
    ),
    "icmp of no family": (
        lambda cast: acl(cast, "bad", {**ace(cast, "r1", ipv4={}), "matches": {"icmp": {"type": 8}}}, type=None),
        *("missing-attribute", None, ""),
    ),
    "protocol that is not the transport's": (
        _matches(ipv4={"protocol": 17}, tcp={}),
        *("invalid-value", None, ""),
    ),
    "actions inside matches": (
        lambda cast: acl(cast, "bad", {"name": "r1", "matches": {"actions": {"forwarding": "drop"}}}),
        *("unknown-element", "", f"{R1}/matches"),
    ),
    "statistics": (
        lambda cast: acl(cast, "bad", ace(cast, "r1") | {"statistics": {"matched-packets": "1"}}),
        *("invalid-value", "dots-read-only", f"{R1}/statistics"),
    ),
    "unknown activation": (
        lambda cast: acl(cast, "bad", activation_type="active"),
        "invalid-value",
        "",
        "/activation-type",
    ),
    "null": (lambda cast: acl(cast, "bad") | {"type": None}, "invalid-value", "", "/type"),
}


@pytest.mark.rows(
    *(f"DATA-ACL-{number:03}" for number in (*range(7, 16), 17, 19, 22, 23, 24, 25, 26)),
    *(f"DATA-MAT-{number:03}" for number in (*range(1, 3), 4, 6, *range(8, 15), 18, 20, 23, 25, 29, 30)),
    *("DATA-CAP-010", "DATA-ACT-001", "DATA-AUZ-001", "DATA-AUZ-004", "DATA-AUZ-006", "DATA-ENC-012", "DATA-ERR-008"),
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("what", FAULTS)
def test_a_bad_filter_is_refused_whole_with_its_tag_and_path(alice: Rest, cast: Cast, what: str, method: str) -> None:
    make, tag, app_tag, path = FAULTS[what]
    tree = {name: value for name, value in make(cast).items() if value is not None or what == "null"}
    answer = alice.put("acls", {ACLS: {"acl": [tree]}}) if method == "PUT" else alice.post_acl(tree)

    assert answer.fault == (400, tag), answer.content
    if app_tag is not None:
        assert answer.error.get("error-app-tag", "") == app_tag
    assert answer.error["error-path"].startswith(f"/{MODULE}:dots-data/dots-client[cuid='{alice.cuid}']/acls")
    assert answer.error["error-path"].endswith(path)
    assert alice.get("acls").json == {ACLS: {}}


@pytest.mark.rows(
    "DATA-ORD-001", "DATA-ORD-004", "DATA-ORD-006", "DATA-ORD-009", "DATA-ORD-014", "DATA-ORD-015", "DATA-ORD-016"
)
def test_the_order_is_the_clients(alice: Rest, cast: Cast) -> None:
    for name in "abc":
        assert alice.post("acls", {ACL: [acl(cast, name)]}).status == 201
    assert names(alice) == ["a", "b", "c"]

    def at(name: str) -> str:
        full = f"/{MODULE}:dots-data/dots-client={alice.cuid}/acls/acl={name}"
        return full.replace("/", "%2F").replace(":", "%3A").replace("=", "%3D")

    assert alice.post("acls?insert=first", {ACL: [acl(cast, "0")]}).status == 201
    assert alice.post(f"acls?insert=before&point={at('b')}", {ACL: [acl(cast, "ab")]}).status == 201
    assert alice.post(f"acls?point=%2Frestconf%2Fdata{at('b')}&insert=after", {ACL: [acl(cast, "bb")]}).status == 201
    assert names(alice) == ["0", "a", "ab", "b", "bb", "c"]

    assert alice.put("acls/acl=c?insert=first", {ACL: [acl(cast, "c")]}).status == 204
    assert alice.put("acls/acl=ab", {ACL: [acl(cast, "ab", activation_type="deactivate")]}).status == 204
    assert names(alice) == ["c", "0", "a", "ab", "b", "bb"]

    assert alice.put("acls", {ACLS: {"acl": [acl(cast, "b"), acl(cast, "a")]}}).status == 204
    assert names(alice) == ["b", "a"]


@pytest.mark.rows("DATA-ORD-004", "DATA-DEL-004")
def test_entries_have_an_order_too(alice: Rest, cast: Cast) -> None:
    alice.post_acl(acl(cast, "drops", ace(cast, "a"), ace(cast, "b"), ace(cast, "c")))
    point = f"%2F{MODULE}:dots-data%2Fdots-client={alice.cuid}%2Facls%2Facl=drops%2Faces%2Face=b"
    assert alice.post(f"acls/acl=drops/aces?insert=after&point={point}", {ACE: [ace(cast, "bb")]}).status == 201
    assert alice.delete("acls/acl=drops/aces/ace=b").status == 204
    assert [one["name"] for one in read(alice)["aces"]["ace"]] == ["a", "bb", "c"]


@pytest.mark.rows("DATA-ORD-006", "DATA-ORD-007", "DATA-ORD-008", "DATA-ORD-011", "DATA-ORD-012", "DATA-ORD-013")
@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("POST", "acls", "insert=FIRST"),
        ("POST", "acls", "insert=before"),
        ("POST", "acls", "point=/x"),
        ("POST", "acls", "insert=first&point=%2Fx"),
        ("POST", "acls", "insert=before&point=%2Fietf-dots-data-channel:dots-data%2Fdots-client=x%2Facls%2Facl=drops"),
        ("POST", "acls", "insert=before&point=nothing"),
        ("POST", "aliases", "insert=first"),
        ("GET", "acls", "insert=first"),
        ("DELETE", "acls/acl=drops", "insert=first"),
        ("PATCH", "acls/acl=drops", "insert=first"),
        ("PUT", "acls/acl=drops", "content=all"),
    ],
)
def test_an_insertion_that_means_nothing_is_refused(
    alice: Rest, cast: Cast, method: str, path: str, query: str
) -> None:
    alice.post_acl(acl(cast))
    body = {f"{MODULE}:alias": [{"name": "x", "target-prefix": [f"{cast.domain.host}/32"]}]}
    if path != "aliases":
        body = {ACL: [acl(cast, "drops" if "=" in path else "new")]}
    answer = alice.ask(method, f"{path}?{query}", None if method in ("GET", "DELETE") else body)
    assert answer.fault == (400, "invalid-value")
    assert names(alice) == ["drops"]


@pytest.mark.rows("DATA-UPD-006", "DATA-UPD-007", "DATA-UPD-008", "DATA-UPD-009")
def test_a_patch_adds_and_overwrites_and_takes_nothing_away(alice: Rest, cast: Cast) -> None:
    alice.post_acl(acl(cast, "drops", ace(cast, "a"), ace(cast, "b", udp={"length": 8})))
    patched = {"name": "drops", "activation-type": "deactivate"}
    assert alice.patch("acls/acl=drops", {ACL: [patched]}).status == 204
    two = {"name": "b", "matches": {"tcp": {}}}
    assert alice.patch("acls/acl=drops/aces", {f"{MODULE}:aces": {"ace": [two, ace(cast, "c")]}}).status == 204

    found = read(alice)
    assert found["activation-type"] == "deactivate"
    assert [one["name"] for one in found["aces"]["ace"]] == ["a", "b", "c"]
    assert set(found["aces"]["ace"][1]["matches"]) == {"ipv4", "tcp"}, "of a choice only one case stays"

    assert alice.patch("acls/acl=none", {ACL: [acl(cast, "none")]}).fault == (404, "invalid-value")
    answer = alice.patch("acls/acl=drops", {ACL: [patched]}, content_type="application/yang-patch+json")
    assert answer.status == 415


@pytest.mark.rows("DATA-DEL-002", "DATA-DEL-003", "DATA-DEL-005", "DATA-DEL-006")
def test_filters_are_deleted_one_by_one_or_with_their_container(alice: Rest, cast: Cast) -> None:
    alice.post_acl(acl(cast, "a"), acl(cast, "b"), acl(cast, "c"))
    assert alice.delete("acls/acl=a").status == 204
    assert alice.delete("acls/acl=a").fault == (404, "invalid-value")
    assert alice.delete("acls/acl").fault == (400, "invalid-value")
    assert names(alice) == ["b", "c"]
    assert alice.delete("acls").status == 204
    assert names(alice) == []


@pytest.mark.rows("DATA-CNF-001", "DATA-CNF-003", "DATA-CNF-004", "DATA-CNF-006", "DATA-UPD-005")
def test_a_filter_that_contradicts_another_clients_is_refused(alice: Rest, bob: Rest, cast: Cast) -> None:
    source = {"source-ipv4-network": "192.0.2.0/24"}
    dropped = acl(cast, "dropped", ace(cast, "x", ipv4=to(cast) | source))
    let_in = acl(cast, "let-in", ace(cast, "y", action=ACCEPT, ipv4=to(cast) | source))
    elsewhere = acl(
        cast, "elsewhere", ace(cast, "z", action=ACCEPT, ipv4=to(cast) | {"source-ipv4-network": "198.51.100.0/24"})
    )
    assert alice.post_acl(dropped).status == 201

    for answer in (bob.post_acl(let_in), bob.put("acls/acl=let-in", {ACL: [let_in]})):
        assert answer.fault == (409, "resource-denied")
        assert answer.error["error-app-tag"] == "dots-filter-conflict"
        assert answer.error["error-path"].endswith("/acls/acl[name='let-in']/aces/ace[name='y']")
        assert "dropped" not in answer.content.decode(), "the name of another client's list"
    assert names(bob) == []
    assert bob.post_acl(dropped, elsewhere).status == 201, "the same, and other traffic"
    assert alice.post_acl(let_in).status == 409, "bob drops it too now"
    assert bob.delete("acls").status == 204
    assert alice.post_acl(let_in).status == 201, "inside one client the order decides"


@pytest.mark.rows("DATA-CNF-005")
def test_filters_of_two_domains_never_contradict(alice: Rest, mallory: Rest, cast: Cast) -> None:
    everything = {"ipv4": {"source-ipv4-network": "192.0.2.0/24"}}
    assert alice.post_acl(acl(cast, "a", ace(cast, **everything))).status == 201
    assert mallory.post_acl(acl(cast, "a", ace(cast, action=ACCEPT, **everything))).status == 201


@pytest.mark.rows("DATA-ACT-007", "DATA-ACT-008", "SIG-FLT-013")
def test_what_the_signal_channel_switches_is_read_here(
    alice: Rest, cast: Cast, product: Product, console: Console
) -> None:
    alice.post_acl(acl(cast, type=None))
    console.run(
        "from datetime import timedelta\nAcl.objects.filter(cuid=cuid).update(expires_at=now + timedelta(minutes=5))",
        cuid=alice.cuid,
    )
    before = alice.get("acls/acl=drops").etag
    with peer(cast.alice, product.signal_port) as signal:
        entry = {6: [f"{cast.domain.host}/32"], 14: 600, 53: [{23: "drops", 52: 3}]}
        reply = signal.put(1, cbor2.dumps({1: {2: [entry]}}))
        assert reply.code == "2.01", reply.payload
    answer = alice.get("acls/acl=drops")
    (found,) = answer.json[ACL]
    assert (found["activation-type"], found["pending-lifetime"]) == ("deactivate", 10_080)
    assert answer.etag != before


@pytest.mark.rows("DATA-CNF-007")
def test_an_accept_list_that_lets_an_attacker_in_is_named_on_the_signal_channel(
    alice: Rest, bob: Rest, cast: Cast, product: Product, console: Console
) -> None:
    partner = ace(cast, "partner", action=ACCEPT, ipv4=to(cast) | {"source-ipv4-network": "192.0.2.0/24"})
    other = ace(cast, "other", action=ACCEPT, ipv4=to(cast) | {"source-ipv4-network": "203.0.113.0/24"})
    assert alice.post_acl(acl(cast, "partners", partner), acl(cast, "others", other)).status == 201
    assert bob.post_acl(acl(cast, "bobs", partner)).status == 201
    with peer(cast.alice, product.signal_port) as signal:
        assert signal.put(1, scope(f"{cast.domain.host}/32")).code == "2.01"
        assert 17 not in signal.get(1).scope
        report = (
            "from mitigation.services import accept_lists\n"
            "row = Mitigation.objects.live().get(client__name=client)\n"
            "accept_lists.report_attackers(row.pk, ['192.0.2.9/32'], actor='test', now=now)"
        )
        console.run(report, client=cast.alice.name)
        until(lambda: 17 in signal.get(1).scope, within=10, what="the conflict")
        conflict = signal.get(1).scope[17]
        assert conflict[19] == 2, "conflict-cause: an accept-list"
        assert [one[23] for one in conflict[21][22]] == ["partners"]

        assert alice.delete("acls/acl=partners").status == 204
        until(lambda: 17 not in signal.get(1).scope, within=10, what="the conflict being over")
        signal.delete(1)


@pytest.mark.rows("DATA-LIF-002", "DATA-LIF-009", "DATA-DEC-17")
def test_a_filter_runs_out_but_not_while_a_mitigation_runs(
    alice: Rest, cast: Cast, product: Product, console: Console
) -> None:
    expire = "Acl.objects.filter(cuid=cuid).update(expires_at=now)"
    alice.post_acl(acl(cast))
    with peer(cast.alice, product.signal_port) as signal:
        assert signal.put(1, scope(f"{cast.domain.host}/32")).code == "2.01"
        console.run(expire, cuid=alice.cuid)
        assert read(alice, query="")["pending-lifetime"] == 0
        assert alice.post_acl(acl(cast)).status == 409
        console.run(STOP, name=cast.alice.name)
    assert alice.get("acls/acl=drops").status == 404
    assert alice.post_acl(acl(cast)).status == 201


STOP = """
from mitigation.services import mitigations
row = Mitigation.objects.live().get(client__name=name)
mitigations.stop(row.pk, actor="operator", reason="stopped by an operator", now=now)
"""


@pytest.mark.rows("DATA-CAP-002", "DATA-CAP-003", "DATA-CAP-008", "DATA-CAP-009", "DATA-CAP-013", "DATA-CAP-015")
def test_capabilities_promise_what_table_1_demands(alice: Rest) -> None:
    found = alice.get(f"{DOTS_DATA}/capabilities").json[f"{MODULE}:capabilities"]

    assert found["address-family"] == ["ipv4", "ipv6"]
    assert sorted(found["forwarding-actions"]) == [ACCEPT, DROP]
    mandatory = {
        "ipv4": ("length", "protocol", "destination-prefix", "source-prefix", "fragment"),
        "ipv6": ("length", "protocol", "destination-prefix", "source-prefix", "fragment"),
        "tcp": ("flags-bitmask", "source-port", "destination-port", "port-range"),
        "udp": ("length", "source-port", "destination-port", "port-range"),
        "icmp": ("type", "code"),
    }
    for name, leaves in mandatory.items():
        assert all(found[name][leaf] is True for leaf in leaves), name


LEAVES = {
    "ipv4": "dscp ecn length ttl protocol ihl flags offset identification source-prefix destination-prefix fragment",
    "ipv6": "dscp ecn length hoplimit protocol destination-prefix source-prefix flow-label fragment",
    "tcp": "sequence-number acknowledgement-number data-offset reserved flags window-size urgent-pointer options"
    " flags-bitmask source-port destination-port port-range",
    "udp": "length source-port destination-port port-range",
    "icmp": "type code rest-of-header",
}


@pytest.mark.rows("DATA-CAP-004", "DATA-CAP-005", "DATA-CAP-006", "DATA-CAP-007")
@pytest.mark.parametrize("name", LEAVES)
def test_capabilities_have_a_boolean_for_each_field(alice: Rest, name: str) -> None:
    found = alice.get(f"{DOTS_DATA}/capabilities/{name}").json[f"{MODULE}:{name}"]

    assert set(found) <= set(LEAVES[name].split())
    assert {type(value) for value in found.values()} == {bool}
    for leaf in LEAVES[name].split():
        one = alice.get(f"{DOTS_DATA}/capabilities/{name}/{leaf}")
        if leaf in found:
            assert one.json == {f"{MODULE}:{leaf}": found[leaf]}
        else:
            assert one.status == 404, leaf


@pytest.mark.rows("DATA-CAP-014", "DATA-OPT-004", "DATA-DEC-18")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", [f"{DOTS_DATA}/capabilities", "acls/acl=drops/pending-lifetime"])
def test_state_is_not_written(alice: Rest, cast: Cast, method: str, path: str) -> None:
    alice.post_acl(acl(cast))
    answer = alice.ask(method, path, {f"{MODULE}:capabilities": {}})
    assert answer.fault == (405, "operation-not-supported")
    assert answer.headers["allow"] == "OPTIONS, HEAD, GET"


@pytest.mark.rows("DATA-OPS-005", "DATA-OPS-004")
def test_a_list_has_a_largest_size(alice: Rest, cast: Cast) -> None:
    many = [ace(cast, f"ace-{number}") for number in range(2_001)]
    assert alice.post_acl(acl(cast, "drops", *many)).fault == (409, "resource-denied")
    assert names(alice) == []


def test_mallory_meets_nothing_of_it(alice: Rest, mallory: Rest, cast: Cast) -> None:
    alice.post_acl(acl(cast))
    tag = alice.get("acls/acl=drops").etag
    for path in ("acls", "acls/acl=drops", "acls/acl=drops/aces/ace=one", "acls/acl=drops/activation-type"):
        for method in ("GET", "HEAD", "DELETE", "OPTIONS"):
            answer = mallory.ask(method, f"{alice.mine}/{path}", headers={"If-Match": tag})
            assert answer.status == 404, (method, path)
        for method in ("PUT", "PATCH", "POST"):
            body = {ACL: [{"name": "drops"}]} if method != "POST" else {ACE: [ace(cast, "two")]}
            assert mallory.ask(method, f"{alice.mine}/{path}", body).status in (400, 404, 405), (method, path)
    assert read(alice) == acl(cast)
    assert alice.cuid not in mallory.get(DOTS_DATA).content.decode()


@pytest.mark.rows("DATA-LIF-002")
def test_what_has_run_out_may_be_made_anew(console: Console, cast: Cast, alice: Rest) -> None:
    drop = {"forwarding": "ietf-access-control-list:drop"}
    acl = {"name": "again", "aces": {"ace": [{"name": "all", "actions": drop}]}}
    alias = {"name": "again", "target-prefix": [f"{cast.domain.host}/32"]}
    for kind, one in (("acl", acl), ("alias", alias)):
        post = alice.post_acl if kind == "acl" else alice.post_alias
        assert post(one).status == 201
        console.run(
            "from datetime import timedelta\n"
            "for model in (Acl, Alias):\n"
            "    model.objects.filter(client__name=name).update(expires_at=now - timedelta(seconds=1))",
            name=cast.alice.name,
        )
        assert post(one).status == 201, kind
