from __future__ import annotations

import numpy as np
import pytest

from jstc.bench.statistics import paired_ratio


def test_a_constant_ratio_has_no_width() -> None:
    after = np.linspace(1.0, 2.0, 40)
    ratio = paired_ratio(after * 1.5, after)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_shared_disturbance_cancels() -> None:
    generator = np.random.default_rng(1)
    disturbance = generator.uniform(1, 3, 200)
    ratio = paired_ratio(2 * disturbance, disturbance * generator.normal(1, 0.01, 200))
    assert 1.99 < ratio.low < ratio.median < ratio.high < 2.01


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    trials = 30
    noise = np.exp(generator.normal(0, 0.2, (trials, 2, 100)))
    covered = [ratio.low <= 1.3 <= ratio.high for ratio in (paired_ratio(1.3 * a, b) for a, b in noise)]
    assert 0.85 * trials <= sum(covered) < trials


def test_slow_drift_of_one_file_widens_the_interval() -> None:
    generator = np.random.default_rng(3)
    before, after = np.exp(generator.normal(0, 0.05, (2, 500)))
    drifting = after * np.repeat([1.0, 1.2, 1.0, 1.2, 1.0], 100)
    steady = paired_ratio(before, after)
    drifted = paired_ratio(before, drifting)
    assert drifted.high - drifted.low > 3 * (steady.high - steady.low)


def test_one_round_is_enough_to_compute() -> None:
    ratio = paired_ratio(np.array([3.0]), np.array([2.0]))
    assert (ratio.low, ratio.median, ratio.high) == (1.5, 1.5, 1.5)
