"""Rates from samples: what nobody counted is no data, and what was counted adds up."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import dashboard_cast as cast
import pytest

from mitigation.dashboard import charts, evidence, sparklines, traffic
from mitigation.dashboard.traffic import Reading
from mitigation.models import Mitigation, Sample

pytestmark = pytest.mark.django_db


@pytest.fixture
def attacked(now: datetime) -> Mitigation:
    client = cast.client("gw-a.example.net", cast.domain("example.net", "198.51.100.0/24", now=now), now=now)
    made = cast.mitigation(client, now=now, age=300)
    cast.install(made, cast.point(now=now), now=now)
    return made


def sample(of: Mitigation, at: datetime, seconds: float, dropped: int, passed: int = 0) -> None:
    Sample.objects.create(
        mitigation=of,
        at=at,
        seconds=seconds,
        dropped_octets=dropped,
        passed_octets=passed,
        dropped_packets=dropped // 100,
    )


def test_the_present_rate_is_that_of_the_last_seconds(attacked: Mitigation, now: datetime) -> None:
    sample(attacked, now - timedelta(seconds=3), 10.0, 10_000)
    sample(attacked, now, 3.0, 3_000, 600)

    (rates,) = traffic.present([Reading(attacked.pk, now - timedelta(seconds=60), now)], now).values()

    assert rates.dropped_bits == pytest.approx(8_000)
    assert rates.passed_bits == pytest.approx(8 * 600 / traffic.WINDOW)
    assert rates.dropped_packets == pytest.approx(10)


def test_the_second_that_runs_is_not_a_second_without_traffic(attacked: Mitigation, now: datetime) -> None:
    sample(attacked, now - timedelta(seconds=0.9), 10.0, 10_000)

    (rates,) = traffic.present([Reading(attacked.pk, now - timedelta(seconds=60), now)], now).values()

    assert rates.dropped_bits == pytest.approx(8_000)


def test_traffic_that_stops_is_0_when_counters_are_still_read(attacked: Mitigation, now: datetime) -> None:
    sample(attacked, now - timedelta(seconds=20), 10.0, 10_000)
    attacked.counted_at = now - timedelta(seconds=20)

    reading = evidence.reading(attacked, evidence.gather([attacked])[attacked.pk], now)

    assert reading is not None
    assert traffic.present([reading], now)[attacked.pk].bits == 0


def test_a_point_that_does_not_answer_leaves_no_data(attacked: Mitigation, now: datetime) -> None:
    cast.EnforcementPoint.objects.update(health_at=now - timedelta(seconds=90))
    attacked.counted_at = now - timedelta(seconds=20)

    reading = evidence.reading(attacked, evidence.gather([attacked])[attacked.pk], now)

    assert reading is not None
    assert attacked.pk not in traffic.present([reading], now)


def test_a_series_adds_up_to_the_samples(attacked: Mitigation, now: datetime) -> None:
    now = now.replace(microsecond=0)
    for i in range(30):
        sample(attacked, now - timedelta(seconds=7 * i), 7.0, 700 + i, 70)
    reading = Reading(attacked.pk, now - timedelta(seconds=290), now)

    series = traffic.total([reading], seconds=300, step=5, now=now)

    octets = sum(rates.dropped_bits for rates in series.values if rates) * 5 / 8
    assert octets == pytest.approx(sum(700 + i for i in range(30)), rel=1e-6)
    assert series.end == int(now.timestamp())


def test_a_long_series_is_summed_by_the_database(attacked: Mitigation, now: datetime) -> None:
    now = now.replace(microsecond=0)
    for hours in (1, 5, 20):
        sample(attacked, now - timedelta(hours=hours, seconds=30), 10.0, 6_000)
    reading = Reading(attacked.pk, now - timedelta(hours=24), now)

    series = traffic.total([reading], seconds=86_400, step=600, now=now)

    filled = [i for i, rates in enumerate(series.values) if rates and rates.dropped_bits]
    assert [len(series.values) - 1 - i for i in filled] == [120, 30, 6]
    assert all(series.values[i].dropped_bits == pytest.approx(80) for i in filled)


def test_before_the_first_and_after_the_last_reading_there_is_no_data(attacked: Mitigation, now: datetime) -> None:
    reading = Reading(attacked.pk, now - timedelta(seconds=200), now - timedelta(seconds=100))

    series = traffic.total([reading], seconds=300, step=10, now=now)

    known = [rates is not None for rates in series.values]
    assert known[:9] == [False] * 9
    assert all(known[11:19])
    assert known[21:] == [False] * 9


def test_two_of_one_point_add_up(attacked: Mitigation, now: datetime) -> None:
    other = cast.mitigation(attacked.client, "198.51.100.9/32", now=now, mid=2)
    for one in (attacked, other):
        sample(one, now, 10.0, 10_000)
    readings = [Reading(one.pk, now - timedelta(seconds=60), now) for one in (attacked, other)]

    series = traffic.total(readings, seconds=300, step=10, now=now)

    assert series.peak is not None
    # The frame ends at a whole second, so that up to one second of the sample lies outside of it.
    assert 14_000 < series.peak.dropped_bits <= 16_001


def test_a_peak_never_sinks() -> None:
    highest = traffic.Highest(size=2)

    assert highest.of("a") is None
    assert [highest.of("a", value) for value in (3.0, None, 5.0, 4.0)] == [3.0, 3.0, 5.0, 5.0]
    assert [highest.of(key, 1.0) for key in ("b", "c")] == [1.0, 1.0]
    assert highest.of("a", 2.0) == 2.0  # the oldest is forgotten first


def test_a_sparkline_of_nothing_is_nothing(now: datetime) -> None:
    assert sparklines.draw(None) is None
    assert sparklines.draw(traffic.Series(100, 10, (None, None))) is None


def test_a_sparkline_shows_gaps_as_boxes() -> None:
    rates = traffic.Rates(100, 50)

    drawn = sparklines.draw(traffic.Series(100, 10, (rates, rates, None, None, rates, rates)))

    assert drawn is not None
    assert len(drawn.gaps) == 1
    assert drawn.allowed.count("M") == 2
    assert drawn.dropped.count("M") == 2


def test_redirected_traffic_arrives_and_is_neither_dropped_nor_allowed(attacked: Mitigation, now: datetime) -> None:
    Sample.objects.create(
        mitigation=attacked, at=now, seconds=10, dropped_octets=4000, limited_octets=1000, passed_octets=1000,
        redirected_octets=5000, redirected_packets=50,
    )  # fmt: skip
    reading = Reading(attacked.pk, now - timedelta(seconds=60), now)

    (rates,) = traffic.present([reading], now).values()

    assert (rates.dropped_bits, rates.passed_bits, rates.redirected_bits) == pytest.approx((3200, 800, 4000))
    assert rates.limited_bits == pytest.approx(800)
    assert rates.bits == pytest.approx(8000)
    assert traffic.peaks([attacked.pk]) == {attacked.pk: pytest.approx(8000)}


@pytest.mark.parametrize("range_", traffic.RANGES)
def test_a_chart_has_a_line_of_each_kind_that_there_is(attacked: Mitigation, now: datetime, range_: str) -> None:
    seconds, step = traffic.RANGES[range_]
    reading = Reading(attacked.pk, now - timedelta(seconds=60), now)

    def chart() -> charts.Chart:
        return charts.Chart("x", traffic.total([reading], seconds=seconds, step=step, now=now), range_, now)

    sample(attacked, now - timedelta(seconds=20), 10.0, 10_000_000, 600_000)
    assert [kind.word for kind in chart().kinds] == ["Dropped", "Allowed"]
    assert json.loads(chart().data)["bits"].keys() == {"d", "a"}

    Sample.objects.update(
        redirected_packets=10, redirected_octets=5_000_000, limited_packets=5, limited_octets=2_000_000
    )
    shown = chart()
    assert [kind.word for kind in shown.kinds] == ["Dropped", "of it by limits", "Redirected", "Allowed"]
    data = json.loads(shown.data)["bits"]
    assert [sum(value or 0 for value in data[letter]) * step for letter in "dlra"] == pytest.approx(
        [80e6, 16e6, 40e6, 4.8e6], rel=0.01
    )
    assert len(shown.table[0].bits) == len(shown.table[0].packets) == 4


def test_a_sparkline_has_what_is_redirected_between_the_others(attacked: Mitigation, now: datetime) -> None:
    values = (traffic.Rates(100, 50), traffic.Rates(100, 50, redirected_bits=100))

    drawn = sparklines.draw(traffic.Series(20, 10, values))

    assert drawn is not None
    assert drawn.redirected == "M0.0 27.0L150.0 15.0L150.0 27.0L0.0 27.0z"
    assert drawn.dropped == "M0.0 15.0L150.0 3.0L150.0 15.0L0.0 27.0z"
    assert sparklines.draw(traffic.Series(20, 10, values[:1] * 2)).redirected == ""
