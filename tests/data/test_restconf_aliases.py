"""Aliases over RESTCONF (RFC 8783, section 6), as API clients see them."""

from __future__ import annotations

from typing import Any

import pytest
from data_trees import MODULE, Connect, alias

from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.rest import Rest
from tests.harness.wire import peer, scope

ALIAS, ALIASES = f"{MODULE}:alias", f"{MODULE}:aliases"


def read(rest: Rest, name: str = "web", query: str = "?content=config") -> dict[str, Any]:
    (only,) = rest.get(f"aliases/alias={name}{query}").json[ALIAS]
    return dict(only)


@pytest.mark.rows("DATA-ALI-002", "DATA-ALI-026", "DATA-TREE-003", "DATA-LIF-003", "DATA-ALI-018")
def test_an_alias_is_read_as_it_was_posted_with_its_lifetime(alice: Rest, cast: Cast) -> None:
    posted = alias(
        cast,
        target_prefix=[f"{cast.domain.host}/32", cast.domain.prefix6],
        target_port_range=[{"lower-port": 80}, {"lower-port": 8000, "upper-port": 8099}],
        target_protocol=[6, 17],
    )
    answer = alice.post_alias(posted)

    assert (answer.status, answer.content) == (201, b"")
    assert answer.headers["location"].endswith("/aliases/alias=web")
    assert alice.get("aliases").json == {ALIASES: {"alias": [posted | {"pending-lifetime": 10080}]}}


@pytest.mark.rows("DATA-ALI-003", "DATA-ALI-004")
def test_both_forms_of_post_add_to_what_is_there(alice: Rest, cast: Cast) -> None:
    assert alice.post_alias(alias(cast, "one")).status == 201
    assert alice.post_alias(alias(cast, "two")).status == 201
    answer = alice.post("aliases", {ALIAS: [alias(cast, "three")]})

    assert answer.status == 201
    assert answer.headers["location"].endswith("/aliases/alias=three")
    names = {one["name"] for one in alice.get("aliases").json[ALIASES]["alias"]}
    assert names == {"one", "two", "three"}


@pytest.mark.rows("DATA-ALI-005")
def test_one_taken_name_refuses_the_whole_request(alice: Rest, cast: Cast) -> None:
    alice.post_alias(alias(cast, "taken"))
    answer = alice.post_alias(alias(cast, "new"), alias(cast, "taken"))

    assert answer.fault == (409, "resource-denied")
    assert answer.error["error-path"].endswith("/aliases/alias[name='taken']")
    assert alice.get("aliases/alias=new").status == 404


FAULTS = {
    "no name": ({"name": None}, "missing-attribute", "", "/aliases"),
    "no target": (
        {"target-prefix": None, "target-protocol": [6]},
        *("missing-attribute", "dots-target-missing", "/aliases/alias[name='bad']"),
    ),
    "loopback": (
        {"target-prefix": ["127.0.0.1/32"]},
        "invalid-value",
        "dots-prefix-invalid",
        "target-prefix[.='127.0.0.1/32']",
    ),
    "broadcast": ({"target-prefix": ["255.255.255.255/32"]}, "invalid-value", "dots-prefix-invalid", "/32']"),
    "multicast": ({"target-prefix": ["224.0.0.1/32"]}, "invalid-value", "dots-prefix-invalid", "/32']"),
    "loopback of IPv6": ({"target-prefix": ["::1/128"]}, "invalid-value", "dots-prefix-invalid", "/128']"),
    "multicast of IPv6": ({"target-prefix": ["ff02::1/128"]}, "invalid-value", "dots-prefix-invalid", "/128']"),
    "others' prefix": (
        {"target-prefix": ["203.0.113.1/32"]},
        *("invalid-value", "dots-target-not-authorized", "target-prefix[.='203.0.113.1/32']"),
    ),
    "others' name": (
        {"target-fqdn": ["www.example.org"]},
        *("invalid-value", "dots-target-not-authorized", "target-fqdn[.='www.example.org']"),
    ),
    "others' URI": (
        {"target-uri": ["https://www.example.org/"]},
        *("invalid-value", "dots-target-not-authorized", "target-uri[.='https://www.example.org/']"),
    ),
    "long prefix": ({"target-prefix": ["198.51.100.0/33"]}, "invalid-value", None, "/33']"),
    "ports the wrong way": (
        {"target-port-range": [{"lower-port": 1024, "upper-port": 80}]},
        *("invalid-value", "must-violation", "target-port-range[lower-port='1024']/upper-port"),
    ),
    "port too high": ({"target-port-range": [{"lower-port": 65536}]}, "invalid-value", "", "/lower-port"),
    "port as text": ({"target-port-range": [{"lower-port": "443"}]}, "invalid-value", "", "/lower-port"),
    "protocol too high": ({"target-protocol": [256]}, "invalid-value", "", "target-protocol[.='256']"),
    "the port of a filter": ({"target-port-range": [{"operator": "eq", "port": 80}]}, "missing-attribute", "", ""),
    "unknown member": ({"hoplimit": 3}, "unknown-element", "", "/aliases/alias[name='bad']"),
    "twice the same": ({"target-protocol": [6, 6]}, "invalid-value", "", "target-protocol[.='6']"),
    "lifetime": ({"pending-lifetime": 5}, "invalid-value", "dots-read-only", "/pending-lifetime"),
    "a list where values go": ({"target-protocol": [[6]]}, "invalid-value", "", "/target-protocol"),
}


@pytest.mark.rows(
    *(f"DATA-ALI-{number:03}" for number in (6, 7, 8, 9, 10, 12, 13, 16, 20)),
    *("DATA-MAT-026", "DATA-AUZ-002", "DATA-AUZ-003", "DATA-ERR-007", "DATA-ACL-026"),
)
@pytest.mark.parametrize("what", FAULTS)
def test_a_bad_alias_is_refused_with_its_tag_and_path(alice: Rest, cast: Cast, what: str) -> None:
    members, tag, app_tag, path = FAULTS[what]
    tree = {name: value for name, value in (alias(cast, "bad") | members).items() if value is not None}
    answer = alice.post_alias(alias(cast, "good"), tree)

    assert answer.fault == (400, tag)
    if app_tag is not None:
        assert answer.error.get("error-app-tag", "") == app_tag
    assert answer.error["error-path"].startswith(f"/{MODULE}:dots-data/dots-client[cuid='{alice.cuid}']/aliases")
    assert answer.error["error-path"].endswith(path)
    assert alice.get("aliases").json == {ALIASES: {}}


@pytest.mark.rows("DATA-ALI-011")
def test_host_bits_are_cleared(alice: Rest, cast: Cast) -> None:
    address = cast.domain.host
    alice.post_alias(alias(cast, target_prefix=[f"{address}/28"]))
    (prefix,) = read(alice)["target-prefix"]
    assert prefix.endswith(".0/28")


@pytest.mark.rows("DATA-ALI-019", "DATA-ALI-020")
def test_members_of_other_modules_are_ignored(alice: Rest, cast: Cast) -> None:
    assert alice.post_alias(alias(cast) | {"acme-vendor:colour": "red"}).status == 201
    assert "acme-vendor:colour" not in read(alice)


@pytest.mark.rows("DATA-ALI-021")
def test_names_are_a_clients_own(alice: Rest, bob: Rest, cast: Cast) -> None:
    assert alice.post_alias(alias(cast)).status == 201
    assert bob.post_alias(alias(cast, target_protocol=[17])).status == 201
    assert "target-protocol" not in read(alice)


@pytest.mark.rows("DATA-ALI-023", "DATA-UPD-002", "DATA-UPD-003", "DATA-LIF-005")
def test_a_put_makes_or_replaces_the_whole_entry(alice: Rest, cast: Cast) -> None:
    answer = alice.put("aliases/alias=web", {ALIAS: [alias(cast, target_protocol=[6])]})
    assert answer.status == 201
    assert answer.headers["location"].endswith("/aliases/alias=web")

    assert alice.put("aliases/alias=web", {ALIAS: [alias(cast)]}).status == 204
    assert read(alice) == alias(cast)


@pytest.mark.rows("DATA-ALI-024", "DATA-UPD-004")
def test_a_key_that_is_not_the_paths_changes_nothing(alice: Rest, cast: Cast) -> None:
    alice.post_alias(alias(cast))
    for method in ("PUT", "PATCH"):
        answer = alice.ask(method, "aliases/alias=web", {ALIAS: [alias(cast, "other", target_protocol=[6])]})
        assert answer.fault == (400, "invalid-value")
    assert read(alice) == alias(cast)


@pytest.mark.rows("DATA-UPD-004")
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(("path", "leaf"), [("aliases/alias=web/name", "name"), ("cuid", "cuid")])
def test_the_leaf_of_a_key_stays_as_it_is(alice: Rest, cast: Cast, method: str, path: str, leaf: str) -> None:
    alice.post_alias(alias(cast))
    answer = alice.ask(method, path, {f"{MODULE}:{leaf}": "other"})
    assert answer.fault == (400, "invalid-value")
    assert answer.error["error-path"].endswith(f"/{leaf}")
    assert read(alice) == alias(cast)


@pytest.mark.rows("DATA-ALI-027", "DATA-ALI-028", "DATA-ALI-029", "DATA-GET-002")
def test_what_is_deleted_is_gone(alice: Rest, cast: Cast) -> None:
    alice.post_alias(alias(cast))
    answer = alice.delete("aliases/alias=web")

    assert (answer.status, answer.content) == (204, b"")
    assert alice.get("aliases/alias=web").fault == (404, "invalid-value")
    assert alice.delete("aliases/alias=web").fault == (404, "invalid-value")


@pytest.mark.rows("DATA-ALI-030", "DATA-DEL-005")
def test_one_delete_never_removes_a_whole_list(alice: Rest, cast: Cast) -> None:
    alice.post_alias(alias(cast))
    assert alice.delete("aliases/alias").fault == (400, "invalid-value")
    assert read(alice) == alias(cast)


@pytest.mark.rows("DATA-ENC-015", "DATA-ENC-007")
@pytest.mark.parametrize(("name", "key"), [("a,b/c", "a%2Cb%2Fc"), ("grün", "gr%C3%BCn"), ("100%", "100%25")])
def test_keys_are_percent_encoded(alice: Rest, cast: Cast, name: str, key: str) -> None:
    answer = alice.post_alias(alias(cast, name))

    assert answer.headers["location"].endswith(f"/alias={key}")
    assert read(alice, key)["name"] == name


@pytest.mark.rows("DATA-TRN-021", "DATA-TRN-025")
def test_an_alias_is_a_target_on_the_signal_channel_of_its_client_alone(
    alice: Rest, mallory: Rest, cast: Cast, product: Product
) -> None:
    alice.post_alias(alias(cast))
    asked = scope(k13=["web"])
    with peer(cast.alice, product.signal_port) as ours, peer(cast.mallory, product.signal_port) as theirs:
        assert ours.put(1, asked).code == "2.01"
        assert theirs.put(1, asked).code == "4.00"
        (entry,) = ours.get(1).scopes
        assert entry[13] == ["web"]

        # What runs keeps what it was started with (DATA-DEC-17).
        assert alice.delete("aliases/alias=web").status == 204
        assert ours.get(1).code == "2.05"


@pytest.mark.rows("DATA-ALI-031", "DATA-LIF-001", "DATA-LIF-002", "DATA-LIF-013", "DATA-LIF-007", "DATA-LIF-006")
def test_an_alias_lives_a_week_unless_refreshed(alice: Rest, cast: Cast, console: Console) -> None:
    alice.post_alias(alias(cast), alias(cast, "other"))
    older = (
        "from datetime import timedelta\n"
        "rows = Alias.objects.filter(cuid=cuid)\n"
        "[Alias.objects.filter(pk=row.pk).update(expires_at=row.expires_at - timedelta(minutes=m)) for row in rows]"
    )
    console.run(older, cuid=alice.cuid, m=10_079)
    assert read(alice, query="")["pending-lifetime"] == 1
    assert read(alice, query="")["pending-lifetime"] == 1, "a GET is no refresh"

    assert alice.put("aliases/alias=web", {ALIAS: [alias(cast)]}).status == 204
    assert read(alice, query="")["pending-lifetime"] == 10_080
    assert read(alice, "other", "")["pending-lifetime"] == 1, "a refresh is of one entry"
    console.run(older, cuid=alice.cuid, m=1)
    assert alice.get("aliases/alias=other").status == 404
    assert alice.get("aliases/alias=web").status == 200
    assert alice.post_alias(alias(cast, "other")).status == 201, "the name is free again"


@pytest.mark.rows("DATA-OPS-004", "DATA-ERR-012")
def test_a_client_has_a_quota_of_aliases(alice: Rest, cast: Cast) -> None:
    many = [alias(cast, f"alias-{number}") for number in range(1_001)]
    assert alice.post_alias(*many).fault == (409, "resource-denied")
    assert alice.get("aliases").json == {ALIASES: {}}


def test_mallory_meets_nothing_of_it(alice: Rest, mallory: Rest, connect: Connect, cast: Cast) -> None:
    alice.post_alias(alias(cast))
    path = f"{alice.mine}/aliases/alias=web"
    body = {ALIAS: [{"name": "web", "target-prefix": [f"{cast.domain.host}/32"]}]}
    for method in ("GET", "HEAD", "DELETE", "OPTIONS"):
        assert mallory.ask(method, path).status == 404, method
    for method in ("PUT", "PATCH"):
        assert mallory.ask(method, path, body).status == 404, method
    assert mallory.post(f"{alice.mine}/aliases", body).status == 404
    assert read(alice) == alias(cast)
