"""Norms and scans along a dimension, weights that are normalised before use, and gated halves."""

from __future__ import annotations

import numpy as np

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIXED, Call, Ids, Labels
from jstc.channels.trace.state import TraceState

__all__: list[str] = []


def _name(call: Call) -> str:
    return call.func._schema.name.split("::")[1].strip("_")


@rule("_weight_norm_interface")
def _weight_norm(trace: TraceState, call: Call) -> list[Labels]:
    """Directions `v` and lengths `g`, both of all dimensions of a weight, `g` of size one but in `dim`."""
    v, g, dim = call["v"], call["g"], call["dim"]
    labels = trace.labels(v)
    trace.tie(labels[dim], trace.labels(g)[dim])
    for d, ids in enumerate(labels):
        if d != dim:
            trace.inexact(ids, "weight_norm over the channels")
    return [labels, trace.labels(g)]


@rule("renorm")
def _renorm(trace: TraceState, call: Call) -> Labels:
    """Slices of dimension `dim` are scaled to a largest norm."""
    labels = trace.labels(call.first)
    for d, ids in enumerate(labels):
        if d != call["dim"] % len(labels):
            trace.inexact(ids, "renorm over the channels")
    return labels


@rule("glu")
def _glu(trace: TraceState, call: Call) -> Labels:
    """The second half gates the first."""
    dim = call["dim"] % call.first.dim()
    labels = trace.labels(call.first, acting_on=(dim,))
    ids = labels[dim]
    half: Ids | None = None
    if ids is not None:
        half, gate = np.split(ids, 2)
        trace.tie(half, gate)
        trace.part(half, gate)
    else:
        trace.part(None, None)
    return (*labels[:dim], half, *labels[dim + 1 :])


@rule("cumprod", "logcumsumexp", "cummax", "cummin")
def _scan(trace: TraceState, call: Call) -> Labels | list[Labels]:
    """Each position holds what came before it, too."""
    labels = trace.labels(call.first, acting_on=(call["dim"],))
    trace.inexact(labels[call["dim"]], f"{_name(call)} over the channels")
    return [labels] * 2 if isinstance(call.out, tuple) else labels


@rule("sort", "argsort", "msort", "topk", "kthvalue", "median", "nanmedian", "mode")
def _order(trace: TraceState, call: Call) -> Labels | list[Labels]:
    """Positions of one dimension (of all, without one) are ordered, and some of them kept."""
    names = {a.name for a in call.func._schema.arguments}
    rank = call.first.dim()
    dims = [call["dim"] % rank] if "dim" in names and rank else list(range(rank))
    labels = trace.labels(call.first, acting_on=dims)
    for dim in dims:
        trace.freeze(labels[dim], f"channels are ordered by their values ({_name(call)})")
    out = call.out if isinstance(call.out, tuple | list) else (call.out,)
    if out[0].dim() < rank:
        found: Labels = tuple(ids for d, ids in enumerate(labels) if d not in dims)
    else:
        found = tuple(np.full(n, FIXED) if d in dims else labels[d] for d, n in enumerate(out[0].shape))
    return [found] * len(out) if isinstance(call.out, tuple | list) else found


@rule("mv", "dot", "vdot", "addmv")
def _vectors(trace: TraceState, call: Call) -> Labels:
    """Matrix [n, k] (or vector [k]) by vector [k], the power iteration of a spectral norm, say."""
    matrix, vector = (trace.labels(t) for t in call.tensors()[-2:])
    trace.tie(matrix[-1], vector[0])
    if "addmv" in _name(call):
        trace.tie(trace.labels(call.first)[-1], matrix[0])
    return matrix[:-1]


@rule("cdist", "_cdist_forward")
def _distances(trace: TraceState, call: Call) -> Labels:
    """Points [*, n, k] and [*, m, k] -> distances [*, n, m]."""
    a, b = (trace.labels(t, acting_on=(-2, -1)) for t in call.tensors()[:2])
    trace.tie(a[-1], b[-1])
    trace.inexact(a[-1], "distances over the channels")
    return (*a[:-2], a[-2], b[-2])
