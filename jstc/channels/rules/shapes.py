"""Operations that move, join, cut or reshape dimensions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import numpy as np

from jstc.channels.rules.arithmetic import broadcast
from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import (
    FIRST_FREE,
    FIXED,
    Axis,
    Block,
    Call,
    Ids,
    Labels,
    Raw,
    fixed,
    keep_axis,
    selected,
    varying_axis,
)
from jstc.channels.trace.state import TraceState

__all__ = ["regroup"]


@rule("permute")
def _permute(trace: TraceState, call: Call) -> Raw:
    labels = trace.raw(call.first)
    return tuple(labels[d] for d in call["dims"])


@rule("transpose", "swapaxes", "swapdims")
def _transpose(trace: TraceState, call: Call) -> Raw:
    labels = list(trace.raw(call.first))
    if labels:
        a, b = call.args[1], call.args[2]
        labels[a], labels[b] = labels[b], labels[a]
    return tuple(labels)


@rule("t", "numpy_T")
def _t(trace: TraceState, call: Call) -> Raw:
    return trace.raw(call.first)[::-1]


@rule("unsqueeze")
def _unsqueeze(trace: TraceState, call: Call) -> Raw:
    labels = list(trace.raw(call.first))
    labels.insert(call["dim"] % (len(labels) + 1), np.zeros(1, np.int64))
    return tuple(labels)


@rule("squeeze")
def _squeeze(trace: TraceState, call: Call) -> Raw:
    labels, rank = trace.raw(call.first), call.first.dim()
    names = {a.name for a in call.func._schema.arguments}
    dim = call["dim"] if "dim" in names else range(rank)
    dims = {d % rank for d in (dim if isinstance(dim, list | tuple | range) else [dim])}
    for d in dims:  # cut to one they would go, too
        label = labels[d]
        if call.first.shape[d] != 1 and label is not None:
            (ids,) = trace.decided((label,))
            trace.freeze(ids, "squeeze would drop a dimension of one channel")
    return tuple(ids for d, ids in enumerate(labels) if d not in dims or call.first.shape[d] != 1)


@rule("expand", "expand_as", "broadcast_to")
def _expand(trace: TraceState, call: Call) -> Raw:
    """A dimension expanded from size one fits anything; `expand_as` takes the labels of its example."""
    raw, shape = trace.raw(call.first), call.out.shape
    padded = (None,) * (len(shape) - len(raw)) + raw
    other = trace.raw(call["other"]) if _has(call, "other") else (None,) * len(shape)
    return tuple(
        label if isinstance(label, Axis) or (label is not None and len(label) == n) else new
        for label, new, n in zip(padded, other, shape, strict=True)
    )


@rule("repeat")
def _repeat(trace: TraceState, call: Call) -> Labels:
    """A dimension repeated from size one fits anything, as an expanded one does."""
    labels, times = trace.labels(call.first), call["repeats"]
    padded = (np.zeros(1, np.int64),) * (len(times) - len(labels)) + labels
    return tuple(
        None if ids is None or (n > 1 and len(ids) == 1 and ids[0] == FIXED) else np.tile(ids, n)
        for ids, n in zip(padded, times, strict=True)
    )


@rule("cat", "concat", "concatenate")
def _cat(trace: TraceState, call: Call) -> Raw:
    """Ids are joined along `dim` and equal elsewhere."""
    tensors = [t for t in call.args[0] if t.dim() == call.out.dim()]  # legacy: empty 1-d tensors are skipped
    dim = call["dim"] % call.out.dim()
    raws = [trace.raw(t) for t in tensors]
    raws = [
        trace.labels(t, acting_on=(dim,)) if isinstance(raw[dim], Axis) else raw
        for t, raw in zip(tensors, raws, strict=True)
    ]
    parts = [(t.shape[dim], *trace.decided(raw[dim : dim + 1])) for t, raw in zip(tensors, raws, strict=True)]
    joined = np.concatenate([np.full(n, FIXED) if ids is None else ids for n, ids in parts])
    rest = broadcast(trace, [(*raw[:dim], None, *raw[dim + 1 :]) for raw in raws], call.out.dim())
    return (*rest[:dim], joined, *rest[dim + 1 :])


@rule("stack")
def _stack(trace: TraceState, call: Call) -> Labels:
    joined = broadcast(trace, [trace.labels(t) for t in call.args[0]], call.out.dim() - 1)
    labels = list(trace.decided(joined))
    labels.insert(call["dim"] % call.out.dim(), np.full(len(call.args[0]), FIXED))
    return tuple(labels)


@rule("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk")
def _split(trace: TraceState, call: Call) -> list[Labels]:
    """Parts of equal width are tied position by position, so that they stay equal."""
    dim = (call["dim"] if _has(call, "dim") else 0) % call.first.dim()
    labels = trace.labels(call.first, acting_on=(dim,))
    ids = labels[dim]
    sizes = [part.shape[dim] for part in call.out]
    if ids is None:
        trace.part(None)
        return [labels] * len(sizes)
    ends = np.cumsum(sizes)
    parts = [ids[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    if "sizes" in call.func._schema.name:
        trace.border(ids, *parts)
    elif len(parts) > 1:
        if len(set(sizes)) > 1:
            trace.freeze(ids, "split into unequal parts")
        for part in parts[1:]:
            trace.tie(parts[0][: len(part)], part)
    trace.part(*parts)
    return [_replaced(labels, dim, part) for part in parts]


def _has(call: Call, name: str) -> bool:
    return any(a.name == name for a in call.func._schema.arguments)


def _replaced(labels: Labels, dim: int, ids: Ids | None) -> Labels:
    return (*labels[:dim], ids, *labels[dim + 1 :])


@rule("slice", "narrow")
def _slice(trace: TraceState, call: Call) -> Raw:
    dim = call["dim"] % call.first.dim()
    if call.out.shape == call.first.shape:
        trace.part(*(label for label in (trace.raw(call.first)[dim],) if not isinstance(label, Axis)))
        return trace.raw(call.first)
    raw = trace.raw(call.first)
    if isinstance(raw[dim], Axis):
        raw = trace.labels(call.first, acting_on=(dim,))
    (ids,) = trace.decided(raw[dim : dim + 1])
    if ids is None:
        trace.part(ids)
        return raw
    if call.func._schema.name == "aten::narrow":
        start, step = call.args[2], 1
    else:
        start, step = call["start"] or 0, call["step"]
    start = start + len(ids) if start < 0 else start
    part = ids[start : start + call.out.shape[dim] * step : step][: call.out.shape[dim]]
    trace.border(ids, part)
    trace.part(part)
    if len(part) == 1:
        trace.freeze(part, "one channel is picked by its number")
    return (*raw[:dim], part, *raw[dim + 1 :])


@rule("select")
def _select(trace: TraceState, call: Call) -> Raw:
    raw = trace.raw(call.first)
    dim = call["dim"] % len(raw)
    if _undecided(raw[dim]):  # queries of a view as [3, heads, width], say
        return selected(trace, raw, dim, call["index"])
    labels = trace.decided(raw)
    trace.freeze(labels[dim], "one channel is picked by its number")
    return (*labels[:dim], *labels[dim + 1 :])


def _undecided(label: object) -> bool:
    return isinstance(label, Axis) and label.block.labels is None


@rule("unbind")
def _unbind(trace: TraceState, call: Call) -> Sequence[Raw]:
    raw = trace.raw(call.first)
    dim = (call["dim"] if _has(call, "dim") else 0) % len(raw)
    if _undecided(raw[dim]):
        return [selected(trace, raw, dim, index) for index in range(len(call.out))]
    labels = trace.decided(raw)
    trace.freeze(labels[dim], "channels are taken apart one by one")
    return [(*labels[:dim], *labels[dim + 1 :])] * len(call.out)


@rule("constant_pad_nd", "pad")
def _pad(trace: TraceState, call: Call) -> Labels:
    """Padded positions are a literal number, which stays; other modes than a constant repeat channels."""
    labels, pad = list(trace.labels(call.first)), call["pad"]
    constant = not _has(call, "mode") or call["mode"] == "constant"
    for i in range(len(pad) // 2):
        dim, (before, after) = len(labels) - 1 - i, pad[2 * i : 2 * i + 2]
        ids = labels[dim]
        if ids is None or not (before or after):
            continue
        if not constant:
            trace.freeze(ids, f"channels are padded by mode {call['mode']}")
            labels[dim] = np.full(call.out.shape[dim], FIXED)
            continue
        kept = ids[max(-before, 0) : len(ids) - max(-after, 0)]
        trace.part(kept)
        ends = (np.full(max(before, 0), FIXED), np.full(max(after, 0), FIXED))
        labels[dim] = np.concatenate([ends[0], kept, ends[1]])
    return tuple(labels)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _shuffle(trace: TraceState, call: Call) -> Labels:
    """[N, C * r * r, H, W] <-> [N, C, H * r, W * r]; channel shuffle: [N, g, C / g] -> [N, C / g, g]."""
    name, ids = call.func._schema.name, trace.labels(call.first)[-3]
    space = [np.full(n, FIXED) for n in call.out.shape[-2:]]
    channels = ids
    if ids is not None and "unshuffle" in name:
        channels = np.repeat(ids, call["downscale_factor"] ** 2)
    elif ids is not None and "pixel" in name:
        channels = keep_axis(trace, ids.reshape(-1, call["upscale_factor"] ** 2), keep=0)[0]
    elif ids is not None:
        rows = ids.reshape(call["groups"], -1)
        channels = np.repeat(keep_axis(trace, rows, keep=1)[1], call["groups"])
    return (*trace.labels(call.first)[:-3], channels, *space)


@rule(
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "_unsafe_view",
    "_reshape_alias",
    "view_as",
    "reshape_as",
    "ravel",
)
def _view(trace: TraceState, call: Call) -> Raw:
    raw = trace.raw(call.first)
    if call.out.numel() != call.first.numel():  # bytes seen as another type
        for ids in trace.decided(raw):
            trace.freeze(ids, "channels are seen as another type")
        return tuple(fixed(n) for n in call.out.shape)
    return regroup(trace, raw, call.first.shape, call.out.shape, trace.heads())


def regroup(
    trace: TraceState, raw: Raw, old: Sequence[int], new: Sequence[int], heads: Collection[int] = ()
) -> Raw:
    """Labels after a view from shape `old` to shape `new`.

    Both shapes are cut into the shortest runs of equal product; within a run dimensions are flattened, which
    repeats ids, and split again, which leaves open which of the new dimensions keeps the channels. `heads`
    are sizes that a dimension of whole heads may have: of equals it is the one to keep.
    """
    out: list[Ids | Axis | None] = []
    for olds, news in _runs(old, new):
        part, shape = raw[olds[0] : olds[1]], tuple(new[news[0] : news[1]])
        if len(part) == len(shape) and old[olds[0] : olds[1]] == new[news[0] : news[1]]:
            out.extend(part)
        elif all(label is None for label in part):
            out.extend([None] * len(shape))
        else:
            flat = _flatten(trace, part, old[olds[0] : olds[1]])
            out.extend(_spread(trace, flat, shape, heads))
    return tuple(out)


def _spread(
    trace: TraceState, flat: Ids, shape: tuple[int, ...], heads: Collection[int]
) -> list[Ids | Axis | None]:
    if len(shape) == 1:
        return [flat]
    ids = flat.reshape(shape)
    real = [d for d, n in enumerate(shape) if n > 1]
    if not (flat >= FIRST_FREE).any():
        return [np.full(n, flat.max(initial=FIXED)) for n in shape]
    if len(real) < 2:
        return list(keep_axis(trace, ids))
    inner = ids.reshape([shape[d] for d in real])
    if varying_axis(inner) is not None:  # repeated ids: it is clear which dimension they vary along
        return list(keep_axis(trace, ids))
    whole = next((i for i, d in enumerate(real) if shape[d] in heads), None)
    if whole is not None:
        trace.record.headed.add(trace.module)
        if trace.module in trace.narrow:
            others = [d for i, d in enumerate(real) if i != whole]
            return list(keep_axis(trace, ids, max(reversed(others), key=lambda d: shape[d])))
    block = Block(inner, whole)
    axes = {d: Axis(block, i) for i, d in enumerate(real)}
    return [axes.get(d, np.zeros(1, np.int64)) for d in range(len(shape))]


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    if 0 in old:  # nothing to follow, and no two products would tell where a run ends
        return [((0, len(old)), (0, len(new)))]
    runs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start = (i, j)
        i, j = i + (i < len(old)), j + (j < len(new))
        while prod(old[start[0] : i]) != prod(new[start[1] : j]):
            if prod(old[start[0] : i]) < prod(new[start[1] : j]):
                i += 1
            else:
                j += 1
        if i == len(old) or j == len(new):  # trailing ones
            i, j = len(old), len(new)
        runs.append(((start[0], i), (start[1], j)))
    return runs


def _flatten(trace: TraceState, raw: Raw, shape: Sequence[int]) -> Ids:
    """Ids of the flattened dimensions. At most one of them may hold channels; others freeze them."""
    whole = _whole_block(raw, shape)
    if whole is not None:
        return whole
    axes = [label for label in raw if isinstance(label, Axis)]
    if len(axes) == 1:  # heads that are merged with the batch
        axes[0].block.decide(trace, axes[0].index)
    labels = trace.decided(raw)
    arrays = [np.full(n, FIXED) if ids is None else ids for ids, n in zip(labels, shape, strict=True)]
    channel = [d for d, ids in enumerate(arrays) if (ids >= FIRST_FREE).any()]
    if len(channel) > 1:
        for d in channel:
            trace.freeze(arrays[d], "two channel dimensions are merged into one")
        return np.full(prod(shape), FIXED)
    if not channel:
        return np.full(prod(shape), max((ids[0] for ids in arrays if len(ids)), default=FIXED))
    d = channel[0]
    return np.tile(np.repeat(arrays[d], prod(shape[d + 1 :])), prod(shape[:d]))


def _whole_block(raw: Raw, shape: Sequence[int]) -> Ids | None:
    """Ids of undecided dimensions that are merged again as they were split; None for anything else."""
    real = [(label, n) for label, n in zip(raw, shape, strict=True) if n > 1]
    axes = [label for label, _ in real if isinstance(label, Axis)]
    if len(axes) != len(real) or not axes or axes[0].block.labels is not None:
        return None
    block = axes[0].block
    in_order = [a.index for a in axes] == list(range(block.ids.ndim))
    return block.ids.reshape(-1) if in_order and all(a.block is block for a in axes) else None
