"""Kernels that slide over space: convolution, pooling, resampling, windows; FLOPs of convolution as fvcore's.

fvcore counts one multiply-add as one FLOP.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIRST_FREE, FIXED, KERNEL, Call, Ids, Labels, fixed, tensors_in
from jstc.channels.trace.state import TraceState

__all__: list[str] = []


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d")  # fmt: skip
def _convolution(trace: TraceState, call: Call) -> Labels:
    """Input [N, C, *], weight [C_out, C / groups, *kernel] (transposed: [C, C_out / groups, *kernel])."""
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    transposed = "transpose" in call.func._schema.name or (call.has("transposed") and call["transposed"])
    x_ids, w = trace.labels(x), trace.labels(weight)
    for kernel in w[2:]:
        trace.tie(kernel, None if kernel is None else np.full(len(kernel), KERNEL))
    channel = x.dim() - weight.dim() + 1  # 1, or 0 without a batch dimension
    if weight.shape[:2] == (1, 1) and x.dim() == 3 and x.shape == call.out.shape and _is_channel(x_ids[-1]):
        return _over_channels(trace, call, x_ids)
    space = _space(trace, call, x_ids[channel + 1 :])
    if transposed:
        out = _transposed(trace, x_ids[channel], w, weight, groups)
    else:
        out = _convolved(trace, x_ids[channel], w, weight, groups)
    if bias is not None:
        trace.tie(out, trace.labels(bias)[0])
    positions = (x if transposed else call.out).shape[channel + 1 :]
    around = (*x.shape[:channel], *positions), (*x_ids[:channel], *space)  # heads may be in the batch
    wide = _widths(x_ids[channel], out, w, groups, transposed=transposed)
    trace.count("conv", 1, (*weight.shape, *around[0]), (*wide, *w[2:], *around[1]))
    if not transposed and not _depthwise(weight, w, groups):
        trace.site("writer", (weight, bias), out)
    return (*x_ids[:channel], out, *space)


def _widths(x: Ids | None, out: Ids | None, w: Labels, groups: int, *, transposed: bool) -> Labels:
    """Labels of a weight's first two dimensions; of one that the forward made up, those that it meets."""
    first, second = w[:2]
    if transposed:
        return (x if first is None else first), second
    depthwise = groups > 1 and x is not None and len(x) == groups
    return (out if first is None and depthwise else first), (x if second is None and groups == 1 else second)


def _space(trace: TraceState, call: Call, labels: Labels) -> Labels:
    """Labels of the output's space: where the kernel is a point it does not slide over the positions."""
    sizes, kernel = call.out.shape[call.out.dim() - len(labels) :], call["weight"].shape[2:]
    before = call["input"].shape[call["input"].dim() - len(labels) :]
    strides = call["stride"] if isinstance(call["stride"], list | tuple) else [call["stride"]]
    out: list[Ids | None] = []
    for d, ids in enumerate(labels):
        if kernel[d] == 1 and before[d] == sizes[d] and strides[min(d, len(strides) - 1)] == 1:
            out.append(ids)
        else:
            trace.freeze(ids, "a convolution slides over the channels")
            out.append(fixed(sizes[d]))
    return tuple(out)


def _over_channels(trace: TraceState, call: Call, ids: Labels) -> Labels:
    """One kernel slides over the channels [N, 1, C], as in efficient channel attention: neighbours change."""
    trace.inexact(ids[-1], "a convolution slides over the channels")
    trace.count("conv", call.first.shape[0] * call["weight"].shape[-1], call.out.shape[-1:], ids[-1:])
    return ids


def _depthwise(weight: Tensor, w: Labels, groups: int) -> bool:
    """Has each group one channel in the uncut network? (Cut to one, its position has a channel's id.)"""
    return groups > 1 and weight.shape[1] == 1 and not _is_channel(w[1])


def _is_channel(ids: Ids | None) -> bool:
    return ids is not None and bool((ids >= FIRST_FREE).any())


def _convolved(trace: TraceState, x: Ids | None, w: Labels, weight: Tensor, groups: int) -> Ids | None:
    """Output channels of an ordinary, grouped or depthwise convolution."""
    if groups == 1:
        trace.tie(x, w[1])
        return w[0]
    if _depthwise(weight, w, groups) and x is not None:
        out = np.repeat(x, weight.shape[0] // groups)
        trace.tie(out, w[0])
        return w[0] if w[0] is not None and _is_channel(out) else out
    if x is not None and w[1] is not None:
        trace.tie(x, np.tile(w[1], groups))
    if w[0] is not None:
        # groups stay equally wide, so the k-th channel of every group is one
        trace.tie_all(w[0].reshape(groups, -1))
    return w[0]


def _transposed(trace: TraceState, x: Ids | None, w: Labels, weight: Tensor, groups: int) -> Ids | None:
    """Output channels of a transposed convolution."""
    trace.tie(x, w[0])
    if groups == 1:
        return w[1]
    if weight.shape[0] == groups and _depthwise(weight, w, groups):
        return x if w[0] is None else w[0]
    if w[0] is not None:
        trace.tie_all(w[0].reshape(groups, -1))
    return None if w[1] is None else np.tile(w[1], groups)


# -- pooling and resampling: only the space changes -----------------------------------------------------


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
      "adaptive_max_pool2d",
      "max_pool2d_with_indices", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
      "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_nearest2d", "upsample_bilinear2d",
      "upsample_bicubic2d", "lp_pool2d", "_upsample_bicubic2d_aa",
      "_upsample_bilinear2d_aa", "reflection_pad2d", "replication_pad2d")  # fmt: skip
def _pool(trace: TraceState, call: Call) -> Labels | list[Labels]:
    """Input [N, C, *]: only the space changes."""
    labels = trace.labels(call.first)
    out = call.out if isinstance(call.out, Tensor) else call.out[0]
    space = {"aten::adaptive_avg_pool2d": 1, "aten::upsample_nearest2d": 1, "aten::upsample_bilinear2d": 4}
    name = call.func._schema.name
    kept = out.dim() - {"1": 1, "3": 3}.get(next((c for c in name if c in "123"), "2"), 2)
    for ids in labels[kept:]:
        trace.freeze(ids, "neighbouring channels are pooled or resized")
    found: Labels = (*labels[:kept], *(fixed(n) for n in out.shape[kept:]))
    if name in space:
        counted = call.first.shape if "pool" in name else out.shape
        trace.count(name.split("::")[1], space[name], counted, labels if "pool" in name else found)
    return found if isinstance(call.out, Tensor) else [found] * len(call.out)


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


def _rank_of_space(name: str) -> int:
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
    kept = out.dim() - _rank_of_space(call.func._schema.name)
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


@rule(
    "torchvision::roi_align", "torchvision::roi_pool", "torchvision::ps_roi_align", "torchvision::ps_roi_pool"
)
def _regions(trace: TraceState, call: Call) -> list[Labels]:
    """Input [N, C, H, W] and boxes [K, 5] -> [K, C, h, w]; position-sensitive forms [K, C / (h * w), h, w].

    The pooled forms also return where the largest values are.
    """
    labels = trace.labels(call["input"], acting_on=(2, 3))
    for ids in (labels[2], labels[3], *trace.labels(call["rois"])):
        trace.freeze(ids, "regions are taken by their numbers")
    if "ps_" in call.kind:
        trace.freeze(labels[1], "channels are taken by the place in a region")
    found = []
    for out in tensors_in(call.out):
        channels = labels[1] if "ps_" not in call.kind and out.dim() == 4 else fixed(out.shape[1])
        found.append((fixed(out.shape[0]), channels, *(fixed(n) for n in out.shape[2:])))
    return found
