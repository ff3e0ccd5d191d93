"""Recurrent layers, as torch executes them: all layers, directions and time steps at once.

fvcore counts no FLOPs for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jstc.channels.rules.registry import rule
from jstc.channels.trace.ids import FIXED, Call, Ids, Labels
from jstc.channels.trace.state import TraceState

__all__: list[str] = []

_GATES = {"lstm": 4, "gru": 3}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(trace: TraceState, call: Call) -> list[Labels]:
    """Input [N, T, C] or [T, N, C]; for each layer and direction W_ih [gates * H, C], W_hh [gates * H, H] ...

    The states of all layers and directions are one tensor, so the k-th channels of all are one.
    """
    name = call.func._schema.name.split("::")[1]
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
