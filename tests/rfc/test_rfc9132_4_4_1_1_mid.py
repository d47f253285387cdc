"""Mitigation request identifiers (RFC 9132, section 4.4.1.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mitigation.client.identity import Mids
from tests.harness.product import Cast, Product
from tests.harness.wire import DELETE, GET, PUT, Peer, scope

Join = Callable[..., Peer]


@pytest.mark.rows("SIG-MID-001", "SIG-MID-002")
def test_our_client_takes_a_higher_mid_each_time_also_after_a_restart(product: Product, cast: Cast) -> None:
    asked = [product.client(cast.alice, "mitigate", cast.domain.host) for _ in range(3)]

    mids = [one.json["scope"][0]["mid"] for one in asked]
    assert mids == sorted(set(mids))


@pytest.mark.rows("SIG-MID-003")
def test_our_client_begins_anew_at_three_quarters(tmp_path: Path) -> None:
    Mids("c", tmp_path).note(3_221_225_470)

    assert [Mids("c", tmp_path).take() for _ in range(3)] == [3_221_225_471, 0, 1]


@pytest.mark.rows("SIG-MID-006", "SIG-MID-009")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("mid", [0, 1, 3_221_225_471, 4_294_967_295])
def test_a_mid_is_a_number_of_32_bits_zero_included(cast: Cast, join: Join, mid: int, transport: str) -> None:
    alice = join("alice", transport=transport)

    made = alice.put(mid, scope(f"{cast.domain.host}/32"))

    assert (made.code, made.scope[5]) == ("2.01", mid)
    assert alice.get(mid).scope[5] == mid
    assert alice.get().scope[5] == mid
    assert alice.put(mid, scope(f"{cast.domain.host}/32")).code == "2.04"
    assert alice.delete(mid).code == "2.02"
    assert alice.get(mid).scope[16] == 5


@pytest.mark.rows("SIG-MID-006")
@pytest.mark.parametrize(
    "mid", ["4294967296", "-1", "+1", "1.0", "1e3", "0x1", "abc", "", " 1", "1 ", "٣", "99999999999999999999"]
)
def test_anything_else_is_refused(alice: Peer, cast: Cast, mid: str) -> None:
    path = f"mitigate/cuid={alice.cuid}/mid={mid}"

    for code in (PUT, GET, DELETE):
        refused = alice.ask(code, path, scope(f"{cast.domain.host}/32") if code == PUT else b"")
        assert refused.code == "4.00"
        assert "mid is" in refused.diagnostic
    assert alice.get().code == "4.04"


@pytest.mark.rows("SIG-MID-006")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mitigate/mid=1/cuid={cuid}", "the order is cdid, cuid, mid"),
        ("mitigate/cuid={cuid}/mid=1/mid=2", "mid is given twice"),
        ("mitigate/cuid={cuid}/1", "unknown segment"),
        ("mitigate/cuid={cuid}", "lacks mid"),
    ],
)
def test_a_path_without_its_mid_in_its_place_is_refused(alice: Peer, cast: Cast, path: str, words: str) -> None:
    refused = alice.ask(PUT, path.format(cuid=alice.cuid), scope(f"{cast.domain.host}/32"))

    assert refused.code == "4.00"
    assert words in refused.diagnostic
    assert alice.get().code == "4.04"


@pytest.mark.rows("SIG-MID-007")
def test_the_same_mid_of_two_clients_is_independent(alice: Peer, bob: Peer, cast: Cast) -> None:
    assert alice.put(7, scope(f"{cast.domain.host}/32")).code == "2.01"
    assert bob.get(7).code == "4.04"
    assert bob.put(7, scope(f"{cast.domain.host6}/128", lifetime=900)).code == "2.01"

    assert alice.delete(7).code == "2.02"

    assert alice.get(7).scope[16] == 5
    assert bob.get(7).scope[16] != 5
    assert bob.get(7).scope[6] == [f"{cast.domain.host6}/128"]


@pytest.mark.rows("SIG-MID-007")
def test_the_same_mid_of_two_cuids_is_independent(alice: Peer, cast: Cast) -> None:
    other = f"{alice.cuid}-2"
    alice.put(7, scope(f"{cast.domain.host}/32"))

    assert alice.get(7, cuid=other).code == "4.04"
    assert alice.put(7, scope(f"{cast.domain.host6}/128"), cuid=other).code == "2.01"
    assert alice.get(7).scope[6] == [f"{cast.domain.host}/32"]


@pytest.mark.rows("SIG-MID-008")
def test_a_lower_mid_that_does_not_overlap_is_taken(alice: Peer, cast: Cast) -> None:
    assert alice.put(10, scope(f"{cast.domain.host}/32")).code == "2.01"
    assert alice.put(5, scope(f"{cast.domain.host6}/128")).code == "2.01"

    assert [entry[5] for entry in alice.get().scopes] == [5, 10]


@pytest.mark.rows("SIG-MID-009", "SIG-PUT-002")
def test_the_mid_is_in_the_body_of_every_success(alice: Peer, cast: Cast) -> None:
    made = alice.put(7, scope(f"{cast.domain.host}/32"))
    refreshed = alice.put(7, scope(f"{cast.domain.host}/32"))
    shown = alice.get(7)
    parts = [alice.get(7, uri_query=[f"c={part}"]) for part in "cna"]

    assert [one.code for one in (made, refreshed, shown)] == ["2.01", "2.04", "2.05"]
    assert {one.scope[5] for one in (made, refreshed, shown, alice.get(), *parts)} == {7}
