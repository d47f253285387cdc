"""Redirected signalling (RFC 9132, section 4.6), as clients see it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import scenes
from conftest import Join

from mitigation.tls import CloseReason
from tests.harness.console import Console
from tests.harness.product import Cast, Product
from tests.harness.waiting import until
from tests.harness.wire import PUT, Peer, Reply, scope

NAME = "alt-server.example"
ADDRESSES = ["2001:db8:6401::1", "2001:db8:6401::2"]
FOR_EVER = 2**32 - 1
GRACE = 10.0  # seconds until the session of a client that was sent away is closed


@contextmanager
def redirected(console: Console, cast: Cast, *, ttl: int = 3600, addresses: list[str] | None = None) -> Iterator[None]:
    console.run(
        "from mitigation.services import redirections\n"
        "redirections.redirect(to, addresses=addresses, ttl=ttl, domain_name=name, actor='tests', now=now)",
        to=NAME,
        addresses=ADDRESSES if addresses is None else addresses,
        ttl=ttl,
        name=cast.domain.name,
    )
    try:
        yield
    finally:
        lifted(console, cast)


def lifted(console: Console, cast: Cast) -> None:
    console.run(
        "if Redirection.objects.filter(domain__name=name).exists():\n"
        "    from mitigation.services import redirections\n"
        "    redirections.lift(domain_name=name, actor='tests', now=now)",
        name=cast.domain.name,
    )


def is_sent_away(peer: Peer) -> bool:
    return peer.get().code == "5.03"


@pytest.mark.rows("SIG-RED-001", "SIG-RED-003", "SIG-RED-004", "SIG-RED-018", "SIG-ERR-023")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_answer_names_the_other_server_its_addresses_and_for_how_long(
    join: Join, cast: Cast, console: Console, transport: str
) -> None:
    alice = join("alice", transport=transport)
    with redirected(console, cast):
        until(lambda: is_sent_away(alice), what="a redirection")
        reply = alice.put(1, scope(scenes.only(cast)))

    assert reply.code == "5.03"
    assert reply.body == {46: {47: NAME, 48: ADDRESSES}}
    assert reply.message.opt.max_age == 3600


@pytest.mark.rows("SIG-RED-003", "SIG-RED-004")
def test_a_server_without_addresses_may_be_named_for_ever(alice: Peer, cast: Cast, console: Console) -> None:
    with redirected(console, cast, ttl=FOR_EVER, addresses=[]):
        until(lambda: is_sent_away(alice), what="a redirection")
        reply = alice.get()

    assert reply.body == {46: {47: NAME}}
    assert reply.message.opt.max_age == FOR_EVER


@pytest.mark.rows("SIG-RED-004")
def test_a_ttl_of_0_sends_only_requests_for_mitigation_elsewhere(alice: Peer, cast: Cast, console: Console) -> None:
    with redirected(console, cast, ttl=0):
        refused = until(lambda: _refused(alice, cast), what="a redirection")
        assert (refused.message.opt.max_age, refused.body[46][47]) == (0, NAME)
        assert alice.get().code in ("2.05", "4.04")


def _refused(peer: Peer, cast: Cast) -> Reply | None:
    reply = peer.put(peer.mid(), scope(scenes.only(cast), k45=False))
    return reply if reply.code == "5.03" else None


@pytest.mark.rows("SIG-RED-011", "SIG-RED-002")
def test_whoever_stays_is_told_again_and_nothing_is_done(alice: Peer, cast: Cast, console: Console) -> None:
    with redirected(console, cast):
        until(lambda: is_sent_away(alice), what="a redirection")
        replies = [
            alice.put(1, scope(scenes.only(cast))),
            alice.delete(1),
            alice.get(1),
            alice.ask(PUT, "hb", b"\xa1\x18\x31\xa1\x18\x33\xf5"),
        ]
        assert [reply.code for reply in replies] == ["5.03"] * 4
    until(lambda: alice.get().code == "4.04", what="the end of the redirection")


@pytest.mark.rows("SIG-RED-001")
def test_others_are_served_as_before(alice: Peer, bob: Peer, mallory: Peer, cast: Cast, console: Console) -> None:
    with redirected(console, cast):
        until(lambda: is_sent_away(alice), what="a redirection")
        assert bob.get().code == "5.03"
        assert mallory.get().code == "4.04"


@pytest.mark.rows("SIG-OBS-022", "SIG-RED-001", "SIG-OBS-008")
def test_an_observer_is_told_by_a_notification_without_observe(
    alice: Peer, cast: Cast, product: Product, console: Console
) -> None:
    before = scenes.remembered(product, "observers")
    assert alice.put(1, scope(scenes.only(cast), k45=False)).code == "2.01"
    watch = alice.watch(1)
    assert watch.next().code == "2.05"
    with redirected(console, cast):
        told = watch.next()
        assert (told.code, told.message.opt.observe) == ("5.03", None)
        assert told.body == {46: {47: NAME, 48: ADDRESSES}}
        assert told.message.opt.max_age == 3600
        until(lambda: watch.ended, what="the end of the observation")
        until(lambda: scenes.remembered(product, "observers") == before, what="no observer left")


@pytest.mark.rows("SIG-RED-012")
def test_nobody_is_sent_away_while_under_attack(hasty_join: Join, hasty_cast: Cast, hasty: Product) -> None:
    alice, bob = hasty_join("alice"), hasty_join("bob")
    assert bob.put(1, scope(scenes.only(hasty_cast))).code == "2.01"
    watch = alice.watch()
    with redirected(hasty.console, hasty_cast), scenes.talking(alice), scenes.talking(bob):
        assert alice.put(1, scope(scenes.host(hasty_cast, 9) + "/32", k45=False)).code == "2.01"
        assert alice.get(1).code == "2.05"
        bob.delete(1)
        until(lambda: is_sent_away(alice), what="a redirection after the attack")
        assert watch.replies[0].code == "4.04"  # there was nothing to observe yet


@pytest.mark.slow
@pytest.mark.rows("SIG-RED-016")
def test_a_session_that_was_told_is_closed_and_hears_nothing_more(alice: Peer, cast: Cast, console: Console) -> None:
    with redirected(console, cast):
        until(lambda: is_sent_away(alice), what="a redirection")
        begin = time.monotonic()
        before = len(alice.answers.requests)
        until(lambda: alice.closed is CloseReason.PEER_CLOSED, within=GRACE + 5, what="the end of the session")
        assert time.monotonic() - begin < GRACE + 3
        assert len(alice.answers.requests) == before


@pytest.mark.rows("SIG-RED-001")
def test_commands_say_who_is_sent_where(cast: Cast, console: Console) -> None:
    name = cast.domain.name
    said = console.manage("redirect", "to", NAME, "--domain", name, "--address", ADDRESSES[0], "--ttl", "60")
    try:
        assert said == f"Clients of {name} are sent to {NAME}; those under attack stay until it is over.\n"
        line = next(line for line in console.manage("redirect", "list").splitlines() if name in line)
        assert NAME in line and ADDRESSES[0] in line
    finally:
        said = console.manage("redirect", "lift", "--domain", name)
    assert said == f"Clients of {name} are served here again.\n"
    assert name not in console.manage("redirect", "list")
