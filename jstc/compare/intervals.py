"""Intervals of ratios, in logarithms: twice as fast and half as fast are equally far from the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BETWEEN_RUNS", "Change", "of_recorded", "of_repeats"]

BETWEEN_RUNS = 0.06
"""Standard deviation of the logarithm of one file's speed-up between two measurements in different processes.

The interval of one measurement does not contain it: where memory lies and what else runs differ between
processes. Seen on a busy two-core machine for one file: 1 to 6 % at batch 1, 4 to 11 % at batch 8.
"""

_Z95 = 1.960
_Z99 = 2.576
# Student's t, two-sided, for 1, 2, ... degrees of freedom; beyond the end the last one is a little wide.
_T = {
    0.99: (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012),
    0.999: (636.619, 31.599, 12.924, 8.610, 6.869, 5.959, 5.408, 5.041, 4.781, 4.587, 4.437, 4.318, 4.221),
}


@dataclass(frozen=True)
class Change:
    """A ratio of latencies, new / base, less 1; and its interval at `confidence`. Above 0 is slower."""

    change: float
    low: float
    high: float
    confidence: float


def of_repeats(ratios: Sequence[float], *, confidence: float) -> Change:
    """From independent measurements of new / base, two at least: geometric mean and Student's interval.

    `confidence`: 0.99 or 0.999.
    """
    logs = [math.log(ratio) for ratio in ratios]
    table = _T[confidence]
    quantile = table[min(len(logs) - 1, len(table)) - 1]
    return _change(
        statistics.fmean(logs), quantile * statistics.stdev(logs) / math.sqrt(len(logs)), confidence
    )


def of_recorded(base: tuple[float, float, float], new: tuple[float, float, float]) -> Change:
    """From two speed-ups against the target network, each with its 95 % interval (value, low, high)."""
    variance = 2 * BETWEEN_RUNS**2
    for _, low, high in (base, new):
        variance += (math.log(high / low) / (2 * _Z95)) ** 2
    return _change(math.log(base[0] / new[0]), _Z99 * math.sqrt(variance), 0.99)


def _change(mean: float, half_width: float, confidence: float) -> Change:
    return Change(math.expm1(mean), math.expm1(mean - half_width), math.expm1(mean + half_width), confidence)
