from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from carde_monai.intervals import (
    astm_interval,
    carbides_needed,
    expanded_tail,
    interval,
    multiplicities,
)


def test_each_resample_draws_as_many_fields_as_there_are() -> None:
    times = multiplicities(7, 500, seed=1)
    assert times.shape == (500, 7)
    assert (times.sum(1) == 7).all()
    assert times.mean(0) == pytest.approx(np.ones(7), abs=0.15)
    assert (times == multiplicities(7, 500, seed=1)).all()
    assert (times != multiplicities(7, 500, seed=2)).any()


@pytest.mark.parametrize(("fields", "tail"), [(5, 0.0010), (10, 0.0086), (20, 0.0159), (10_000, 0.0250)])
def test_tails_are_expanded_for_few_fields(fields: int, tail: float) -> None:
    # by hand for 10: sqrt(10 / 9) x 2.2622 = 2.3845; Phi(-2.3845) = 0.0086
    assert expanded_tail(fields) == pytest.approx(tail, abs=6e-5)


def test_many_fields_are_cut_at_the_expanded_percentiles() -> None:
    values = np.random.default_rng(0).permutation(1001) / 1000
    tail = expanded_tail(10)
    assert interval(values, 10) == pytest.approx((tail, 1 - tail))


@pytest.mark.parametrize("fields", [2, 3, 7])
def test_few_fields_get_students_interval(fields: int) -> None:
    x = np.arange(fields) ** 2.0
    values = multiplicities(fields) @ x / fields
    half = stats.t.ppf(0.975, fields - 1) * x.std(ddof=1) / math.sqrt(fields)
    low, high = interval(values, fields, x.mean())
    assert (low + high) / 2 == pytest.approx(x.mean())
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)  # 999 resamples know it to some per cent
    without = interval(values, fields)
    assert sum(without) / 2 == pytest.approx(values.mean())
    assert without[1] - without[0] == pytest.approx(high - low)


def test_one_field_has_no_interval() -> None:
    assert np.isnan(interval(np.ones(999), 1)).all()


def test_no_interval_where_a_quantity_often_does_not_exist() -> None:
    values = np.linspace(0, 1, 1000)
    values[:50] = np.nan
    assert np.isfinite(interval(values, 20)).all()
    values[:150] = np.nan
    assert np.isnan(interval(values, 20)).all()


def coverage(fields: int, cut: bool) -> float:
    """Share of intervals that hold the true mean 100 of counts that vary from field to field."""
    rng = np.random.default_rng(fields)
    times, held = multiplicities(fields), 0
    for _ in range(400):
        counts = rng.poisson(rng.gamma(1 / 0.3**2, 100 * 0.3**2, fields))
        values = times @ counts / fields
        low, high = interval(values, fields, counts.mean())
        if cut:
            low, high = np.quantile(values, [expanded_tail(fields), 1 - expanded_tail(fields)])
        held += low <= 100 <= high
    return held / 400


@pytest.mark.parametrize("fields", [2, 3, 5, 10])
def test_intervals_hold_the_truth_about_as_often_as_they_say(fields: int) -> None:
    assert 0.91 < coverage(fields, cut=False) < 0.98


def test_percentiles_of_three_fields_would_not() -> None:
    assert coverage(3, cut=True) < 0.82


def test_astm_interval_by_hand() -> None:
    # mean 5 %, s = 1 %, t(0.975, 2) = 4.3027: half width 4.3027 x 1 % / sqrt(3) = 2.484 %
    found = astm_interval([0.04, 0.05, 0.06], [140.0, 140.0, 140.0])
    assert found == pytest.approx(
        {
            "mean": 0.05,
            "standard_deviation": 0.01,
            "half_width": 0.02484,
            "relative_accuracy_percent": 49.68,
            "n": 3,
        },
        rel=1e-3,
    )


def test_a_large_field_counts_for_more() -> None:
    # 1 of 10 and 9 of 30 units of area; residuals (area / mean area)(x - mean): 0.5 x -0.15, 1.5 x 0.05
    found = astm_interval([0.1, 0.3], [10.0, 30.0])
    assert found["mean"] == pytest.approx(10 / 40)
    assert found["standard_deviation"] == pytest.approx(math.sqrt(0.075**2 + 0.075**2))


def test_astm_interval_of_one_or_empty_fields() -> None:
    one = astm_interval([0.05], [1.0])
    assert one["mean"] == 0.05 and one["n"] == 1
    assert math.isnan(one["half_width"]) and math.isnan(one["standard_deviation"])
    empty = astm_interval([0.0, 0.0], [1.0, 1.0])
    assert empty["mean"] == empty["half_width"] == 0
    assert math.isnan(empty["relative_accuracy_percent"])


def test_carbides_needed_by_hand() -> None:
    # (1.96 / 0.1)^2 x 0.65^2 = 162.3; x (1 + 1.2816^2 / 2) = 295.6; x (1 + 2.3263^2 / 2) = 601.5
    assert [carbides_needed(p, 0.65) for p in (10, 50, 90, 99)] == [296, 163, 296, 602]
    assert carbides_needed(50, 0.65, relative_error=0.05) == 650


def test_so_many_carbides_are_enough_for_a_fitted_percentile() -> None:
    rng = np.random.default_rng(0)
    log = rng.normal(0, 0.65, (4000, carbides_needed(90, 0.65)))
    p90 = np.exp(log.mean(1) + stats.norm.ppf(0.9) * log.std(1))
    true = math.exp(stats.norm.ppf(0.9) * 0.65)
    assert (np.abs(p90 / true - 1) < 0.1).mean() == pytest.approx(0.95, abs=0.015)
