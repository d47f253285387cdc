"""The resolver by itself: servers as they may be named, and answers as they come."""

from __future__ import annotations

from typing import Any

import pytest

from mitigation.checks import resolvers_are_addresses
from mitigation.resolver import Resolver
from tests.harness.dns import Zone, serving


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
