"""What a filter's rate limit lets through, by the kernel's own bucket (net/netfilter/nft_limit.c) reckoned here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitigation.drivers.nft_filters import FASTEST, LEAST_BURST, burst

SECOND = 10**9  # the kernel counts its tokens in nanoseconds


class Bucket:
    """`limit rate RATE bytes/second burst BURST bytes`: full at first, and never fuller than a second and the burst."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._most = self._tokens = SECOND * (rate + burst(rate)) // rate
        self._at = 0

    def lets_through(self, at: int, octets: int) -> bool:
        tokens = min(self._most, self._tokens + at - self._at)
        self._at = at
        cost = SECOND * octets // self._rate
        self._tokens = tokens - cost if tokens >= cost else tokens
        return tokens >= cost


rates = st.one_of(st.integers(1, 100_000), st.sampled_from((20, 125_000, 10**9, FASTEST)))
packets = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(20, LEAST_BURST)), min_size=1, max_size=60)


@pytest.mark.rows("ENF-ACT-004", "ENF-ACT-005")
@given(rates, packets)
def test_what_keeps_to_its_rate_is_never_dropped(rate, arrivals):
    bucket, at = Bucket(rate), 0
    for wait, octets in arrivals:
        at += -(-SECOND * octets // rate) + wait

        assert bucket.lets_through(at, octets)


@pytest.mark.rows("ENF-ACT-005")
@given(rates, packets)
def test_no_more_than_the_rate_and_one_bucket_gets_through(rate, arrivals):
    bucket, at, passed = Bucket(rate), 0, 0
    for wait, octets in arrivals:
        at += wait // 10
        passed += octets if bucket.lets_through(at, octets) else 0

        assert passed <= rate * (at / SECOND + 1) + burst(rate) + len(arrivals)  # the kernel rounds each cost down


@pytest.mark.rows("ENF-ACT-005")
def test_twenty_octets_a_second_let_a_burst_of_syns_through_and_then_one_in_three_seconds():
    """RFC 8783, figure 37: less than one SYN of 60 octets a second."""
    bucket = Bucket(20)

    assert [bucket.lets_through(0, 60) for _ in range(30)] == [True] * 25 + [False] * 5
    assert [at for at in range(1, 10) if bucket.lets_through(at * SECOND, 60)] == [2, 5, 8]
