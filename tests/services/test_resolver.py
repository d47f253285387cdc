"""The resolver by itself: servers as they may be named, and answers as they come."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mitigation.checks import resolvers_are_addresses
from mitigation.pki.authority import initialise
from mitigation.pki.home import Home
from mitigation.resolver import Resolver
from tests.harness.dns import Zone, serving, serving_tls


@pytest.mark.parametrize("text", ["dns.example", "tls://dns.example", "https://192.0.2.53/", "192.0.2.53:x", ""])
def test_a_server_that_is_no_address_stops_the_start_with_a_sentence(settings: Any, text: str) -> None:
    with pytest.raises(ValueError):
        Resolver([text])

    settings.DOTS_RESOLVERS = [text]
    assert [message.id for message in resolvers_are_addresses()] == ["dots.E003"]


def test_servers_as_they_may_be_named(settings: Any) -> None:
    settings.DOTS_RESOLVERS = ["192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]:53", "tls://192.0.2.53:853#dns.example"]

    assert resolvers_are_addresses() == []


def test_the_next_server_is_asked_when_one_fails() -> None:
    names = {"www.a.example": ["198.51.100.7"]}
    with serving(Zone(failing={"www.a.example"})) as broken, serving(Zone(addresses=names)) as good:
        answer = Resolver([broken.server, good.server]).resolve(["www.a.example"])["www.a.example"]

    assert [str(address) for address in answer.addresses] == ["198.51.100.7"]
    assert not answer.failed
    assert broken.asked


def test_nobody_answers() -> None:
    with serving(Zone(failing={"www.a.example"})) as broken:
        answer = Resolver([broken.server]).resolve(["www.a.example"])["www.a.example"]

    assert answer.failed
    assert "could not be resolved" in answer.problem


def test_a_name_without_addresses_is_no_failure() -> None:
    with serving(Zone(addresses={"mail.a.example": []})) as zone:
        answer = Resolver([zone.server]).resolve(["mail.a.example"])["mail.a.example"]

    assert (answer.addresses, answer.failed, answer.problem) == ((), False, "the name has no address")


WWW = "www.a.example"


@pytest.fixture
def authority(tmp_path: Path) -> Home:
    """Keys of a resolver named localhost."""
    home = Home(tmp_path / "resolver")
    initialise(home, names=["localhost"], addresses=["127.0.0.1"], now=datetime.now(UTC))
    return home


@pytest.mark.rows("SIG-MIT-012")
def test_a_name_is_resolved_over_tls(authority: Home) -> None:
    zone, ca = Zone(addresses={WWW: ["198.51.100.7"]}), str(authority.authority_certificate)
    with serving_tls(zone, authority.server_certificate, authority.server_key) as server:
        by_name = Resolver([server], ca=ca).resolve([WWW])[WWW]
        by_address = Resolver([server.partition("#")[0]], ca=ca).resolve([WWW])[WWW]

    assert [str(address) for address in by_name.addresses] == ["198.51.100.7"]
    assert by_address == by_name


@pytest.mark.rows("SIG-MIT-012")
def test_a_resolver_that_cannot_prove_its_name_is_not_believed(authority: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    initialise(other, names=["localhost"], addresses=["127.0.0.1"], now=datetime.now(UTC))
    zone = Zone(addresses={WWW: ["198.51.100.7"]})
    with serving_tls(zone, authority.server_certificate, authority.server_key) as server:
        foreign = Resolver([server], ca=str(other.authority_certificate)).resolve([WWW])[WWW]
        misnamed = server.replace("#localhost", "#dns.example")
        wrong = Resolver([misnamed], ca=str(authority.authority_certificate)).resolve([WWW])[WWW]

    assert zone.asked == []
    assert foreign.failed
    assert wrong.failed


@pytest.mark.rows("SIG-MIT-012")
def test_only_validated_answers_and_denials_count_with_dnssec() -> None:
    with serving(Zone(addresses={WWW: ["198.51.100.7"]})) as zone:
        resolver = Resolver([zone.server], dnssec=True)
        before = resolver.resolve([WWW, "gone.a.example"])
        zone.validated = True
        after = resolver.resolve([WWW, "gone.a.example"])

    assert [(one.failed, one.problem) for one in before.values()] == [
        (True, "the answer is not validated by DNSSEC")
    ] * 2
    assert [str(address) for address in after[WWW].addresses] == ["198.51.100.7"]
    assert (after["gone.a.example"].failed, after["gone.a.example"].problem) == (False, "there is no such name")


def test_an_authority_that_is_not_there_stops_the_start(settings: Any) -> None:
    settings.DOTS_RESOLVERS, settings.DOTS_RESOLVER_CA = ["tls://192.0.2.53"], "/nowhere/ca.pem"

    (message,) = resolvers_are_addresses()
    assert "/nowhere/ca.pem: there is no such file" in message.msg
