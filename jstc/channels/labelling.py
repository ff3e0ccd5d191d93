"""The labels of all tensors of one forward: what rules read, tie and freeze."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from jstc.channels.blocks import Axis, Raw
from jstc.channels.labels import (
    FIRST_FREE,
    Call,
    Count,
    Ids,
    Labels,
    Recorder,
    Site,
    TieFailure,
    named_tensors,
    operation_name,
)

__all__ = ["Labelling"]


class Labelling:
    """Labels by tensor, and the record of what operations say about them.

    Without `given` labels it records ties; with them (a cut that is being proved, labelled by the ids
    that the uncut network found) it checks them and raises `TieFailure` at the first difference. `parts`
    are then what each slice must take: the kept ones of the channels that the uncut network took there.
    """

    def __init__(
        self,
        model: nn.Module,
        given: dict[str, Labels] | None = None,
        parts: Sequence[tuple[Ids | None, ...]] = (),
    ) -> None:
        self.record = Recorder()
        self.checking = given is not None
        self._parts = iter(parts)
        self.params: dict[str, Labels] = {}
        self.last_ids: list[Ids] = []  # channels that met at the newest operation, the suspects of a failure
        self.last_op = "the first operation"
        self.modules: list[str] = [""]  # names of those whose forward is running, outermost first
        self._labels: dict[int, Raw] = {}
        self._modules = dict(model.named_modules())
        self._heads: dict[str, frozenset[int]] = {}
        self._alive: list[Tensor] = []  # an id() is only good while its tensor lives
        self._names: dict[int, str] = {}
        for name, tensor in named_tensors(model):
            self._names[id(tensor)] = name
            self.params[name] = given[name] if given is not None else self._fresh_labels(tensor)
            self.put(tensor, self.params[name])

    @property
    def module(self) -> str:
        """Qualified name of the module whose forward is running."""
        return self.modules[-1]

    def heads(self) -> frozenset[int]:
        """Numbers of heads that the running module has as attributes, by their names."""
        if self.module not in self._heads:
            attributes = vars(self._modules.get(self.module, self)).items()
            found = (n for key, n in attributes if "head" in key and "dim" not in key and type(n) is int)
            self._heads[self.module] = frozenset(found)
        return self._heads[self.module]

    def suspect(self, call: Call) -> None:
        """Should this operation fail, it was the channels that meet here."""
        tensors = call.tensors()
        if tensors:
            self.last_op = f"{operation_name(call.func)} in {self.module or 'the forward'}"
            self.last_ids = [ids for t in tensors for ids in map(_ids, self.raw(t)) if ids is not None]

    def labels(self, tensor: Tensor, acting_on: Sequence[int] = ()) -> Labels:
        """The labels of a tensor; all `None` for one that the forward made up itself.

        Undecided dimensions (`jstc.channels.blocks`) are decided now; those in `acting_on`, on which the
        operation acts as a whole, are then not the ones that keep the channels, if others can.
        """
        return self.decided(self.raw(tensor), acting_on)

    def raw(self, tensor: Tensor) -> Raw:
        """The labels of a tensor, undecided dimensions left so: for rules that only move dimensions."""
        name = self._names.get(id(tensor))
        if name is not None:
            self.record.used.setdefault(name, self.module)
        return self._labels.get(id(tensor), (None,) * tensor.dim())

    def decided(self, raw: Raw, acting_on: Sequence[int] = ()) -> Labels:
        """The same labels with all dimensions decided."""
        axes = [raw[d] for d in acting_on]
        for axis in axes:
            if isinstance(axis, Axis):
                same = [a.index for a in axes if isinstance(a, Axis) and a.block is axis.block]
                axis.block.away_from(self, same)
        return tuple(x.block.decide(self)[x.index] if isinstance(x, Axis) else x for x in raw)

    def name(self, tensor: Tensor | None) -> str | None:
        """Qualified name when the tensor is a parameter or buffer of the network."""
        return None if tensor is None else self._names.get(id(tensor))

    def tie(self, a: Ids | None, b: Ids | None) -> None:
        """The ids of `a` and `b` must be equal, position by position."""
        if a is None or b is None or a is b:
            return
        if self.checking:
            self._require_same(a, b, "meet")
            return
        different = a != b
        if different.any():
            self.record.ties.append((a[different], b[different]))

    def part(self, *parts: Ids | None) -> None:
        """Channels were taken by position, as `parts` of a tensor.

        Nothing else may tell that a cut moves them: an activation of the first eight channels, say. So a
        proof compares them, slice by slice, with what the uncut network took.
        """
        if not self.checking:
            self.record.parts.append(parts)
            return
        expected = next(self._parts, ())
        if len(expected) != len(parts):
            raise TieFailure("channels are taken in another number of parts")
        for mine, theirs in zip(parts, expected, strict=True):
            if mine is not None and theirs is not None:
                self._require_same(mine, theirs, "are taken by their numbers")

    def _require_same(self, a: Ids, b: Ids, what: str) -> None:
        low = FIRST_FREE - 1  # what is never cut is all alike
        if a.shape != b.shape or not np.array_equal(np.maximum(a, low), np.maximum(b, low)):
            self.last_ids = [a, b]
            raise TieFailure(f"different channels {what}")

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """The channels `ids` can't be cut, because of `reason`."""
        if ids is not None and not self.checking and (ids >= FIRST_FREE).any():
            self.record.frozen.append((ids, reason))

    def inexact(self, ids: Ids | None, reason: str) -> None:
        """Cutting `ids` differs from masking them, because of `reason`."""
        if ids is not None and not self.checking and (ids >= FIRST_FREE).any():
            self.record.inexact.append((ids, reason))

    def count(self, kind: str, factor: int, shape: Sequence[int], labels: Sequence[Ids | None]) -> None:
        """Record `factor` times the product of `shape`, whose dimensions carry `labels`."""
        dims = []
        for size, ids in zip(shape, labels, strict=True):
            if ids is not None and (ids >= FIRST_FREE).any():
                dims.append(ids)
            else:
                factor *= size
        self.record.counts.append(Count(kind, factor, tuple(dims)))

    def site(self, kind: str, params: Sequence[Tensor | None], ids: Ids | None) -> None:
        """Record a place where a gate on the channels `ids` can be folded into `params`."""
        names = [self.name(p) for p in params if p is not None]
        whole = tuple(n for n in names if n is not None) if None not in names else ()
        if ids is not None and (whole or kind == "norm"):  # a norm without any still undoes what is before it
            self.record.sites.append(Site(kind, whole, ids))

    def put(self, tensor: Tensor, labels: Raw) -> None:
        """Set the labels of a tensor, one per dimension."""
        assert len(labels) == tensor.dim(), (self.last_op, tensor.shape, len(labels))
        for size, label in zip(tensor.shape, labels, strict=True):
            assert label is None or isinstance(label, Axis) or len(label) == size, (
                self.last_op,
                tensor.shape,
            )
        self._labels[id(tensor)] = labels
        self._alive.append(tensor)

    def _fresh_labels(self, tensor: Tensor) -> Labels:
        return tuple(self.fresh(size) if size > 1 else np.zeros(size, np.int64) for size in tensor.shape)

    def fresh(self, size: int) -> Ids:
        """New ids, tied to nothing."""
        start = self.record.next_id
        self.record.next_id += size
        return np.arange(start, start + size)


def _ids(label: Ids | Axis | None) -> Ids | None:
    return label.block.ids.reshape(-1) if isinstance(label, Axis) else label
