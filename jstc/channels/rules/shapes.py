"""Operations that move, join, cut or reshape dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from jstc.channels.labelling import Labelling
from jstc.channels.labels import FIRST_FREE, FIXED, Call, Ids, Labels
from jstc.channels.rules.arithmetic import broadcast
from jstc.channels.rules.registry import rule

__all__ = ["regroup"]


@rule("permute")
def _permute(labelling: Labelling, call: Call) -> Labels:
    labels = labelling.labels(call.first)
    return tuple(labels[d] for d in call["dims"])


@rule("transpose", "swapaxes", "swapdims")
def _transpose(labelling: Labelling, call: Call) -> Labels:
    labels = list(labelling.labels(call.first))
    if labels:
        a, b = call.args[1], call.args[2]
        labels[a], labels[b] = labels[b], labels[a]
    return tuple(labels)


@rule("t", "numpy_T")
def _t(labelling: Labelling, call: Call) -> Labels:
    return labelling.labels(call.first)[::-1]


@rule("unsqueeze")
def _unsqueeze(labelling: Labelling, call: Call) -> Labels:
    labels = list(labelling.labels(call.first))
    labels.insert(call["dim"] % (len(labels) + 1), np.zeros(1, np.int64))
    return tuple(labels)


@rule("squeeze")
def _squeeze(labelling: Labelling, call: Call) -> Labels:
    labels, rank = labelling.labels(call.first), call.first.dim()
    names = {a.name for a in call.func._schema.arguments}
    dim = call["dim"] if "dim" in names else range(rank)
    dims = {d % rank for d in (dim if isinstance(dim, list | tuple | range) else [dim])}
    return tuple(ids for d, ids in enumerate(labels) if d not in dims or call.first.shape[d] != 1)


@rule("expand", "expand_as", "broadcast_to")
def _expand(labelling: Labelling, call: Call) -> Labels:
    labels, shape = labelling.labels(call.first), call.out.shape
    padded = (None,) * (len(shape) - len(labels)) + labels
    return tuple(
        ids
        if ids is not None and len(ids) == n
        else (None if d < len(shape) - len(labels) else np.zeros(n, np.int64))
        for d, (ids, n) in enumerate(zip(padded, shape, strict=True))
    )


@rule("repeat")
def _repeat(labelling: Labelling, call: Call) -> Labels:
    labels, times = labelling.labels(call.first), call["repeats"]
    padded = (np.zeros(1, np.int64),) * (len(times) - len(labels)) + labels
    return tuple(None if ids is None else np.tile(ids, n) for ids, n in zip(padded, times, strict=True))


@rule("cat", "concat", "concatenate")
def _cat(labelling: Labelling, call: Call) -> Labels:
    """Ids are joined along `dim` and equal elsewhere."""
    tensors = [t for t in call.args[0] if t.dim() == call.out.dim()]  # legacy: empty 1-d tensors are skipped
    dim = call["dim"] % call.out.dim()
    out: list[Ids | None] = [None] * call.out.dim()
    for d in range(call.out.dim()):
        if d == dim:
            parts = [(t.shape[d], labelling.labels(t)[d]) for t in tensors]
            out[d] = np.concatenate([np.full(n, FIXED) if ids is None else ids for n, ids in parts])
            continue
        for tensor in tensors:
            ids = labelling.labels(tensor)[d]
            if out[d] is not None:
                labelling.tie(out[d], ids)
            out[d] = ids if out[d] is None else out[d]
    return tuple(out)


@rule("stack")
def _stack(labelling: Labelling, call: Call) -> Labels:
    labels = list(broadcast(labelling, [labelling.labels(t) for t in call.args[0]], call.out.dim() - 1))
    labels.insert(call["dim"] % call.out.dim(), np.full(len(call.args[0]), FIXED))
    return tuple(labels)


@rule("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk")
def _split(labelling: Labelling, call: Call) -> list[Labels]:
    """Parts of equal width are tied position by position, so that they stay equal."""
    labels = labelling.labels(call.first)
    dim = (call["dim"] if _has(call, "dim") else 0) % len(labels)
    ids = labels[dim]
    sizes = [part.shape[dim] for part in call.out]
    if ids is None:
        labelling.part(None)
        return [labels] * len(sizes)
    ends = np.cumsum(sizes)
    parts = [ids[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    if "sizes" not in call.func._schema.name and len(parts) > 1:
        if len(set(sizes)) > 1:
            labelling.freeze(ids, "split into unequal parts")
        for part in parts[1:]:
            labelling.tie(parts[0][: len(part)], part)
    labelling.part(*parts)
    return [_replaced(labels, dim, part) for part in parts]


def _has(call: Call, name: str) -> bool:
    return any(a.name == name for a in call.func._schema.arguments)


def _replaced(labels: Labels, dim: int, ids: Ids | None) -> Labels:
    return (*labels[:dim], ids, *labels[dim + 1 :])


@rule("slice", "narrow")
def _slice(labelling: Labelling, call: Call) -> Labels:
    labels = labelling.labels(call.first)
    dim = call["dim"] % len(labels)
    ids = labels[dim]
    if ids is None or len(ids) == call.out.shape[dim]:
        labelling.part(ids)
        return labels
    if call.func._schema.name == "aten::narrow":
        start, step = call.args[2], 1
    else:
        start, step = call["start"] or 0, call["step"]
    start = start + len(ids) if start < 0 else start
    part = ids[start : start + call.out.shape[dim] * step : step][: call.out.shape[dim]]
    labelling.part(part)
    return _replaced(labels, dim, part)


@rule("select")
def _select(labelling: Labelling, call: Call) -> Labels:
    labels = labelling.labels(call.first)
    dim = call["dim"] % len(labels)
    labelling.freeze(labels[dim], "one channel is picked by its number")
    return (*labels[:dim], *labels[dim + 1 :])


@rule("unbind")
def _unbind(labelling: Labelling, call: Call) -> list[Labels]:
    labels = labelling.labels(call.first)
    dim = (call["dim"] if _has(call, "dim") else 0) % len(labels)
    labelling.freeze(labels[dim], "channels are taken apart one by one")
    return [(*labels[:dim], *labels[dim + 1 :])] * len(call.out)


@rule("constant_pad_nd", "pad")
def _pad(labelling: Labelling, call: Call) -> Labels:
    """Padding of space passes; padded channels have a literal number of zeros, so those stay whole."""
    labels = list(labelling.labels(call.first))
    pad = call["pad"]
    for i in range(len(pad) // 2):
        dim, (before, after) = len(labels) - 1 - i, pad[2 * i : 2 * i + 2]
        if (before or after) and labels[dim] is not None:
            labelling.freeze(labels[dim], "channels are padded by a fixed number")
            labels[dim] = np.full(call.out.shape[dim], FIXED)
    return tuple(labels)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _shuffle(labelling: Labelling, call: Call) -> Labels:
    """[N, C * r * r, H, W] <-> [N, C, H * r, W * r]; channel shuffle: [N, g, C / g] -> [N, C / g, g]."""
    name, ids = call.func._schema.name, labelling.labels(call.first)[-3]
    space = [np.full(n, FIXED) for n in call.out.shape[-2:]]
    channels = ids
    if ids is not None and "unshuffle" in name:
        channels = np.repeat(ids, call["downscale_factor"] ** 2)
    elif ids is not None and "pixel" in name:
        channels = _keep(labelling, ids.reshape(-1, call["upscale_factor"] ** 2), keep=0)[0]
    elif ids is not None:
        rows = ids.reshape(call["groups"], -1)
        channels = np.repeat(_keep(labelling, rows, keep=1)[1], call["groups"])  # type: ignore[arg-type]
    return (*labelling.labels(call.first)[:-3], channels, *space)


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
def _view(labelling: Labelling, call: Call) -> Labels:
    return regroup(labelling, labelling.labels(call.first), call.first.shape, call.out.shape)


def regroup(labelling: Labelling, labels: Labels, old: Sequence[int], new: Sequence[int]) -> Labels:
    """Labels after a view from shape `old` to shape `new`.

    Both shapes are cut into the shortest runs of equal product; within a run dimensions are flattened,
    which repeats ids, and split again, which keeps ids on one dimension and ties them along the others.
    """
    out: list[Ids | None] = []
    for olds, news in _runs(old, new):
        part = labels[olds[0] : olds[1]]
        shape = tuple(new[news[0] : news[1]])
        if olds[1] - olds[0] == 1 and len(shape) == 1:
            out.append(part[0])
        elif all(ids is None for ids in part):
            out.extend([None] * len(shape))
        else:
            flat = _flatten(labelling, part, old[olds[0] : olds[1]])
            out.extend(_keep(labelling, flat.reshape(shape)) if len(shape) != 1 else [flat])
    return tuple(out)


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
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


def _flatten(labelling: Labelling, labels: Labels, shape: Sequence[int]) -> Ids:
    """Ids of the flattened dimensions. At most one of them may hold channels; others freeze them."""
    arrays = [np.full(n, FIXED) if ids is None else ids for ids, n in zip(labels, shape, strict=True)]
    channel = [d for d, ids in enumerate(arrays) if (ids >= FIRST_FREE).any()]
    if len(channel) > 1:
        for d in channel:
            labelling.freeze(arrays[d], "two channel dimensions are merged into one")
        return np.full(prod(shape), FIXED)
    if not channel:
        return np.full(prod(shape), max((ids[0] for ids in arrays if len(ids)), default=FIXED))
    d = channel[0]
    return np.tile(np.repeat(arrays[d], prod(shape[d + 1 :])), prod(shape[:d]))


def _keep(labelling: Labelling, rows: Ids, keep: int | None = None) -> list[Ids | None]:
    """Split ids of shape `rows.shape` over dimensions: one keeps them, along the others they are tied.

    The one that keeps them is the dimension along which alone they vary, else the widest (heads of an
    attention stay, their width may shrink; groups of a channel shuffle likewise), of equals the last.
    """
    if keep is None:
        keep = _varying(rows)
    lines = np.moveaxis(rows, keep, -1).reshape(-1, rows.shape[keep])
    for line in np.unique(lines, axis=0) if len(lines) > 1 else lines:
        labelling.tie(lines[0], line)
    return [lines[0] if d == keep else np.full(n, FIXED) for d, n in enumerate(rows.shape)]


def _varying(rows: Ids) -> int:
    for d in range(rows.ndim):
        if (rows == np.take(rows, [0], axis=d)).all():
            continue
        others = tuple(o for o in range(rows.ndim) if o != d)
        if (rows == rows[tuple(slice(0, 1) if o in others else slice(None) for o in range(rows.ndim))]).all():
            return d
    return rows.ndim - 1 - int(np.argmax(rows.shape[::-1]))
