"""What a domain's policy decides on the data channel: contradicting filters, and lifetimes."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from data_trees import ACCEPT, MODULE, ace, acl, alias

from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.rest import Rest
from tests.harness.waiting import until
from tests.harness.wire import peer, scope

ACL, ACLS = f"{MODULE}:acl", f"{MODULE}:acls"

STATES = """
from mitigation.models import EnforcedAce
rows = EnforcedAce.objects.filter(acl__client__name=client, acl__name=acl)
result = sorted(set(rows.values_list("state", flat=True)))
"""


def policy(console: Console, cast: Cast, *words: str) -> None:
    console.manage("domain", "set", cast.domain.name, *words)


def waiting(console: Console, cast: Cast) -> list[dict[str, Any]]:
    rows = json.loads(console.manage("filter", "list", "--waiting", "--json"))
    return [row for row in rows if row["domain"] == cast.domain.name]


def stands(console: Console, client: str, name: str) -> bool:
    """Whether the enforcer has put the list in force, as far as its driver does that."""
    return bool({"installed", "rendered"} & set(console.run(STATES, client=client, acl=name)))


def dropped(cast: Cast, **members: Any) -> dict[str, Any]:
    return acl(cast, "dropped", ace(cast, "x"), activation_type="immediate", **members)


def let_in(cast: Cast, *more: dict[str, Any]) -> dict[str, Any]:
    return acl(cast, "let-in", ace(cast, "y", action=ACCEPT), *more, activation_type="immediate")


def other_port(cast: Cast, name: str) -> dict[str, Any]:
    return ace(cast, name, udp={"source-port-range-or-operator": {"port": 53}})


def names(rest: Rest) -> list[str]:
    return [one["name"] for one in rest.get("acls?content=config").json[ACLS].get("acl", [])]


def activation(rest: Rest, name: str) -> str:
    (found,) = rest.get(f"acls/acl={name}?content=config").json[ACL]
    return str(found["activation-type"])


@pytest.mark.rows("DATA-CNF-002")
def test_all_contradicting_filters_are_refused_where_the_policy_says_so(
    alice: Rest, bob: Rest, mallory: Rest, cast: Cast, console: Console
) -> None:
    policy(console, cast, "--filter-conflict", "refuse-all")
    assert alice.post_acl(dropped(cast), acl(cast, "other", other_port(cast, "z"))).status == 201
    host = {"ipv4": {"source-ipv4-network": "192.0.2.0/24"}}
    assert mallory.post_acl(acl(cast, "hers", ace(cast, "m", **host))).status == 201

    answer = bob.post_acl(acl(cast, "fine", other_port(cast, "f")), let_in(cast))

    assert answer.fault == (409, "resource-denied")
    assert names(bob) == [], "nothing of a refused request stays"
    assert activation(alice, "dropped") == "deactivate"
    assert activation(alice, "other") == "deactivate", "it drops what bob lets in, too"
    (hers,) = mallory.get("acls/acl=hers?content=config").json[ACL]
    assert "activation-type" not in hers, "another domain is not concerned"
    assert bob.post_acl(let_in(cast)).status == 409, "alice may switch hers on again"
    assert alice.delete("acls").status == 204
    assert bob.post_acl(let_in(cast)).status == 201


@pytest.mark.rows("DATA-CNF-002")
def test_an_operator_is_asked_where_the_policy_says_so(alice: Rest, bob: Rest, cast: Cast, console: Console) -> None:
    policy(console, cast, "--filter-conflict", "ask")
    assert alice.post_acl(dropped(cast)).status == 201
    until(lambda: stands(console, cast.alice.name, "dropped"), within=20, what="alice's filter in force")

    assert bob.post_acl(let_in(cast)).status == 201
    assert bob.post_acl(acl(cast, "fine", other_port(cast, "f"), activation_type="immediate")).status == 201
    until(lambda: stands(console, cast.bob.name, "fine"), within=20, what="bob's other filter in force")
    assert not stands(console, cast.bob.name, "let-in")
    (row,) = waiting(console, cast)
    assert (row["client"], row["name"], row["waits"]) == (cast.bob.name, "let-in", True)

    console.manage("filter", "allow", str(row["id"]))
    until(lambda: stands(console, cast.bob.name, "let-in"), within=20, what="bob's filter in force")
    assert waiting(console, cast) == []
    assert activation(alice, "dropped") == "immediate"


@pytest.mark.rows("DATA-CNF-002")
def test_a_filter_that_waits_is_not_let_through_by_another_edit(
    alice: Rest, bob: Rest, cast: Cast, console: Console, product: Product
) -> None:
    policy(console, cast, "--filter-conflict", "ask")
    alice.post_acl(dropped(cast))
    assert bob.post_acl(let_in(cast)).status == 201
    body = {f"{MODULE}:ace": [other_port(cast, "more")]}
    assert bob.post("acls/acl=let-in/aces", body).status == 201
    assert bob.put("acls/acl=let-in", {ACL: [let_in(cast, other_port(cast, "more"))]}).status == 204
    assert bob.patch("acls/acl=let-in", {ACL: [{"name": "let-in", "activation-type": "deactivate"}]}).status == 204
    with peer(cast.bob, product.signal_port) as signal:
        entry = {6: [f"{cast.domain.host}/32"], 14: 600, 53: [{23: "let-in", 52: 2}]}
        assert signal.put(1, cbor2.dumps({1: {2: [entry]}})).code == "2.01"
        assert activation(bob, "let-in") == "immediate"
        (row,) = waiting(console, cast)
        signal.delete(1)

    assert bob.put("acls/acl=let-in", {ACL: [let_in(cast)]}).status == 204
    assert alice.delete("acls/acl=dropped").status == 204
    assert waiting(console, cast) == [
        row | {"entries": 1, "activation": "immediate", "expires": waiting(console, cast)[0]["expires"]}
    ]
    assert bob.put("acls/acl=let-in", {ACL: [let_in(cast)]}).status == 204, "judged anew, there is nothing to ask about"
    assert waiting(console, cast) == []


@pytest.mark.rows("DATA-CNF-002")
def test_what_an_operator_refuses_is_gone_for_its_client(alice: Rest, bob: Rest, cast: Cast, console: Console) -> None:
    policy(console, cast, "--filter-conflict", "ask")
    alice.post_acl(dropped(cast))
    assert bob.post_acl(let_in(cast)).status == 201
    (row,) = waiting(console, cast)

    console.manage("filter", "refuse", str(row["id"]), "--reason", "alice is right")

    assert bob.get("acls/acl=let-in").status == 404
    assert activation(alice, "dropped") == "immediate"


@pytest.mark.rows("DATA-LIF-008")
def test_a_domain_may_keep_what_nobody_refreshes_for_longer(
    alice: Rest, mallory: Rest, cast: Cast, console: Console, product: Product
) -> None:
    def left(rest: Rest) -> tuple[int, int]:
        (one,) = rest.get("aliases/alias=web").json[f"{MODULE}:alias"]
        (two,) = rest.get("acls/acl=drops").json[ACL]
        return one["pending-lifetime"], two["pending-lifetime"]

    policy(console, cast, "--filter-lifetime", "20160")
    other = {
        "name": "web",
        "target-fqdn": [
            console.run("result = Client.objects.get(name=n).domain.names.get().fqdn", n=cast.mallory.name)
        ],
    }
    hers = acl(cast, "drops", ace(cast, ipv4={"source-ipv4-network": "192.0.2.0/24"}))
    assert mallory.post_alias(other).status == 201
    assert mallory.post_acl(hers).status == 201
    assert alice.post_alias(alias(cast)).status == 201
    assert alice.post_acl(acl(cast)).status == 201
    assert left(alice) == (20_160, 20_160)
    assert left(mallory) == (10_080, 10_080), "the policy is one domain's"

    with peer(cast.alice, product.signal_port) as signal:
        entry = {6: [f"{cast.domain.host}/32"], 14: 600, 53: [{23: "drops", 52: 3}]}
        console.run(
            "from datetime import timedelta\nAcl.objects.filter(cuid=c).update(expires_at=now + timedelta(minutes=9))",
            c=alice.cuid,
        )
        assert signal.put(1, cbor2.dumps({1: {2: [entry]}})).code == "2.01"
        assert left(alice)[1] == 20_160, "the signal channel refreshes for as long"

    refused = product.manage("domain", "set", cast.domain.name, "--filter-lifetime", "10079", check=False)
    assert refused.status == 1
    assert "10080" in refused.err


def test_a_mitigation_is_no_way_around_the_question(
    alice: Rest, bob: Rest, cast: Cast, console: Console, product: Product
) -> None:
    policy(console, cast, "--filter-conflict", "ask")
    assert alice.post_acl(dropped(cast)).status == 201
    ready = acl(cast, "ready", ace(cast, "y", action=ACCEPT))
    assert bob.post_acl(ready, acl(cast, "fine", other_port(cast, "f"))).status == 201
    with peer(cast.bob, product.signal_port) as signal:
        assert signal.put(1, scope(f"{cast.domain.host}/32")).code == "2.01"
        until(lambda: stands(console, cast.bob.name, "fine"), within=20, what="bob's other filter in force")
        assert not stands(console, cast.bob.name, "ready")
        signal.delete(1)
