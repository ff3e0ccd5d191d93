"""Summaries of latencies, and the interval of a paired ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Ratio", "paired_ratio"]

_BLOCKS = 25
_RESAMPLES = 1000
_SEED = 0
_PERCENTILES = (2.5, 97.5)

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios and its 95 % interval."""

    median: float
    low: float
    high: float


def paired_ratio(before: Seconds, after: Seconds) -> Ratio:
    """How many times faster `after` is than `before`; both [rounds], measured in the same rounds.

    The interval is a bootstrap over blocks of successive rounds: a neighbour on the machine disturbs many
    rounds in a row, so single rounds are not independent and would give too narrow an interval.
    """
    ratios = before / after
    blocks = np.array_split(ratios, min(_BLOCKS, len(ratios)))
    generator = np.random.default_rng(_SEED)
    draws = generator.integers(len(blocks), size=(_RESAMPLES, len(blocks)))
    medians = [np.median(np.concatenate([blocks[index] for index in draw])) for draw in draws]
    low, high = np.percentile(medians, _PERCENTILES)
    return Ratio(float(np.median(ratios)), float(low), float(high))
