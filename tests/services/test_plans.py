"""What a request would do, said before it is made; and the rules of one, tried on a capture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from requests_and_outcomes import granted, request

from mitigation.exceptions import NotFound
from mitigation.models import Change, EnforcementPoint, Mitigation
from mitigation.protocol.scope import Scope
from mitigation.rules.packets import Packet, TcpFlag
from mitigation.services import plans
from mitigation.services.projection import project_mitigations
from tests.harness.captures import pcap, wire

HOST = "198.51.100.7/32"


def scope(*prefixes: str, **more: Any) -> Scope:
    return Scope(target_prefix=tuple(map(ip_network, prefixes)), **more)


def said(*words: str) -> str:
    out = io.StringIO()
    call_command("mitigation", *words, stdout=out)
    return out.getvalue()


def test_a_plan_is_what_the_enforcer_will_render(cast: Any, submit: Callable[..., Any], now: datetime) -> None:
    before = Change.objects.count()
    planned = plans.of_request("a.example", scope(HOST), now=now)
    assert (Change.objects.count(), Mitigation.objects.count()) == (before, 0)

    granted(submit(cast.alice, request(1, HOST)))

    row = Mitigation.objects.get()
    rendered = project_mitigations(now=now).plans[row.pk]
    assert planned.rules == rendered.rules
    assert planned.notes == rendered.notes
    assert plans.of_mitigation(row.pk).rules == rendered.rules
    assert (planned.addresses, planned.refused, planned.overlaps) == (1, "", ())


def test_a_plan_names_what_it_overlaps_with(cast: Any, submit: Callable[..., Any], now: datetime) -> None:
    granted(submit(cast.alice, request(1, "198.51.100.0/29")))
    granted(submit(cast.mallory, request(1, "203.0.113.7/32", cuid="cuid-of-mallory")))

    (shared,) = plans.of_request("a.example", scope(HOST, "198.51.100.99/32"), now=now).overlaps

    assert shared.mitigation.client == cast.alice
    assert [str(network) for network in shared.networks] == [HOST]
    assert plans.of_mitigation(shared.mitigation.pk).overlaps == ()


@pytest.mark.parametrize(
    ("asked", "playbook", "reason"),
    [
        (scope("203.0.113.7/32"), "", "target-prefix 203.0.113.7/32 is outside the prefixes"),
        (scope(target_fqdn=("www.b.example",)), "", "www.b.example is outside the names"),
        (scope(HOST), "discard", "discard would drop everything to the target"),
        (scope(HOST), "nonsense", "there is no playbook nonsense"),
    ],
)
def test_a_refusal_says_why(cast: Any, now: datetime, asked: Scope, playbook: str, reason: str) -> None:
    planned = plans.of_request("a.example", asked, playbook=playbook, now=now)

    assert reason in planned.refused
    assert planned.rules == ()


def test_what_is_on_the_never_block_list_is_refused(cast: Any, now: datetime) -> None:
    domain = cast.alice.domain
    domain.never_block = ["198.51.100.4/30"]
    domain.save()

    assert "touches the domain's never-block list" in plans.of_request("a.example", scope(HOST), now=now).refused


def test_nobody_plans_for_what_does_not_exist(cast: Any, now: datetime) -> None:
    with pytest.raises(NotFound, match="there is no domain named c.example"):
        plans.of_request("c.example", scope(HOST), now=now)
    with pytest.raises(NotFound):
        plans.of_mitigation(999)


def test_the_command_shows_rules_and_ends_with_1_when_refused(cast: Any) -> None:
    shown = said("plan", "--domain", "a.example", "--prefix", HOST, "--port", "8000-8099", "--protocol", "6")
    assert shown.startswith("would stand\nshield for 1 address of a.example\n")
    assert "limit new TCP connections to 198.51.100.7 ports 8000 to 8099" in shown
    assert "overlaps with nothing" in shown

    with pytest.raises(SystemExit) as ended:
        said("plan", "--domain", "a.example", "--prefix", "203.0.113.7/32")
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "say either --id, or --domain"),
        (("--id", "1", "--domain", "a.example"), "say either --id, or --domain"),
        (("--domain", "a.example"), "a request needs --domain and at least one of"),
        (("--domain", "a.example", "--prefix", "nonsense/32"), "not an IPv4 or IPv6 prefix"),
        (("--domain", "a.example", "--prefix", HOST, "--port", "x"), "write 443 or 8000-8099"),
        (("--domain", "a.example", "--prefix", HOST, "--port", "90-80"), "the lower one first"),
        (("--id", "999"), "there is no mitigation 999"),
    ],
)
def test_words_that_make_no_request_are_refused(cast: Any, words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        said("plan", *words)


def test_a_capture_is_split_by_what_each_rule_drops(cast: Any, submit: Callable[..., Any], tmp_path: Path) -> None:
    granted(submit(cast.alice, request(1, HOST)))
    host, attacker, visitor = (IPv4Address(text) for text in ("198.51.100.7", "203.0.113.9", "192.0.2.1"))
    amplified = wire(Packet(attacker, host, 17, 123, 40_000), payload=440)
    ordinary = wire(Packet(visitor, host, 6, 40_000, 443, TcpFlag.ACK))
    elsewhere = wire(Packet(attacker, IPv4Address("198.51.100.8"), 17, 123, 40_000))
    path = tmp_path / "attack.pcap"
    path.write_bytes(pcap([(at / 10, one) for at, one in enumerate([amplified] * 6 + [ordinary] * 3 + [elsewhere])]))
    number = str(Mitigation.objects.get().pk)

    values = json.loads(said("replay", str(path), "--id", number, "--json"))
    shown = said("replay", str(path), "--id", number)

    assert (values["packets"], values["seconds"]) == (10, 0.9)
    assert values["in_scope"]["packets"] == 9
    assert values["dropped"] == {"packets": 6, "octets": 6 * len(amplified)}
    assert values["passed"] == {"packets": 3, "octets": 3 * len(ordinary)}
    assert [rule["dropped"] for rule in values["rules"]].count(6) == 1
    assert values["sources"] == [{"source": "203.0.113.9", "dropped": 6, "passed": 0}]
    assert "9 go to what is protected: 6 dropped (66.7 %" in shown


def test_a_file_that_is_no_capture_is_refused(cast: Any, tmp_path: Path) -> None:
    request_words = ("--domain", "a.example", "--prefix", HOST)
    with pytest.raises(CommandError, match="No such file"):
        said("replay", str(tmp_path / "none.pcap"), *request_words)
    (tmp_path / "text.pcap").write_text("not at all a capture of packets")
    with pytest.raises(CommandError, match="begins like neither"):
        said("replay", str(tmp_path / "text.pcap"), *request_words)


def test_a_plan_is_a_dry_run_where_nothing_enforces(cast: Any) -> None:
    EnforcementPoint.objects.update(enforces=False)
    assert said("plan", "--domain", "a.example", "--prefix", HOST).startswith("dry run\n")
