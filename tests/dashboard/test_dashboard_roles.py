"""Who may do what: nobody without a login, a viewer looks, an operator acts; and mallory, who guesses passwords."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import dashboard_scenes as scenes
import pytest
from dashboard_browser import NAME, PASSWORD
from django.contrib.auth.models import User
from django.test import Client

from mitigation.models import Audit, Hold, Mitigation
from mitigation.protocol.status import Status

pytestmark = pytest.mark.django_db

ACTS = ("/mitigations/1/stop/", "/mitigations/2/approve/", "/mitigations/2/reject/", "/points/switches/panic/")


@pytest.fixture
def waiting(now: datetime) -> list[Mitigation]:
    return scenes.waiting(now)


def acts(waiting: list[Mitigation]) -> list[str]:
    return [path.replace("/1/", f"/{waiting[0].pk}/").replace("/2/", f"/{waiting[1].pk}/") for path in ACTS]


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_viewer_sees_everything_and_acts_on_nothing(viewer: Client, waiting: list[Mitigation], method: str) -> None:
    for path in ("/", "/mitigations/", f"/mitigations/{waiting[0].pk}/", "/points/", "/domains/"):
        assert viewer.get(path).status_code == 200
    assert "viewer, all domains" in viewer.get("/").content.decode()

    for path in acts(waiting):
        answer: Any = getattr(viewer, method)(path, {"version": "off"})
        assert answer.status_code == 403, path
        assert "Your login may look, and not act." in answer.content.decode()

    waiting[0].refresh_from_db()
    assert waiting[0].status == Status.MITIGATED
    assert not Hold.objects.exists()


@pytest.mark.parametrize("who", ["browser_client", "admin"])
def test_operators_and_admins_may_act(who: str, waiting: list[Mitigation], request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(who)

    assert [client.get(path).status_code for path in acts(waiting)] == [200] * len(ACTS)


def test_nobody_without_a_login_is_told_anything(waiting: list[Mitigation]) -> None:
    for path in acts(waiting):
        answer = Client().post(path, {"version": "off"})
        assert (answer.status_code, answer["Location"].startswith("/login/")) == (302, True)


# -- mallory guesses --------------------------------------------------------------------------------------------------

MALLORY, ELSEWHERE = "203.0.113.66", "198.51.100.7"


def log_in(name: str, password: str, address: str) -> Any:
    return Client(REMOTE_ADDR=address).post("/login/", {"username": name, "password": password})


def test_mallory_who_guesses_has_to_wait_and_even_the_right_password_is_not_looked_at(operator: User) -> None:
    for _ in range(5):
        assert log_in(NAME, "a wrong password", MALLORY).status_code == 200

    answer = log_in(NAME, PASSWORD, MALLORY)

    assert answer.status_code == 429
    assert 25 <= int(answer["Retry-After"]) <= 30
    said = answer.content.decode()
    assert re.search(r"Too many wrong tries. Wait 00:(2\d|30)\.", said)
    assert "dots-session" not in answer.cookies
    assert Audit.objects.get().action == "login-slowed"


def test_mallory_locks_nobody_else_out(operator: User) -> None:
    User.objects.create_user("bea", password=PASSWORD)
    for _ in range(20):
        log_in(NAME, "a wrong password", MALLORY)

    assert log_in(NAME, PASSWORD, ELSEWHERE).status_code == 302  # the one who is guessed
    assert log_in("bea", PASSWORD, MALLORY).status_code == 302  # who shares the address


def test_a_name_that_is_not_there_waits_as_one_that_is(operator: User) -> None:
    said = []
    for name in (NAME, "nobody"):
        answers = [log_in(name, "a wrong password", MALLORY) for _ in range(6)]
        said.append([answer.status_code for answer in answers])

    assert said == [[200] * 5 + [429]] * 2


def test_a_login_forgets_what_was_mistyped(operator: User) -> None:
    for _ in range(3):
        for _ in range(4):
            log_in(NAME, "mistyped", MALLORY)
        assert log_in(NAME, PASSWORD, MALLORY).status_code == 302
