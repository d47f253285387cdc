"""Approve and reject ask first, never act on an old fact, and let nobody speak twice; the policy stands in words."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import dashboard_cast as cast
import dashboard_scenes as scenes
import pytest
from dashboard_browser import NAME
from django.contrib.auth import get_user_model
from django.test import Client

from mitigation.models import Audit, Mitigation, Transition
from mitigation.protocol.status import Status
from mitigation.services import mitigations

pytestmark = pytest.mark.django_db


def text(client: Client, path: str) -> str:
    html = client.get(path).content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def hidden(client: Client, path: str) -> dict[str, str]:
    page = client.get(path).content.decode()
    return dict(re.findall(r'name="(csrfmiddlewaretoken|version)" value="([^"]*)"', page))


def post(client: Client, path: str, **values: str) -> Any:
    return client.post(path, {**hidden(client, path), **values}, follow=True)


@pytest.fixture
def half(now: datetime) -> Mitigation:
    """Bea has approved it; another one must."""
    return scenes.waiting(now)[1]


@pytest.fixture
def single(now: datetime) -> Mitigation:
    """One operator is enough."""
    return scenes.waiting(now)[2]


def test_now_and_the_list_say_what_needs_approval(browser_client: Client, half: Mitigation) -> None:
    now_page = browser_client.get("/").content.decode()
    assert "Needs approval by two different people; operator bea has approved." in now_page
    assert f'href="/mitigations/{half.pk}/approve/"' in now_page
    assert f'href="/mitigations/{half.pk}/stop/"' not in now_page
    assert "Needs approval" in text(browser_client, "/mitigations/")


def test_a_mitigation_that_waits_shows_until_when_and_both_buttons(browser_client: Client, half: Mitigation) -> None:
    said = text(browser_client, f"/mitigations/{half.pk}/")

    assert "left to approve it, until" in said
    assert "Approve…" in said
    assert "Reject…" in said
    assert "Stop…" not in said
    assert "by two different people; operator bea has approved" in said
    assert "No rule before it is approved." in said


def test_approve_asks_first_and_says_the_effect(browser_client: Client, single: Mitigation) -> None:
    said = text(browser_client, f"/mitigations/{single.pk}/approve/")

    assert "Approve protecting 2001:db8:40::/64?" in said
    assert re.search(r"\d+ rules of the playbook shield are installed within a second", said)
    assert "It can be stopped at any time." in said
    single.refresh_from_db()
    assert single.approved_at is None, "asking changes nothing"


def test_approve_works_without_a_script_and_is_audited(browser_client: Client, single: Mitigation) -> None:
    answer = post(browser_client, f"/mitigations/{single.pk}/approve/")

    single.refresh_from_db()
    assert single.approved_at is not None
    assert [one["by"] for one in single.approvals] == [f"operator {NAME}"]
    assert Audit.objects.filter(door="dashboard", action="approve", actor=f"operator {NAME}").count() == 1
    assert "Approved 2001:db8:40::/64." in answer.content.decode()
    assert f"operator {NAME}" in text(browser_client, f"/mitigations/{single.pk}/")


def test_nobody_is_both_of_two(browser_client: Client, single: Mitigation) -> None:
    cast.Domain.objects.filter(pk=single.domain_id).update(approval="two")
    path = f"/mitigations/{single.pk}/approve/"
    assert "Another person must approve it, too" in text(browser_client, path)
    post(browser_client, path)

    again = text(browser_client, path)
    assert "You have approved it already; another person must, too." in again
    assert "Approve it" not in again
    post(browser_client, path)
    single.refresh_from_db()
    assert (len(single.approvals), single.approved_at) == (1, None)

    get_user_model().objects.create_user("carol", password="carol's", is_staff=True)
    other = Client(enforce_csrf_checks=True)
    assert other.login(username="carol", password="carol's")
    post(other, path)
    single.refresh_from_db()
    assert single.approved_at is not None


def test_reject_takes_a_reason_and_tells_the_client(browser_client: Client, half: Mitigation) -> None:
    assert "Its client is told that the server has withdrawn it." in text(
        browser_client, f"/mitigations/{half.pk}/reject/"
    )

    post(browser_client, f"/mitigations/{half.pk}/reject/", reason="  not   agreed ")

    half.refresh_from_db()
    assert half.status == Status.WITHDRAWN
    last = Transition.objects.filter(mitigation=half).last()
    assert (last.actor, last.reason) == (f"operator {NAME}", "rejected: not agreed")
    assert Audit.objects.filter(door="dashboard", action="reject").count() == 1


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_neither_acts_on_an_old_fact(browser_client: Client, half: Mitigation, now: datetime, verb: str) -> None:
    cast.Domain.objects.filter(pk=half.domain_id).update(approval="two")
    Mitigation.objects.filter(pk=half.pk).update(approvals=[])
    path = f"/mitigations/{half.pk}/{verb}/"
    old = hidden(browser_client, path)
    mitigations.approve(half.pk, actor="operator carol", now=now)

    answer = browser_client.post(path, old)

    assert answer.status_code == 409
    assert "Nothing was done: it changed while you read." in answer.content.decode()
    half.refresh_from_db()
    assert (half.status, [one["by"] for one in half.approvals]) == (Status.IN_PROGRESS, ["operator carol"])


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_what_waits_no_more_is_left_alone(browser_client: Client, single: Mitigation, now: datetime, verb: str) -> None:
    path = f"/mitigations/{single.pk}/{verb}/"
    old = hidden(browser_client, path)
    mitigations.approve(single.pk, actor="operator carol", now=now)

    answer = browser_client.post(path, old, follow=True)

    assert "does not wait for approval any more" in answer.content.decode()
    single.refresh_from_db()
    assert single.status == Status.IN_PROGRESS
    assert "It does not wait for approval any more." in text(browser_client, path)


def test_time_that_has_run_out_is_said(browser_client: Client, single: Mitigation, now: datetime) -> None:
    Mitigation.objects.filter(pk=single.pk).update(approve_by=now - timedelta(seconds=1))

    answer = post(browser_client, f"/mitigations/{single.pk}/approve/")

    assert "nobody approved it in time" in answer.content.decode()
    single.refresh_from_db()
    assert single.approved_at is None


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_mallory_without_a_login_or_from_another_site_decides_nothing(
    browser_client: Client, single: Mitigation, verb: str
) -> None:
    path = f"/mitigations/{single.pk}/{verb}/"
    version = hidden(browser_client, path)["version"]

    answers = [client.post(path, {"version": version}) for client in (Client(), browser_client)]

    assert [answer.status_code for answer in answers] == [302, 403]
    single.refresh_from_db()
    assert (single.approvals, single.status) == ([], Status.IN_PROGRESS)
    assert browser_client.get(f"/mitigations/999/{verb}/").status_code == 404


def test_a_domain_shows_its_policy_in_words(browser_client: Client, half: Mitigation) -> None:
    said = text(browser_client, f"/domains/{half.domain_id}/")

    assert "by two different people, within 15:00; then it is withdrawn" in said
    assert "any number of targets, no prefix wider than /28 (IPv4) or /64 (IPv6)" in said


def test_shadow_mode_is_said_with_its_estimate(browser_client: Client, now: datetime) -> None:
    shadow = scenes.waiting(now)[3]

    said = text(browser_client, f"/mitigations/{shadow.pk}/")
    assert "Shadow mode: its rules are shown, and none that touches traffic is installed." in said
    assert "At most 81,200 packets (41,000,000 octets) would have been dropped" in said
    assert "shadow mode: only what counts is installed" in said
    stop = text(browser_client, f"/mitigations/{shadow.pk}/stop/")
    assert "Shadow mode: only rules that count are installed, so no traffic changes." in stop
    policy = text(browser_client, f"/domains/{shadow.domain_id}/")
    assert "1,000 mitigations at once, 30 new a minute" in policy
    assert "8 targets, prefixes of any width" in policy
    assert "192.0.2.1/32" in policy
