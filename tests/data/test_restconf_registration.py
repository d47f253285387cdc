"""Registering clients (RFC 8783, section 5), as API clients see it."""

from __future__ import annotations

import pytest
from data_trees import MODULE, Connect, acl, alias

from tests.harness.product import Cast
from tests.harness.rest import DOTS_DATA, Rest

CLIENT = f"{MODULE}:dots-client"


@pytest.mark.rows("DATA-REG-004", "DATA-TREE-001", "DATA-TREE-002", "DATA-CND-010")
def test_a_registration_names_the_new_resource(connect: Connect) -> None:
    alice = connect("alice")
    answer = alice.register()

    assert (answer.status, answer.content) == (201, b"")
    assert answer.headers["location"].endswith(alice.mine)
    assert answer.etag
    found = alice.get()
    assert found.status == 200
    assert found.json == {CLIENT: [{"cuid": alice.cuid}]}


@pytest.mark.rows("DATA-REG-007", "DATA-ERR-001", "DATA-ERR-008")
def test_a_second_registration_is_a_conflict(alice: Rest) -> None:
    answer = alice.register()

    assert answer.fault == (409, "resource-denied")
    assert answer.error["error-path"] == f"/{MODULE}:dots-data/dots-client[cuid='{alice.cuid}']"


@pytest.mark.rows("DATA-REG-005", "DATA-REG-017", "DATA-UPD-002")
def test_a_put_registers_and_a_second_one_replaces_everything(connect: Connect, cast: Cast) -> None:
    alice = connect("alice")
    body = {CLIENT: [{"cuid": alice.cuid}]}
    assert alice.put("", body).status == 201
    assert alice.post_alias(alias(cast)).status == 201

    assert alice.put("", body).status == 204
    assert alice.get().json == body


@pytest.mark.rows("DATA-REG-006")
def test_a_registration_without_cuid_lacks_an_attribute(connect: Connect) -> None:
    answer = connect("alice").post(DOTS_DATA, {CLIENT: [{}]})

    assert answer.fault == (400, "missing-attribute")
    assert answer.error["error-path"] == f"/{MODULE}:dots-data"


@pytest.mark.rows("DATA-REG-008")
def test_two_clients_in_one_request_are_refused_and_none_is_made(connect: Connect) -> None:
    alice = connect("alice")
    answer = alice.post(DOTS_DATA, {CLIENT: [{"cuid": "one-of-two"}, {"cuid": "two-of-two"}]})

    assert answer.fault == (400, "invalid-value")
    assert answer.error["error-app-tag"] == "dots-one-client-only"
    assert alice.get(f"{DOTS_DATA}/dots-client=one-of-two").status == 404


@pytest.mark.rows("DATA-REG-009", "DATA-REG-030")
def test_a_cuid_of_somebody_else_is_taken(alice: Rest, connect: Connect, cast: Cast) -> None:
    alice.post_alias(alias(cast))
    before = alice.get("?content=config").content
    mallory = connect("mallory", cuid=alice.cuid)

    assert mallory.register().fault == (409, "resource-denied")
    assert mallory.put("", {CLIENT: [{"cuid": alice.cuid}]}).fault == (409, "resource-denied")
    assert mallory.get().fault == (404, "invalid-value")
    assert alice.get("?content=config").content == before


@pytest.mark.rows("DATA-REG-019")
def test_a_cdid_of_a_client_is_ignored(connect: Connect) -> None:
    alice = connect("alice")
    assert alice.post(DOTS_DATA, {CLIENT: [{"cuid": alice.cuid, "cdid": "mine"}]}).status == 201
    assert alice.get().json == {CLIENT: [{"cuid": alice.cuid}]}


@pytest.mark.rows("DATA-REG-031")
def test_nothing_is_stored_for_a_cuid_that_was_not_registered(connect: Connect, cast: Cast) -> None:
    alice = connect("alice")
    assert alice.post_alias(alias(cast)).fault == (404, "invalid-value")
    assert alice.post_acl(acl(cast)).fault == (404, "invalid-value")


@pytest.mark.rows("DATA-DRG-002", "DATA-DRG-003")
def test_whoever_deregisters_leaves_nothing(alice: Rest, cast: Cast) -> None:
    alice.post_alias(alias(cast))
    alice.post_acl(acl(cast))

    assert alice.delete().status == 204
    assert alice.get().status == 404
    assert alice.delete().fault == (404, "invalid-value")
    assert alice.register().status == 201
    assert alice.get().json == {CLIENT: [{"cuid": alice.cuid}]}


@pytest.mark.rows("DATA-DRG-004", "DATA-UPD-011", "DATA-ROOT-017")
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/restconf/data", DOTS_DATA])
def test_the_datastore_is_not_a_clients_to_change(alice: Rest, method: str, path: str) -> None:
    answer = alice.ask(method, path, {f"{MODULE}:dots-data": {}})

    assert answer.fault == (403, "access-denied")
    assert alice.get().status == 200
