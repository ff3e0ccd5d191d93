"""What onnxruntime will spend time on: the operations of a network as kernels, and their widths.

Batch norms after a convolution are folded into it, and what onnxruntime fuses into a convolution (an
activation, the sum of a residual block) costs nothing of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.channels.operations import Executed, Executions

__all__ = ["Grid", "Kernel", "Layer", "Widths", "axes", "layers"]

_ACTIVATIONS = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min", "leaky_relu", "threshold"})
_FREE = frozenset({
    "view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "detach", "dropout",
    "feature_dropout", "alias", "to", "_to_copy", "contiguous", "clone", "arange", "zeros_like", "ones_like",
})  # fmt: skip
# Passes over the elements of the output, for what onnxruntime computes in several steps.
_PASSES = {"silu": 2.0, "hardswish": 2.0, "gelu": 4.0, "softmax": 3.0, "_softmax": 3.0, "layer_norm": 3.0,
           "group_norm": 4.0, "instance_norm": 4.0}  # fmt: skip
_READS_MORE = frozenset({"adaptive_avg_pool2d", "adaptive_avg_pool1d", "mean", "sum", "amax",
                         "adaptive_max_pool2d"})  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One kind of work, all but its widths: an entry of the table.

    `conv`, `grouped` (widths in, out) and `depthwise` (width out) have the settings kernel, stride, pads
    (four), dilation, groups or the multiplier, and size of the input; `pool` (width) the same with 0 for the
    largest and 1 for the mean; `gemm` (widths in, out) has the number of rows, `move` (elements) none.
    """

    kind: str
    settings: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Its name in the table's file."""
        return " ".join((self.kind, *map(str, self.settings)))

    @classmethod
    def from_key(cls, key: str) -> Kernel:
        """The inverse of `key`."""
        kind, *settings = key.split()
        return cls(kind, tuple(map(int, settings)))


@dataclass(frozen=True)
class Layer:
    """A kernel in a network: each width is `factors[i]` times the product of the sizes of `rows[i]`."""

    kernel: Kernel
    rows: tuple[tuple[int, ...], ...]
    factors: tuple[int, ...]
    passes: float = 1.0

    def widths(self, sizes: NDArray[np.int64]) -> tuple[int, ...]:
        """Its widths where the rows have `sizes`."""
        return tuple(
            factor * math.prod(int(sizes[row]) for row in rows)
            for factor, rows in zip(self.factors, self.rows, strict=True)
        )


def layers(executions: Executions, batch: int) -> list[Layer]:
    """The kernels that run for a batch of images, in order."""
    found: list[Layer] = []
    fused: list[bool] = []  # by operation: a convolution, or what is fused into one
    for operation in executions.operations:
        before = [fused[source] for source in operation.sources]
        convolution = "conv" in operation.kind
        joins = _joins(operation.kind) and any(before)
        fused.append(convolution or joins or (operation.kind in _FREE and any(before)))
        if operation.live and not joins and operation.kind not in _FREE:
            found += _layer(operation, batch)
    return found


def _joins(kind: str) -> bool:
    return kind in _ACTIVATIONS or kind in ("batch_norm", "add")


def _layer(operation: Executed, batch: int) -> list[Layer]:
    kind, rank = operation.kind, len(operation.output_shape)
    if "conv" in kind:
        plain = "transpose" not in kind and not operation.settings.get("transposed") and rank == 4
        return [_convolution(operation) if plain else _as_product(operation, batch)]
    if kind in ("linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention"):
        return [_product(operation, batch)]
    if kind in ("max_pool2d", "avg_pool2d", "max_pool2d_with_indices") and rank == 4:
        return [_pool(operation)]
    rows = operation.inputs[0] if kind in _READS_MORE and operation.inputs else operation.output
    return [Layer(Kernel("move"), (rows,), (batch,), _PASSES.get(kind, 1.0))]


def _convolution(operation: Executed) -> Layer:
    """Input [N, C, H, W], weight [C_out, C / groups, kernel, kernel]."""
    (x, weight), settings = operation.shapes[:2], operation.settings
    groups = int(settings.get("groups", 1))
    kernel, dilation = tuple(weight[2:]), _pair(settings["dilation"])
    geometry = (*kernel, *_pair(settings["stride"]), *_pads(settings["padding"], kernel, dilation), *dilation)
    channels, out = operation.inputs[0][1], operation.output[1]
    if groups > 1 and weight[1] == 1:
        repeated = weight[0] // groups
        return Layer(Kernel("depthwise", (*geometry, repeated, *x[2:])), ((channels,),), (repeated,))
    kind = "conv" if groups == 1 else "grouped"
    return Layer(Kernel(kind, (*geometry, groups, *x[2:])), ((channels,), (out,)), (1, 1))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return int(pair[0]), int(pair[-1])


def _pads(padding: object, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Top, left, bottom, right."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return (whole[0] // 2, whole[1] // 2, whole[0] - whole[0] // 2, whole[1] - whole[1] // 2)
    return _pair(padding) * 2  # type: ignore[arg-type]


def _pool(operation: Executed) -> Layer:
    settings, x = operation.settings, operation.shapes[0]
    kernel = _pair(settings["kernel_size"])
    stride = _pair(settings["stride"]) if settings.get("stride") else kernel
    dilation = _pair(settings.get("dilation", 1))
    mean = int("avg" in operation.kind)
    geometry = (*kernel, *stride, *_pair(settings["padding"]), *_pair(settings["padding"]), *dilation)
    return Layer(Kernel("pool", (*geometry, mean, *x[2:])), ((operation.inputs[0][1],),), (1,))


def _product(operation: Executed, batch: int) -> Layer:
    """Rows are what is left of the first operand; the number of heads counts as one of the whole network."""
    rows = math.prod(operation.shapes[0][:-1]) * batch
    return Layer(Kernel("gemm", (rows,)), ((operation.inputs[0][-1],), (operation.output[-1],)), (1, 1))


def _as_product(operation: Executed, batch: int) -> Layer:
    """A convolution of another kind, about as long as the matrix product that does the same."""
    weight, out = operation.shapes[1], operation.output_shape
    window = math.prod(weight[2:])
    kernel = Kernel("gemm", (batch * math.prod(out[2:]),))
    return Layer(kernel, ((operation.inputs[0][1],), (operation.output[1],)), (window, 1))


# At which widths a layer is measured, and what lies between: straight lines from one to the next.

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
        """The grid of times by widths; all of its points must be there."""
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
