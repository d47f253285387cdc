"""Filters of draft-reddy-dots-transport-05, section 6.1, on the wire: an instance with DOTS_EARLY_DRAFT, and one without."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import scenes

from tests.harness.casts import forget
from tests.harness.product import Cast, Files, Product, running
from tests.harness.rest import DOTS_DATA, MODULE, Rest
from tests.harness.waiting import until
from tests.harness.wire import DELETE, GET, POST, PUT, Peer, Reply, peer, scope

CASTS_AT_ONCE = 24
Join = Callable[..., Peer]
V1 = ".well-known/v1/filter"
BARE = ".well-known/filter"
JSON, CBOR = 50, 271
MANY = ",".join(f"10.0.0.{number}" for number in range(46))  # with as many others more than are taken
HUGE = 123_321_333_242  # of figure 13: more than 32 bits


@pytest.fixture(scope="module")
def early() -> Iterator[Product]:
    with running(environment={"DOTS_EARLY_DRAFT": "1", "DOTS_NFT_TABLE": "dots_early"}) as instance:
        yield instance


@pytest.fixture(scope="module")
def _early_casts() -> deque[Cast]:
    return deque()


@pytest.fixture
def early_cast(early: Product, _early_casts: deque[Cast]) -> Iterator[Cast]:
    if not _early_casts:
        _early_casts.extend(scenes.new_casts(early, CASTS_AT_ONCE))
    taken = _early_casts.popleft()
    yield taken
    forget(early.console, taken)


@pytest.fixture
def early_join(early: Product, early_cast: Cast) -> Iterator[Join]:
    with ExitStack() as stack:

        def do(role: str, **how: Any) -> Peer:
            return stack.enter_context(peer(getattr(early_cast, role), early.signal_port, **how))

        yield do


@pytest.fixture
def alice(early_join: Join) -> Peer:
    return early_join("alice")


@pytest.fixture
def mallory(early_join: Join) -> Peer:
    return early_join("mallory")


def ask(who: Peer, code: Any, body: Any = None, *, path: str = V1, **options: Any) -> Reply:
    payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    options.setdefault("content_format", JSON if payload else None)
    return who.ask(code, path, payload, absolute=True, **options)


def policy(number: int = HUGE, **others: Any) -> dict[str, Any]:
    return {"policy-id": number, "traffic-protocol": "udp", "traffic-rate": 0, **others}


def read(reply: Reply) -> Any:
    assert reply.message.opt.content_format == JSON, (reply.code, reply.payload)
    return json.loads(reply.payload)


def policies(who: Peer, body: Any = None, **how: Any) -> list[dict[str, Any]]:
    reply = ask(who, GET, body, **how)
    assert reply.code == "2.05", reply.payload
    return list(read(reply)["policy-data"])


def entry_of(early: Product, files: Files) -> str:
    """The path of the client's registration for these filters."""
    number = early.console.run("result = Client.objects.get(name=name).pk", name=files.name)
    return f"{DOTS_DATA}/dots-client=early-draft-{number}"


def lists_of(early: Product, files: Files, query: str = "") -> list[dict[str, Any]]:
    """The client's filters as the data channel shows them."""
    with closing(Rest(early, files)) as rest:
        answer = rest.get(f"{entry_of(early, files)}/acls{query}")
        assert answer.status == 200, answer.content
        return list(answer.json[f"{MODULE}:acls"].get("acl", []))


def rows_of(early: Product, files: Files) -> int:
    return int(early.console.run("result = Acl.objects.filter(client__name=name).count()", name=files.name))


# -- POST


@pytest.mark.rows("SIG-LEG-007", "SIG-LEG-009")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_filter_is_answered_with_its_body_and_is_a_list_of_the_client(
    early: Product, early_cast: Cast, early_join: Join, transport: str
) -> None:
    alice = early_join("alice", transport=transport)
    asked = policy(
        **{
            "traffic-protocol": "tcp",
            "source-protocol-port": "0-65535",
            "destination-protocol-port": "443",
            "destination-ip": early_cast.domain.host6,
            "source-ip": "2001:db8:abcd:3f01::/64",
            "lifetime": 1800,
        }
    )

    made = ask(alice, POST, asked, accept=JSON)

    assert made.code == "2.01"
    assert read(made) == asked
    (only,) = lists_of(early, early_cast.alice)
    assert only["activation-type"] == "immediate"
    assert only["type"].endswith(":ipv6-acl-type")
    assert 29 <= only["pending-lifetime"] <= 30
    (ace,) = only["aces"]["ace"]
    assert ace["matches"]["ipv6"] == {
        "destination-ipv6-network": f"{early_cast.domain.host6}/128",
        "source-ipv6-network": "2001:db8:abcd:3f01::/64",
    }
    ports = ace["matches"]["tcp"]
    assert ports["destination-port-range-or-operator"] == {"lower-port": 443, "upper-port": 443}
    assert ports["source-port-range-or-operator"] == {"lower-port": 0, "upper-port": 65535}
    assert ace["actions"]["forwarding"].endswith(":drop")


@pytest.mark.rows("SIG-LEG-009")
def test_each_combination_of_addresses_is_an_entry_and_a_rate_is_a_limit(
    early: Product, early_cast: Cast, alice: Peer
) -> None:
    one, two = scenes.host(early_cast, 1), scenes.host(early_cast, 2)
    sources = "192.0.2.1, 203.0.113.0/24"
    asked = policy(1, **{"destination-ip": f"{one},{two}", "source-ip": sources, "traffic-rate": 125000.5})

    assert ask(alice, POST, asked).code == "2.01"

    (only,) = lists_of(early, early_cast.alice)
    pairs = {
        (ace["matches"]["ipv4"]["destination-ipv4-network"], ace["matches"]["ipv4"]["source-ipv4-network"])
        for ace in only["aces"]["ace"]
    }
    assert pairs == {(f"{to}/32", source) for to in (one, two) for source in ("192.0.2.1/32", "203.0.113.0/24")}
    assert {ace["actions"]["rate-limit"] for ace in only["aces"]["ace"]} == {"125000.50"}


@pytest.mark.rows("SIG-LEG-009")
def test_without_a_destination_it_is_about_the_prefixes_of_the_domain(
    early: Product, early_cast: Cast, alice: Peer
) -> None:
    made = ask(alice, POST, policy(1, **{"traffic-protocol": "sctp"}))

    assert read(made)["lifetime"] == 3600
    found = [ace["matches"] for one in lists_of(early, early_cast.alice) for ace in one["aces"]["ace"]]
    assert found == [
        {"ipv4": {"destination-ipv4-network": early_cast.domain.prefix, "protocol": 132}},
        {"ipv6": {"destination-ipv6-network": early_cast.domain.prefix6, "protocol": 132}},
    ]


@pytest.mark.rows("SIG-LEG-009")
def test_the_lower_policy_id_comes_first(early: Product, early_cast: Cast, alice: Peer) -> None:
    to = {"destination-ip": early_cast.domain.host}
    for number in (30, 4, HUGE, 100):
        assert ask(alice, POST, policy(number, **to)).code == "2.01"

    assert [one["policy-id"] for one in policies(alice)] == [4, 30, 100, HUGE]
    names = [one["name"] for one in lists_of(early, early_cast.alice)]
    assert names == [f"policy-{number}-ipv4" for number in (4, 30, 100, HUGE)]


@pytest.mark.rows("SIG-LEG-009")
def test_the_same_policy_again_takes_the_place_of_the_first(early: Product, early_cast: Cast, alice: Peer) -> None:
    ask(alice, POST, policy(7, lifetime=100))
    again = policy(7, **{"destination-ip": early_cast.domain.host, "lifetime": 900})

    assert ask(alice, POST, again).code == "2.01"

    (only,) = policies(alice)
    assert only["destination-ip"] == f"{early_cast.domain.host}/32"
    assert 880 < only["lifetime"] <= 900
    assert rows_of(early, early_cast.alice) == 1


@pytest.mark.rows("SIG-LEG-009")
@pytest.mark.parametrize("missing", ["policy-id", "traffic-protocol", "traffic-rate"])
def test_without_a_mandatory_attribute_it_is_4_00(early: Product, early_cast: Cast, alice: Peer, missing: str) -> None:
    asked = policy()
    del asked[missing]

    refused = ask(alice, POST, asked)

    assert refused.code == "4.00"
    assert missing in refused.diagnostic
    assert rows_of(early, early_cast.alice) == 0


@pytest.mark.rows("SIG-LEG-009")
@pytest.mark.parametrize(
    "wrong",
    [
        {"traffic-protocol": "icmp"},
        {"traffic-protocol": 17},
        {"traffic-rate": -1},
        {"traffic-rate": "0"},
        {"traffic-rate": 1e300},
        {"traffic-rate": True},
        {"policy-id": "7"},
        {"policy-id": 2**64},
        {"policy-id": -1},
        {"lifetime": -1},
        {"lifetime": 2**32},
        {"lifetime": 1.5},
        {"source-protocol-port": "70000"},
        {"destination-protocol-port": "90-80"},
        {"destination-protocol-port": 80},
        {"traffic-protocol": "sctp", "destination-protocol-port": "80"},
        {"source-ip": "192.0.2.1,"},
        {"source-ip": "nowhere.example"},
        {"source-ip": "192.0.2.0/33"},
        {"source-ip": MANY, "destination-ip": MANY},
        {"target-ip": "192.0.2.1"},
    ],
    ids=str,
)
def test_an_invalid_or_unknown_parameter_is_4_02(
    early: Product, early_cast: Cast, alice: Peer, wrong: dict[str, Any]
) -> None:
    assert ask(alice, POST, policy(**wrong)).code == "4.02"
    assert rows_of(early, early_cast.alice) == 0


@pytest.mark.rows("SIG-LEG-009")
def test_sources_of_another_family_than_all_destinations_would_filter_nothing(early_cast: Cast, alice: Peer) -> None:
    asked = policy(**{"destination-ip": early_cast.domain.host, "source-ip": "2001:db8:ffff::/48"})

    assert ask(alice, POST, asked).code == "4.02"


@pytest.mark.rows("SIG-LEG-009")
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"policy-id": 1, "policy-id": 2}', b"\xff"])
def test_what_is_no_json_object_is_4_00(alice: Peer, body: bytes) -> None:
    assert ask(alice, POST, body).code == "4.00"


@pytest.mark.rows("SIG-LEG-009")
def test_a_body_nested_too_deep_is_4_00(early_join: Join) -> None:
    assert ask(early_join("alice", transport="tcp"), POST, b"[" * 15_000).code == "4.00"


@pytest.mark.rows("SIG-LEG-009")
def test_other_formats_and_methods_are_told_apart(alice: Peer) -> None:
    assert ask(alice, POST, policy(), content_format=CBOR).code == "4.15"
    assert ask(alice, GET, accept=CBOR).code == "4.06"
    assert ask(alice, PUT, policy()).code == "4.05"
    assert ask(alice, POST, policy(), path=BARE).code == "4.05"
    assert ask(alice, GET, path=f"{V1}/list").code == "4.04"


@pytest.mark.rows("SIG-LEG-007", "SIG-LEG-011")
def test_a_foreign_destination_is_4_00_and_nothing_is_stored(early: Product, early_cast: Cast, mallory: Peer) -> None:
    asked = policy(1, **{"destination-ip": early_cast.domain.host})

    assert ask(mallory, POST, asked).code == "4.00"

    assert policies(mallory) == []
    assert rows_of(early, early_cast.mallory) == 0


@pytest.mark.rows("SIG-LEG-007")
def test_the_opposite_of_what_another_client_filters_is_4_09(
    early: Product, early_cast: Cast, early_join: Join
) -> None:
    to = {"destination-ip": early_cast.domain.host}
    assert ask(early_join("alice"), POST, policy(1, **to)).code == "2.01"

    refused = ask(early_join("bob"), POST, policy(1, **to, **{"traffic-rate": 1000}))

    assert refused.code == "4.09"
    assert "another client" in refused.diagnostic
    assert rows_of(early, early_cast.bob) == 0


# -- lifetime


@pytest.mark.rows("SIG-LEG-009")
def test_a_short_lifetime_really_ends(early: Product, early_cast: Cast, alice: Peer) -> None:
    asked = policy(1, **{"destination-ip": early_cast.domain.host, "lifetime": 2})
    ask(alice, POST, asked)
    assert policies(alice)

    until(lambda: not policies(alice), what="its end")
    assert lists_of(early, early_cast.alice) == []

    assert ask(alice, POST, asked).code == "2.01"  # the number may be given anew
    assert ask(alice, DELETE, {"policy-id": 1}).code == "2.02"


@pytest.mark.rows("SIG-LEG-009")
def test_an_indefinite_lifetime_is_granted_as_the_policy_of_the_domain_says(
    early: Product, early_cast: Cast, alice: Peer
) -> None:
    scenes.set_domain(early.console, early_cast, grants_indefinite=True)
    assert read(ask(alice, POST, policy(1, lifetime=0)))["lifetime"] == 0
    assert [one["lifetime"] for one in policies(alice)] == [0]
    assert lists_of(early, early_cast.alice)[0]["pending-lifetime"] < 2**31

    scenes.set_domain(early.console, early_cast, grants_indefinite=False, maximum_lifetime=7200)
    assert read(ask(alice, POST, policy(1, lifetime=0)))["lifetime"] == 7200
    assert read(ask(alice, POST, policy(2, lifetime=90_000)))["lifetime"] == 7200


# -- GET, DELETE


@pytest.mark.rows("SIG-LEG-010")
@pytest.mark.parametrize("path", [V1, BARE])
def test_all_filters_are_shown_or_one(early_cast: Cast, alice: Peer, path: str) -> None:
    to = {"destination-ip": f"{early_cast.domain.host}/32"}
    one = policy(1, **to, **{"source-protocol-port": "123", "source-ip": "192.0.2.0/24"})
    two = policy(2, **to, **{"traffic-protocol": "dccp", "traffic-rate": 99.5})
    assert policies(alice, path=path) == []
    for asked in (two, one):
        ask(alice, POST, asked)

    def plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {name: held for name, held in each.items() if name not in ("lifetime", "match-count")} for each in found
        ]

    assert plain(policies(alice, path=path)) == [one, two]
    assert plain(policies(alice, {"policy-id": 2}, path=path)) == [two]
    assert all(3590 < each["lifetime"] <= 3600 for each in policies(alice))
    assert ask(alice, GET, {"policy-id": 3}, path=path).code == "4.04"
    assert ask(alice, GET, {"policy": 3}, path=path).code == "4.02"


@pytest.mark.rows("SIG-LEG-010")
def test_many_filters_come_in_blocks(early_cast: Cast, alice: Peer) -> None:
    for number in range(20):
        assert ask(alice, POST, policy(number, **{"destination-ip": early_cast.domain.host})).code == "2.01"
    first = ask(alice, GET)
    payload, block = first.payload, first.message.opt.block2
    while block.more:
        reply = ask(alice, GET, block2=(block.block_number + 1, False, block.size_exponent))
        payload, block = payload + reply.payload, reply.message.opt.block2

    assert [one["policy-id"] for one in json.loads(payload)["policy-data"]] == list(range(20))


@pytest.mark.rows("SIG-LEG-009", "SIG-LEG-010", "SIG-LEG-011")
def test_it_stands_at_the_enforcement_point_counts_and_goes(early: Product, early_cast: Cast, alice: Peer) -> None:
    scenes.needs_enforcement()
    source = {"source-protocol-port": str(scenes.NTP)}
    ask(alice, POST, policy(1, **source, **{"destination-ip": early_cast.domain.host}))
    until(lambda: _stands(early, early_cast), what="its rule")

    scenes.attack(early_cast, 25)

    until(lambda: policies(alice)[0].get("match-count") == 25, within=20, what="what it matched")
    assert ask(alice, DELETE, {"policy-id": 1}).code == "2.02"
    until(lambda: not _stands(early, early_cast), what="the rule's end")


@pytest.mark.rows("SIG-LEG-009")
def test_a_rule_of_a_short_lifetime_leaves_the_enforcement_point(early: Product, early_cast: Cast, alice: Peer) -> None:
    scenes.needs_enforcement()
    ask(alice, POST, policy(1, **{"destination-ip": early_cast.domain.host, "lifetime": 6}))
    until(lambda: _stands(early, early_cast), what="its rule")

    until(lambda: not _stands(early, early_cast), within=20, what="the rule's end")


def _stands(early: Product, cast: Cast) -> bool:
    return cast.domain.host in early.table()


@pytest.mark.rows("SIG-LEG-011")
@pytest.mark.parametrize("path", [V1, BARE])
def test_delete_takes_the_filter_away(early: Product, early_cast: Cast, alice: Peer, path: str) -> None:
    for number in (1, 2):
        ask(alice, POST, policy(number, **{"destination-ip": early_cast.domain.host}))

    assert ask(alice, DELETE, {"policy-id": 1}, path=path).code == "2.02"

    assert [one["policy-id"] for one in policies(alice)] == [2]
    assert [one["name"] for one in lists_of(early, early_cast.alice)] == ["policy-2-ipv4"]
    assert ask(alice, DELETE, {"policy-id": 1}, path=path).code == "4.04"
    assert ask(alice, DELETE, path=path).code == "4.00"
    assert ask(alice, DELETE, {}, path=path).code == "4.00"


@pytest.mark.rows("SIG-LEG-007", "SIG-LEG-010", "SIG-LEG-011")
def test_policy_ids_of_one_client_mean_nothing_to_another(early_cast: Cast, early_join: Join) -> None:
    alice, bob, mallory = (early_join(role) for role in ("alice", "bob", "mallory"))
    ask(alice, POST, policy(1, **{"destination-ip": early_cast.domain.host}))

    for other in (bob, mallory):
        assert policies(other) == []
        assert ask(other, GET, {"policy-id": 1}).code == "4.04"
        assert ask(other, DELETE, {"policy-id": 1}).code == "4.04"
    assert [one["policy-id"] for one in policies(alice)] == [1]


@pytest.mark.rows("SIG-LEG-007")
def test_a_policy_id_is_no_mid(early_cast: Cast, alice: Peer) -> None:
    ask(alice, POST, policy(1, **{"destination-ip": early_cast.domain.host}))

    assert alice.get(1).code == "4.04"
    assert alice.put(1, scope(scenes.only(early_cast))).code == "2.01"
    assert ask(alice, DELETE, {"policy-id": 1}).code == "2.02"
    assert alice.get(1).code == "2.05"


# -- read only on the data channel


@pytest.mark.rows("SIG-LEG-009")
def test_the_data_channel_shows_it_and_changes_nothing(early: Product, early_cast: Cast, alice: Peer) -> None:
    ask(alice, POST, policy(1, **{"destination-ip": early_cast.domain.host}))
    before = lists_of(early, early_cast.alice, "?content=config")
    entry = entry_of(early, early_cast.alice)
    cuid = entry.rpartition("=")[2]
    drop = {"forwarding": "ietf-access-control-list:drop"}
    acl = {"name": "mine", "aces": {"ace": [{"name": "a", "actions": drop}]}}
    with closing(Rest(early, early_cast.alice)) as rest:
        refused = [
            rest.delete(entry),
            rest.put(entry, {f"{MODULE}:dots-client": [{"cuid": cuid}]}),
            rest.delete(f"{entry}/acls"),
            rest.delete(f"{entry}/acls/acl=policy-1-ipv4"),
            rest.patch(
                f"{entry}/acls/acl=policy-1-ipv4",
                {f"{MODULE}:acl": [{"name": "policy-1-ipv4", "activation-type": "deactivate"}]},
            ),
            rest.post(entry, {f"{MODULE}:acls": {"acl": [acl]}}),
            rest.delete(f"{entry}/acls/acl=policy-1-ipv4/aces/ace=1"),
        ]
    assert [answer.fault for answer in refused] == [(403, "access-denied")] * len(refused)
    assert lists_of(early, early_cast.alice, "?content=config") == before


@pytest.mark.rows("SIG-LEG-007", "SIG-LEG-009")
def test_nobody_takes_the_registration_beforehand(early: Product, early_cast: Cast, alice: Peer, mallory: Peer) -> None:
    cuid = entry_of(early, early_cast.alice).rpartition("=")[2]

    with closing(Rest(early, early_cast.mallory, cuid=cuid)) as rest:
        assert rest.register().fault == (403, "access-denied")
        assert rest.get().status == 404
    assert mallory.put(1, scope("192.0.2.1/32"), cuid=cuid).code == "4.00"
    assert alice.put(1, scope(scenes.only(early_cast)), cuid=cuid).code == "4.00"

    assert ask(alice, POST, policy(1)).code == "2.01"


# -- off


@pytest.mark.rows("SIG-LEG-007", "SIG-LEG-008")
def test_without_the_setting_each_form_is_4_04_and_leaves_nothing(product: Product, cast: Cast, join: Join) -> None:
    alice = join("alice")
    for path in (V1, BARE):
        for code, body in ((POST, policy(1)), (GET, None), (GET, {"policy-id": 1}), (DELETE, {"policy-id": 1})):
            assert ask(alice, code, body, path=path).code == "4.04"
    left = product.console.run(
        "result = [Acl.objects.filter(client__name=name).count(), Cuid.objects.filter(client__name=name).count()]",
        name=cast.alice.name,
    )
    assert left == [0, 0]


@pytest.mark.rows("SIG-LEG-007", "SIG-LEG-009")
def test_what_is_left_when_the_setting_goes_may_be_taken_away_whole(product: Product, cast: Cast) -> None:
    product.console.run(
        "from mitigation.protocol import early_filters as forms\n"
        "from mitigation.services import early_filters\n"
        "early_filters.store(Client.objects.get(name=name).pk, forms.parse(body), now=now)",
        name=cast.alice.name,
        body=policy(1, **{"destination-ip": cast.domain.host}),
    )
    entry = entry_of(product, cast.alice)
    with closing(Rest(product, cast.alice)) as rest:
        assert rest.delete(f"{entry}/acls/acl=policy-1-ipv4").fault == (403, "access-denied")
        assert rest.delete(entry).status == 204
        assert rest.get(entry).status == 404
    assert rows_of(product, cast.alice) == 0
