"""Pages over HTTP: who may see them, what they say, and that they need no script."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html.parser import HTMLParser

import dashboard_cast as cast
import dashboard_scenes as scenes
import pytest
from dashboard_browser import NAME, PASSWORD
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from mitigation.dashboard.middleware import POLICY
from mitigation.models import Audit, EnforcementPoint, Hold, Mitigation, Transition
from mitigation.protocol.status import Status
from mitigation.services import holds

pytestmark = pytest.mark.django_db

OBJECTS = ("/mitigations/1/", "/mitigations/1/stop/", "/domains/1/")
PATHS = ("/", "/mitigations/", "/sessions/", "/domains/", "/points/", "/points/switches/panic/", *OBJECTS, "/search/")


def text(client: Client, path: str) -> str:
    """What a reader sees, without markup."""
    html = client.get(path).content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


# -- mallory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_mallory_without_a_login_is_sent_to_it(path: str, now: datetime) -> None:
    scenes.under_attack(now)

    answer = Client().get(path)

    assert answer.status_code == 302
    assert answer["Location"].startswith("/login/?next=")
    assert b"198.51.100" not in answer.content


def test_the_login_page_tells_mallory_nothing(now: datetime) -> None:
    scenes.under_attack(now)

    html = Client().get("/login/").content.decode()

    assert "198.51.100" not in html
    assert "example.net" not in html
    assert "Dry run" not in html


def test_mallory_cannot_stop_from_another_site(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)[0]

    answer = browser_client.post(f"/mitigations/{made.pk}/stop/", {"version": "2--"})

    assert answer.status_code == 403
    made.refresh_from_db()
    assert made.status == Status.MITIGATED


def test_mallory_cannot_stop_without_a_login(now: datetime) -> None:
    made = scenes.under_attack(now)[0]

    answer = Client().post(f"/mitigations/{made.pk}/stop/", {"version": "2--"})

    assert answer.status_code == 302
    made.refresh_from_db()
    assert made.status == Status.MITIGATED


def test_logging_out_takes_a_post_of_ones_own(browser_client: Client) -> None:
    assert browser_client.get("/logout/").status_code == 405
    assert browser_client.post("/logout/").status_code == 403


# -- login ------------------------------------------------------------------------------------------------------------


def test_a_login_leads_to_where_one_wanted_to_go(operator: User) -> None:
    answer = Client().post("/login/", {"username": NAME, "password": PASSWORD, "next": "/sessions/"})

    assert answer.status_code == 302
    assert answer["Location"] == "/sessions/"


def test_a_login_leads_nowhere_else(operator: User) -> None:
    answer = Client().post("/login/", {"username": NAME, "password": PASSWORD, "next": "https://evil.example/"})

    assert answer["Location"] == "/"


def test_a_wrong_password_is_said_and_not_kept(operator: User) -> None:
    html = Client().post("/login/", {"username": NAME, "password": "wrong-password"}).content.decode()

    assert "Name or password is wrong." in html
    assert "wrong-password" not in html


# -- headers and markup -----------------------------------------------------------------------------------------------


class _Markup(HTMLParser):
    """Finds what a strict policy forbids, and addresses that leave this server."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._script_without_source = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [f"<{tag} {name}>" for name in values if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in values):
            self.found.append(f"inline {tag}")
        for name in ("src", "href", "action"):
            if re.match(r"[a-z]+:|//", values.get(name) or ""):
                self.found.append(f"{tag} {name}={values[name]}")


@pytest.mark.parametrize("path", [*PATHS[:-1], "/login/", "/nowhere/"])
def test_pages_are_strict_and_stay_on_this_server(path: str, browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)
    client = Client() if path == "/login/" else browser_client

    answer = client.get(path, follow=False)

    assert answer["Content-Security-Policy"] == POLICY
    assert "no-store" in answer["Cache-Control"]
    assert answer["X-Frame-Options"] == "DENY"
    markup = _Markup()
    markup.feed(answer.content.decode())
    assert markup.found == []


# -- what pages say ---------------------------------------------------------------------------------------------------


def test_every_page_answers_in_every_situation(browser_client: Client, now: datetime) -> None:
    for scene in (scenes.under_attack, scenes.waiting, scenes.filtered, scenes.quiet, scenes.dry_run):
        cast.Domain.objects.all().delete()
        EnforcementPoint.objects.all().delete()
        scene(now)
        objects = [f"/mitigations/{pk}/" for pk in Mitigation.objects.values_list("pk", flat=True)]
        objects += [f"/domains/{pk}/" for pk in cast.Domain.objects.values_list("pk", flat=True)]
        objects += [f"/filters/{pk}/" for pk in cast.Acl.objects.values_list("pk", flat=True)]
        ranges = [f"/?range={name}" for name in ("5m", "15m", "1h", "24h", "7d", "nonsense")]
        for path in (
            "/",
            "/mitigations/",
            "/mitigations/?show=ended",
            "/sessions/",
            "/domains/",
            "/filters/",
            "/points/",
            *ranges,
            *objects,
        ):
            assert browser_client.get(path).status_code == 200, (scene.__name__, path)


def test_now_says_what_needs_a_person_first(browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)

    said = text(browser_client, "/")

    assert "Under attack since" in said
    assert "Not enforced 192.0.2.128/25 example.info" in said
    assert said.index("Needs you") < said.index("Active mitigations")
    assert "nft refused the batch: Device or resource busy." in said


def test_a_point_that_is_down_needs_a_person(browser_client: Client, now: datetime) -> None:
    cast.point(now=now, health=EnforcementPoint.Health.DOWN, health_sentence="nft does not answer")
    cast.mitigation(cast.client("gw", cast.domain("example.net", now=now), now=now), now=now)

    said = text(browser_client, "/")

    assert "Point down local nftables" in said
    assert "nft does not answer." in said


def test_now_is_quiet_after_the_last_attack(browser_client: Client, now: datetime) -> None:
    scenes.quiet(now)

    said = text(browser_client, "/")

    assert "Quiet" in said
    assert "since the last attack" in said
    assert "Under attack" not in said


def test_a_new_server_shows_its_first_five_minutes(browser_client: Client, now: datetime) -> None:
    scenes.first_day(now)

    said = text(browser_client, "/")

    assert "The first five minutes" in said
    assert "2 of 4 done" in said
    assert "python -m mitigation.client mitigate 198.51.100.7" in said


@pytest.mark.parametrize("path", ["/", "/mitigations/", "/mitigations/1/", "/sessions/", "/domains/", "/domains/1/"])
def test_a_dry_run_is_said_on_every_page(path: str, browser_client: Client, now: datetime) -> None:
    made = scenes.dry_run(now)
    path = path.replace("/1/", f"/{made.pk if 'mitigations' in path else made.domain_id}/")

    assert "Dry run: no traffic is touched." in text(browser_client, path)

    EnforcementPoint.objects.update(enforces=True)
    assert "Dry run: no traffic is touched." not in text(browser_client, path)


def test_a_disabled_point_does_not_end_a_dry_run(browser_client: Client, now: datetime) -> None:
    cast.point(now=now, enabled=False)

    assert "Dry run: no traffic is touched." in text(browser_client, "/")


def test_a_mitigation_shows_its_proof_and_history(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)[0]

    said = text(browser_client, f"/mitigations/{made.pk}/")

    for words in ("+0.004 s", "+0.031 s", "+0.118 s", "asked to first drop 1.14 s", "Rules 5 at 1 point", "mid 20417"):
        assert words in said
    assert "Requested, granted for 1:00:00 gw-a.example.net" in said
    assert "&quot;target-prefix&quot;" in said


def test_the_chart_has_its_numbers_as_a_table(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)[0]

    html = browser_client.get(f"/mitigations/{made.pk}/").content.decode()

    table = html[html.index("Show as table") :]
    assert len(re.findall(r"<tr><td class=\"tab\">", table)) == 90
    assert re.search(r"<td class=\"num\">2\d\.\d Gbit/s</td>", table)


def test_a_name_with_markup_is_text(browser_client: Client, now: datetime) -> None:
    domain = cast.domain("<script>alert(1)</script>", now=now)
    cast.mitigation(cast.client("<b>gw", domain, now=now), now=now, problem="<img src=x onerror=alert(1)>")

    for path in ("/", "/mitigations/", f"/domains/{domain.pk}/"):
        html = browser_client.get(path).content.decode()
        assert "<script>alert" not in html
        assert "<img" not in html


def test_filters_stand_in_the_address(browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)
    cast.end(Mitigation.objects.get(mid=7), at=now - timedelta(seconds=5))

    assert "2001:db8:40::53" not in text(browser_client, "/mitigations/")
    assert "2001:db8:40::53" in text(browser_client, "/mitigations/?show=ended")
    found = text(browser_client, "/mitigations/?show=all&q=example.org")
    assert "2001:db8:40::53" in found
    assert "198.51.100.7" not in found
    assert "Nothing matches “nothing-like-it”" in text(browser_client, "/mitigations/?q=nothing-like-it")


def test_many_mitigations_have_pages(browser_client: Client, now: datetime) -> None:
    client = cast.client("gw", cast.domain("example.net", now=now), now=now)
    for mid in range(60):
        cast.mitigation(client, now=now, mid=mid, age=mid)

    said = text(browser_client, "/mitigations/?page=2")

    assert "51 to 60 of 60, newest first" in said


def test_what_is_not_there_is_404(browser_client: Client) -> None:
    for path in ("/mitigations/999/", "/mitigations/999/stop/", "/domains/999/", "/nowhere/"):
        assert browser_client.get(path).status_code == 404


# -- search -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "mid"),
    [("20417", 20417), ("mid 20417", 20417), ("198.51.100.7", 20417), ("198.51.100.70", 20418), ("2001:db8:40::53", 7)],
)
def test_the_search_jumps_to_a_mitigation(words: str, mid: int, browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)

    answer = browser_client.get("/search/", {"q": words})

    assert answer["Location"] == reverse("mitigation", args=[Mitigation.objects.get(mid=mid).pk])


@pytest.mark.parametrize("words", ["example.org", "gw-b", "2001:db8:40::99", "2001:db8:40:5::/64"])
def test_the_search_jumps_to_a_domain(words: str, browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)

    answer = browser_client.get("/search/", {"q": words})

    assert answer["Location"] == reverse("domain", args=[cast.Domain.objects.get(name="example.org").pk])


def test_a_search_with_several_answers_lists_them(browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)

    answer = browser_client.get("/search/", {"q": "gw-"})

    assert answer["Location"] == "/mitigations/?show=all&q=gw-"
    assert "192.0.2.9" in text(browser_client, answer["Location"])


# -- stop -------------------------------------------------------------------------------------------------------------


def test_stop_asks_first_and_says_the_effect(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)[0]

    said = text(browser_client, f"/mitigations/{made.pk}/stop/")

    assert "Stop protecting 198.51.100.7?" in said
    assert "At once: 5 rules leave 1 point. Rules of others stay." in said
    assert re.search(r"about 2\d\.\d Gbit/s more reaches 198\.51\.100\.7", said)
    assert said.index("Keep protecting") < said.index("Stop and remove 5 rules")


def test_rules_that_others_need_stay(browser_client: Client, now: datetime) -> None:
    first, second, *_ = scenes.under_attack(now)
    shared = cast.Rule.objects.filter(mitigations=first).first()
    cast.RuleOwner.objects.create(rule=shared, mitigation=second)

    said = text(browser_client, f"/mitigations/{first.pk}/stop/")

    assert "4 rules leave 1 point. 1 rule shared with others stay" in said


def post(client: Client, made: Mitigation, **values: str) -> object:
    page = client.get(f"/mitigations/{made.pk}/stop/").content.decode()
    hidden = dict(re.findall(r'name="(csrfmiddlewaretoken|version)" value="([^"]*)"', page))
    return client.post(f"/mitigations/{made.pk}/stop/", {**hidden, **values}, follow=True)


def test_stop_works_without_a_script(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)[0]

    answer = post(browser_client, made, reason="moved to the  scrubbing centre")

    made.refresh_from_db()
    assert made.status == Status.WITHDRAWN
    last = Transition.objects.filter(mitigation=made).last()
    assert (last.actor, last.reason) == (f"operator {NAME}", "moved to the scrubbing centre")
    assert Audit.objects.filter(door="dashboard", action="stop", actor=f"operator {NAME}").count() == 1
    assert "Stopped protecting 198.51.100.7." in answer.content.decode()


def test_stop_never_acts_on_an_old_fact(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)[0]
    page = browser_client.get(f"/mitigations/{made.pk}/stop/").content.decode()
    hidden = dict(re.findall(r'name="(csrfmiddlewaretoken|version)" value="([^"]*)"', page))
    Mitigation.objects.filter(pk=made.pk).update(
        status=int(Status.TERMINATING), ends_at=now + timedelta(seconds=120), last_grace=120
    )

    answer = browser_client.post(f"/mitigations/{made.pk}/stop/", hidden)

    assert answer.status_code == 409
    assert "Not stopped: it changed while you read." in answer.content.decode()
    made.refresh_from_db()
    assert made.status == Status.TERMINATING


def test_what_has_ended_is_not_stopped_again(browser_client: Client, now: datetime) -> None:
    made = scenes.under_attack(now)[0]
    page = browser_client.get(f"/mitigations/{made.pk}/stop/").content.decode()
    hidden = dict(re.findall(r'name="(csrfmiddlewaretoken|version)" value="([^"]*)"', page))
    cast.end(made, at=now)

    answer = browser_client.post(f"/mitigations/{made.pk}/stop/", hidden, follow=True)

    assert "Not stopped. 198.51.100.7 has ended already." in answer.content.decode()
    assert Transition.objects.filter(mitigation=made, happening="server-withdrew").count() == 0


# -- domains and sessions ---------------------------------------------------------------------------------------------


def test_a_domain_shows_its_certificates_and_their_state(browser_client: Client, now: datetime) -> None:
    domain = cast.domain("example.net", "198.51.100.0/24", now=now)
    client = cast.client("gw-a.example.net", domain, now=now)
    cast.credential(client, now=now, serial="aa11")
    cast.credential(client, now=now, serial="bb22", days=5)
    cast.credential(client, now=now, serial="cc33", days=-1)
    revoked = {"state": "revoked", "revoked_at": now, "revocation_reason": "key lost"}
    cast.credential(client, now=now, serial="dd44", **revoked)

    said = text(browser_client, f"/domains/{domain.pk}/")

    for words in ("Good until", "Expires in", "Expired", "Revoked", "key lost", "198.51.100.0/24", "aa11"):
        assert words in said
    assert "BEGIN CERTIFICATE" not in said


def test_only_the_last_certificate_of_a_client_needs_a_person(browser_client: Client, now: datetime) -> None:
    client = cast.client("gw-a.example.net", cast.domain("example.net", now=now), now=now)
    cast.credential(client, now=now, serial="bb22", days=5)
    cast.mitigation(client, now=now, status=Status.SIGNAL_LOSS)
    cast.point(now=now)

    assert "Expires in" in text(browser_client, "/")

    cast.credential(client, now=now, serial="aa11")
    assert "Expires in" not in text(browser_client, "/")


def test_sessions_show_who_is_connected(browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)
    cast.Session.objects.filter(peer__startswith="192.0.2.130").update(closed_at=now, close_reason="lost")
    long_ago = now - timedelta(hours=1)
    cast.Session.objects.filter(peer__startswith="203").update(closed_at=long_ago, close_reason="closed")

    said = text(browser_client, "/sessions/")

    assert "2 connected" in said
    assert "1 lost" in said
    assert "DTLS 1.2 over UDP [2001:db8:10::2]:40113" in said
    assert "203.0.113.66" not in said


# -- the switches over all enforcement --------------------------------------------------------------------------------


def press(client: Client, path: str, **values: str) -> HttpResponse:
    """A POST with the token of the page's own form."""
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]*)"', client.get("/").content.decode())
    assert token
    return client.post(path, {"csrfmiddlewaretoken": token[1], **values})


def test_the_kill_switch_asks_says_and_acts(browser_client: Client, now: datetime) -> None:
    scenes.under_attack(now)
    asked = text(browser_client, "/points/switches/panic/")
    assert "Switch everything off?" in asked
    assert "Requests are still taken" in asked

    answer = press(browser_client, "/points/switches/panic/", version="off", reason="wrong  prefixes")

    assert answer.status_code == 302
    hold = Hold.objects.get()
    assert (hold.kind, hold.reason, hold.actor) == ("panic", "wrong prefixes", f"operator {NAME}")
    for path in ("/", "/points/"):
        assert "All enforcement is switched off." in text(browser_client, path)


def test_a_switch_that_changed_meanwhile_is_asked_for_again(browser_client: Client, now: datetime) -> None:
    holds.throw(Hold.Kind.FREEZE, actor="op", reason="maintenance", now=now)

    answer = press(browser_client, "/points/switches/freeze/", version="off", reason="mine")

    assert answer.status_code == 409
    assert "it changed while you read" in answer.content.decode()
    assert Hold.objects.get().reason == "maintenance"


def test_a_switch_is_lifted_and_the_breaker_cannot_be_thrown_by_hand(browser_client: Client, now: datetime) -> None:
    assert browser_client.get("/points/switches/breaker/").status_code == 404
    assert browser_client.get("/points/switches/nonsense/").status_code == 404
    hold = holds.throw(Hold.Kind.BREAKER, actor="server", reason="too many", now=now)
    version = f"{hold.pk}-{hold.since.isoformat()}"

    press(browser_client, "/points/switches/breaker/", version=version)

    assert not Hold.objects.exists()
    assert Audit.objects.filter(action="breaker-lift", door="dashboard").exists()


def test_nobody_without_a_login_throws_a_switch(client: Client, db: None) -> None:
    answer = client.post("/points/switches/panic/", {"version": "off"})

    assert answer.status_code == 302
    assert "/login/" in answer["Location"]
    assert not Hold.objects.exists()
