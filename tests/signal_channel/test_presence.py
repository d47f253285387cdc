"""Lost, or only away (RFC 9132, section 4.7)."""

from __future__ import annotations

import pytest

from mitigation.signal_channel.presence import Presence

SPAN = 450.0


@pytest.mark.rows("SIG-HB-011", "SIG-HB-021", "SIG-LIF-009")
def test_silence_for_the_whole_span_is_a_loss_told_once() -> None:
    presence = Presence(SPAN)
    presence.opened(1, now=0)
    presence.heard(1, at=100)

    assert presence.lost(now=549).clients == ()
    assert presence.lost(now=550).clients == (1,)
    assert presence.lost(now=9999).clients == ()


@pytest.mark.rows("SIG-HB-020", "SIG-HB-025")
def test_anything_heard_over_any_session_counts() -> None:
    presence = Presence(SPAN)
    presence.opened(1, now=0)
    presence.opened(1, now=10)
    presence.closed(1, in_good_order=False)
    presence.heard(1, at=400)
    presence.heard(1, at=300)

    assert presence.lost(now=849).clients == ()
    assert presence.lost(now=850).clients == (1,)


@pytest.mark.rows("SIG-LIF-013")
def test_who_says_goodbye_is_away_and_who_is_cut_off_is_not() -> None:
    presence = Presence(SPAN)
    for client in (1, 2):
        presence.opened(client, now=0)
    presence.closed(1, in_good_order=True)
    presence.closed(2, in_good_order=False)

    assert presence.lost(now=500).clients == (2,)


@pytest.mark.rows("SIG-TCP-019")
def test_a_goodbye_on_one_of_two_sessions_is_none() -> None:
    presence = Presence(SPAN)
    presence.opened(1, now=0)
    presence.opened(1, now=0)
    presence.closed(1, in_good_order=True)

    assert presence.lost(now=500).clients == (1,)


def test_a_restarted_worker_gives_everybody_a_whole_span() -> None:
    presence = Presence(SPAN)
    presence.expect(1, now=1000)

    assert presence.lost(now=1449).clients == ()
    presence.opened(1, now=1449)
    assert presence.lost(now=1800).clients == ()


def test_many_at_once_are_a_mass_loss() -> None:
    presence = Presence(SPAN)
    for client in range(20):
        presence.opened(client, now=0 if client < 6 else 300)

    loss = presence.lost(now=450)

    assert len(loss.clients) == 6
    assert loss.is_mass
    assert not Presence(SPAN).lost(now=0).is_mass
