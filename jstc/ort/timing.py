"""Calls timed side by side: warmed up together until steady, then run in turns, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["LONGEST", "WarmUp", "interleaved_seconds", "warm_up"]

STABLE = 0.05
"""Steady: the medians of the last window and of the one before differ by no more than this share."""

LONGEST = 5
"""So many times the measuring time is spent where the figures are still uncertain."""

_WINDOW = 5
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
    shown = len(rounds.latencies) >= 2 * _WINDOW
    return rounds.seconds() > (seconds if shown else _PATIENCE * seconds)


def _steady(latencies: Latencies) -> tuple[bool, ...]:
    if len(latencies) < 2 * _WINDOW:
        return tuple(False for _ in latencies.T)
    last = np.median(latencies[-_WINDOW:], axis=0)
    before = np.median(latencies[-2 * _WINDOW : -_WINDOW], axis=0)
    return tuple(bool(near) for near in np.abs(last - before) <= STABLE * before)


def _timed(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
