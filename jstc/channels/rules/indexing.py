"""Positions that are picked, or written to, by numbers in a tensor.

Numbers can't follow a cut, so that the dimension they point into stays whole. A dimension of a parameter or
buffer that is picked from (a table of position biases) is none of channels at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIXED, KERNEL, Call, Ids, Labels, tensors_in
from jstc.channels.trace.labelling import Labelling

__all__ = ["no_channels"]

_PICKED = "channels are picked by the numbers in a tensor"
_WRITTEN = "channels are written to by the numbers in a tensor"


def no_channels(labelling: Labelling, tensor: Tensor, ids: Ids | None, reason: str) -> None:
    """The positions `ids` of a tensor are numbered: channels there stay, because of `reason`."""
    if ids is not None and labelling.name(tensor) is not None:
        labelling.tie(ids, np.full(len(ids), KERNEL))
    else:
        labelling.freeze(ids, reason)


class _Picked(NamedTuple):
    """Labels of `x[indices]`: those of `x` that stay, among which the indices' own come at `place`."""

    rest: Labels
    place: int
    rank: int

    def all(self, new: Sequence[int]) -> Labels:
        """All labels, for indices that are broadcast to sizes `new`."""
        return (*self.rest[: self.place], *_fixed(new), *self.rest[self.place :])


def _picked(labelling: Labelling, x: Tensor, indices: Sequence[Tensor | None], reason: str) -> _Picked:
    pointed: list[int] = []  # dimensions of `x` that the indices stand for
    dim = 0
    for index in indices:
        wide = index.dim() if index is not None and _is_mask(index) else 1
        pointed += range(dim, dim + wide) if index is not None else ()
        dim += wide
    labels = labelling.labels(x, acting_on=pointed)
    for d in pointed:
        no_channels(labelling, x, labels[d], reason)
    rank = max(_numbers(labelling, index) for index in indices if index is not None)
    together = pointed == list(range(pointed[0], pointed[-1] + 1))
    rest = tuple(ids for d, ids in enumerate(labels) if d not in pointed)
    return _Picked(rest, pointed[0] if together else 0, rank)


def _is_mask(index: Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _numbers(labelling: Labelling, index: Tensor) -> int:
    """Number of dimensions that an index tensor puts in place of those that it points into."""
    for ids in labelling.labels(index):
        no_channels(labelling, index, ids, "channels are the numbers of positions")
    return 1 if _is_mask(index) else index.dim()


def _fixed(sizes: Sequence[int]) -> Labels:
    return tuple(np.full(n, FIXED) for n in sizes)


@rule("index", "_unsafe_index")
def _index(labelling: Labelling, call: Call) -> Labels:
    """`x[:, numbers]` and the like."""
    picked = _picked(labelling, call.first, call["indices"], _PICKED)
    return picked.all(call.out.shape[picked.place : picked.place + picked.rank])


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def _index_put(labelling: Labelling, call: Call) -> Labels:
    """`x[:, numbers] = values`."""
    picked = _picked(labelling, call.first, call["indices"], _WRITTEN)
    values = labelling.labels(call["values"])
    _write(labelling, picked.all([1] * picked.rank), values)
    return labelling.labels(call.first)


def _write(labelling: Labelling, target: Labels, values: Labels) -> None:
    """`values` are broadcast to `target`, a part of a tensor that may itself know of no channels."""
    for mine, ids in zip(target[::-1], values[::-1], strict=False):
        if mine is None or len(mine) == 1:
            labelling.freeze(ids, "channels are written into a part of a new tensor")
        elif ids is not None and len(ids) == len(mine):
            labelling.tie(mine, ids)


@rule("index_select")
def _index_select(labelling: Labelling, call: Call) -> Labels:
    """The positions `index` [n] of dimension `dim`."""
    dim = call["dim"] % call.first.dim()
    labels = labelling.labels(call.first, acting_on=(dim,))
    no_channels(labelling, call.first, labels[dim], _PICKED)
    _numbers(labelling, call["index"])
    return (*labels[:dim], *_fixed(call.out.shape[dim : dim + 1]), *labels[dim + 1 :])


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def _index_write(labelling: Labelling, call: Call) -> Labels:
    """`source` (or one value) is written to the positions `index` of dimension `dim`."""
    dim = call["dim"] % call.first.dim()
    labels = labelling.labels(call.first, acting_on=(dim,))
    no_channels(labelling, call.first, labels[dim], _WRITTEN)
    _numbers(labelling, call["index"])
    if "fill" not in call.func._schema.name:
        source = labelling.labels(call["source"])
        labelling.freeze(source[dim], _WRITTEN)
        _write(labelling, (*labels[:dim], np.zeros(1, np.int64), *labels[dim + 1 :]), source)
    return labels


@rule("gather", "take_along_dim")
def _gather(labelling: Labelling, call: Call) -> Labels:
    """For each position of `index` one of `x` along `dim`; elsewhere the positions are the same."""
    index = call["index"] if "gather" in call.func._schema.name else call["indices"]
    if call["dim"] is None:  # of the flattened tensor
        (labels,) = _loose(labelling, call)
        return labels
    return _along(labelling, call.first, call["dim"] % call.first.dim(), index, _PICKED)


def _along(labelling: Labelling, x: Tensor, dim: int, index: Tensor, reason: str) -> Labels:
    """Labels of what `index` points to along `dim`; elsewhere its positions are the first ones of `x`."""
    labels, numbers = labelling.labels(x, acting_on=(dim,)), labelling.labels(index)
    no_channels(labelling, x, labels[dim], reason)
    no_channels(labelling, index, numbers[dim], reason)
    out: list[Ids | None] = []
    for d, (ids, own, size) in enumerate(zip(labels, numbers, index.shape, strict=True)):
        if d == dim:
            out += _fixed([size])
        elif size == 1 or ids is None:
            out.append(ids)  # the index is broadcast
        else:
            labelling.part(ids[:size])
            labelling.tie(ids[:size], own)
            out.append(ids[:size])
    return tuple(out)


@rule("scatter", "scatter_add", "scatter_reduce")
def _scatter(labelling: Labelling, call: Call) -> Labels:
    """`src` is written along `dim` to the positions `index`."""
    dim = call["dim"] % call.first.dim()
    target = _along(labelling, call.first, dim, call["index"], _WRITTEN)
    for source in map(labelling.labels, call.tensors()[2:]):
        labelling.freeze(source[dim], _WRITTEN)
        _write(labelling, target, source)
    return labelling.labels(call.first)


@rule("embedding")
def _embedding(labelling: Labelling, call: Call) -> Labels:
    """Rows of `weight` [n, C] by `indices` [*] -> [*, C]."""
    rows, channels = labelling.labels(call["weight"])
    no_channels(labelling, call["weight"], rows, _PICKED)
    _numbers(labelling, call["indices"])
    return (*_fixed(call.out.shape[:-1]), channels)


@rule("masked_select", "take", "nonzero", "masked_scatter", "bincount", "unique_consecutive", "_unique2",
      "put", "nonzero_static", "as_strided")  # fmt: skip
def _elements(labelling: Labelling, call: Call) -> list[Labels]:
    return _loose(labelling, call)


def _loose(labelling: Labelling, call: Call) -> list[Labels]:
    """Positions of the output have nothing to do with dimensions of the inputs."""
    name = call.func._schema.name.split("::")[1]
    for tensor in call.tensors():
        for ids in labelling.labels(tensor):
            labelling.freeze(ids, f"channels are picked one by one ({name})")
    return [_fixed(out.shape) for out in tensors_in(call.out)]
