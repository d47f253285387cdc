"""Pages of clients' filters: every state by its evidence, entries as lines, search, paging, history, and decisions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import dashboard_cast as cast
import dashboard_scenes as scenes
import pytest
from dashboard_browser import NAME
from django.test import Client

from mitigation.dashboard import filter_lines
from mitigation.models import Acl, Audit, EnforcedAce, EnforcementPoint, Hold, Mitigation, RefusedAcl
from mitigation.services import filters, holds

pytestmark = pytest.mark.django_db

TO_US = {"ipv4": {"destination-ipv4-network": "198.51.100.0/25"}}


def text(client: Client, path: str) -> str:
    """What a reader sees, without markup."""
    html = client.get(path).content.decode()
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)))


@pytest.fixture
def gateway(now: datetime) -> cast.Client:
    return cast.client("gw-a.example.net", cast.domain("example.net", "198.51.100.0/24", now=now), now=now)


@pytest.fixture
def point(now: datetime) -> EnforcementPoint:
    return cast.point(now=now)


# -- states -----------------------------------------------------------------------------------------------------------

Change = Callable[[Acl, EnforcementPoint, datetime], object]


def _waits_for_approval(acl: Acl, point: EnforcementPoint, now: datetime) -> None:
    cast.mitigation(acl.client, now=now, approved_at=None, approve_by=now + timedelta(minutes=5))
    Acl.objects.update(activation_type=1)


def _attacked(acl: Acl, point: EnforcementPoint, now: datetime) -> None:
    cast.mitigation(acl.client, now=now)
    Acl.objects.update(activation_type=1)


def _attacked_and_frozen(acl: Acl, point: EnforcementPoint, now: datetime) -> None:
    cast.mitigation(acl.client, now=now, age=0)
    holds.throw(Hold.Kind.FREEZE, actor="op", reason="maintenance", now=now - timedelta(seconds=60))
    Acl.objects.update(activation_type=1)


STATES: dict[str, tuple[str, str, Change]] = {
    "counted": ("Hitting", "local", lambda acl, point, now: None),
    "nothing met yet": ("Installed", "local", lambda *_: EnforcedAce.objects.update(packets=0, octets=0)),
    "while it is attacked": ("Hitting", "local", _attacked),
    "no attack": ("Waiting", "while a mitigation of its client does", lambda *_: Acl.objects.update(activation_type=1)),
    "attack not approved": ("Needs approval", "when its client's mitigation is approved", _waits_for_approval),
    "attack held back": ("Held", "mitigation is held back", _attacked_and_frozen),
    "deactivated": ("Off", "has it do nothing", lambda *_: Acl.objects.update(activation_type=3)),
    "held": (
        "Held", "By operator bea",
        lambda acl, point, now: filters.hold(acl.pk, actor="operator bea", reason="wrong", now=now),
    ),
    "contradicts": (
        "Needs approval", "does the opposite", lambda *_: Acl.objects.update(awaits_operator=True),
    ),
    "refused": (
        "Not enforced", "Refused: too hard",
        lambda acl, point, now: RefusedAcl.objects.create(acl=acl, point=point, reason="too hard", since=now),
    ),
    "panic": (
        "Held", "All enforcement is switched off: wrong prefixes",
        lambda acl, point, now: holds.throw(Hold.Kind.PANIC, actor="op", reason="wrong prefixes", now=now),
    ),
    "one entry missing": (
        "Not enforced", "No point has confirmed all of its entries",
        lambda *_: EnforcedAce.objects.filter(ace="entry-1").delete(),
    ),
    "on its way": (
        "Approved", "on their way",
        lambda acl, point, now: (EnforcedAce.objects.all().delete(), Acl.objects.update(changed_at=now)),
    ),
    "point down": (
        "Point down", "Nobody can say whether it stands at local",
        lambda *_: EnforcementPoint.objects.update(health="down"),
    ),
    "dry run": (
        "Dry run", "No point here touches traffic", lambda *_: EnforcementPoint.objects.update(enforces=False),
    ),
    "shadow": ("Shadow", "shadow mode", lambda *_: cast.Domain.objects.update(shadow=True)),
    "empty": ("Empty", "does nothing", lambda *_: Acl.objects.update(aces=[], ace_count=0)),
}  # fmt: skip


@pytest.mark.parametrize("situation", STATES)
def test_the_state_of_a_list_is_what_the_evidence_allows(
    situation: str, browser_client: Client, gateway: cast.Client, point: EnforcementPoint, now: datetime
) -> None:
    word, detail, change = STATES[situation]
    acl = cast.acl(gateway, "ntp", [TO_US, {}], now=now)
    cast.enforce(acl, point, now=now, bits=1e6)

    change(acl, point, now)

    row = text(browser_client, "/filters/").split("Left")[1]
    assert f"{word} ntp" in row
    assert detail in row
    page = text(browser_client, f"/filters/{acl.pk}/")
    assert f"ntp {word}" in page
    assert situation in ("counted", "nothing met yet", "while it is attacked") or detail in page


def test_two_points_are_each_named_and_the_later_word_needs_both(
    browser_client: Client, gateway: cast.Client, point: EnforcementPoint, now: datetime
) -> None:
    other = cast.point("edge-2", now=now)
    acl = cast.acl(gateway, "ntp", [TO_US, {}], now=now)
    cast.enforce(acl, point, now=now, bits=1e6)

    said = text(browser_client, f"/filters/{acl.pk}/")
    assert "edge-2 not there local 2 installed" in said
    assert "ntp Not enforced" in said

    cast.enforce(acl, other, now=now, bits=1e6)
    said = text(browser_client, f"/filters/{acl.pk}/")
    assert "edge-2 2 installed local 2 installed" in said
    assert "ntp Hitting" in said


# -- entries ----------------------------------------------------------------------------------------------------------


def test_lists_stand_under_their_client_in_its_order(browser_client: Client, now: datetime) -> None:
    scenes.filtered(now)

    said = text(browser_client, "/filters/")

    names = ["branch-office-17", " waiting ", " off ", "opposite", "gw-a.example.net", "partners", " ntp ",
             "known-attackers", "a-list-with-a-name", " held ", "gw-b.example.org", " six "]  # fmt: skip
    places = [said.index(name, said.index("Left")) for name in names]
    assert places == sorted(places)


def test_an_entry_is_one_line_with_its_counters(browser_client: Client, now: datetime) -> None:
    ntp = scenes.filtered(now)[1]

    said = text(browser_client, f"/filters/{ntp.pk}/")

    assert "1 UDP source port 123 to 198.51.100.0/25 entry-1 accept up to 125,000 octets a second 236 M 118 GB" in said
    source, ours = "2001:db8:ffff:eeee:dddd:cccc:bbbb:aa00/120", "2001:db8:10:1111:2222:3333:4444:5555/128"
    assert f"2 TCP from {source} to {ours} port 8000-8099 entry-2 drop" in said
    assert "3 everything entry-3 drop" in said
    assert "list 2 of 5" in said


def test_what_nobody_counts_is_not_nought(
    browser_client: Client, gateway: cast.Client, point: EnforcementPoint, now: datetime
) -> None:
    acl = cast.acl(gateway, "ntp", [TO_US], now=now)
    assert "entry-1 drop no data" in text(browser_client, f"/filters/{acl.pk}/")

    EnforcementPoint.objects.update(counts=False)
    point.refresh_from_db()
    cast.enforce(acl, point, now=now)
    assert "entry-1 drop no counters" in text(browser_client, f"/filters/{acl.pk}/")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("203.0.113.7", ["203.0.113.7/32"]),
        ("203.0.113.4/31", ["203.0.113.4/32", "203.0.113.5/32"]),
        ("113.8/32 DROP", ["203.0.113.8/32"]),
        ("entry-120", ["203.0.113.119/32"]),
        ("2001:db8::1", []),
        ("no such words", []),
    ],
)
def test_entries_are_found_by_address_and_by_words(
    words: str, found: list[str], browser_client: Client, now: datetime
) -> None:
    known = scenes.filtered(now)[2]

    answer = browser_client.get(f"/filters/{known.pk}/", {"q": words}).content.decode()

    shown = re.findall(r'<span class="mono">from ([^<]+)</span>', answer)
    assert shown == found
    assert bool(found) != (f"No entry matches “{words}”" in answer)


def test_long_lists_have_pages_that_keep_the_words(browser_client: Client, now: datetime) -> None:
    known = scenes.filtered(now)[2]

    first = browser_client.get(f"/filters/{known.pk}/", {"q": "drop", "range": "1h"}).content.decode()
    second = text(browser_client, f"/filters/{known.pk}/?page=2")

    assert "1 to 100 of 120, the first that matches decides" in first
    assert "?q=drop&amp;range=1h&amp;page=2" in first
    assert "?q=drop&amp;range=5m" in first
    assert "101 to 120 of 120" in second
    assert "from 203.0.113.119/32" in second
    assert "from 203.0.113.10/32" not in second


def test_lists_are_found_by_an_address_inside_or_around_an_entry(browser_client: Client, now: datetime) -> None:
    scenes.filtered(now)

    inside = text(browser_client, "/filters/?q=2001:db8:ffff:eeee:dddd:cccc:bbbb:aa07")
    assert "ntp" in inside
    assert "partners" not in inside
    assert "1 to 3 of 3" in text(browser_client, "/filters/?q=2001:db8::/32")  # ntp, held, six
    assert "No entry names 192.0.2.99" in text(browser_client, "/filters/?q=192.0.2.99")
    html = browser_client.get("/filters/?q=203.0.113.3").content.decode()
    assert "?q=203.0.113.3" in html


@pytest.mark.parametrize(("words", "name"), [("partners", "partners"), ("gw-b", "six"), ("8099 gw-b", "six")])
def test_lists_are_found_by_words_in_names_and_entries(
    words: str, name: str, browser_client: Client, now: datetime
) -> None:
    scenes.filtered(now)

    said = text(browser_client, f"/filters/?q={words}")

    assert "1 to 1 of 1" in said
    assert name in said


def test_a_domain_leads_to_its_lists(browser_client: Client, now: datetime) -> None:
    six = scenes.filtered(now)[8]
    html = browser_client.get(f"/domains/{six.client.domain_id}/").content.decode()

    link = re.search(r'href="(/filters/[^"]+)">1 list of filters<', html)

    assert link
    assert "1 to 1 of 1" in text(browser_client, unescape(link[1]))


def test_the_kinds_of_lists_have_numbers_and_addresses(browser_client: Client, now: datetime) -> None:
    scenes.filtered(now)

    said = text(browser_client, "/filters/?show=refused")

    assert "All 9 Wanted 7 Off 2 Refused 1" in said
    assert "a-list-with-a-name" in said
    assert "partners" not in said


def test_no_filter_and_no_match_are_told_apart(browser_client: Client, point: EnforcementPoint) -> None:
    assert "No client keeps a filter." in text(browser_client, "/filters/")
    assert "No list is like that." in text(browser_client, "/filters/?show=refused")
    assert browser_client.get("/filters/999/").status_code == 404


def test_ten_thousand_entries_stay_quick(
    browser_client: Client, gateway: cast.Client, point: EnforcementPoint, now: datetime
) -> None:
    """Seconds on two busy cores; alone it takes a tenth of that. What would be slow here takes minutes."""
    for number in range(5):
        matches = [{"ipv4": {"source-ipv4-network": f"10.{number}.{i // 256}.{i % 256}/32"}} for i in range(2000)]
        acl = cast.acl(gateway, f"list-{number}", matches, now=now, position=number)
        rows = [
            EnforcedAce(
                point=point, acl=acl, ace=ace["name"], key=f"{number}-{i}", drops=True, state="installed", since=now,
                installed_at=now, packets=i, octets=100 * i, epoch="1", read_at=now,
            )
            for i, ace in enumerate(acl.aces)
        ]  # fmt: skip
        EnforcedAce.objects.bulk_create(rows)

    for path in ("/filters/", "/filters/?q=10.3.7.200", f"/filters/{acl.pk}/", f"/filters/{acl.pk}/?q=10.4.7", "/"):
        began = time.monotonic()
        answer = browser_client.get(path)
        assert answer.status_code == 200
        assert time.monotonic() - began < 5, path


def test_lines_are_remembered_while_there_is_room_and_as_long_as_nothing_changes(
    gateway: cast.Client, now: datetime, django_assert_num_queries: Any
) -> None:
    first, second = (cast.acl(gateway, name, [TO_US] * 3, now=now) for name in ("first", "second"))
    known = filter_lines._Known(most=5)
    assert len(known.of(first)) == 3
    with django_assert_num_queries(0):
        known.of(first)

    known.of(second)  # more than there is room for
    with django_assert_num_queries(1):
        known.of(first)

    first.changed_at, first.aces = now, first.aces[:1]
    first.save()
    assert len(known.of(first)) == 1


# -- what happened ----------------------------------------------------------------------------------------------------


def test_the_history_says_who_when_and_by_which_channel(
    browser_client: Client, gateway: cast.Client, point: EnforcementPoint, now: datetime
) -> None:
    acl = cast.acl(gateway, "ntp", [TO_US], now=now)
    subject = filters.subject_of(acl)

    def happened(action: str, door: str, actor: str, before: Any = None, after: Any = None) -> None:
        Audit.objects.create(at=now, door=door, actor=actor, action=action, subject=subject, before=before, after=after)

    client = f"client {gateway.pk}"
    happened("acl-activate", "signal", client, {"activation-type": 2}, {"activation-type": 3})
    happened("acl-replace", "data", client, {"entries": 1}, {"entries": 3, "aces": []})
    happened("acl-refused", "server", "enforcer", None, {"point": "local", "reason": "too hard"})
    happened("acl-mended", "server", "enforcer", {"point": "local", "reason": "too hard"})
    happened("acl-conflict", "data", "client 99", None, {"reason": "a filter that does the opposite was refused"})
    filters.hold(acl.pk, actor="operator bea", reason="wrong", now=now)

    said = text(browser_client, f"/filters/{acl.pk}/").split("Timeline")[1]

    for words in (
        "Held: wrong operator bea, dashboard",
        "a filter that does the opposite was refused client 99, data channel",
        "Refused no more at local enforcer",
        "Refused at local: too hard enforcer",
        "Written with 3 entries, 1 before gw-a.example.net, data channel",
        "Switched from immediate to deactivated gw-a.example.net, signal channel",
        "Created with 1 entry gw-a.example.net, data channel",
    ):
        assert words in said
        said = said[said.index(words) :]  # newest first


def test_a_list_that_lets_attackers_in_says_of_which_mitigation(
    browser_client: Client, gateway: cast.Client, point: EnforcementPoint, now: datetime
) -> None:
    acl = cast.acl(gateway, "partners", [TO_US], action="accept", now=now)
    made = cast.mitigation(gateway, now=now)
    Mitigation.objects.update(accept_lists=["partners"])

    html = browser_client.get(f"/filters/{acl.pk}/").content.decode()

    assert f'an attacker of <a href="/mitigations/{made.pk}/">198.51.100.7</a>' in html


# -- what needs a person ----------------------------------------------------------------------------------------------


def test_a_refused_list_needs_a_person_until_it_is_mended(browser_client: Client, now: datetime) -> None:
    made = scenes.filtered(now)

    said = text(browser_client, "/")
    assert "Filter refused a-list-with-a-name" in said
    assert "local cannot enforce it: more entries than this equipment takes" in said
    assert f"/filters/{made[3].pk}/" in browser_client.get("/").content.decode()
    assert "1 filter list refused" in text(browser_client, "/points/")

    RefusedAcl.objects.all().delete()
    assert "Filter refused" not in text(browser_client, "/")
    assert "refused" not in text(browser_client, "/points/")


def test_many_refused_lists_of_a_client_are_one_row(browser_client: Client, now: datetime) -> None:
    made = scenes.filtered(now)
    for acl in made[:3]:
        RefusedAcl.objects.create(acl=acl, point=EnforcementPoint.objects.get(), reason="too hard", since=now)

    said = text(browser_client, "/")

    assert said.count("Filter refused") == 1
    assert "So are 3 other lists of this client." in said


# -- decisions --------------------------------------------------------------------------------------------------------


def press(client: Client, path: str, **values: str) -> Any:
    page = client.get(path).content.decode()
    hidden = dict(re.findall(r'name="(csrfmiddlewaretoken|version)" value="([^"]*)"', page))
    return client.post(path, {**hidden, **values})


def test_a_hold_asks_for_a_reason_says_the_effect_and_acts(browser_client: Client, now: datetime) -> None:
    acl = scenes.filtered(now)[1]
    path = f"/filters/{acl.pk}/hold/"
    asked = text(browser_client, path)
    assert "Hold ntp?" in asked
    assert "At once: 3 entries leave every point." in asked
    assert "by the status of its 1 running mitigation" in asked
    assert asked.index("Leave it") < asked.index("Hold it")

    nameless = press(browser_client, path, reason="  ")
    assert nameless.status_code == 400
    assert "Say why" in nameless.content.decode()

    assert press(browser_client, path, reason="shuts  out the monitoring").status_code == 302
    acl.refresh_from_db()
    assert (acl.held_by, acl.held_reason) == (f"operator {NAME}", "shuts out the monitoring")
    assert Audit.objects.get(action="acl-hold").door == "dashboard"

    assert "Release ntp?" in text(browser_client, f"/filters/{acl.pk}/release/")
    press(browser_client, f"/filters/{acl.pk}/release/")
    acl.refresh_from_db()
    assert acl.held_at is None


@pytest.mark.parametrize(("verb", "stays"), [("allow", True), ("refuse", False)])
def test_one_that_waits_is_allowed_or_refused(verb: str, stays: bool, browser_client: Client, now: datetime) -> None:
    acl = scenes.filtered(now)[7]

    assert press(browser_client, f"/filters/{acl.pk}/{verb}/", reason="agreed").status_code == 302

    assert list(Acl.objects.filter(pk=acl.pk).values_list("awaits_operator", flat=True)) == ([False] if stays else [])
    told = Audit.objects.get(action=f"acl-{verb}")
    assert (told.actor, told.door) == (f"operator {NAME}", "dashboard")


def test_who_allows_a_list_is_told_what_it_contradicts(browser_client: Client, now: datetime) -> None:
    made = scenes.filtered(now)
    path = f"/filters/{made[7].pk}/allow/"

    said = text(browser_client, path)
    assert "though ntp of gw-a.example.net, known-attackers of gw-a.example.net, a-list-with" in said
    assert "held of gw-a.example.net do the opposite" in said

    Acl.objects.exclude(pk=made[7].pk).delete()
    assert "though another client's list did the opposite" in text(browser_client, path)


@pytest.mark.parametrize("verb", ["hold", "release", "allow", "refuse"])
def test_no_decision_acts_on_an_old_fact(verb: str, browser_client: Client, now: datetime) -> None:
    made = scenes.filtered(now)
    acl = {"hold": made[0], "release": made[4], "allow": made[7], "refuse": made[7]}[verb]
    page = browser_client.get(f"/filters/{acl.pk}/{verb}/").content.decode()
    hidden = dict(re.findall(r'name="(csrfmiddlewaretoken|version)" value="([^"]*)"', page))
    Acl.objects.filter(pk=acl.pk).update(changed_at=now)  # its client was faster
    before = Audit.objects.count()

    answer = browser_client.post(f"/filters/{acl.pk}/{verb}/", {**hidden, "reason": "x"})

    assert answer.status_code == 409
    assert "it changed while you read" in answer.content.decode()
    assert Audit.objects.count() == before


def test_what_cannot_be_decided_says_so(browser_client: Client, now: datetime) -> None:
    acl = scenes.filtered(now)[0]

    for verb in ("release", "allow", "refuse"):
        assert "There is nothing to decide any more." in text(browser_client, f"/filters/{acl.pk}/{verb}/")
        assert press(browser_client, f"/filters/{acl.pk}/{verb}/", reason="x").status_code == 409
    assert Acl.objects.filter(pk=acl.pk, held_at=None).exists()


@pytest.mark.parametrize("verb", ["hold", "release", "allow", "refuse"])
def test_viewers_look_and_decide_nothing(verb: str, viewer: Client, now: datetime) -> None:
    acl = scenes.filtered(now)[7]

    assert viewer.get("/filters/").status_code == 200
    assert viewer.get(f"/filters/{acl.pk}/").status_code == 200
    assert viewer.post(f"/filters/{acl.pk}/{verb}/", {"reason": "x"}).status_code == 403
    assert Client().post(f"/filters/{acl.pk}/{verb}/", {"reason": "x"})["Location"].startswith("/login/")
    for path in ("/filters/", f"/filters/{acl.pk}/"):
        assert Client().get(path)["Location"].startswith("/login/")
    assert Acl.objects.filter(pk=acl.pk, awaits_operator=True, held_at=None).exists()


def test_names_with_markup_are_text(
    browser_client: Client, gateway: cast.Client, point: EnforcementPoint, now: datetime
) -> None:
    acl = cast.acl(gateway, "<script>alert(1)</script>", [TO_US], now=now)
    RefusedAcl.objects.create(acl=acl, point=point, reason="<img src=x>", since=now)

    for path in ("/", "/filters/", f"/filters/{acl.pk}/", f"/filters/{acl.pk}/hold/", "/filters/?q=<script>"):
        html = browser_client.get(path).content.decode()
        assert "<script>alert" not in html
        assert "<img" not in html
