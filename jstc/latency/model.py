"""Latency as a function of kept counts: the sum of the layers, corrected by whole networks as measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jstc.channels.operations import Executions
from jstc.core.progress import Progress
from jstc.latency.kernels import Grid, Kernel, Layer, Widths, axes, layers
from jstc.latency.table import Setting, Table, Times, from_document, to_document

__all__ = ["Calibration", "LatencyModel"]

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """Whole networks: the sum of their layers, and what onnxruntime takes for them, both in milliseconds.

    The sum is not the whole: there are calls, reorders of memory, caches. Between two networks the line
    through them counts, outside the nearest one's ratio. Without any, the sum itself.
    """

    points: tuple[tuple[float, float], ...] = ()

    def __call__(self, total: float) -> float:
        if not self.points:
            return total
        totals, times = map(np.array, zip(*self.points, strict=True))
        if total <= totals[0]:
            return float(times[0] * total / totals[0])
        if total >= totals[-1]:
            return float(times[-1] * total / totals[-1])
        return float(np.interp(total, totals, times))

    def with_point(self, total: float, time: float) -> Calibration:
        """The calibration with one network more. A narrower one never counts as slower than a wider one."""
        points = {**dict(self.points), total: time}
        totals = sorted(points)
        times = np.minimum.accumulate([points[t] for t in reversed(totals)])[::-1]
        return Calibration(tuple(zip(totals, times.tolist(), strict=True)))


class LatencyModel:
    """Predicted milliseconds of any sub-network of one target network, for one setting."""

    def __init__(
        self, executions: Executions, times: Times, setting: Setting, *, block: int, full: Counts
    ) -> None:
        self.setting, self.block, self.calibration = setting, block, Calibration()
        self._executions, self._full = executions, full
        self._layers = layers(executions, setting.batch)
        wanted = _wanted(executions, self._layers, full)
        self._grids = [Grid.of(found, times[layer.kernel]) for layer, found in wanted]
        self._times = {k: {w: times[k][w] for w in points} for k, points in _points(wanted).items()}
        self._known: dict[tuple[int, Widths], float] = {}

    @classmethod
    def measured(
        cls, executions: Executions, table: Table, *, full: Counts, progress: Progress
    ) -> LatencyModel:
        """A model from `table`, completed by measuring first; `full` are the widths of all groups."""
        wanted = _wanted(executions, layers(executions, table.setting.batch), full)
        table.require(_points(wanted), progress)
        return cls(executions, table.times, table.setting, block=table.block, full=full)

    def total(self, counts: Counts) -> float:
        """Milliseconds of all layers together, each as measured alone."""
        sizes = self._executions.sizes(counts)
        return sum(
            layer.passes * self._time(number, layer.widths(sizes))
            for number, layer in enumerate(self._layers)
        )

    def __call__(self, counts: Counts) -> float:
        """Predicted milliseconds for kept counts per group."""
        return self.calibration(self.total(counts))

    def _time(self, number: int, widths: Widths) -> float:
        key = (number, widths)
        if key not in self._known:
            self._known[key] = self._grids[number](widths)
        return self._known[key]

    def to_dict(self) -> dict[str, Any]:
        """A JSON document: what the predictions depend on, times included."""
        points = [list(point) for point in self.calibration.points]
        return {**to_document(self.setting, self._times), "block": self.block, "calibration": points}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], executions: Executions, *, full: Counts) -> LatencyModel:
        """The inverse of `to_dict`, for the same network. Raises `KeyError` where it is of another one."""
        setting = Setting(**document["setting"])
        model = cls(executions, from_document(document), setting, block=document["block"], full=full)
        model.calibration = Calibration(tuple((total, ms) for total, ms in document["calibration"]))
        return model


def _wanted(
    executions: Executions, found: Sequence[Layer], full: Counts
) -> list[tuple[Layer, tuple[tuple[int, ...], ...]]]:
    """Every layer with the axes of its grid."""
    sizes = executions.sizes(full)
    return [
        (layer, axes(layer.kernel, layer.widths(sizes), [any(map(executions.varies, r)) for r in layer.rows]))
        for layer in found
    ]


def _points(wanted: Sequence[tuple[Layer, tuple[tuple[int, ...], ...]]]) -> dict[Kernel, list[Widths]]:
    points: dict[Kernel, dict[Widths, None]] = {}
    for layer, found in wanted:
        points.setdefault(layer.kernel, {}).update(dict.fromkeys(itertools.product(*found)))
    return {kernel: list(widths) for kernel, widths in points.items()}
