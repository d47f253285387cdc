"""A domain's playbooks, parameters and ladder, changed by admins: as the command has it, nothing typed lost, audited."""

from __future__ import annotations

import re
from datetime import datetime
from html import unescape
from html.parser import HTMLParser
from typing import Any

import dashboard_cast as cast
import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from mitigation.models import Audit, Domain
from mitigation.rules.parameters import PARAMETERS

pytestmark = pytest.mark.django_db


@pytest.fixture
def domain(now: datetime) -> Domain:
    return cast.domain("example.net", "198.51.100.0/24", now=now)


class _Form(HTMLParser):
    """What the form would send as it stands, and the words beside each field."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.area = ""
        self.select = ""
        self.feed(html[html.index('class="stackgap-lg policy"') :])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "input":
            self.values[found["name"]] = found.get("value", "")
        elif tag == "textarea":
            self.area = found["name"]
            self.values[self.area] = ""
        elif tag == "select":
            self.select = found["name"]
        elif tag == "option" and ("selected" in found or self.select not in self.values):
            self.values[self.select] = found["value"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self.area = ""

    def handle_data(self, data: str) -> None:
        if self.area:
            self.values[self.area] += data


def form(client: Client, domain: Domain) -> dict[str, str]:
    return _Form(client.get(f"/domains/{domain.pk}/policy/").content.decode()).values


def send(client: Client, domain: Domain, **typed: str) -> Any:
    return client.post(f"/domains/{domain.pk}/policy/", {**form(client, domain), **typed})


def error_of(html: str, name: str) -> str:
    found = re.search(rf'id="{name}-err">(?:<svg.*?</svg>)?\s*([^<]+)<', html, re.S)
    return unescape(found[1]) if found else ""


# -- who --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["viewer", "browser_client"])
def test_only_admins_change_a_policy(who: str, domain: Domain, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(who)
    path = f"/domains/{domain.pk}/policy/"

    for answer in (client.get(path), Client().get(path), Client().post(path, {"playbook": "discard"})):
        assert answer.status_code in (302, 403)
    assert "Change playbooks" not in client.get(f"/domains/{domain.pk}/").content.decode()
    assert client.get(path).status_code == 403
    assert client.post(path, {"playbook": "discard"}).status_code == 403
    domain.refresh_from_db()
    assert domain.playbook == "shield"


def test_an_admin_finds_the_form_from_the_domain(admin: Client, domain: Domain) -> None:
    html = admin.get(f"/domains/{domain.pk}/").content.decode()

    assert f'href="/domains/{domain.pk}/policy/"' in html
    assert admin.get("/domains/999/policy/").status_code == 404


# -- what -------------------------------------------------------------------------------------------------------------


def test_every_parameter_has_one_field_with_its_meaning_and_default(admin: Client, domain: Domain) -> None:
    values = form(admin, domain)
    html = unescape(admin.get(f"/domains/{domain.pk}/policy/").content.decode())

    parameters = {one.name: one for some in PARAMETERS.values() for one in some}
    assert parameters.keys() < values.keys()
    assert all(values[name] == "" for name in parameters)
    assert all(one.meaning[1:] in html for one in parameters.values())
    assert "default: 1000" in html


def test_what_is_typed_is_saved_and_each_change_is_in_the_audit(admin: Client, domain: Domain) -> None:
    typed = {
        "ladder": "shield, ratelimit discard",
        "step_packets": "20000",
        "limit_octets": "5e7",
        "amplification_ports": "53, 123",
        "bogon_prefixes": "[]",
        "stateful": "false",
        "redirect_mark": "0x03000000",
    }

    answer = send(admin, domain, **typed)

    assert answer["Location"] == f"/domains/{domain.pk}/"
    domain.refresh_from_db()
    assert (domain.ladder, domain.step_packets) == (["shield", "ratelimit", "discard"], 20_000)
    parameters = {
        "limit_octets": 5e7, "amplification_ports": [53, 123], "bogon_prefixes": [], "stateful": False,
        "redirect_mark": 0x03000000,
    }  # fmt: skip
    assert domain.playbook_parameters == parameters
    told = Audit.objects.get(action="domain-set")
    assert (told.door, told.actor, told.subject) == ("dashboard", "operator admin", "domain example.net")
    assert told.before == {"ladder": [], "step_packets": 0, "playbook_parameters": {}}
    assert told.after == {
        "ladder": domain.ladder, "step_packets": 20_000, "playbook_parameters": parameters,
    }  # fmt: skip


def test_what_stands_is_shown_so_that_saving_it_again_changes_nothing(admin: Client, domain: Domain) -> None:
    send(admin, domain, amplification_ports="53,123", bogon_prefixes="[]", drop_fragments="false", redirect_mark="0x03000000",
         limit_octets="null", allowed_playbooks="shield discard")  # fmt: skip
    before = Domain.objects.values().get()
    shown = form(admin, domain)
    assert (shown["amplification_ports"], shown["bogon_prefixes"]) == ("53, 123", "[]")
    assert (shown["drop_fragments"], shown["redirect_mark"], shown["limit_octets"]) == ("false", "0x3000000", "")

    answer = admin.post(f"/domains/{domain.pk}/policy/", shown, follow=True)

    assert "Nothing was changed" in answer.content.decode()
    assert Domain.objects.values().get() == before
    assert Audit.objects.filter(action="domain-set").count() == 1


def test_an_emptied_field_is_the_default_again(admin: Client, domain: Domain) -> None:
    send(admin, domain, udp_rate="7", syn_rate="8")

    send(admin, domain, udp_rate="")

    domain.refresh_from_db()
    assert domain.playbook_parameters == {"syn_rate": 8}


WRONG = [
    ("udp_rate", "fast", ("--parameter", "udp_rate=fast")),
    ("limit_octets", "-1", ("--parameter", "limit_octets=-1")),
    ("redirect_mark", "0x10", ("--parameter", "redirect_mark=0x10")),
    ("bogon_prefixes", "10.0.0.1/8", ("--parameter", "bogon_prefixes=10.0.0.1/8")),
    ("ladder", "shield nonsense", ("--ladder", "shield", "nonsense")),
    ("ladder", "ratelimit discard", ("--ladder", "ratelimit", "discard")),
    ("ladder", "shield shield", ("--ladder", "shield", "shield")),
    ("allowed_playbooks", "discard", ("--allowed-playbooks", "discard")),
    ("step_up_after", "0", ("--step-up-after", "0")),
    ("step_packets", "-1", ("--step-packets", "-1")),
]


@pytest.mark.parametrize(("name", "text", "words"), WRONG)
def test_what_the_command_refuses_is_refused_in_the_same_words_beside_the_field(
    name: str, text: str, words: tuple[str, ...], admin: Client, domain: Domain
) -> None:
    before = Domain.objects.values().get()
    with pytest.raises(CommandError) as refused:
        call_command("domain", "set", "example.net", *words)

    answer = send(admin, domain, **{name: text, "step_octets": "50000000"})

    html = answer.content.decode()
    assert answer.status_code == 400
    assert error_of(html, name) == str(refused.value)
    assert f'href="#{name}"' in html
    kept = _Form(html).values
    assert (kept[name], kept["step_octets"]) == (text, "50000000")
    assert Domain.objects.values().get() == before
    assert not Audit.objects.filter(action="domain-set").exists()


def test_all_that_is_wrong_is_said_at_once(admin: Client, domain: Domain) -> None:
    html = send(admin, domain, step_packets="many", ladder="nonsense", udp_rate="fast").content.decode()

    assert "must be an integer" in error_of(html, "step_packets")
    assert "there is no playbook nonsense" in error_of(html, "ladder")
    assert "udp_rate is a whole number" in error_of(html, "udp_rate")


def test_a_policy_that_changed_meanwhile_is_not_overwritten_and_nothing_typed_is_lost(
    admin: Client, domain: Domain
) -> None:
    shown = form(admin, domain)
    call_command("domain", "set", "example.net", "--parameter", "udp_rate=9")

    answer = admin.post(f"/domains/{domain.pk}/policy/", {**shown, "syn_rate": "8"})

    assert answer.status_code == 409
    html = answer.content.decode()
    assert "somebody changed this policy while you typed" in html
    kept = _Form(html).values
    assert kept["syn_rate"] == "8"
    domain.refresh_from_db()
    assert domain.playbook_parameters == {"udp_rate": 9}


def test_a_value_with_markup_is_text(admin: Client, domain: Domain) -> None:
    html = send(admin, domain, ladder='"><script>alert(1)</script>').content.decode()

    assert "<script>alert" not in html
