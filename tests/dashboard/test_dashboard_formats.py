"""Numbers and times as pages write them (the dashboard's look: three significant figures, decimal prefixes)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitigation.dashboard import formats

PREFIX = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (None, "no data"),
        (0, "0 bit/s"),
        (0.4, "< 1 bit/s"),
        (412, "412 bit/s"),
        (999.6, "1.00 kbit/s"),
        (7_170_000, "7.17 Mbit/s"),
        (306e6, "306 Mbit/s"),
        (999.7e6, "1.00 Gbit/s"),
        (44.1e9, "44.1 Gbit/s"),
        (1.72e12, "1.72 Tbit/s"),
    ],
)
def test_rates_have_three_figures_and_a_decimal_prefix(bits: float | None, words: str) -> None:
    assert str(formats.bit_rate(bits)) == words


@given(st.floats(min_value=1, max_value=9e20))
def test_a_rate_is_never_off_by_more_than_half_a_percent(value: float) -> None:
    figure = formats.packet_rate(value)

    scaled = float(figure.value) * PREFIX[figure.unit.removesuffix("pps")]
    assert scaled == pytest.approx(value, rel=0.0051) or (value < 1000 and abs(scaled - value) <= 0.5)


@given(st.floats(min_value=1000, max_value=9e17))
def test_a_rate_with_a_prefix_has_exactly_three_figures(value: float) -> None:
    assert re.fullmatch(r"\d\.\d\d|\d\d\.\d|\d\d\d", formats.bit_rate(value).value)


@given(st.integers(min_value=0, max_value=10**15), st.integers(min_value=1, max_value=10**15))
def test_a_share_is_rounded_to_neither_end(part: int, whole: int) -> None:
    words = formats.share(part, whole).value

    assert (words == "0") == (part == 0)
    assert (words == "100") == (part >= whole)


def test_shares_near_the_ends_say_so() -> None:
    assert str(formats.share(999_999, 1_000_000)) == "> 99.9 %"
    assert str(formats.share(1, 1_000_000)) == "< 0.1 %"
    assert str(formats.share(989, 1000)) == "98.9 %"
    assert str(formats.share(None, 1000)) == "no data"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "00:00"),
        (252, "04:12"),
        (3086, "51:26"),
        (4329, "1:12:09"),
        (6 * 86_400 + 4 * 3600, "6 d 4 h"),
        (-5, "00:00"),
    ],
)
def test_what_is_left(seconds: float, words: str) -> None:
    assert formats.left(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4, "4 s ago"), (41, "00:41 ago"), (3599, "59:59 ago"), (18_720, "5 h 12 min ago"), (273_600, "3 d 4 h ago")],
)
def test_how_long_ago(seconds: float, words: str) -> None:
    assert formats.ago(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0042, "+0.004 s"), (0.118, "+0.118 s"), (1.919, "+1.92 s"), (41.26, "+41.3 s"), (72, "+01:12")],
)
def test_after_the_request(seconds: float, words: str) -> None:
    assert formats.after(seconds) == words


def test_moments_say_the_day_only_when_it_is_another() -> None:
    assert formats.moment(NOON, NOON) == "12:00:00"
    assert formats.moment(NOON - timedelta(days=4), NOON) == "18 Nov, 12:00"
    assert formats.moment(NOON + timedelta(days=370), NOON) == "27 Nov 2027"
    assert formats.clock_ms(NOON + timedelta(milliseconds=214)) == "12:00:00.214"


def test_fingerprints_show_both_ends() -> None:
    assert formats.fingerprint("3fa2" + "00" * 28 + "7c10") == "3F:A2:…:7C:10"
    assert formats.fingerprint("3fa27c10") == "3F:A2:7C:10"


def test_counts_have_separators_and_plurals() -> None:
    assert formats.plural(1, "rule") == "1 rule"
    assert formats.plural(8412, "rule") == "8,412 rules"
