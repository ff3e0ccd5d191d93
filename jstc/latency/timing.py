"""Times of kernels in onnxruntime: by its own profiler on the CPU, by the clock elsewhere."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jstc import ort
from jstc.latency.graphs import build, node_name, weight_bytes
from jstc.latency.grid import Widths
from jstc.latency.layers import Kernel
from jstc.ort import Provider

__all__ = ["measure"]

_MAX_BYTES, _MAX_POINTS = 200e6, 64
_LEAST_RUNS, _MOST_RUNS, _SECONDS = 5, 60, 0.25
_COPIES = 6


def measure(
    kernel: Kernel, points: Sequence[Widths], *, provider: Provider, batch: int, threads: int
) -> list[float]:
    """Milliseconds of the kernel at each of `points`.

    Many points are in one model and take turns: so whatever disturbs the machine disturbs all of them, and
    the weights of one have left the cache when it is its turn again, as in a network. The least of the runs
    counts. On the CPU the times are those of the nodes themselves, without what a call costs; elsewhere,
    where onnxruntime's profiler sees only the launch of a kernel, they are differences of whole calls.
    """
    times: list[float] = []
    size = _MAX_POINTS if provider == "cpu" else 1
    with tempfile.TemporaryDirectory(prefix="jstc-latency-") as folder:
        for part in _parts(kernel, points, size):
            path = Path(folder) / "kernels.onnx"
            if provider == "cpu":
                times += _profiled(kernel, part, path, batch=batch, threads=threads)
            else:
                times += [_clocked(kernel, part[0], path, provider=provider, batch=batch)]
    return times


def _parts(kernel: Kernel, points: Sequence[Widths], size: int) -> Iterator[list[Widths]]:
    part: list[Widths] = []
    held = 0
    for point in points:
        needed = weight_bytes(kernel, point)
        if part and (len(part) >= size or held + needed > _MAX_BYTES):
            yield part
            part, held = [], 0
        part.append(point)
        held += needed
    if part:
        yield part


def _profiled(
    kernel: Kernel, points: Sequence[Widths], path: Path, *, batch: int, threads: int
) -> list[float]:
    model, inputs = build(kernel, points, batch=batch)
    path.write_bytes(model)
    session = ort.open_session(path, threads=threads, profile=path.with_suffix(""))
    feed = _feed(inputs)
    for _ in _turns():
        session.run(None, feed)
    record = Path(session.end_profiling())
    found = _by_node(json.loads(record.read_text(encoding="utf-8")))
    record.unlink(missing_ok=True)
    return [found[node_name(number)] for number in range(len(points))]


def _by_node(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Least milliseconds of each measured node; the first run is a warm-up."""
    durations: dict[str, list[float]] = defaultdict(list)
    length = len(node_name(0))
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.startswith("timed") and name.endswith("kernel_time"):
            durations[name[:length]].append(float(event["dur"]))
    # The profiler cuts off parts of a microsecond.
    return {name: (min(found[1:] or found) + 0.5) / 1e3 for name, found in durations.items()}


def _clocked(kernel: Kernel, point: Widths, path: Path, *, provider: Provider, batch: int) -> float:
    """What copies of the kernel in one call add to the time of one."""
    calls = []
    for copies in (1, 1 + _COPIES):
        model, inputs = build(kernel, [point] * copies, batch=batch)
        path.write_bytes(model)
        calls.append(_Bound(ort.open_session(path, provider=provider), _feed(inputs), provider))
    least = [float("inf")] * len(calls)
    for _ in _turns():
        for number, call in enumerate(calls):
            least[number] = min(least[number], call.seconds())
    return max(least[1] - least[0], 1e-7) / _COPIES * 1e3


class _Bound:
    """A session whose inputs and outputs stay on the device."""

    def __init__(self, session: Any, feed: dict[str, Any], provider: Provider) -> None:
        where = "cpu" if provider == "cpu" else "cuda"
        self._session, self._binding = session, session.io_binding()
        for name, value in feed.items():
            self._binding.bind_cpu_input(name, value)
        for output in session.get_outputs():
            self._binding.bind_output(output.name, where)

    def seconds(self) -> float:
        """One call, finished."""
        begin = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return time.perf_counter() - begin


def _turns() -> Iterator[int]:
    begin = time.perf_counter()
    for run in range(_MOST_RUNS):
        if run > _LEAST_RUNS and time.perf_counter() - begin > _SECONDS:
            return
        yield run


def _feed(inputs: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: np.full(shape, 0.1, np.float32) for name, shape in inputs.items()}
