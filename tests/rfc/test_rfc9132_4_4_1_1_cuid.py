"""The client unique identifier (RFC 9132, section 4.4.1.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from refusals import assert_refused

from mitigation.client.identity import Files as ClientFiles
from tests.harness.product import Cast, Files, Product
from tests.harness.waiting import until
from tests.harness.wire import DELETE, GET, PUT, Peer, scope

Join = Callable[..., Peer]

COLLISION = bytes.fromhex("a1 01 a1 02 81 a1 11 a1 13 03")  # {1: {2: [{17: {19: 3}}]}}


def hash_cuid(files: Files) -> str:
    return ClientFiles(files.ca, files.cert, files.key).cuid()


@pytest.mark.rows("SIG-CUI-006", "SIG-CUI-007")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("other", ["bob", "mallory"])
def test_a_cuid_of_another_client_is_a_collision(cast: Cast, join: Join, other: str, transport: str) -> None:
    alice, thief = join("alice", transport=transport), join(other, transport=transport, cuid=cast.alice.name)
    alice.put(1, scope(f"{cast.domain.host}/32"))
    before = alice.get(1, uri_query=["c=c"]).scope

    refused = thief.put(2, scope(f"{cast.domain.host6}/128" if other == "bob" else mallorys_own(cast)))

    assert (refused.code, refused.payload) == ("4.09", COLLISION)
    assert thief.get().code == "4.04"
    assert thief.get(1).code == "4.04"
    assert thief.delete(1).code == "2.02"
    assert alice.get(2).code == "4.04"
    after = alice.get(1, uri_query=["c=c"]).scope
    assert {**after, 14: 0} == {**before, 14: 0}


def mallorys_own(cast: Cast) -> str:
    """An address of mallory's domain, whose number is one above the cast's."""
    number = int(cast.mallory.name.removeprefix("mallory.domain-").removesuffix(".example"))
    return f"2001:db8:{number:x}::7/128"


@pytest.mark.rows("SIG-CUI-006", "SIG-CUI-008")
def test_after_a_collision_another_cuid_with_the_same_mid_is_taken(cast: Cast, alice: Peer, bob: Peer) -> None:
    alice.put(1, scope(f"{cast.domain.host}/32"))

    assert bob.put(1, scope(f"{cast.domain.host6}/128"), cuid=alice.cuid).code == "4.09"
    assert bob.put(1, scope(f"{cast.domain.host6}/128"), cuid="6d7a2a0e-9c1c-4d0e-bb59-3c5ec5b0d0a2").code == "2.01"


@pytest.mark.rows("SIG-CUI-006")
def test_a_cuid_stays_its_clients_when_nothing_is_active(cast: Cast, alice: Peer, bob: Peer) -> None:
    refused = alice.put(1, scope("203.0.113.1/32"))
    assert refused.code == "4.00"
    assert bob.put(1, scope(f"{cast.domain.host6}/128"), cuid=alice.cuid).code == "2.01"  # a refusal takes no cuid

    assert alice.put(1, scope(f"{cast.domain.host}/32")).payload == COLLISION


@pytest.mark.rows("SIG-CUI-009")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(
    "shape",
    ["x", "6d7a2a0e-9c1c-4d0e-bb59-3c5ec5b0d0a2", "dz6pHjaADkaFTbjr0JGBpw", "l" * 250, "Zürich 1", "a=b&c", "%00"],
    ids=["1", "36", "22", "250", "unicode", "signs", "percent"],
)
def test_a_cuid_of_another_length_works(cast: Cast, join: Join, shape: str, transport: str) -> None:
    unique = f"{transport}.{cast.domain.name}"
    cuid = (shape + unique)[-len(shape) :] if len(shape) > len(unique) else shape
    cuid = cuid if cast.domain.name in cuid else f"{cuid}{unique}"
    alice = join("alice", cuid=cuid, transport=transport)

    assert alice.put(1, scope(f"{cast.domain.host}/32")).code == "2.01"
    assert alice.get(1).scope[6] == [f"{cast.domain.host}/32"]
    assert alice.delete(1).code == "2.02"


@pytest.mark.rows("SIG-CUI-009")
@pytest.mark.parametrize(("cuid", "words"), [("", "cuid is empty"), ("l" * 251, "longer than 250")])
def test_an_empty_or_too_long_cuid_is_refused(alice: Peer, cast: Cast, cuid: str, words: str) -> None:
    for answer in (
        alice.put(1, scope(f"{cast.domain.host}/32"), cuid=cuid),
        alice.get(1, cuid=cuid),
        alice.delete(1, cuid=cuid),
    ):
        assert answer.code == "4.00"
        assert words in answer.diagnostic


@pytest.mark.rows("SIG-CUI-013")
def test_ever_new_cuids_of_one_client_are_bounded(alice: Peer, bob: Peer, cast: Cast) -> None:
    first = cast.domain.host.removesuffix(".7")

    answers = [
        alice.put(1, scope(f"{first}.{number}/32"), cuid=f"{cast.alice.name}-{number}") for number in range(1, 101)
    ]

    taken = [answer.code for answer in answers].count("2.01")
    assert taken == 64
    for answer in answers[64:]:
        assert (answer.code, answer.message.opt.max_age) == ("5.03", 3600)
        assert "64 cuids" in answer.diagnostic
    assert alice.get(cuid=f"{cast.alice.name}-65").code == "4.04"
    assert alice.put(1, scope(f"{first}.1/32"), cuid=f"{cast.alice.name}-1").code == "2.04"
    assert bob.put(1, scope(f"{cast.domain.host6}/128")).code == "2.01"


@pytest.mark.rows("SIG-CUI-014", "SIG-CUI-002")
def test_a_cuid_unlike_the_hash_is_logged_once_and_taken(product: Product, cast: Cast, join: Join) -> None:
    usual = hash_cuid(cast.alice)
    alice = join("alice", cuid=usual)
    assert len(usual) == 22
    odd = f"odd-{cast.alice.name}"

    codes = [alice.put(1, scope(f"{cast.domain.host}/32")).code]
    codes += [alice.put(mid, scope(f"{cast.domain.host6}/128"), cuid=odd).code for mid in (1, 2, 2)]

    assert codes == ["2.01", "2.01", "2.01", "2.04"]

    def lines(cuid: str) -> list[str]:
        return [line for line in product.lines if "no hash of its key" in line and cuid in line]

    until(lambda: lines(odd), what="the line in the log")
    last = f"last-{cast.alice.name}"
    alice.put(3, scope(f"{cast.domain.host6}/128"), cuid=last)
    until(lambda: lines(last), what="a later line")
    (line,) = lines(odd)
    assert f"client {cast.alice.name} uses the cuid '{odd}'" in line
    assert lines(usual) == []


@pytest.mark.rows("SIG-CUI-002", "SIG-CUI-003")
def test_our_client_takes_the_hash_of_its_key_each_time(product: Product, cast: Cast, join: Join) -> None:
    for address in (cast.domain.host, cast.domain.host6):
        asked = product.client(cast.alice, "mitigate", address)
        assert asked.status == 0, asked.out + asked.err

    entries = join("alice", cuid=hash_cuid(cast.alice)).get().scopes

    assert sorted(entry[6][0] for entry in entries) == [f"{cast.domain.host}/32", f"{cast.domain.host6}/128"]


@pytest.mark.rows("SIG-CUI-009", "SIG-MIT-025")
def test_a_path_without_cuid_is_refused(alice: Peer, cast: Cast) -> None:
    for code, path in ((PUT, "mitigate/mid=1"), (GET, "mitigate"), (DELETE, "mitigate/mid=1")):
        refused = alice.ask(code, path, scope(f"{cast.domain.host}/32") if code == PUT else b"")
        assert refused.code == "4.00"
        assert "lacks cuid" in refused.diagnostic
    assert_refused(alice, scope("203.0.113.1/32"))
