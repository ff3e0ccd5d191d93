"""The table of measured times, and the latency of any plan predicted from it.

A table is a file per machine and setting, measured where something is missing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from jstc.channels.operations import Executions
from jstc.core import files
from jstc.core.progress import Progress, Silent
from jstc.latency.kernels import Grid, Kernel, Layer, Widths, axes, layers
from jstc.latency.measure import measure
from jstc.ort import machine
from jstc.ort.sessions import Provider

__all__ = ["Calibration", "LatencyModel", "Setting", "Table", "Timer"]

Times = dict[Kernel, dict[Widths, float]]
Timer = Callable[[Kernel, Sequence[Widths]], list[float]]

_FORMAT = 1
_DIGITS = 6
_LOCK_SECONDS = 60
_BLOCKS = (8, 16, 32, 64)
_WORTH = 1.1
"""Widths that are no multiple of a block cost at least this much more per channel, or it is none."""
_PASSES = 4
_SLOWER, _DEARER = 1.03, 1.1
_PROBE = Kernel("conv", (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 28, 28))
_PROBED = tuple((64, n) for n in range(8, 129, 8))


@dataclass(frozen=True)
class Setting:
    """What a measured time belongs to; every one has a table of its own.

    `processor` is the CPU with its cores, or the GPU.
    """

    provider: Provider
    batch: int
    threads: int
    processor: str
    onnxruntime: str

    @classmethod
    def here(cls, provider: Provider, *, batch: int, threads: int) -> Setting:
        """The setting on this machine."""
        processor = machine.processor(gpu=provider != "cpu")
        return cls(provider, batch, threads, processor, onnxruntime.__version__)

    def to_dict(self) -> dict[str, str | int]:
        """A JSON document."""
        return asdict(self)


class Table:
    """Milliseconds by kernel and widths, for one setting.

    `timer` measures; it is given for tests. A file that is damaged or of another format is measured anew.
    """

    def __init__(self, setting: Setting, *, timer: Timer | None = None, path: Path | None = None) -> None:
        self.setting, self._timer = setting, timer or self._measure
        self.path = path or files.cache_folder() / "latency" / f"{_digest(setting)}.json"
        self.times: Times = _read(self.path, setting)

    def _measure(self, kernel: Kernel, points: Sequence[Widths]) -> list[float]:
        setting = self.setting
        return measure(
            kernel, points, provider=setting.provider, batch=setting.batch, threads=setting.threads
        )

    def require(self, wanted: Mapping[Kernel, Iterable[Widths]], progress: Progress | None = None) -> None:
        """Measure what is missing of `wanted`; what is doubtful, up to three times more.

        Kept when all of that is done: a doubtful time on file would be taken for a good one ever after.
        """
        progress = progress or Silent()
        missing = {
            kernel: sorted(set(points) - self.times.get(kernel, {}).keys())
            for kernel, points in wanted.items()
        }
        missing = {kernel: points for kernel, points in missing.items() if points}
        if not missing:
            return
        for number in range(_PASSES):
            self._measure_all(missing, progress, "latency" if number == 0 else "latency, once more")
            missing = self._doubtful(missing)
            if not missing:
                break
        self._save(progress)

    def _measure_all(self, wanted: Mapping[Kernel, Sequence[Widths]], progress: Progress, title: str) -> None:
        done = 0
        progress.start(title, sum(map(len, wanted.values())), "kernel")
        for kernel, points in wanted.items():
            known = self.times.setdefault(kernel, {})
            for widths, ms in zip(points, self._timer(kernel, points), strict=True):
                # As the file will have it: a search that goes on must not predict otherwise.
                known[widths] = max(round(min(ms, known.get(widths, ms)), _DIGITS), 10**-_DIGITS)
            done += len(points)
            progress.update(done)
        progress.finish()

    def _doubtful(self, measured: Mapping[Kernel, Sequence[Widths]]) -> dict[Kernel, list[Widths]]:
        found = {kernel: doubtful(self.times[kernel], points) for kernel, points in measured.items()}
        return {kernel: points for kernel, points in found.items() if points}

    @property
    def block(self) -> int:
        """How many channels the provider computes at once: the least step of widths that wastes nothing."""
        self.require({_PROBE: _PROBED})
        each = {out: self.times[_PROBE][inside, out] / out for inside, out in _PROBED}
        whole = each[max(each)]
        for block in _BLOCKS[:-1]:
            inner = [each[n] for n in each if n % block == 0 and n >= 2 * _BLOCKS[1]]
            if max(inner) <= _WORTH * whole:
                return block
        return _BLOCKS[-2]

    def _save(self, progress: Progress) -> None:
        """Write the table, together with what another process has measured meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
                for kernel, times in _read(self.path, self.setting).items():
                    self.times[kernel] = times | self.times.get(kernel, {})
                files.write_json(self.path, to_document(self.setting, self.times))
        except (OSError, filelock.Timeout) as error:
            progress.message(f"latency: the table cannot be kept in {self.path.parent}: {error}")


def doubtful(times: Mapping[Widths, float], points: Sequence[Widths]) -> list[Widths]:
    """The `points` that are slower than wider ones, or dearer per channel than narrower ones.

    Where the machine was disturbed that is so, and where there is a step. Measuring them again tells which.
    """
    at = np.array(list(times), float)
    ms = np.array(list(times.values()))
    unit = ms / at.prod(1)
    found = []
    for widths in points:
        wider, narrower = (at >= widths).all(1), (at <= widths).all(1)
        own = times[widths]
        if own > _SLOWER * ms[wider].min() or own / float(np.prod(widths)) > _DEARER * unit[narrower].min():
            found.append(widths)
    return found


def to_document(setting: Setting, times: Mapping[Kernel, Mapping[Widths, float]]) -> dict[str, Any]:
    """The table as JSON: milliseconds by kernel and widths."""
    shown = {
        kernel.key: {",".join(map(str, widths)): round(ms, _DIGITS) for widths, ms in sorted(found.items())}
        for kernel, found in times.items()
    }
    return {"format": _FORMAT, "setting": setting.to_dict(), "times": shown}


def from_document(document: Mapping[str, Any]) -> Times:
    """The inverse of `to_document`; raises `ValueError` or `KeyError` for what is none."""
    if document["format"] != _FORMAT:
        raise ValueError("another format")
    return {
        Kernel.from_key(key): {tuple(map(int, widths.split(","))): float(ms) for widths, ms in found.items()}
        for key, found in document["times"].items()
    }


def _read(path: Path, setting: Setting) -> Times:
    try:
        document = files.read_json(path)
        if document["setting"] != setting.to_dict():
            return {}
        times = from_document(document)
    except (
        OSError,
        json.JSONDecodeError,
        UnicodeDecodeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ):
        return {}
    whole = all(ms > 0 for ms in itertools.chain.from_iterable(t.values() for t in times.values()))
    return times if whole else {}


def _digest(setting: Setting) -> str:
    text = json.dumps(setting.to_dict(), sort_keys=True)
    return f"{setting.provider}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


# Latency as a function of kept counts: the sum of the layers, corrected by whole networks as measured.

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
