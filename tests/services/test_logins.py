"""Who guesses passwords is slowed down; nobody else is."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from mitigation.models import Audit, LoginRecord
from mitigation.services import logins

pytestmark = pytest.mark.django_db

MALLORY, ALICE = "203.0.113.66", "198.51.100.7"


def guess(name: str, address: str, times: int, now: datetime) -> None:
    for _ in range(times):
        logins.begin(name, address, now=now)


def wait(name: str, address: str, now: datetime) -> int:
    with pytest.raises(logins.MustWait) as refused:
        logins.begin(name, address, now=now)
    return refused.value.seconds


def test_the_sixth_guess_waits_and_each_further_one_twice_as_long(now: datetime) -> None:
    guess("alice", MALLORY, 5, now)
    waits = []
    for _ in range(7):
        waits.append(wait("alice", MALLORY, now))
        now += timedelta(seconds=waits[-1])
        logins.begin("alice", MALLORY, now=now)

    assert waits == [30, 60, 120, 240, 480, 900, 900]


def test_what_has_to_wait_does_not_count(now: datetime) -> None:
    guess("alice", MALLORY, 5, now)
    for _ in range(50):
        wait("alice", MALLORY, now + timedelta(seconds=10))

    assert wait("alice", MALLORY, now + timedelta(seconds=10)) == 20
    assert LoginRecord.objects.get().failures == 5


def test_the_one_who_is_guessed_comes_in_from_elsewhere(now: datetime) -> None:
    guess("alice", MALLORY, 5, now)
    wait("alice", MALLORY, now)

    logins.begin("alice", ALICE, now=now)


def test_others_behind_the_same_address_come_in(now: datetime) -> None:
    guess("alice", MALLORY, 5, now)

    logins.begin("bob", MALLORY, now=now)


def test_what_was_right_is_forgotten(now: datetime) -> None:
    for _ in range(20):
        guess("alice", ALICE, 4, now)
        logins.succeeded("alice", ALICE, now=now)

    assert LoginRecord.objects.get().failures == 0


def test_many_names_from_one_address_wait_and_who_is_known_there_does_not(now: datetime) -> None:
    logins.begin("bob", MALLORY, now=now)
    logins.succeeded("bob", MALLORY, now=now)
    for number in range(logins.OF_AN_ADDRESS):
        logins.begin(f"name-{number}", MALLORY, now=now)

    assert wait("another", MALLORY, now) == 900
    assert not LoginRecord.objects.filter(name="another").exists()
    logins.begin("bob", MALLORY, now=now)
    logins.begin("another", MALLORY, now=now + logins.WINDOW)


def test_one_name_from_many_addresses_waits_and_its_owner_does_not(now: datetime) -> None:
    logins.begin("alice", ALICE, now=now)
    logins.succeeded("alice", ALICE, now=now)
    for number in range(logins.OF_A_NAME):
        logins.begin("alice", f"2001:db8::{number:x}", now=now)

    assert wait("alice", "2001:db8:1::1", now) == 900
    logins.begin("alice", ALICE, now=now)


def test_each_wait_is_in_the_audit_once(now: datetime) -> None:
    guess("alice", MALLORY, 5, now)
    for _ in range(3):
        wait("alice", MALLORY, now)

    told = Audit.objects.get()
    assert (told.door, told.action, told.subject) == ("dashboard", "login-slowed", "login alice")
    assert told.after == {"address": MALLORY, "tries": 5, "seconds": 30}


def test_an_hour_of_quiet_begins_anew_and_rows_go(now: datetime) -> None:
    guess("alice", MALLORY, 5, now)
    logins.begin("bob", ALICE, now=now)
    logins.succeeded("bob", ALICE, now=now)

    logins.tidy(now=now + timedelta(minutes=59))
    assert LoginRecord.objects.count() == 2
    logins.tidy(now=now + timedelta(minutes=61))
    assert LoginRecord.objects.get().name == "bob"
    logins.tidy(now=now + logins.KEPT + timedelta(minutes=1))
    assert not LoginRecord.objects.exists()
