"""Point-wise operations, reductions, scans and orders, and everything that leaves labels as they are.

fvcore counts no FLOPs for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIRST_FREE, FIXED, Axis, Call, Ids, Labels, Raw, fixed, tensors_in
from jstc.channels.trace.state import TraceState

__all__ = ["broadcast"]


def broadcast(trace: TraceState, operands: Sequence[Raw], rank: int) -> Raw:
    """Labels of the broadcast of tensors with labels `operands`; positions that meet are tied."""
    out: list[Ids | Axis | None] = [None] * rank
    for labels in operands:
        for dim, label in enumerate(labels, start=rank - len(labels)):
            out[dim] = _meet(trace, out[dim], label, last=dim == rank - 1)
    return tuple(out)


def _meet(trace: TraceState, a: Ids | Axis | None, b: Ids | Axis | None, *, last: bool) -> Ids | Axis | None:
    if a is None or b is None or a is b:
        return b if a is None else a
    if isinstance(a, Axis) or isinstance(b, Axis):
        undecided = _meet_undecided(trace, a, b, last=last)
        if undecided is not None:
            return undecided
        (a,), (b,) = trace.decided((a,)), trace.decided((b,))
        assert a is not None
        assert b is not None
    if len(a) != len(b):  # one of them is broadcast
        return a if len(a) > len(b) else b
    if len(a) == 1 and a[0] < FIRST_FREE:
        return b
    if len(a) == 1:
        return a
    trace.tie(a, b)
    # What is never cut is no channel any more, so that an operation need not choose between it and others.
    fixed = (b < FIRST_FREE) & (a >= FIRST_FREE)
    return np.where(fixed, b, a) if fixed.any() else a


def _meet_undecided(trace: TraceState, a: Ids | Axis, b: Ids | Axis, *, last: bool) -> Axis | None:
    """The label of a dimension that stays undecided: the other operand is broadcast, or undecided alike."""
    if isinstance(a, Axis) and isinstance(b, Axis):
        if a.index == b.index and a.block.ids.shape == b.block.ids.shape:
            trace.tie(a.block.ids.reshape(-1), b.block.ids.reshape(-1))
            return a
        return None
    axis, ids = (a, b) if isinstance(a, Axis) else (b, a)
    assert isinstance(axis, Axis)
    assert not isinstance(ids, Axis)
    if len(ids) == 1:
        return axis
    # A value for each position of the last dimension is one for every head; one for each head is not.
    if last:
        axis.block.away_from(trace, (axis.index,))
    else:
        axis.block.decide(trace, axis.index)
    return None


@rule(
    "pointwise", "masked_fill", "rsub", "hardswish", "copy", "fill", "add", "sub", "mul", "div", "where",
    "floor_divide", "abs", "eq", "ne", "ge", "gt", "le", "lt", "gelu", "mish", "copysign", "threshold",
    "xlogy", "complex", "polar",
)  # fmt: skip
def _pointwise(trace: TraceState, call: Call) -> Raw | list[Labels]:
    if isinstance(call.out, Tensor):
        return _elementwise(trace, call)
    if not isinstance(call.out, list | tuple):  # `equal`
        broadcast(trace, [trace.raw(t) for t in call.tensors()], max(t.dim() for t in call.tensors()))
        return []
    for ids in trace.labels(call.first):  # `torch.where(condition)`: the numbers of positions where it holds
        trace.freeze(ids, "channels are picked one by one (where)")
    return [tuple(fixed(n) for n in out.shape) for out in call.out]


def _elementwise(trace: TraceState, call: Call) -> Raw:
    labels = broadcast(trace, [trace.raw(t) for t in call.tensors()], call.out.dim())
    labels = _sized(labels, call.out.shape)
    if call.func._schema.is_mutable and call.out is call.first and _is_part(call.first):
        _written(trace, call.first, trace.raw(call.first), labels)
    return labels


def _is_part(tensor: Tensor) -> bool:
    """Is it a view of a larger tensor?"""
    return tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()


def _written(trace: TraceState, part: Tensor, own: Raw, labels: Raw) -> None:
    # The whole, made up by the forward, will not know what is written into a part of it.
    for mine, ids in zip(own, trace.decided(labels), strict=True):
        if mine is None:
            trace.freeze(ids, "channels are written into a part of a new tensor")
    if any(label is None for label in own):
        trace.numbered(part)


def _sized(labels: Raw, shape: Sequence[int]) -> Raw:
    # A made-up operand (labels None) may be the one that is not broadcast; nothing is known of it.
    return tuple(
        None if label is not None and not isinstance(label, Axis) and len(label) != n else label
        for label, n in zip(labels, shape, strict=True)
    )


@rule(
    "clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as", "dropout", "feature_dropout",
    "alpha_dropout", "lift_fresh", "zeros_like", "ones_like", "empty_like", "rand_like", "randn_like",
    "bernoulli", "identity", "view_as_real_copy", "log_sigmoid",
)  # fmt: skip
def _same(trace: TraceState, call: Call) -> Raw:
    return trace.raw(call.first)


@rule("prelu")
def _prelu(trace: TraceState, call: Call) -> Labels:
    """Input [N, C, *]; one slope for all channels or one for each, [C]."""
    labels, (slope,) = trace.labels(call.first), trace.labels(call["weight"]) or (None,)
    if slope is not None and len(slope) > 1:
        trace.tie(labels[min(1, len(labels) - 1)], slope)
    return labels


@rule("flip")
def _flip(trace: TraceState, call: Call) -> Labels:
    dims = {d % call.first.dim() for d in call["dims"]}
    labels = trace.labels(call.first, acting_on=tuple(dims))
    return tuple(ids[::-1] if ids is not None and d in dims else ids for d, ids in enumerate(labels))


@rule("cumsum")
def _cumsum(trace: TraceState, call: Call) -> Labels:
    labels = trace.labels(call.first, acting_on=(call["dim"],))
    trace.inexact(labels[call["dim"]], "cumsum over the channels")
    dim = call["dim"] % max(len(labels), 1)
    return tuple(
        fixed(n) if d == dim and x is None else x
        for d, (n, x) in enumerate(zip(call.out.shape, labels, strict=True))
    )


@rule("cumprod", "logcumsumexp", "cummax", "cummin")
def _scan(trace: TraceState, call: Call) -> Labels | list[Labels]:
    """Each position holds what came before it, too."""
    labels = trace.labels(call.first, acting_on=(call["dim"],))
    trace.inexact(labels[call["dim"]], f"{call.kind} over the channels")
    return [labels] * 2 if isinstance(call.out, tuple) else labels


@rule("sort", "argsort", "msort", "topk", "kthvalue", "median", "nanmedian", "mode")
def _order(trace: TraceState, call: Call) -> Labels | list[Labels]:
    """Positions of one dimension (of all, without one) are ordered, and some of them kept."""
    names = {a.name for a in call.func._schema.arguments}
    rank = call.first.dim()
    dims = [call["dim"] % rank] if "dim" in names and rank else list(range(rank))
    labels = trace.labels(call.first, acting_on=dims)
    for dim in dims:
        trace.freeze(labels[dim], f"channels are ordered by their values ({call.kind})")
    out = call.out if isinstance(call.out, tuple | list) else (call.out,)
    if out[0].dim() < rank:
        found: Labels = tuple(ids for d, ids in enumerate(labels) if d not in dims)
    else:
        found = tuple(np.full(n, FIXED) if d in dims else labels[d] for d, n in enumerate(out[0].shape))
    return [found] * len(out) if isinstance(call.out, tuple | list) else found


@rule("roll")
def _roll(trace: TraceState, call: Call) -> Labels:
    """Rolling moves positions of the given dimensions; channels there can't be followed."""
    dims = call["dims"] or range(call.first.dim())
    labels = trace.labels(call.first, acting_on=dims)
    for dim in dims:
        trace.freeze(labels[dim], "channels are rolled")
    return labels


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(trace: TraceState, call: Call) -> Labels:
    labels = trace.labels(call.first, acting_on=(call["dim"],))
    trace.freeze(labels[call["dim"]], "softmax over the channels")
    return labels


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "logsumexp", "prod", "aminmax",
      "nansum", "linalg_vector_norm", "all", "any", "var_mean", "std_mean", "count_nonzero")  # fmt: skip
def _reduce(trace: TraceState, call: Call) -> Raw | list[Labels]:
    if any(a.name == "other" for a in call.func._schema.arguments):  # the larger of two tensors
        return _elementwise(trace, call)
    dims, keep = _reduced(call, call.first.dim())
    labels = trace.labels(call.first, acting_on=tuple(dims))
    for dim in dims:
        trace.inexact(labels[dim], f"{call.func._schema.name.split('::')[1]} over the channels")
    out: Labels = tuple(
        np.zeros(1, np.int64) if d in dims else ids for d, ids in enumerate(labels) if keep or d not in dims
    )
    if hasattr(call.out, "dim"):
        return out
    for tensor in call.out:
        if tensor.dtype == torch.int64 and call.first.dtype != torch.int64:  # of `max` and `min`
            trace.holds_numbers(
                tensor, [labels[d] for d in dims], "the number of the largest or smallest channel is taken"
            )
    return [out] * len(call.out)


@rule("argmax", "argmin")
def _numbers(trace: TraceState, call: Call) -> Labels:
    """Numbers of positions: of channels they would change."""
    dims, keep = _reduced(call, call.first.dim())
    labels = trace.labels(call.first, acting_on=tuple(dims))
    for dim in dims:
        trace.freeze(labels[dim], "the number of the largest or smallest channel is taken")
    return tuple(
        np.zeros(1, np.int64) if d in dims else ids for d, ids in enumerate(labels) if keep or d not in dims
    )


def _reduced(call: Call, rank: int) -> tuple[set[int], bool]:
    names = {a.name for a in call.func._schema.arguments}
    given = call["dim"] if "dim" in names else None
    if given is None or given == []:
        dims = set(range(rank))
    else:
        dims = {d % rank for d in (given if isinstance(given, list | tuple) else [given])}
    return dims, bool("keepdim" in names and call["keepdim"])


@rule("_assert_async", "_assert_scalar", "is_same_size", "set_", "_local_scalar_dense", "item")
def _nothing(_trace: TraceState, _call: Call) -> list[Labels]:
    return []


# -- losses ----------------------------------------------------------------------------------------------


@rule(
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "kl_div",
    "binary_cross_entropy_with_logits", "soft_margin_loss", "poisson_nll_loss",
)  # fmt: skip
def _loss(trace: TraceState, call: Call) -> Raw:
    """Of each position alone, and mostly their mean or sum [] in the end."""
    rank = max(tensor.dim() for tensor in call.tensors())
    labels = broadcast(trace, [trace.raw(tensor) for tensor in call.tensors()], rank)
    if call.out.dim() == rank:
        return _sized(labels, call.out.shape)
    for ids in trace.decided(labels):
        trace.inexact(ids, f"{call.kind} over the channels")
    return ()


@rule("cross_entropy_loss", "nll_loss", "nll_loss_nd", "nll_loss2d", "nll_loss_forward", "nll_loss2d_forward")
def _classes(trace: TraceState, call: Call) -> list[Labels]:
    """Scores [N, classes, *] and their targets."""
    for tensor in call.tensors():
        for ids in trace.labels(tensor):
            trace.freeze(ids, "a loss over classes")
    return [tuple(fixed(n) for n in out.shape) for out in tensors_in(call.out)]


# -- complex numbers and Fourier transforms: exact over space, impossible to follow over channels -------


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _fourier(trace: TraceState, call: Call) -> Labels:
    """Every position of the dimensions `dim` depends on all of them."""
    dims = {d % call.first.dim() for d in call["dim"]}
    labels = trace.labels(call.first, acting_on=tuple(dims))
    for dim in dims:
        trace.freeze(labels[dim], "a Fourier transform over the channels")
    return tuple(np.full(call.out.shape[d], FIXED) if d in dims else ids for d, ids in enumerate(labels))


@rule("view_as_real")
def _as_real(trace: TraceState, call: Call) -> Labels:
    """[*] complex -> [*, 2]."""
    return (*trace.labels(call.first), np.full(2, FIXED))


@rule("view_as_complex")
def _as_complex(trace: TraceState, call: Call) -> Labels:
    """[*, 2] -> [*] complex: a pair of channels can't be told from one."""
    labels = trace.labels(call.first, acting_on=(-1,))
    trace.freeze(labels[-1], "channels are the parts of complex numbers")
    return labels[:-1]


@rule("real", "imag", "conj", "_conj", "_conj_physical", "resolve_conj", "resolve_neg", "_neg_view")
def _same_parts(trace: TraceState, call: Call) -> Labels:
    return trace.labels(call.first)
