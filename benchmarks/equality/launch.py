"""Runs `jstc` with a clock that only onnxruntime moves: measured times become figures like all others.

    python launch.py run recipe.yaml --out run ...

Latencies differ from one run to the next, and with them verdicts, intervals, plans of a latency budget and
half of every report. Here `time.perf_counter` stands still except while a session runs, and then moves by a
time that follows from the file and the batch alone, with a small jitter that repeats. Everything that jstc
computes from times is then the same in each recording. Only `time` and `onnxruntime.InferenceSession` are
replaced, and of jstc the watch for what else the machine does. Times of onnxruntime's own profiler stay real.
"""

from __future__ import annotations

import contextlib
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

__all__ = ["Clock", "main", "ticks_of"]

_TICK = 2.0**-30
"""Seconds of a tick, about a nanosecond; a power of two, so that differences of sums of them are exact."""

_TICKS_PER_WEIGHT, _TICKS_PER_CALL = 64, 2**20
_JITTER = (0, 1, -1, 2, -1, 0, 1)
_JITTER_OF = 64


class Clock:
    """Seconds since it was made, moved by `advance` alone."""

    def __init__(self) -> None:
        self._ticks = 0

    def advance(self, ticks: int) -> None:
        """Let so many ticks pass."""
        self._ticks += ticks

    def seconds(self) -> float:
        """In place of `time.perf_counter`."""
        return self._ticks * _TICK

    def nanoseconds(self) -> int:
        """In place of `time.perf_counter_ns`."""
        return int(self._ticks * _TICK * 1e9)


def ticks_of(weights: int, batch: int, run: int) -> int:
    """The time of a session's run number `run` (from 0), of a network with so many weights."""
    calm = _TICKS_PER_CALL + _TICKS_PER_WEIGHT * weights * batch
    # Networks of other sizes are disturbed in other runs: ratios then have an interval.
    return calm + calm * _JITTER[run * (1 + weights % 6) % len(_JITTER)] // _JITTER_OF


def _weights(source: Any) -> int:
    """Numbers in the initializers of an ONNX file, given by its path or its bytes."""
    loaded = isinstance(source, bytes)
    model = onnx.load_from_string(source) if loaded else onnx.load(str(source), load_external_data=False)
    found = 0
    for tensor in model.graph.initializer:
        count = 1
        for size in tensor.dims:
            count *= size
        found += count
    return found


def _batch(feed: Any) -> int:
    shape: tuple[int, ...] = getattr(next(iter(feed.values()), None), "shape", ())
    return shape[0] if shape else 1


def _install(clock: Clock) -> None:
    session = onnxruntime.InferenceSession
    opened, ran, ran_bound = session.__init__, session.run, session.run_with_iobinding
    known: dict[int, list[int]] = {}

    def __init__(self: Any, path_or_bytes: Any, *args: Any, **options: Any) -> None:  # noqa: N807
        opened(self, path_or_bytes, *args, **options)
        known[id(self)] = [_weights(path_or_bytes), 0]

    def move(number: int, batch: int) -> None:
        weights, runs = known[number]
        known[number][1] = runs + 1
        clock.advance(ticks_of(weights, batch, runs))

    def run(self: Any, names: Any, feed: Any, *args: Any, **options: Any) -> Any:
        move(id(self), _batch(feed))
        return ran(self, names, feed, *args, **options)

    def run_with_iobinding(self: Any, *args: Any, **options: Any) -> Any:
        move(id(self), 1)
        return ran_bound(self, *args, **options)

    session.__init__, session.run, session.run_with_iobinding = __init__, run, run_with_iobinding
    time.perf_counter, time.perf_counter_ns = clock.seconds, clock.nanoseconds


def _overlook_the_machine() -> None:
    with contextlib.suppress(ImportError):  # of code that did not look yet
        from jstc.ort.doubts import Disturbance, Watch

        Watch.found = Disturbance()  # type: ignore[assignment,method-assign]


def main() -> None:
    """Run `python -m jstc` with the arguments of this process."""
    _install(Clock())
    here = str(Path(__file__).parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]  # what lies here is no module of jstc's
    _overlook_the_machine()
    runpy.run_module("jstc", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
