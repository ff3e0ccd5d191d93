"""Timing of several sessions side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["interleaved_seconds", "warm_up"]

_WINDOW = 5
_STABLE = 0.05
_MAX_WARM_UP_RUNS = 200
_MIN_ROUNDS = 5
_MAX_ROUNDS = 5000

Run = Callable[[], object]


def warm_up(run: Run, *, seconds: float) -> int:
    """Repeat `run` until its latency is steady, for about `seconds` at most; the number of runs made.

    Steady: the medians of the last five runs and of the five before lie within 5 % of each other.
    """
    begin = time.perf_counter()
    latencies: list[float] = []
    while len(latencies) < _MAX_WARM_UP_RUNS:
        latencies.append(_timed(run))
        if _steady(latencies) or time.perf_counter() - begin > seconds:
            break
    return len(latencies)


def interleaved_seconds(runs: Sequence[Run], *, seconds: float) -> npt.NDArray[np.float64]:
    """Latencies [rounds, runs] in seconds: every round makes each of `runs` once, in their order.

    Interleaving lets whatever disturbs the machine disturb all of them alike. Takes about `seconds`, but
    never fewer than five rounds.
    """
    begin = time.perf_counter()
    rounds: list[list[float]] = []
    while len(rounds) < _MAX_ROUNDS:
        rounds.append([_timed(run) for run in runs])
        if len(rounds) >= _MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
    return np.array(rounds)


def _steady(latencies: list[float]) -> bool:
    if len(latencies) < 2 * _WINDOW:
        return False
    last = statistics.median(latencies[-_WINDOW:])
    before = statistics.median(latencies[-2 * _WINDOW : -_WINDOW])
    return abs(last - before) <= _STABLE * before


def _timed(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
