"""Tensors that a forward makes up itself: constants fit any channels, numbered positions do not."""

from __future__ import annotations

import numpy as np

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIXED, Call, Labels
from jstc.channels.trace.labelling import Labelling

__all__: list[str] = []


@rule("zeros", "ones", "full", "empty", "empty_strided", "empty_permuted", "scalar_tensor", "rand", "randn",
      "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")  # fmt: skip
def _constant(_labelling: Labelling, call: Call) -> Labels:
    """All positions are alike, so that any of them may meet any channel."""
    return tuple(None for _ in call.out.shape)


@rule("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "randperm", "randint",
      "hann_window", "hamming_window", "bartlett_window", "blackman_window", "kaiser_window")  # fmt: skip
def _numbered(_labelling: Labelling, call: Call) -> Labels:
    """Values depend on the position: what they meet can't lose any."""
    return tuple(np.full(n, FIXED) for n in call.out.shape)


@rule("full_like", "zero", "uniform", "normal", "normal_functional", "exponential", "randint_like",
      "lift_fresh_copy", "alias_copy", "lift")  # fmt: skip
def _like(labelling: Labelling, call: Call) -> Labels:
    return labelling.labels(call.first)


@rule("one_hot")
def _one_hot(labelling: Labelling, call: Call) -> Labels:
    """[*] -> [*, classes]."""
    return (*labelling.labels(call.first), np.full(call.out.shape[-1], FIXED))


@rule("tril", "triu")
def _triangle(labelling: Labelling, call: Call) -> Labels:
    """[*, n, m]: which positions become zero depends on their numbers."""
    labels = labelling.labels(call.first, acting_on=(-2, -1))
    for ids in labels[-2:]:
        labelling.freeze(ids, "a triangle of channels is kept by their numbers")
    return labels


@rule("diag_embed")
def _diag_embed(labelling: Labelling, call: Call) -> Labels:
    """[*, C] -> [*, C, C] with zeros off the diagonal."""
    *rest, ids = labelling.labels(call.first)
    rank = call.out.dim()
    dims = sorted(call[name] % rank for name in ("dim1", "dim2"))
    if call["offset"]:
        labelling.freeze(ids, "channels are put beside a diagonal")
    for dim in dims:
        rest.insert(dim, ids if not call["offset"] else np.full(call.out.shape[dim], FIXED))
    return tuple(rest)


@rule("diagonal")
def _diagonal(labelling: Labelling, call: Call) -> Labels:
    """Dimensions n and m -> one last dimension min(n, m)."""
    rank = call.first.dim()
    dims = [call[name] % rank for name in ("dim1", "dim2")]
    labels = labelling.labels(call.first, acting_on=dims)
    rows, columns = (labels[d] for d in dims)
    size = call.out.shape[-1]
    whole = not call["offset"] and rows is not None and columns is not None and len(rows) == len(columns)
    if whole:
        labelling.tie(rows, columns)
    else:
        for ids in (rows, columns):
            labelling.freeze(ids, "a part of a diagonal is taken by its numbers")
    kept = tuple(ids for d, ids in enumerate(labels) if d not in dims)
    return (*kept, rows if whole else np.full(size, FIXED))
