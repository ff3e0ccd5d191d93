"""Norms, weights that are normalised before use, gated halves, and recurrent layers.

fvcore counts a batch norm in eval mode as two FLOPs per element (one without affine parameters), other norms
as five (four), and none for recurrent layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIXED, Call, Ids, Labels
from jstc.channels.trace.state import TraceState

__all__: list[str] = []


@rule("batch_norm", "instance_norm")
def _batch_norm(trace: TraceState, call: Call) -> Labels:
    """Input [N, C, *]; affine parameters and running statistics [C]."""
    labels = trace.labels(call.first)
    affine = (call["weight"], call["bias"])
    for tensor in (*affine, call["running_mean"], call["running_var"]):
        if tensor is not None:
            trace.tie(labels[1], trace.labels(tensor)[0])
    kind = call.kind
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
    kind, rank = call.kind, call.first.dim()
    normed = range(rank - len(call["normalized_shape"]), rank)
    labels = trace.labels(call.first, acting_on=tuple(normed))
    affine: list[Any] = [call["weight"], call["bias"] if call.has("bias") else None]
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
        trace.tie_all(labels[1].reshape(call["num_groups"], -1))
    elif call["num_groups"] > 1:
        trace.freeze(labels[1], "group_norm with one channel a group")
    trace.count("group_norm", 5 if call["weight"] is not None else 4, call["input"].shape, labels)
    return labels


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


# -- recurrent layers, as torch executes them: all layers, directions and time steps at once ------------

_GATES = {"lstm": 4, "gru": 3}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(trace: TraceState, call: Call) -> list[Labels]:
    """Input [N, T, C] or [T, N, C]; for each layer and direction W_ih [gates * H, C], W_hh [gates * H, H] ...

    The states of all layers and directions are one tensor, so the k-th channels of all are one.
    """
    name = call.kind
    *space, x = trace.labels(call.first, acting_on=(-1,))
    trace.freeze(space[_time(call)], "a recurrent layer runs over the channels")
    directions = 2 if call["bidirectional"] else 1
    states: list[tuple[Ids | None, Ids | None]] = []
    for _, cells in _layers(call["params"], call["num_layers"], directions):
        found = [_cell(trace, x, cell, _GATES.get(name, 1), biased=call["has_biases"]) for cell in cells]
        states += found
        x = _joined([hidden for hidden, _ in found])
    given = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
    kinds = [[hidden for hidden, _ in states], [inner for _, inner in states]][: len(given)]
    for tensor, kind in zip(given, kinds, strict=True):
        for ids in kind[1:]:
            trace.tie(kind[0], ids)
        trace.tie(trace.labels(tensor)[-1], kind[0])
    batch: Labels = tuple(ids for d, ids in enumerate(space) if d != _time(call)) or (None,) * (
        call.out[1].dim() - 2
    )
    first = np.full(len(states), FIXED)
    return [(*space, x), *((first, *batch[: call.out[1].dim() - 2], kind[0]) for kind in kinds)]


def _time(call: Call) -> int:
    batched = call.func._schema.overload_name == "input" and call.first.dim() == 3
    return 1 if batched and call["batch_first"] else 0


def _layers(
    params: Sequence[Tensor], layers: int, directions: int
) -> list[tuple[int, list[Sequence[Tensor]]]]:
    """Parameters by layer, and in each by direction."""
    size = len(params) // (layers * directions)
    cells = [params[i : i + size] for i in range(0, len(params), size)]
    return [(i, cells[i * directions : (i + 1) * directions]) for i in range(layers)]


def _cell(
    trace: TraceState, x: Ids | None, params: Sequence[Tensor], gates: int, *, biased: bool
) -> tuple[Ids | None, Ids | None]:
    """Channels of the output and of the inner state (the same without a projection)."""
    (rows, inputs), (again, hidden) = (trace.labels(weight) for weight in params[:2])
    trace.tie(x, inputs)
    trace.tie(rows, again)
    for bias in params[2:4] if biased else ():
        trace.tie(rows, trace.labels(bias)[0])
    inner = _of_all_gates(trace, rows, gates)
    out = inner
    if len(params) % 2:  # a projection of the output is the last
        out, columns = trace.labels(params[-1])
        trace.tie(columns, inner)
    trace.tie(out, hidden)
    return out, inner


def _of_all_gates(trace: TraceState, rows: Ids | None, gates: int) -> Ids | None:
    if rows is None:
        return None
    parts = np.split(rows, gates)
    for part in parts[1:]:
        trace.tie(parts[0], part)
    return parts[0]


def _joined(parts: Sequence[Ids | None]) -> Ids | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
