"""At which widths a layer is measured, and what lies between: straight lines from one to the next."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.latency.layers import Kernel

__all__ = ["Grid", "Widths", "axes"]

Widths = tuple[int, ...]

_BANDS = ((64, 8), (128, 16), (256, 32), (512, 64), (1024, 128), (2048, 256))
_LEAST = 0.1
_COARSE = (0.125, 0.25, 0.5, 0.75, 1.0)
_MOVED = tuple(4**n for n in range(4, 14))


def axes(kernel: Kernel, full: Widths, varies: Sequence[bool]) -> tuple[tuple[int, ...], ...]:
    """The widths to measure along each dimension; a width that no plan changes is measured as it is.

    The width that is written is measured finely, as that is where the steps are; the one that is summed over
    hardly has any.
    """
    if kernel.kind == "move":
        return (tuple(n for n in _MOVED if n <= max(4 * full[0], _MOVED[1])),)
    multiple = kernel.settings[-3] if kernel.kind in ("grouped", "depthwise") else 1
    last = len(full) - 1
    return tuple(
        (_fine if d == last else _coarse)(width, multiple) if varies[d] else (width,)
        for d, width in enumerate(full)
    )


def _fine(full: int, multiple: int) -> tuple[int, ...]:
    small = 2 if full < 16 else 4 if full < 32 else 8
    found, start = set(), small
    for end, step in ((small * 4, small), *_BANDS):
        found |= set(range(-(-start // step) * step, min(end, full) + 1, step))
        start = end
    found |= set(range(2048, full, 512))
    lowest = max((n for n in found if n <= _LEAST * full), default=small)
    return _of(multiple, {n for n in found if n >= lowest} | {full})


def _coarse(full: int, multiple: int) -> tuple[int, ...]:
    step = 2 if full < 16 else 4 if full < 64 else 8
    wanted = {max(step, round(share * full / step) * step) for share in _COARSE[:-1]}
    return _of(multiple, {n for n in wanted if n < full} | {full})


def _of(multiple: int, widths: set[int]) -> tuple[int, ...]:
    return tuple(sorted({max(multiple, n // multiple * multiple) for n in widths}))


@dataclass(frozen=True)
class Grid:
    """Milliseconds at the points of `axes`; between them piecewise linear, outside as at the edge."""

    axes: tuple[NDArray[np.float64], ...]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, axes: Sequence[Sequence[int]], times: Mapping[Widths, float]) -> Grid:
        """From times by widths; all points of the grid must be there."""
        shape = [len(axis) for axis in axes]
        values = np.array([times[point] for point in itertools.product(*axes)]).reshape(shape)
        return cls(tuple(np.array(axis, np.float64) for axis in axes), values)

    def __call__(self, widths: Widths) -> float:
        """Milliseconds for these widths."""
        values = self.values
        for axis, width in zip(self.axes, widths, strict=True):
            if len(axis) == 1:
                values = values[0]
                continue
            right = int(np.clip(np.searchsorted(axis, width), 1, len(axis) - 1))
            part = float(np.clip((width - axis[right - 1]) / (axis[right] - axis[right - 1]), 0, 1))
            values = (1 - part) * values[right - 1] + part * values[right]
        return float(values)
