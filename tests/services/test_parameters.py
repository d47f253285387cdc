"""A playbook's parameters as an operator sets and sees them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from equipment import Memory
from requests_and_outcomes import request

from mitigation.dashboard.policy import words
from mitigation.models import Audit, Domain
from mitigation.rules.canonical import Kind
from mitigation.rules.parameters import PARAMETERS, BadParameter, parse_parameter

Submit = Callable[..., Any]
Reconcile = Callable[..., bool]


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("domain", *arguments, stdout=out)
    return out.getvalue()


def set_(*parameters: str) -> dict[str, Any]:
    command("set", "a.example", *(word for one in parameters for word in ("--parameter", one)))
    found: dict[str, Any] = json.loads(command("show", "a.example", "--json"))["playbook_parameters"]
    return found


def test_they_are_set_one_by_one_shown_and_taken_back(cast: Any) -> None:
    assert set_("udp_rate=500", "amplification_ports=53, 123") == {"udp_rate": 500, "amplification_ports": [53, 123]}
    assert set_("syn_rate=5") == {"udp_rate": 500, "amplification_ports": [53, 123], "syn_rate": 5}
    assert "udp_rate 500" in command("show", "a.example")
    assert set_("udp_rate=default", "amplification_ports=default") == {"syn_rate": 5}

    noted = Audit.objects.filter(action="domain-set").first()
    assert noted is not None
    assert noted.before["playbook_parameters"]["udp_rate"] == 500
    assert noted.after["playbook_parameters"] == {"syn_rate": 5}
    assert Domain.objects.get(name="m.example").playbook_parameters == {}


def test_they_hold_at_once_for_what_stands(cast: Any, submit: Submit, reconcile: Reconcile, driver: Memory) -> None:
    submit(cast.alice, request(1))
    reconcile()
    set_("udp_rate=7", "drop_fragments=false")
    reconcile()

    rules = {one.rule.kind: one.rule for one in driver.rules.values()}
    assert rules[Kind.UDP_LIMIT].parameters.rate == 7
    assert Kind.FRAGMENTS not in rules


@pytest.mark.parametrize(
    ("parameter", "complaint"),
    [
        ("udp_rate=fast", "udp_rate is a whole number"),
        ("udp_rat=5", "write NAME=VALUE with a NAME of"),
        ("udp_rate", "write NAME=VALUE"),
        ("limit_octets=-1", "limit_octets is a number from 0"),
        ("redirect_mark=0x10", "bits outside redirect_mask"),
        ("bogon_prefixes=10.0.0.1/8", "has host bits set"),
    ],
)
def test_what_no_playbook_takes_is_refused_and_nothing_is_changed(cast: Any, parameter: str, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        set_("syn_rate=5", parameter)

    assert Domain.objects.get(name="a.example").playbook_parameters == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("redirect_mark=0x03000000", 0x03000000),
        ("limit_octets=1e6", 1e6),
        ("limit_octets=null", None),
        ("drop_fragments=false", False),
        ("redirect_return=to-scrubber,eth1", ["to-scrubber", "eth1"]),
        ("redirect_return=eth1", ["eth1"]),
        ("amplification_ports=", []),
        ("amplification_ports=[53]", [53]),
        ("no_longer_known=default", None),
    ],
)
def test_values_as_people_type_them(text: str, value: Any) -> None:
    assert parse_parameter(text) == (text.partition("=")[0], value)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadParameter, match=r"allow_whole_host, .*udp_rate"):
        parse_parameter("x=1")


def test_all_of_them_are_shown_with_meaning_and_source(cast: Any) -> None:
    set_("udp_rate=77")
    shown = json.loads(command("parameters", "a.example", "--json"))

    names = {(row["playbook"], row["parameter"]) for row in shown}
    assert names == {(playbook, one.name) for playbook, some in PARAMETERS.items() for one in some}
    assert all(row["meaning"] and row["source"] for row in shown)
    assert next(row["value"] for row in shown if row["parameter"] == "udp_rate") == 77
    assert "shield  udp_rate = 77" in command("parameters", "a.example")
    assert "shield  udp_rate = 1000" in command("parameters")


def test_the_dashboard_says_those_that_are_not_the_defaults(cast: Any) -> None:
    domain = Domain.objects.get(name="a.example")
    assert "Parameters" not in dict(words(domain))
    set_("limit_octets=1000000", "drop_fragments=false", "amplification_ports=53,123")
    domain.refresh_from_db()

    assert dict(words(domain))["Parameters"] == (
        "amplification_ports 53, 123; drop_fragments no; limit_octets 1,000,000"
    )
