"""The client domain identifier, and the gateways that may send it (RFC 9132, section 4.4.1.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cbor2
import pytest

from tests.harness.console import Console
from tests.harness.product import Cast, Files, Product
from tests.harness.waiting import until
from tests.harness.wire import DELETE, GET, PUT, Peer, Reply, peer, scope

Join = Callable[..., Peer]


@dataclass
class Behind:
    """What a gateway asks for in the name of one client."""

    gateway: Peer
    cdid: str | None
    cuid: str

    def ask(self, code: int, mid: int | None = None, body: bytes = b"", **options: object) -> Reply:
        cdid = f"cdid={self.cdid}/" if self.cdid else ""
        path = f"mitigate/{cdid}cuid={self.cuid}" + ("" if mid is None else f"/mid={mid}")
        return self.gateway.ask(code, path, body, **options)

    def mids(self) -> list[int]:
        answer = self.ask(GET)
        return [entry[5] for entry in answer.scopes] if answer.code == "2.05" else []


@pytest.fixture
def gateways(product: Product, cast: Cast, console: Console, join: Join) -> list[Peer]:
    """alice and bob of the cast, made gateways by their operator."""
    made = """
result = Client.objects.filter(name__in=names).update(is_gateway=True)
from mitigation.services.units import unit_of_work
with unit_of_work(now) as unit:
    unit.tell(Change.Topic.CLIENT, 0)
"""
    console.run(made, names=[cast.alice.name, cast.bob.name])
    opened = [join("alice"), join("bob")]
    until(lambda: all(is_heard(one, cast) for one in opened), what="both being gateways")
    return opened


def is_heard(gateway: Peer, cast: Cast) -> bool:
    """Whether cdid counts: a list under another cdid does not show what is asked for without."""
    probe, other = f"{gateway.files.name}-probe", Behind(gateway, "x", f"{gateway.files.name}-probe")
    gateway.put(1, scope(f"{cast.domain.host6}/128"), cuid=probe)
    heard = other.ask(GET).code == "4.04"
    gateway.delete(1, cuid=probe)
    return heard


@pytest.fixture
def target(cast: Cast) -> bytes:
    return scope(f"{cast.domain.host}/32")


@pytest.mark.rows("SIG-CDI-002", "SIG-CDI-003")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_cdid_of_a_client_is_ignored(join: Join, target: bytes, transport: str) -> None:
    alice = join("alice", transport=transport)
    first, second = Behind(alice, "7eeaf349529eb55ed50113", alice.cuid), Behind(alice, "another", alice.cuid)

    made = first.ask(PUT, 1, target)

    assert (made.code, made.scope) == ("2.01", {5: 1, 14: 600})
    assert alice.get(1).code == "2.05"
    assert second.ask(GET, 1).code == "2.05"
    assert second.ask(PUT, 1, target).code == "2.04"
    assert first.mids() == second.mids() == [1]
    assert second.ask(DELETE, 1).code == "2.02"
    assert alice.get(1).scope[16] == 5


@pytest.mark.rows("SIG-CDI-003", "SIG-CDI-009", "SIG-MID-007")
def test_cdid_of_a_trusted_gateway_tells_clients_apart(gateways: list[Peer], target: bytes, console: Console) -> None:
    gateway = gateways[0]
    one, two = Behind(gateway, "one", gateway.cuid), Behind(gateway, "two", gateway.cuid)

    assert one.ask(PUT, 1, target).code == "2.01"
    assert two.ask(GET).code == "4.04"
    assert gateway.get().code == "4.04"
    assert two.ask(PUT, 1, target).code == "2.01"
    assert one.ask(DELETE, 1).code == "2.02"

    assert one.ask(GET, 1).scope[16] == 5
    assert two.ask(GET, 1).scope[16] != 5
    audited = "result = list(Audit.objects.filter(action='submit').values_list('subject', flat=True))"
    assert any(f"/one/{gateway.cuid}" in subject for subject in console.run(audited))


@pytest.mark.rows("SIG-CDI-010", "SIG-PUT-002")
def test_cdid_is_in_no_answer(gateways: list[Peer], target: bytes) -> None:
    asked = Behind(gateways[0], "7eeaf349529eb55ed50113", gateways[0].cuid)
    made = asked.ask(PUT, 1, target)

    for answer in (made, asked.ask(PUT, 1, target), asked.ask(GET, 1), asked.ask(GET), asked.ask(PUT, 0, target)):
        assert answer.payload
        assert b"7eeaf349" not in answer.payload
        assert gateways[0].cuid.encode() not in answer.payload
        assert not {3, 4} & set(answer.scope)


@pytest.mark.rows("SIG-CDI-003")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mitigate/cuid=c/cdid=one/mid=1", "the order is cdid, cuid, mid"),
        ("mitigate/cdid=one/cdid=two/cuid=c/mid=1", "cdid is given twice"),
        ("mitigate/cdid=/cuid=c/mid=1", "cdid is empty"),
        (f"mitigate/cdid={'l' * 251}/cuid=c/mid=1", "longer than 250"),
        ("mitigate/cdid=one/mid=1", "lacks cuid"),
    ],
)
def test_a_cdid_out_of_place_is_refused(alice: Peer, target: bytes, path: str, words: str) -> None:
    for code in (PUT, GET, DELETE):
        refused = alice.ask(code, path, target if code == PUT else b"")
        assert refused.code == "4.00"
        assert words in refused.diagnostic


# -- one client through two gateways


@pytest.fixture
def both(product: Product, gateways: list[Peer]) -> list[Behind]:
    """One client through two gateways, each of which gives it a cdid of its own."""
    first, second = gateways
    product.manage("client", "equate", second.files.name, "cdid-two", first.files.name, "cdid-one")
    paths = [Behind(first, "cdid-one", first.cuid), Behind(second, "cdid-two", first.cuid)]
    probe = replace(paths[0], cuid=f"{first.cuid}-equated")
    probe.ask(PUT, 4_000_000_000, scope(f"{prefix_of(first)}::99/128"))
    until(lambda: replace(paths[1], cuid=probe.cuid).mids(), what="the cdids being equivalent")
    return paths


def prefix_of(gateway: Peer) -> str:
    number = int(gateway.files.name.removeprefix("alice.domain-").removesuffix(".example"))
    return f"2001:db8:{number:x}"


@pytest.mark.rows("SIG-CDI-008")
def test_equivalent_cdids_are_one_client(both: list[Behind], target: bytes, cast: Cast) -> None:
    one, two = both

    assert one.ask(PUT, 7, target).code == "2.01"
    assert two.ask(GET, 7).scope[6] == [f"{cast.domain.host}/32"]
    assert two.mids() == one.mids() == [7]
    assert two.ask(PUT, 7, target).code == "2.04"
    lower = two.ask(PUT, 6, target)
    assert (lower.code, lower.scope[17][21][5]) == ("4.09", 7)
    assert two.ask(PUT, 8, target).code == "2.01"
    assert one.mids() == [8]
    assert two.ask(DELETE, 8).code == "2.02"
    assert one.ask(GET, 8).scope[16] == 5


@pytest.mark.rows("SIG-CDI-008")
def test_what_comes_through_one_gateway_is_observed_through_the_other(both: list[Behind], target: bytes) -> None:
    one, two = both
    one.ask(PUT, 7, target)
    watch = two.gateway.watch(path=f"mitigate/cdid={two.cdid}/cuid={two.cuid}/mid=7")
    assert watch.next().message.opt.observe is not None

    one.ask(DELETE, 7)

    assert watch.until_status(5).scope[5] == 7


@pytest.mark.rows("SIG-CDI-008")
def test_no_other_cdid_is_meant(both: list[Behind], target: bytes) -> None:
    one, two = both
    one.ask(PUT, 7, target)

    assert replace(two, cdid="cdid-one").ask(GET, 7).code == "4.04"
    assert replace(two, cdid=None).ask(GET, 7).code == "4.04"
    assert replace(one, cdid="cdid-two").ask(GET, 7).code == "4.04"
    assert replace(one, cdid=None).ask(GET, 7).code == "4.04"


@pytest.mark.rows("SIG-CDI-008")
def test_separated_they_are_two_again(product: Product, both: list[Behind], target: bytes) -> None:
    one, two = both
    one.ask(PUT, 7, target)

    product.manage("client", "separate", two.gateway.files.name, "cdid-two")

    until(lambda: two.ask(GET, 7).code == "4.04", what="the cdids being apart")
    assert one.ask(GET, 7).code == "2.05"


@pytest.mark.rows("SIG-CDI-008")
def test_what_makes_no_sense_is_not_declared(product: Product, both: list[Behind], cast: Cast, target: bytes) -> None:
    one, two = (behind.gateway.files.name for behind in both)
    both[1].gateway.ask(PUT, f"mitigate/cdid=busy/cuid={two}/mid=1", target)

    for arguments, words in (
        ((two, "cdid-two", one, "other"), "is declared equivalent already"),
        ((one, "x", two, "cdid-two"), "name that one"),
        ((one, "cdid-one", two, "x"), "exchange the two"),
        ((two, "busy", one, "cdid-one"), "has live mitigations"),
        ((two, "x", cast.mallory.name, "cdid-one"), "no gateway"),
        ((two, "x", "nobody", "cdid-one"), "there is no client named nobody"),
        ((two, "x", two, "x"), "is the same twice"),
    ):
        refused = product.manage("client", "equate", *arguments, check=False)
        assert refused.status == 1
        assert words in refused.err


def test_a_gateway_is_made_one_by_its_operator(product: Product, cast: Cast, target: bytes) -> None:
    out = product.home / "clients" / f"gateway.{cast.domain.name}"
    product.manage("client", "add", out.name, "--domain", cast.domain.name, "--gateway", "--out", str(out))

    with peer(Files(out.name, "", out), product.signal_port) as gateway:
        assert Behind(gateway, "one", out.name).ask(PUT, 1, target).code == "2.01"
        assert gateway.get(1).code == "4.04"


def test_the_octets_of_an_answer_name_no_gateway(gateways: list[Peer], target: bytes) -> None:
    made = Behind(gateways[0], "one", gateways[0].cuid).ask(PUT, 1, target)

    assert made.payload == cbor2.dumps({1: {2: [{5: 1, 14: 600}]}})
