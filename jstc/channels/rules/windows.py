"""Sliding windows and resampling beyond the common pools of `layers`: only the space changes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIXED, Call, Ids, Labels
from jstc.channels.trace.state import TraceState

__all__: list[str] = []


def _fixed(*sizes: int) -> Labels:
    return tuple(np.full(n, FIXED) for n in sizes)


@rule("unfold")
def _unfold(trace: TraceState, call: Call) -> Labels:
    """Windows of a dimension: their number in its place, their size as a new last dimension."""
    dim = call.args[1] % max(call.first.dim(), 1)
    labels = trace.labels(call.first, acting_on=(dim,))
    trace.freeze(labels[dim], "windows slide over the channels")
    number, size = _fixed(call.out.shape[dim], call.out.shape[-1])
    return (*labels[:dim], number, *labels[dim + 1 :], size)


@rule("im2col")
def _im2col(trace: TraceState, call: Call) -> Labels:
    """[N, C, H, W] -> [N, C * kernel, windows]; C varies slowest."""
    labels = trace.labels(call.first, acting_on=(-2, -1))
    _no_space(trace, labels[-2:])
    channels = labels[-3]
    if channels is not None:
        channels = np.repeat(channels, call.out.shape[-2] // len(channels))
    return (*labels[:-3], channels, *_fixed(call.out.shape[-1]))


@rule("col2im")
def _col2im(trace: TraceState, call: Call) -> Labels:
    """[N, C * kernel, windows] -> [N, C, H, W]: the inverse of `im2col`."""
    labels = trace.labels(call.first, acting_on=(-1,))
    _no_space(trace, labels[-1:])
    channels = labels[-2]
    if channels is not None:
        columns = channels.reshape(call.out.shape[-3], -1)
        for column in columns.T[1:]:
            trace.tie(columns[:, 0], column)
        channels = columns[:, 0]
    return (*labels[:-2], channels, *_fixed(*call.out.shape[-2:]))


def _no_space(trace: TraceState, labels: Labels) -> None:
    for ids in labels:
        trace.freeze(ids, "neighbouring channels are pooled or resized")


def _space(name: str) -> int:
    """Number of space dimensions, by the name of the operation."""
    return next((int(c) for c in name if c in "123"), 2)


@rule("adaptive_max_pool1d", "adaptive_max_pool3d", "max_pool3d_with_indices", "max_pool1d_with_indices",
      "fractional_max_pool2d", "fractional_max_pool3d", "max_unpool2d", "max_unpool3d",
      "upsample_nearest1d", "upsample_nearest3d", "upsample_linear1d", "upsample_trilinear3d",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
      "_upsample_lanczos2d_aa", "reflection_pad1d", "reflection_pad3d", "replication_pad1d",
      "replication_pad3d")  # fmt: skip
def _resample(trace: TraceState, call: Call) -> Labels | list[Labels]:
    """Input [N, C, *space]."""
    out = call.out if isinstance(call.out, Tensor) else call.out[0]
    kept = out.dim() - _space(call.func._schema.name)
    labels = trace.labels(call.first, acting_on=tuple(range(kept, out.dim())))
    _no_space(trace, labels[kept:])
    found = (*labels[:kept], *_fixed(*out.shape[kept:]))
    return found if isinstance(call.out, Tensor) else [found] * len(call.out)


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def _grid_sampler(trace: TraceState, call: Call) -> Labels:
    """Input [N, C, *space], grid [N, *space, 2 or 3]; fvcore counts four FLOPs for each output."""
    labels, grid = trace.labels(call.first), trace.labels(call["grid"])
    _no_space(trace, labels[2:])
    for ids in grid[1:]:
        trace.freeze(ids, "channels are places to sample from")
    found = (*labels[:2], *_fixed(*call.out.shape[2:]))
    trace.count("grid_sampler", 4, call.out.shape, found)
    return found


@rule("affine_grid_generator")
def _affine_grid(trace: TraceState, call: Call) -> Labels:
    """Matrices [N, 2, 3] (or [N, 3, 4]) -> grid [N, *space, 2 or 3]."""
    for ids in trace.labels(call.first):
        trace.freeze(ids, "channels are places to sample from")
    return _fixed(*call.out.shape)


@rule("rot90")
def _rot90(trace: TraceState, call: Call) -> Labels:
    """A quarter turn, or several, of two dimensions."""
    dims = [d % call.first.dim() for d in call["dims"]]
    labels: list[Ids | None] = list(trace.labels(call.first, acting_on=dims))
    for dim in dims:
        trace.freeze(labels[dim], "channels are turned")
        labels[dim] = _fixed(call.out.shape[dim])[0]
    return tuple(labels)
