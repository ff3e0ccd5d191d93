"""Small ONNX graphs to be measured: the same kernel at many widths, side by side in one graph."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from jstc.latency.kernels import Kernel, Widths
from jstc.ort import sessions
from jstc.ort.sessions import Provider
from jstc.ort.statistics import least

__all__ = ["build", "measure", "node_name", "weight_bytes"]

_OPSET, _IR = 18, 9
_FLOAT = TensorProto.FLOAT


def node_name(number: int) -> str:
    """What the measured node of the point `number` is called, before onnxruntime adds to it."""
    return f"timed{number:04d}"


def build(
    kernel: Kernel, points: Sequence[Widths], *, batch: int
) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """A model with one measured node for each point, and the shapes of its inputs by name.

    Convolutions are followed by a ReLU, which onnxruntime fuses, and by a mean over the positions, so that
    only small results leave the model.
    """
    draft = _Draft(kernel, batch)
    for number, widths in enumerate(points):
        draft.add(number, widths)
    inputs = [helper.make_tensor_value_info(name, _FLOAT, shape) for name, shape in draft.inputs.items()]
    outputs = [helper.make_tensor_value_info(name, _FLOAT, None) for name in draft.outputs]
    graph = helper.make_graph(draft.nodes, "kernels", inputs, outputs, draft.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString()), draft.inputs


def weight_bytes(kernel: Kernel, widths: Widths) -> int:
    """Size of the weights of one point."""
    window = kernel.settings[0] * kernel.settings[1] if "conv" in kernel.kind else 1
    return 4 * window * int(np.prod(widths)) if kernel.kind in ("conv", "grouped", "gemm") else 4 * widths[0]


class _Draft:
    def __init__(self, kernel: Kernel, batch: int) -> None:
        self.kernel, self.batch = kernel, batch
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: list[str] = []

    def add(self, number: int, widths: Widths) -> None:
        name, kind = node_name(number), self.kernel.kind
        if kind in ("conv", "grouped", "depthwise"):
            self._convolution(name, widths)
        elif kind == "pool":
            self._pool(name, widths[0])
        elif kind == "gemm":
            self._gemm(name, widths)
        else:
            self._move(name, widths[0])

    def _input(self, shape: tuple[int, ...]) -> str:
        name = "x" + "_".join(map(str, shape))
        self.inputs[name] = shape
        return name

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        data = np.full(shape, 0.01, np.float32)
        self.weights.append(onnx.numpy_helper.from_array(data, name))
        return name

    def _convolution(self, name: str, widths: Widths) -> None:
        *geometry, groups, height, width = self.kernel.settings
        out = widths[-1]
        if self.kernel.kind == "depthwise":
            channels, groups, inside = out // groups, out // groups, 1
        else:
            channels, inside = widths[0], widths[0] // groups
        x = self._input((self.batch, channels, height, width))
        weight = self._weight(f"{name}.weight", (out, inside, *geometry[:2]))
        bias = self._weight(f"{name}.bias", (out,))
        attributes: dict[str, Any] = {"group": groups, "dilations": geometry[8:10], **_window(geometry)}
        self.nodes.append(helper.make_node("Conv", [x, weight, bias], [f"{name}c"], name=name, **attributes))
        self.nodes.append(helper.make_node("Relu", [f"{name}c"], [name]))
        self._swallow(name)

    def _pool(self, name: str, channels: int) -> None:
        *geometry, mean, height, width = self.kernel.settings
        x = self._input((self.batch, channels, height, width))
        operator = "AveragePool" if mean else "MaxPool"
        self.nodes.append(helper.make_node(operator, [x], [name], name=name, **_window(geometry)))
        self._swallow(name)

    def _swallow(self, name: str) -> None:
        self.nodes.append(helper.make_node("GlobalAveragePool", [name], [f"small{name[5:]}"]))
        self.outputs.append(f"small{name[5:]}")

    def _gemm(self, name: str, widths: Widths) -> None:
        x = self._input((self.kernel.settings[0], widths[0]))
        weight, bias = self._weight(f"{name}.weight", widths[::-1]), self._weight(f"{name}.bias", widths[1:])
        self.nodes.append(helper.make_node("Gemm", [x, weight, bias], [name], name=name, transB=1))
        self.outputs.append(name)

    def _move(self, name: str, elements: int) -> None:
        x = self._input((1, elements))
        self.nodes.append(helper.make_node("Add", [x, x], [name], name=name))
        self.outputs.append(name)


def _window(geometry: Sequence[int]) -> dict[str, Any]:
    return {"kernel_shape": geometry[:2], "strides": geometry[2:4], "pads": geometry[4:8]}


# Times of kernels in onnxruntime: by its own profiler on the CPU, by the clock elsewhere.

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
    session = sessions.open_session(path, threads=threads, profile=path.with_suffix(""))
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
    return {name: (least(found[1:] or found) + 0.5) / 1e3 for name, found in durations.items()}


def _clocked(kernel: Kernel, point: Widths, path: Path, *, provider: Provider, batch: int) -> float:
    """What copies of the kernel in one call add to the time of one."""
    calls = []
    for copies in (1, 1 + _COPIES):
        model, inputs = build(kernel, [point] * copies, batch=batch)
        path.write_bytes(model)
        calls.append(_Bound(sessions.open_session(path, provider=provider), _feed(inputs), provider))
    rounds = [[call.seconds() for call in calls] for _ in _turns()]
    alone, copied = map(least, zip(*rounds, strict=True))
    return max(copied - alone, 1e-7) / _COPIES * 1e3


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
