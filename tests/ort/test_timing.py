from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from jstc.ort import statistics


class Clock:
    """A clock that only the runs move."""

    def __init__(self) -> None:
        self.now = 0.0

    def run(self, *seconds: float, log: list[str] | None = None, name: str = "") -> Callable[[], None]:
        durations: Iterator[float] = iter(seconds)
        last = seconds[-1]

        def call() -> None:
            self.now += next(durations, last)
            if log is not None:
                log.append(name)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def test_files_take_turns_and_keep_their_columns(clock: Clock) -> None:
    log: list[str] = []
    runs = [clock.run(2.0, log=log, name="a"), clock.run(1.0, 1.0, 4.0, log=log, name="b")]
    latencies = statistics.interleaved_seconds(runs, seconds=20)
    rounds = ["".join(log[at : at + 2]) for at in range(0, len(log), 2)]
    assert {*rounds} <= {"ab", "ba"}
    assert len(rounds) == len(latencies)
    assert latencies[:3].tolist() == [[2.0, 1.0], [2.0, 1.0], [2.0, 4.0]]


def test_every_file_follows_every_other_about_as_often(clock: Clock) -> None:
    log: list[str] = []
    statistics.interleaved_seconds([clock.run(1.0, log=log, name=name) for name in "abc"], seconds=599)
    orders = Counter("".join(log[at : at + 3]) for at in range(0, len(log), 3))
    assert len(orders) == math.factorial(3)
    assert min(orders.values()) > 15


def test_measuring_stops_when_the_time_is_spent(clock: Clock) -> None:
    assert len(statistics.interleaved_seconds([clock.run(1.0)], seconds=9.5)) == 10


def test_measuring_goes_on_while_it_is_not_enough_up_to_a_limit(clock: Clock) -> None:
    asked: list[int] = []

    def rounds(least: int) -> int:
        def enough(latencies: np.ndarray) -> bool:
            asked.append(len(latencies))
            return len(latencies) >= least

        asked.clear()
        return len(statistics.interleaved_seconds([clock.run(1.0)], seconds=9.5, enough=enough))

    assert (rounds(1), asked) == (10, [10])
    assert (rounds(15), asked) == (20, [10, 20])
    assert (rounds(999), asked) == (48, [10, 20, 39])


def test_slow_files_still_get_five_rounds(clock: Clock) -> None:
    assert len(statistics.interleaved_seconds([clock.run(60.0)], seconds=1)) == 5


def test_fast_files_do_not_fill_the_memory(clock: Clock) -> None:
    assert len(statistics.interleaved_seconds([clock.run(1e-6)], seconds=60)) == 5000


def test_warm_up_waits_for_a_steady_latency(clock: Clock) -> None:
    slowly = clock.run(9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    assert statistics.warm_up([clock.run(1.0)], seconds=1000) == statistics.WarmUp(10, (True,))
    assert 14 <= statistics.warm_up([slowly], seconds=1000).rounds <= 18
    assert statistics.warm_up([slowly], seconds=1000).steady == (True,)


def test_warm_up_waits_for_the_last_of_the_files(clock: Clock) -> None:
    runs = [clock.run(1.0), clock.run(*(2.0 ** (12 - index) for index in range(12)), 1.0)]
    found = statistics.warm_up(runs, seconds=1e5)
    assert found.rounds > 12
    assert found.steady == (True, True)


def test_warm_up_is_bounded_and_says_that_it_was(clock: Clock) -> None:
    growing = [1.02**index for index in range(300)]
    assert statistics.warm_up([clock.run(*growing)], seconds=1e9) == statistics.WarmUp(200, (False,))
    restless = [float(2**index) for index in range(30)]
    assert statistics.warm_up([clock.run(1.0), clock.run(*restless)], seconds=300).steady == (True, False)


def test_warm_up_of_slow_files_does_not_take_ten_rounds(clock: Clock) -> None:
    assert statistics.warm_up([clock.run(60.0)], seconds=20) == statistics.WarmUp(2, (False,))
