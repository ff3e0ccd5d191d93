from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from jstc.bench import timing


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
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made.now)
    return made


def test_files_take_turns_and_keep_their_columns(clock: Clock) -> None:
    log: list[str] = []
    runs = [clock.run(2.0, log=log, name="a"), clock.run(1.0, 1.0, 4.0, log=log, name="b")]
    latencies = timing.interleaved_seconds(runs, seconds=20)
    assert "".join(log) == "ab" * len(latencies)
    assert latencies[:3].tolist() == [[2.0, 1.0], [2.0, 1.0], [2.0, 4.0]]


def test_measuring_stops_when_the_time_is_spent(clock: Clock) -> None:
    assert len(timing.interleaved_seconds([clock.run(1.0)], seconds=9.5)) == 10


def test_slow_files_still_get_five_rounds(clock: Clock) -> None:
    assert len(timing.interleaved_seconds([clock.run(60.0)], seconds=1)) == 5


def test_fast_files_do_not_fill_the_memory(clock: Clock) -> None:
    assert len(timing.interleaved_seconds([clock.run(1e-6)], seconds=60)) == 5000


def test_warm_up_waits_for_a_steady_latency(clock: Clock) -> None:
    steady_at_once = timing.warm_up(clock.run(1.0), seconds=1000)
    slowly_warming = timing.warm_up(clock.run(9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0), seconds=1000)
    assert steady_at_once == 10
    assert 14 <= slowly_warming <= 18


def test_warm_up_is_bounded(clock: Clock) -> None:
    restless = [float(2**index) for index in range(30)]
    assert timing.warm_up(clock.run(*restless), seconds=1000) == 10
    growing = [1.02**index for index in range(300)]
    assert timing.warm_up(clock.run(*growing), seconds=1e9) == 200
