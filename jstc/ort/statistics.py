"""How much faster: one estimator for each question that is asked of timings.

| question | estimator | timings |
|---|---|---|
| How many times faster is a file, how sure is it? | `paired_ratio` | both files in each of many rounds |
| Is a file slower than another, measured anew? | `change_of_repeats` | ratios of a few independent repeats |
| Is it slower, by what two runs have recorded? | `change_of_recorded` | two speed-ups with their intervals |
| How long is a network beside another when nothing disturbs? | `calm_shares` | a few rounds of all networks |
| What does a kernel alone take? | `least` | runs of one kernel |

The first three answer people and carry 95 % or wider intervals; the last two feed the predictor of latency,
which needs a number. Disturbances only ever add time, so these look at the fastest runs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "BETWEEN_RUNS",
    "LONGEST",
    "WIDE",
    "Change",
    "Ratio",
    "WarmUp",
    "autocorrelation_time",
    "calm_shares",
    "change_of_recorded",
    "change_of_repeats",
    "interleaved_seconds",
    "least",
    "paired_ratio",
    "warm_up",
]


_NORMAL = 1.959964  # 95 % of the normal distribution lie within plus and minus

Vector = npt.NDArray[np.float64]

# The ratio of two files, from rounds that are not independent of their neighbours.

_RESAMPLES = 1000
_LEAST_BLOCKS = 6
_BLOCK_TIMES = 3  # a block spans so many autocorrelation times: what lies in others is then independent
_WINDOW = 5  # Sokal's: lags beyond so many autocorrelation times add noise only
_SEED = 0
_PERCENTILES = (2.5, 97.5)


WIDE = 1.2
"""An interval whose ends are further apart than this factor leaves open how much faster a file is."""


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios and its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def is_wide(self) -> bool:
        """Whether the interval leaves the ratio open."""
        return self.high > WIDE * self.low


def paired_ratio(before: Vector, after: Vector) -> Ratio:
    """How many times faster `after` is than `before`; both [rounds], in seconds, measured in the same rounds.

    The interval is a circular block bootstrap of the median of the logarithms: a neighbour on the machine
    disturbs many rounds in a row, so single rounds are not independent and would give too narrow an interval.
    Blocks are as long as three autocorrelation times of the ratios themselves, or a sixth of the rounds; for
    so few blocks the bootstrap is too sure of itself, hence it is widened by Student's t over the normal.
    """
    logs = np.log(before / after)
    median = float(np.median(logs))
    length = _block_length(logs)
    medians = _resampled_medians(logs, length)
    low, high = np.percentile(medians, _PERCENTILES).tolist()
    wider = _student(max(len(logs) // length - 1, 1)) / _NORMAL
    found = (median, median - (median - low) * wider, median + (high - median) * wider)
    return Ratio(*map(math.exp, found))


def autocorrelation_time(values: Vector) -> float:
    """How many successive values [n] tell as much about their mean as a single one would; at least 1.

    Summed up to Sokal's window: the first lag that is five times the time found so far.
    """
    size = len(values)
    centred = values - values.mean()
    variance = float(centred @ centred)
    time = 1.0
    for lag in range(1, size // 2 if variance > 0 else 0):
        time += 2 * float(centred[:-lag] @ centred[lag:]) / variance
        if lag >= _WINDOW * time:
            break
    return max(time, 1.0)


def _block_length(logs: Vector) -> int:
    # The variance of a median depends on which side of it the values lie, and on nothing else.
    side = (logs > np.median(logs)).astype(np.float64)
    wanted = max(round(len(logs) ** (1 / 3)), math.ceil(_BLOCK_TIMES * autocorrelation_time(side)))
    return int(max(1, min(wanted, len(logs) // _LEAST_BLOCKS)))


def _resampled_medians(logs: Vector, length: int) -> Vector:
    """Medians [resamples] of as many values as there are, drawn in blocks that wrap around at the end."""
    size = len(logs)
    generator = np.random.default_rng(_SEED)
    starts = generator.integers(size, size=(_RESAMPLES, math.ceil(size / length)))
    medians = np.empty(_RESAMPLES)
    for index, row in enumerate(starts):  # one at a time: all at once would take much memory
        places = (row[:, None] + np.arange(length)).ravel()[:size] % size
        medians[index] = np.median(logs[places])
    return medians


def _student(freedom: int) -> float:
    """Student's t, two-sided 95 %: the Cornish-Fisher expansion, within 2 % from 4 degrees of freedom on."""
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


# The change from one file to another, in logarithms: twice and half as fast are equally far from none.

BETWEEN_RUNS = 0.06
"""Standard deviation of the logarithm of one file's speed-up between two measurements in different processes.

The interval of one measurement does not contain it: where memory lies and what else runs differ between
processes. Seen on a busy two-core machine for one file: 1 to 6 % at batch 1, 4 to 11 % at batch 8.
"""

_Z95, _Z99 = 1.960, 2.576  # of the normal distribution, two-sided
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


def change_of_repeats(ratios: Sequence[float], *, confidence: float) -> Change:
    """The change by independent measurements of new / base, two at least.

    Geometric mean and Student's interval; `confidence`: 0.99 or 0.999.
    """
    logs = [math.log(ratio) for ratio in ratios]
    table = _T[confidence]
    quantile = table[min(len(logs) - 1, len(table)) - 1]
    return _change(
        statistics.fmean(logs), quantile * statistics.stdev(logs) / math.sqrt(len(logs)), confidence
    )


def change_of_recorded(base: tuple[float, float, float], new: tuple[float, float, float]) -> Change:
    """The change by two speed-ups against the target network, with 95 % intervals (value, low, high)."""
    variance = 2 * BETWEEN_RUNS**2
    for _, low, high in (base, new):
        variance += (math.log(high / low) / (2 * _Z95)) ** 2
    return _change(math.log(base[0] / new[0]), _Z99 * math.sqrt(variance), 0.99)


def _change(mean: float, half_width: float, confidence: float) -> Change:
    return Change(math.expm1(mean), math.expm1(mean - half_width), math.expm1(mean + half_width), confidence)


# What remains when nothing disturbs.

_CALM = 0.1  # of the rounds; the very fastest may be an accident of the clock


def calm_shares(seconds: Vector) -> Vector:
    """Times of several networks as shares of the first one's, [n], each in its calmest rounds.

    `seconds` is [rounds, n], measured in turns. The disturbed rounds of one are not those of another: so not
    ratios round by round, but of tenth percentiles.
    """
    calm = np.quantile(seconds, _CALM, axis=0)
    shares: Vector = calm / calm[0]
    return shares


def least(runs: Sequence[float]) -> float:
    """The time of a single kernel: that of its fastest run, in the unit of `runs`."""
    return min(runs)


# Calls timed side by side: warmed up together until steady, then run in turns, round after round.


STABLE = 0.05
"""Steady: the medians of the last window and of the one before differ by no more than this share."""

LONGEST = 5
"""So many times the measuring time is spent where the figures are still uncertain."""

_LAST_ROUNDS = 5
_MAX_WARM_UP_ROUNDS = 200
_PATIENCE = 4
_MIN_ROUNDS = 5
_MAX_ROUNDS = 5000
_ORDER_SEED = 0

Run = Callable[[], object]
Latencies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WarmUp:
    """How many rounds were made before the measuring, and which of the runs were steady at the end."""

    rounds: int
    steady: tuple[bool, ...]


def warm_up(runs: Sequence[Run], *, seconds: float) -> WarmUp:
    """Make rounds of all of `runs` until the latency of each is steady, for about `seconds` at most.

    Steadiness shows after ten rounds, for which there is four times as long.

    They take turns as they will when measured: alone, each would warm caches that the others then empty.
    """
    rounds = _Rounds(runs)
    while len(rounds.latencies) < _MAX_WARM_UP_ROUNDS:
        rounds.make()
        steady = _steady(rounds.array())
        if all(steady) or _is_late(rounds, seconds):
            break
    return WarmUp(len(rounds.latencies), steady)


def interleaved_seconds(
    runs: Sequence[Run], *, seconds: float, enough: Callable[[Latencies], bool] | None = None
) -> Latencies:
    """Latencies [rounds, runs] in seconds: every round makes each of `runs` once, in an order of its own.

    Interleaving lets whatever disturbs the machine disturb all of them alike; the order is shuffled, so that
    none always follows the same other. Takes about `seconds`, but never fewer than five rounds; while what
    there is so far is not `enough`, twice and four times as long, and `LONGEST` times at most.
    """
    rounds = _Rounds(runs)
    limit = seconds
    while len(rounds.latencies) < _MAX_ROUNDS:
        rounds.make()
        if len(rounds.latencies) < _MIN_ROUNDS or rounds.seconds() <= limit:
            continue
        if enough is None or limit >= LONGEST * seconds or enough(rounds.array()):
            break
        limit = min(2 * limit, LONGEST * seconds)  # looked at a few times only: each look is a chance to err
    return rounds.array()


class _Rounds:
    """Rounds made so far; `latencies` are in seconds, in the order of `runs`."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.latencies: list[list[float]] = []
        self._random = np.random.default_rng(_ORDER_SEED)
        self._begin = time.perf_counter()

    def make(self) -> None:
        """One more."""
        found = [0.0] * len(self.runs)
        for index in self._random.permutation(len(self.runs)).tolist():
            found[index] = _timed(self.runs[index])
        self.latencies.append(found)

    def seconds(self) -> float:
        """Since the first began."""
        return time.perf_counter() - self._begin

    def array(self) -> Latencies:
        """[rounds, runs]."""
        return np.array(self.latencies)


def _is_late(rounds: _Rounds, seconds: float) -> bool:
    # Whether a latency is steady shows after two windows: slow files get a little longer for these.
    shown = len(rounds.latencies) >= 2 * _LAST_ROUNDS
    return rounds.seconds() > (seconds if shown else _PATIENCE * seconds)


def _steady(latencies: Latencies) -> tuple[bool, ...]:
    if len(latencies) < 2 * _LAST_ROUNDS:
        return tuple(False for _ in latencies.T)
    last = np.median(latencies[-_LAST_ROUNDS:], axis=0)
    before = np.median(latencies[-2 * _LAST_ROUNDS : -_LAST_ROUNDS], axis=0)
    return tuple(bool(near) for near in np.abs(last - before) <= STABLE * before)


def _timed(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
