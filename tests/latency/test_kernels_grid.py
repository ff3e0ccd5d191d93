"""Between the widths that were measured the time is a straight line."""

from __future__ import annotations

import itertools

import pytest

from jstc.latency.kernels import Grid, Kernel, axes

CONV = Kernel("conv", (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8, 8))


def test_measured_points_are_exact_and_lines_lie_between():
    found = (2, 4), (10, 20, 40)
    times = {(a, b): a * 100.0 + b * b for a, b in itertools.product(*found)}
    grid = Grid.of(found, times)
    assert [grid(point) for point in times] == pytest.approx(list(times.values()))
    assert grid((3, 20)) == pytest.approx((times[2, 20] + times[4, 20]) / 2)
    assert grid((4, 30)) == pytest.approx((times[4, 20] + times[4, 40]) / 2)
    assert grid((1, 50)) == times[2, 40]  # outside as at the edge


@pytest.mark.parametrize("full", [6, 16, 30, 64, 100, 512, 2048])
def test_the_full_width_is_measured_and_the_grid_is_small(full):
    inside, out = axes(CONV, (full, full), (True, True))
    assert inside[-1] == out[-1] == full
    assert len(inside) * len(out) <= 120
    assert min(out) <= max(8 if full >= 32 else 4, 0.1 * full)
    assert list(out) == sorted(set(out))


def test_a_width_that_no_plan_changes_is_measured_as_it_is():
    assert axes(CONV, (3, 64), (False, True))[0] == (3,)
    assert axes(CONV, (64, 10), (True, False))[1] == (10,)


def test_groups_stay_whole():
    grouped = Kernel("grouped", (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6, 8, 8))
    assert all(n % 6 == 0 for axis in axes(grouped, (48, 48), (True, True)) for n in axis)
