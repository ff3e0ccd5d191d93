from __future__ import annotations

import numpy as np
import pytest

from jstc.ort.statistics import autocorrelation_time, paired_ratio


def autoregressive(size: int, keeps: float, *, seed: int) -> np.ndarray:
    """Noise of standard deviation 0.05, each value keeping so much of the one before."""
    shocks = np.random.default_rng(seed).normal(0, 0.05 * np.sqrt(1 - keeps**2), size + 100)
    values = np.zeros(size + 100)
    for index in range(1, size + 100):
        values[index] = keeps * values[index - 1] + shocks[index]
    return values[100:]


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


def test_it_covers_the_truth_when_neighbours_are_alike() -> None:
    """With blocks of single rounds it would in six of ten."""
    trials = 30
    noise = [np.exp(autoregressive(200, 0.8, seed=seed)) for seed in range(trials)]
    found = [paired_ratio(1.3 * values, np.ones(200)) for values in noise]
    assert sum(ratio.low <= 1.3 <= ratio.high for ratio in found) >= 0.8 * trials


def test_slow_drift_of_one_file_widens_the_interval() -> None:
    generator = np.random.default_rng(3)
    before, after = np.exp(generator.normal(0, 0.05, (2, 500)))
    drifting = after * np.repeat([1.0, 1.2, 1.0, 1.2, 1.0], 100)
    steady = paired_ratio(before, after)
    drifted = paired_ratio(before, drifting)
    assert drifted.high - drifted.low > 3 * (steady.high - steady.low)


def test_swapping_the_files_inverts_the_ratio() -> None:
    one, other = np.exp(np.random.default_rng(4).normal(0, 0.1, (2, 99)))
    forth, back = paired_ratio(one, other), paired_ratio(other, one)
    assert (1 / back.median, 1 / back.high, 1 / back.low) == pytest.approx(
        (forth.median, forth.low, forth.high), rel=0.01
    )


def test_one_round_is_enough_to_compute() -> None:
    ratio = paired_ratio(np.array([3.0]), np.array([2.0]))
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize(("keeps", "time"), [(0.0, 1.0), (0.5, 3.0), (0.8, 9.0)])
def test_the_autocorrelation_time_is_that_of_the_process(keeps: float, time: float) -> None:
    values = autoregressive(20_000, keeps, seed=5)
    assert autocorrelation_time(values) == pytest.approx(time, rel=0.2)


def test_values_that_never_change_have_no_autocorrelation() -> None:
    assert autocorrelation_time(np.ones(10)) == 1.0
