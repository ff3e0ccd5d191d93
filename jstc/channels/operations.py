"""The forward as a list: its parameters in the order of their use, and its operations.

`layout` says which groups lie on each dimension of a parameter (for reports), `Executions` how wide each
tensor of an operation is for any plan (for models of latency).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jstc.channels.groups import Structure, layer_of
from jstc.channels.trace.ids import FIRST_FREE, INPUT, Call, Ids, Labels, Operation, Recorder, tensors_in

if TYPE_CHECKING:
    from jstc.channels.trace.state import TraceState

__all__ = ["Executed", "Executions", "Placed", "Traced", "executed", "layout"]

Counts = NDArray[np.int64]

_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "transposed")


@dataclass(frozen=True)
class Traced:
    """One operation as it ran in the trace: shapes and labels of its tensors, parameters included.

    `kind` is ATen's name without the underscore of forms that work in place; `sources` are the numbers of the
    operations whose results it reads. What is not `live` depends on no image: an export folds it.
    """

    kind: str
    inputs: tuple[tuple[tuple[int, ...], Labels], ...]
    output: tuple[tuple[int, ...], Labels]
    settings: Mapping[str, Any]
    sources: tuple[int, ...]
    live: bool


@dataclass(frozen=True)
class Executed:
    """One operation with dimensions as rows of `Executions.sizes`; `shapes` are those of the whole network.

    `inputs[i][d]` is the row of dimension d of the i-th tensor, in the order of the arguments.
    """

    kind: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    settings: Mapping[str, Any]
    sources: tuple[int, ...]
    live: bool


def executed(operations: Sequence[Operation], trace: TraceState) -> list[Traced]:
    """The operations of a finished trace on which an output depends, without the tensors themselves."""
    maker: dict[int, int] = {}  # by id(): all tensors of the trace live
    found: list[Traced] = []
    for number, operation in enumerate(operations):
        call = operation.call
        outputs, tensors = tensors_in(call.out), call.tensors()
        if not outputs or number in trace.record.unused:
            continue
        sources = tuple(maker[id(t)] for t in tensors if id(t) in maker)
        for tensor in outputs:
            maker[id(tensor)] = len(found)
        sized = [(tuple(t.shape), trace.labels(t)) for t in (*tensors, outputs[0])]
        live = any(found[s].live for s in sources) or any(_is_image(labels) for _, labels in sized[:-1])
        found.append(Traced(call.kind, tuple(sized[:-1]), sized[-1], _settings(call), sources, live))
    return found


def _is_image(labels: Labels) -> bool:
    return any(ids is not None and bool((ids == INPUT).any()) for ids in labels)


def _settings(call: Call) -> dict[str, Any]:
    names = {argument.name for argument in call.func._schema.arguments}
    return {name: call[name] for name in _SETTINGS if name in names}


class Executions:
    """The operations of a network in order, and the sizes of their tensors for kept counts per group."""

    def __init__(self, structure: Structure, traced: Sequence[Traced]) -> None:
        self._structure = structure
        self._widths = np.array([g.width for g in structure.groups], np.int64)
        self._group_of = np.repeat(np.arange(len(self._widths)), self._widths)
        self._rows: dict[bytes | int, int] = {}
        self._constant: list[int] = []
        self._multiple: list[NDArray[np.float64]] = []
        self.operations: tuple[Executed, ...] = tuple(map(self._executed, traced))
        self._matrix = np.array(self._multiple).reshape(len(self._constant), len(self._widths))
        self._base = np.array(self._constant)

    def sizes(self, counts: Counts) -> NDArray[np.int64]:
        """Size of each row: a constant plus multiples of the counts [number of groups]."""
        found: NDArray[np.int64] = np.rint(self._base + self._matrix @ counts).astype(np.int64)
        return found

    def varies(self, row: int) -> bool:
        """Whether a plan changes the size of that row."""
        return bool(self._matrix[row].any())

    def _executed(self, traced: Traced) -> Executed:
        return Executed(
            traced.kind,
            tuple(self._dims(*each) for each in traced.inputs),
            self._dims(*traced.output),
            tuple(shape for shape, _ in traced.inputs),
            traced.output[0],
            traced.settings,
            traced.sources,
            traced.live,
        )

    def _dims(self, shape: tuple[int, ...], labels: Labels) -> tuple[int, ...]:
        return tuple(self._row(size, ids) for size, ids in zip(shape, labels, strict=True))

    def _row(self, size: int, ids: Ids | None) -> int:
        cut = ids is not None and len(ids) == size and bool((ids >= FIRST_FREE).any())
        numbers = self._structure.number(ids) if cut and ids is not None else np.zeros(0, np.int64)
        inside = numbers[numbers >= 0]
        key = numbers.tobytes() if len(inside) else size
        if key not in self._rows:
            self._rows[key] = len(self._constant)
            self._constant.append(size - len(inside))
            # A part of a group's channels counts as its share of them.
            many = np.bincount(self._group_of[inside], minlength=len(self._widths))
            self._multiple.append(many / np.maximum(self._widths, 1))
        return self._rows[key]


# -- parameters in the order of their use, and the groups on each of their dimensions ------------------------


@dataclass(frozen=True)
class Placed:
    """A parameter that the forward uses.

    `groups[d]` names the groups that dimension d has channels of, `sizes[d]` says at how many positions each.
    """

    layer: str
    parameter: str
    shape: tuple[int, ...]
    groups: tuple[tuple[str, ...], ...]
    sizes: tuple[tuple[int, ...], ...]


def layout(
    structure: Structure, record: Recorder, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Placed, ...]:
    """The parameters in the order in which the forward first uses them."""
    starts = np.array([group.start for group in structure.groups], np.int64)

    def placed(name: str) -> Placed:
        found = [_groups_of(numbers, starts) for numbers in structure.numbers[name]]
        groups = tuple(tuple(structure.groups[i].name for i in indices) for indices, _ in found)
        return Placed(layer_of(name), name, shapes[name], groups, tuple(tuple(sizes) for _, sizes in found))

    return tuple(placed(name) for name in record.used if name in shapes and name in structure.numbers)


def _groups_of(numbers: Ids | None, starts: Ids) -> tuple[list[int], list[int]]:
    """Indices of the groups along one dimension, and the positions of each."""
    if numbers is None:
        return [], []
    found = np.searchsorted(starts, numbers[numbers >= 0], side="right") - 1
    indices, sizes = np.unique(found, return_counts=True)
    return indices.tolist(), sizes.tolist()
