"""Labels that a finished trace has after a cut: the channels at the kept positions, the sizes that change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jstc.channels.groups import Structure
from jstc.channels.trace.ids import FIXED, Axis, Ids, Labels, Operation, Raw, keep_axis, tensors_in
from jstc.channels.trace.state import TraceState

__all__ = ["CutLabels"]


class CutLabels:
    """Labels of the uncut network `traced` where of the channels of `structure` those in `keep` are kept."""

    def __init__(self, structure: Structure, keep: Ids, traced: TraceState) -> None:
        self._structure, self._keep, self._traced = structure, keep, traced
        self._kept: dict[int, Ids] = {}
        self._ids: list[Ids] = []  # the arrays behind the keys of `_kept`, kept alive

    def kept(self, raw: Raw) -> Labels:
        """Labels after the cut: the atom of each kept position, `FIXED` where nothing can be cut."""
        return tuple(None if ids is None else self.kept_ids(ids) for ids in self.whole(raw))

    def kept_ids(self, ids: Ids) -> Ids:
        """The atoms of those of the ids [n] that are kept."""
        found = self._kept.get(id(ids))  # arrays of ids are shared by many tensors
        if found is None:
            number = self._structure.number(ids)
            found = np.where(number >= 0, self._structure.atoms[ids], FIXED)[self._keep[number] == 1]
            self._kept[id(ids)] = found
            self._ids.append(ids)
        return found

    def whole(self, raw: Raw) -> Labels:
        """Labels of the uncut network; of what it never decided as a whole, what came of its parts."""
        parted = [x for x in raw if isinstance(x, Axis) and x.block.labels is None]
        for axis in parted:
            axis.block.labels = keep_axis(_Untied(), self._structure.atoms[axis.block.ids])
        labels = self._traced.decided(raw)
        for axis in parted:
            axis.block.labels = None
        return labels

    def is_cut(self, ids: Ids) -> bool:
        """Whether fewer of the ids [n] are kept."""
        return len(self.kept_ids(ids)) != len(ids)

    def sizes(self) -> set[tuple[int, int]]:
        """Widths before and after the cut, of dimensions asked for so far that it changes."""
        sizes = {(len(ids), len(self._kept[id(ids)])) for ids in self._ids}
        return {(before, now) for before, now in sizes if before != now}

    def shapes(self, operation: Operation) -> list[tuple[int, ...]]:
        """What the outputs of an operation of the uncut network should be as large as after the cut."""
        return [
            tuple(n if ids is None else len(ids) for n, ids in zip(t.shape, self.kept(raw), strict=True))
            for t, raw in zip(tensors_in(operation.call.out), operation.found, strict=True)
        ]

    def dims(self, operation: Operation) -> Iterator[tuple[int, Ids]]:
        """Sizes and ids of all dimensions that meet at an operation of the uncut network."""
        call = operation.call
        given = [(t, self._traced.raw(t)) for t in call.tensors()]
        for tensor, raw in [*zip(tensors_in(call.out), operation.found, strict=True), *given]:
            for size, ids in zip(tensor.shape, self.whole(raw), strict=True):
                if ids is not None:
                    yield size, ids

    def met(self, number: int) -> list[Ids]:
        """Ids of cut channels at operation `number`, or else at the latest on the way to it that has any."""
        operations = self._traced.record.operations
        found = self._changing(operations[number])
        wanted = {id(tensor) for tensor in operations[number].call.tensors()}
        for earlier in reversed(operations[:number]):
            if found:
                break
            if not wanted.isdisjoint(map(id, tensors_in(earlier.call.out))):
                wanted.update(map(id, earlier.call.tensors()))
                found = self._changing(earlier)
        return found

    def _changing(self, operation: Operation) -> list[Ids]:
        return [ids for _, ids in self.dims(operation) if self.is_cut(ids)]


class _Untied:
    def tie(self, a: Ids | None, b: Ids | None) -> None:
        """Whatever belongs together is known already."""
