"""Positions that are picked, or written to, by numbers in a tensor; tensors that a forward makes up itself.

Numbers can't follow a cut, so that the dimension they point into stays whole. A dimension of a parameter or
buffer that is picked from (a table of position biases) is none of channels at all. Of what is made up,
constants fit any channels, and numbered positions do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIXED, KERNEL, Call, Ids, Labels, tensors_in
from jstc.channels.trace.state import TraceState

__all__ = ["no_channels"]

_PICKED = "channels are picked by the numbers in a tensor"
_WRITTEN = "channels are written to by the numbers in a tensor"


def no_channels(trace: TraceState, tensor: Tensor, ids: Ids | None, reason: str) -> None:
    """The positions `ids` of a tensor are numbered: channels there stay, because of `reason`."""
    if ids is not None and trace.name(tensor) is not None:
        trace.tie(ids, np.full(len(ids), KERNEL))
    else:
        trace.freeze(ids, reason)


class _Picked(NamedTuple):
    """Labels of `x[indices]`: those of `x` that stay, among which the indices' own come at `place`.

    `dims` are the dimensions of `x` that stay.
    """

    rest: Labels
    dims: tuple[int, ...]
    place: int
    rank: int

    def all(self, new: Sequence[int]) -> Labels:
        """All labels, for indices that are broadcast to sizes `new`."""
        return (*self.rest[: self.place], *_fixed(new), *self.rest[self.place :])


def _picked(trace: TraceState, x: Tensor, indices: Sequence[Tensor | None], reason: str) -> _Picked:
    pointed: list[int] = []  # dimensions of `x` that the indices stand for
    dim = 0
    for index in indices:
        wide = index.dim() if index is not None and _is_mask(index) else 1
        pointed += range(dim, dim + wide) if index is not None else ()
        dim += wide
    labels = trace.labels(x, acting_on=pointed)
    for d in pointed:
        no_channels(trace, x, labels[d], reason)
    rank = max(_numbers(trace, index) for index in indices if index is not None)
    together = pointed == list(range(pointed[0], pointed[-1] + 1))
    dims = tuple(d for d in range(x.dim()) if d not in pointed)
    return _Picked(tuple(labels[d] for d in dims), dims, pointed[0] if together else 0, rank)


def _is_mask(index: Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _numbers(trace: TraceState, index: Tensor) -> int:
    """Number of dimensions that an index tensor puts in place of those that it points into."""
    for ids in trace.labels(index):
        no_channels(trace, index, ids, "channels are the numbers of positions")
    return 1 if _is_mask(index) else index.dim()


def _fixed(sizes: Sequence[int]) -> Labels:
    return tuple(np.full(n, FIXED) for n in sizes)


@rule("index", "_unsafe_index")
def _index(trace: TraceState, call: Call) -> Labels:
    """`x[:, numbers]` and the like."""
    picked = _picked(trace, call.first, call["indices"], _PICKED)
    return picked.all(call.out.shape[picked.place : picked.place + picked.rank])


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def _index_put(trace: TraceState, call: Call) -> Labels:
    """`x[:, numbers] = values`."""
    picked = _picked(trace, call.first, call["indices"], _WRITTEN)
    values = trace.labels(call["values"])
    places = (*picked.dims[: picked.place], *[-1] * picked.rank, *picked.dims[picked.place :])
    filled = zip(places[::-1], values[::-1], strict=False)
    # A new tensor that is filled part by part, each with all channels, has these.
    whole = {d: ids for d, ids in filled if d >= 0 and ids is not None and len(ids) == call.first.shape[d]}
    trace.adopt(call.first, whole)
    labels = trace.labels(call.first)
    kept = picked._replace(rest=tuple(labels[d] for d in picked.dims))
    _write(trace, kept.all([1] * picked.rank), values)
    return labels


def _write(trace: TraceState, target: Labels, values: Labels) -> None:
    """`values` are broadcast to `target`, a part of a tensor that may itself know of no channels."""
    for mine, ids in zip(target[::-1], values[::-1], strict=False):
        if mine is None or len(mine) == 1:
            trace.freeze(ids, "channels are written into a part of a new tensor")
        elif ids is not None and len(ids) == len(mine):
            trace.tie(mine, ids)


@rule("index_select")
def _index_select(trace: TraceState, call: Call) -> Labels:
    """The positions `index` [n] of dimension `dim`."""
    dim = call["dim"] % call.first.dim()
    labels = trace.labels(call.first, acting_on=(dim,))
    no_channels(trace, call.first, labels[dim], _PICKED)
    _numbers(trace, call["index"])
    return (*labels[:dim], *_fixed(call.out.shape[dim : dim + 1]), *labels[dim + 1 :])


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def _index_write(trace: TraceState, call: Call) -> Labels:
    """`source` (or one value) is written to the positions `index` of dimension `dim`."""
    dim = call["dim"] % call.first.dim()
    labels = trace.labels(call.first, acting_on=(dim,))
    no_channels(trace, call.first, labels[dim], _WRITTEN)
    _numbers(trace, call["index"])
    if "fill" not in call.func._schema.name:
        source = trace.labels(call["source"])
        trace.freeze(source[dim], _WRITTEN)
        _write(trace, (*labels[:dim], np.zeros(1, np.int64), *labels[dim + 1 :]), source)
    return labels


@rule("select_scatter")
def _select_scatter(trace: TraceState, call: Call) -> Labels:
    """A copy of `self` with `src` at position `index` of dimension `dim`."""
    dim = call["dim"] % call.first.dim()
    labels = trace.labels(call.first, acting_on=(dim,))
    no_channels(trace, call.first, labels[dim], _WRITTEN)
    source = trace.labels(call["src"])
    known = (*source[:dim], labels[dim], *source[dim:])  # of a new tensor, what is put into it
    labels = tuple(theirs if own is None else own for own, theirs in zip(labels, known, strict=True))
    _write(trace, (*labels[:dim], *labels[dim + 1 :]), source)
    return labels


@rule("gather", "take_along_dim")
def _gather(trace: TraceState, call: Call) -> Labels:
    """For each position of `index` one of `x` along `dim`; elsewhere the positions are the same."""
    index = call["index"] if "gather" in call.func._schema.name else call["indices"]
    if call["dim"] is None:  # of the flattened tensor
        (labels,) = _loose(trace, call)
        return labels
    return _along(trace, call.first, call["dim"] % call.first.dim(), index, _PICKED)


def _along(trace: TraceState, x: Tensor, dim: int, index: Tensor, reason: str) -> Labels:
    """Labels of what `index` points to along `dim`; elsewhere its positions are the first ones of `x`."""
    labels, numbers = trace.labels(x, acting_on=(dim,)), trace.labels(index)
    no_channels(trace, x, labels[dim], reason)
    no_channels(trace, index, numbers[dim], reason)
    out: list[Ids | None] = []
    for d, (ids, own, size) in enumerate(zip(labels, numbers, index.shape, strict=True)):
        if d == dim:
            out += _fixed([size])
        elif size == 1 or ids is None:
            out.append(ids)  # the index is broadcast
        else:
            trace.part(ids[:size])
            trace.tie(ids[:size], own)
            out.append(ids[:size])
    return tuple(out)


@rule("scatter", "scatter_add", "scatter_reduce")
def _scatter(trace: TraceState, call: Call) -> Labels:
    """`src` is written along `dim` to the positions `index`."""
    dim = call["dim"] % call.first.dim()
    target = _along(trace, call.first, dim, call["index"], _WRITTEN)
    for source in map(trace.labels, call.tensors()[2:]):
        trace.freeze(source[dim], _WRITTEN)
        _write(trace, target, source)
    return trace.labels(call.first)


@rule("embedding")
def _embedding(trace: TraceState, call: Call) -> Labels:
    """Rows of `weight` [n, C] by `indices` [*] -> [*, C]."""
    rows, channels = trace.labels(call["weight"])
    no_channels(trace, call["weight"], rows, _PICKED)
    _numbers(trace, call["indices"])
    return (*_fixed(call.out.shape[:-1]), channels)


@rule("masked_select", "take", "nonzero", "masked_scatter", "bincount", "unique_consecutive", "_unique2",
      "put", "nonzero_static", "nonzero_numpy", "argwhere", "unique_dim", "as_strided",
      "torchvision::nms")  # fmt: skip
def _elements(trace: TraceState, call: Call) -> list[Labels]:
    return _loose(trace, call)


def _loose(trace: TraceState, call: Call) -> list[Labels]:
    """Positions of the output have nothing to do with dimensions of the inputs."""
    name = call.func._schema.name.split("::")[1]
    for tensor in call.tensors():
        for ids in trace.labels(tensor):
            trace.freeze(ids, f"channels are picked one by one ({name})")
    return [_fixed(out.shape) for out in tensors_in(call.out)]


# -- tensors that a forward makes up itself -----------------------------------------------------------------


@rule("zeros", "ones", "full", "empty", "empty_strided", "empty_permuted", "scalar_tensor", "rand", "randn",
      "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")  # fmt: skip
def _constant(_trace: TraceState, call: Call) -> Labels:
    """All positions are alike, so that any of them may meet any channel."""
    return tuple(None for _ in call.out.shape)


@rule("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "randperm", "randint",
      "hann_window", "hamming_window", "bartlett_window", "blackman_window", "kaiser_window")  # fmt: skip
def _numbered(_trace: TraceState, call: Call) -> Labels:
    """Values depend on the position: what they meet can't lose any."""
    return tuple(np.full(n, FIXED) for n in call.out.shape)


@rule("full_like", "zero", "uniform", "normal", "normal_functional", "exponential", "randint_like",
      "lift_fresh_copy", "alias_copy", "lift")  # fmt: skip
def _like(trace: TraceState, call: Call) -> Labels:
    return trace.labels(call.first)


@rule("one_hot")
def _one_hot(trace: TraceState, call: Call) -> Labels:
    """[*] -> [*, classes]."""
    return (*trace.labels(call.first), np.full(call.out.shape[-1], FIXED))


@rule("tril", "triu")
def _triangle(trace: TraceState, call: Call) -> Labels:
    """[*, n, m]: which positions become zero depends on their numbers."""
    labels = trace.labels(call.first, acting_on=(-2, -1))
    for ids in labels[-2:]:
        trace.freeze(ids, "a triangle of channels is kept by their numbers")
    return labels


@rule("diag_embed")
def _diag_embed(trace: TraceState, call: Call) -> Labels:
    """[*, C] -> [*, C, C] with zeros off the diagonal."""
    *rest, ids = trace.labels(call.first)
    rank = call.out.dim()
    dims = sorted(call[name] % rank for name in ("dim1", "dim2"))
    if call["offset"]:
        trace.freeze(ids, "channels are put beside a diagonal")
    for dim in dims:
        rest.insert(dim, ids if not call["offset"] else np.full(call.out.shape[dim], FIXED))
    return tuple(rest)


@rule("diagonal", "diagonal_copy")
def _diagonal(trace: TraceState, call: Call) -> Labels:
    """Dimensions n and m -> one last dimension min(n, m)."""
    rank = call.first.dim()
    dims = [call[name] % rank for name in ("dim1", "dim2")]
    labels = trace.labels(call.first, acting_on=dims)
    rows, columns = (labels[d] for d in dims)
    size = call.out.shape[-1]
    whole = not call["offset"] and rows is not None and columns is not None and len(rows) == len(columns)
    if whole:
        trace.tie(rows, columns)
    else:
        for ids in (rows, columns):
            trace.freeze(ids, "a part of a diagonal is taken by its numbers")
    kept = tuple(ids for d, ids in enumerate(labels) if d not in dims)
    return (*kept, rows if whole else np.full(size, FIXED))
