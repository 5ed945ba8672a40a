"""Intervals and spreads equal their closed forms and scipy's."""

import math

import numpy as np
import pytest
from scipy import stats

from tad_distill.evaluate.intervals import paired, spread, t_interval


def test_two_values_have_the_cauchy_quantile() -> None:
    found = t_interval([1.0, 3.0])
    half = math.tan(math.pi * 0.475) * math.sqrt(2) / math.sqrt(2)
    assert found.mean == 2 and found.count == 2 and found.sd == pytest.approx(math.sqrt(2))
    assert found.low == pytest.approx(2 - half) and found.high == pytest.approx(2 + half)


def test_three_values_have_the_closed_form_of_two_degrees_of_freedom() -> None:
    found = t_interval([1.0, 2.0, 6.0])
    p = 0.975
    quantile = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    half = quantile * math.sqrt(7) / math.sqrt(3)
    assert found.low == pytest.approx(3 - half) and found.high == pytest.approx(3 + half)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_the_interval_is_that_of_the_t_test(count: int, confidence: float) -> None:
    values = np.random.default_rng(count).normal(2, 3, count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    found = t_interval(values.tolist(), confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_95_of_100_intervals_hold_the_true_mean() -> None:
    random = np.random.default_rng(0)
    found = [t_interval(random.normal(5, 2, 3).tolist()) for _ in range(2000)]
    held = sum(i.low <= 5 <= i.high for i in found if i.low is not None and i.high is not None)
    assert 0.935 < held / 2000 < 0.965


def test_one_value_has_no_interval() -> None:
    found = t_interval([4.0])
    assert (found.mean, found.low, found.high, found.sd, found.count) == (4, None, None, None, 1)


def test_equal_values_have_an_interval_without_length() -> None:
    found = t_interval([2.0, 2.0, 2.0])
    assert (found.low, found.high, found.sd) == (2, 2, 0)


def test_a_spread_pools_the_seeds_within_each_draw() -> None:
    values = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 10.0, ("b", 1): 10.0, ("b", 2): 13.0}
    found = spread(values)
    assert found.mean == pytest.approx((2 + 11) / 2), "a draw counts once, whatever its detectors"
    # Squares about the draws' means: 2 and 6, with 1 + 2 degrees of freedom.
    assert found.sd_seeds == pytest.approx(math.sqrt(8 / 3))
    assert found.sd_draws == pytest.approx(9 / math.sqrt(2))
    assert found.count == 5


def test_one_value_has_no_spread() -> None:
    found = spread({("a", 0): 7.0})
    assert (found.mean, found.sd_seeds, found.sd_draws, found.count) == (7, None, None, 1)


def test_a_paired_difference_cancels_what_a_pair_shares() -> None:
    random = np.random.default_rng(1)
    keys = [(f"world{w}", s) for w in range(3) for s in range(5)]
    right = dict(zip(keys, random.normal(40, 10, 15).tolist(), strict=True))
    effect = dict(zip(keys, random.normal(3, 1, 15).tolist(), strict=True))
    left = {key: right[key] + effect[key] for key in keys}
    found = paired(left, right)
    assert found is not None
    pairs = stats.ttest_rel(list(left.values()), list(right.values())).confidence_interval()
    assert (found.over_pairs.low, found.over_pairs.high) == pytest.approx((pairs.low, pairs.high))
    means = np.reshape(list(effect.values()), (3, 5)).mean(1)
    draws = stats.ttest_1samp(means, 0).confidence_interval()
    assert (found.over_draws.low, found.over_draws.high) == pytest.approx((draws.low, draws.high))
    assert list(found.draws.values()) == pytest.approx(means.tolist())
    assert found.num_positive == sum(value > 0 for value in effect.values())
    assert found.over_draws.count == 3 and found.over_pairs.count == 15


def test_only_pairs_that_both_have_are_compared() -> None:
    left = {("a", 0): 5.0, ("a", 1): 9.0, ("b", 0): 1.0}
    right = {("a", 0): 4.0, ("b", 0): 3.0, ("b", 7): 100.0}
    found = paired(left, right)
    assert found is not None
    assert found.draws == {"a": 1.0, "b": -2.0} and found.over_pairs.count == 2
    assert paired(left, {("c", 0): 1.0}) is None
    assert paired({}, {}) is None
