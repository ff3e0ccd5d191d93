"""Operations with parameters: convolution, linear, matrix products, norms, pooling; their FLOPs as fvcore's.

fvcore counts one multiply-add as one FLOP, a batch norm in eval mode as two per element (one without affine
parameters), other norms as five (four), and it leaves point-wise operations out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from jstc.channels.rules.arithmetic import broadcast
from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIRST_FREE, KERNEL, Call, Ids, Labels, fixed
from jstc.channels.trace.state import TraceState

__all__: list[str] = []


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d")  # fmt: skip
def _convolution(trace: TraceState, call: Call) -> Labels:
    """Input [N, C, *], weight [C_out, C / groups, *kernel] (transposed: [C, C_out / groups, *kernel])."""
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    transposed = "transpose" in call.func._schema.name or (_has(call, "transposed") and call["transposed"])
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
    trace.count("conv", 1, (*weight.shape, *around[0]), (*w, *around[1]))
    if not transposed and not _depthwise(weight, w, groups):
        trace.site("writer", (weight, bias), out)
    return (*x_ids[:channel], out, *space)


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


def _has(call: Call, name: str) -> bool:
    return any(argument.name == name for argument in call.func._schema.arguments)


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
        _tie_all(trace, w[0].reshape(groups, -1))
    return w[0]


def _transposed(trace: TraceState, x: Ids | None, w: Labels, weight: Tensor, groups: int) -> Ids | None:
    """Output channels of a transposed convolution."""
    trace.tie(x, w[0])
    if groups == 1:
        return w[1]
    if weight.shape[0] == groups and _depthwise(weight, w, groups):
        return w[0]
    if w[0] is not None:
        _tie_all(trace, w[0].reshape(groups, -1))
    return None if w[1] is None else np.tile(w[1], groups)


def _tie_all(trace: TraceState, rows: Ids) -> None:
    for row in rows[1:]:
        trace.tie(rows[0], row)


@rule("linear")
def _linear(trace: TraceState, call: Call) -> Labels:
    """Input [*, C], weight [C_out, C]."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    x_ids, w = trace.labels(x), trace.labels(weight)
    trace.tie(x_ids[-1], w[-1])
    if trace.is_constant(x):
        trace.freeze(x_ids[-1], "given by a constant of the network")
    out = w[0] if weight.dim() == 2 else None
    if bias is not None:
        trace.tie(out, trace.labels(bias)[-1])
    trace.count("linear", 1, (*x.shape, weight.shape[0]), (*x_ids, w[0]))
    trace.site("writer", (weight, bias), out)
    return (*x_ids[:-1], *w[:-1])


@rule("matmul", "mm", "bmm")
def _matmul(trace: TraceState, call: Call) -> Labels:
    """[*, n, k] x [*, k, m], with the vector forms of torch.matmul."""
    a, b = call.args[0], call.args[1]
    a_ids, b_ids = _matrices(trace, a), _matrices(trace, b)
    left = a_ids if a.dim() > 1 else (fixed(1), *a_ids)
    right = b_ids if b.dim() > 1 else (*b_ids, fixed(1))
    trace.tie(left[-1], right[-2])
    m = b.shape[-1] if b.dim() > 1 else 1
    kind = call.func._schema.name.split("::")[1]
    trace.count(kind, 1, (*a.shape, m), (*a_ids, right[-1]))
    batch = _batch(trace, left[:-2], right[:-2])
    return (*batch, *([left[-2]] if a.dim() > 1 else []), *([right[-1]] if b.dim() > 1 else []))


def _batch(trace: TraceState, left: Labels, right: Labels) -> Labels:
    return trace.decided(broadcast(trace, (left, right), max(len(left), len(right))))


def _matrices(trace: TraceState, tensor: Tensor) -> Labels:
    """Labels of matrices [*, n, m]: undecided channels (heads by width) are kept by the batch."""
    return trace.labels(tensor, acting_on=tuple(range(tensor.dim()))[-2:])


@rule("scaled_dot_product_attention")
def _attention(trace: TraceState, call: Call) -> Labels:
    """Query [*, n, d], key [*, m, d], value [*, m, e] -> [*, n, e]. fvcore counts no FLOPs for it."""
    query, key, value = (_matrices(trace, call[name]) for name in ("query", "key", "value"))
    trace.tie(query[-1], key[-1])
    trace.tie(key[-2], value[-2])
    for ids in (query[-2], key[-2]):
        trace.freeze(ids, "attention between the channels")
    trace.inexact(query[-1], "attention is scaled by the number of channels")
    if call["enable_gqa"]:  # a head of keys and values serves as many of queries, which stay together
        for ids in (query[-3], key[-3], value[-3]):
            trace.freeze(ids, "heads of queries share heads of keys by their numbers")
    batch = _batch(trace, _batch(trace, query[:-2], key[:-2]), value[:-2])
    if call["attn_mask"] is not None:
        batch = _batch(trace, batch, trace.labels(call["attn_mask"])[:-2])
    return (*batch, query[-2], value[-1])


@rule("addmm", "baddbmm")
def _addmm(trace: TraceState, call: Call) -> Labels:
    bias, a, b = call.args[:3]
    a_ids, b_ids = trace.labels(a), trace.labels(b)
    trace.tie(a_ids[-1], b_ids[-2])
    trace.tie(trace.labels(bias)[-1], b_ids[-1])
    if call.func._schema.name == "aten::addmm":
        trace.count("addmm", 1, (*a.shape, b.shape[-1]), (*a_ids, b_ids[-1]))
    return (*a_ids[:-1], b_ids[-1])


@rule("batch_norm", "instance_norm")
def _batch_norm(trace: TraceState, call: Call) -> Labels:
    """Input [N, C, *]; affine parameters and running statistics [C]."""
    labels = trace.labels(call.first)
    affine = (call["weight"], call["bias"])
    for tensor in (*affine, call["running_mean"], call["running_var"]):
        if tensor is not None:
            trace.tie(labels[1], trace.labels(tensor)[0])
    kind = call.func._schema.name.split("::")[1]
    # fvcore asks `weight` for an eval-mode batch norm, and its norm counter for the rest
    batch_statistics = kind == "batch_norm" and call["training"]
    if batch_statistics:  # weight standardisation is written so
        for ids in (labels[0], *labels[2:]):
            trace.inexact(ids, "batch statistics over the channels")
    if kind == "batch_norm" and not batch_statistics:
        trace.count(kind, 2 if affine[0] is not None else 1, call.first.shape, labels)
    else:
        trace.count(kind, 5 if affine[0] is not None else 4, call.first.shape, labels)
    trace.site("norm", affine, labels[1])
    return labels


@rule("layer_norm", "rms_norm")
def _layer_norm(trace: TraceState, call: Call) -> Labels:
    """Input [*, C]; affine parameters [C], or over several trailing dimensions."""
    kind, rank = call.func._schema.name.split("::")[1], call.first.dim()
    normed = range(rank - len(call["normalized_shape"]), rank)
    labels = trace.labels(call.first, acting_on=tuple(normed))
    affine: list[Any] = [call["weight"], call["bias"] if _has(call, "bias") else None]
    for tensor in affine:
        for ids, own in zip(
            labels[::-1], trace.labels(tensor)[::-1] if tensor is not None else (), strict=False
        ):
            trace.tie(ids, own)
    for dim in normed:
        trace.inexact(labels[dim], f"{kind} over the channels")
    if kind == "layer_norm":
        trace.count(kind, 5 if affine[0] is not None else 4, call.first.shape, labels)
    return labels


@rule("group_norm")
def _group_norm(trace: TraceState, call: Call) -> Labels:
    """Input [N, C, *]; the groups stay equally wide."""
    labels = trace.labels(call["input"])
    for tensor in (call["weight"], call["bias"]):
        if tensor is not None:
            trace.tie(labels[1], trace.labels(tensor)[0])
    trace.inexact(labels[1], "group_norm over the channels")
    if labels[1] is not None and len(labels[1]) > call["num_groups"] > 1:
        _tie_all(trace, labels[1].reshape(call["num_groups"], -1))
    elif call["num_groups"] > 1:
        trace.freeze(labels[1], "group_norm with one channel a group")
    trace.count("group_norm", 5 if call["weight"] is not None else 4, call["input"].shape, labels)
    return labels


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
