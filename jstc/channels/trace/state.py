"""The labels of all tensors of one forward: what rules read, tie and freeze."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from jstc.channels.trace.ids import (
    FIRST_FREE,
    KERNEL,
    Axis,
    Call,
    Count,
    Ids,
    Labels,
    Operation,
    Raw,
    Recorder,
    Site,
    fixed,
    named_modules,
    named_tensors,
    operation_name,
    tensors_in,
)
from jstc.channels.trace.values import snapshot

__all__ = ["TraceState"]


class TraceState:
    """The labels of all tensors of one forward, and the record of what its operations say about them."""

    def __init__(
        self,
        model: nn.Module,
        given: Callable[[str], Labels] | None = None,
        narrow: Collection[str] = (),
    ) -> None:
        """Parameters and buffers have new labels, or those that `given` finds by name when asked for.

        In the modules called `narrow` all heads stay, and each is made narrower.
        """
        self.narrow = narrow
        self.record = Recorder()
        self.params: dict[str, Labels] = {}
        self.trains = False
        self.modules: list[str] = [""]  # names of those whose forward is running, outermost first
        self._call: Call | None = None
        self._call_module = ""
        self.crashed_in: str | None = None  # the innermost module that ended without a result since then
        self._labels: dict[int, Raw] = {}
        self._modules = dict(named_modules(model))
        self._heads: dict[str, frozenset[int]] = {}
        self._numbers: dict[int, tuple[Sequence[Ids | None], str]] = {}
        self._buffers = {id(buffer) for buffer in model.buffers()}
        self._alive: list[Tensor] = []  # an id() is only good while its tensor lives
        self._names: dict[int, str] = {}
        self._given = given
        kernels = {id(weight) for m in self._modules.values() for weight in _kernels(m)}
        for name, tensor in named_tensors(model):
            self._names[id(tensor)] = name
            self._alive.append(tensor)
            if given is None:
                fresh = self._fresh_labels(tensor, kernel=id(tensor) in kernels)
                self.params[name] = self._labels[id(tensor)] = fresh

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

    @property
    def last_op(self) -> str:
        """The newest operation and its module, to name it in a message."""
        if self._call is None:
            return "the first operation"
        return f"{operation_name(self._call.func)} in {self._call_module or 'the forward'}"

    def leave(self, result: Any) -> None:
        """The forward of the running module is over; without a result if it failed."""
        if result is None and self.crashed_in is None:
            self.crashed_in = self.module
        self.modules.pop()

    def begin(self, call: Call) -> None:
        """An operation is going to be executed."""
        self._call, self._call_module, self.crashed_in = call, self.module, None

    def follow(self, rule: Callable[[Any, Call], Any], call: Call) -> Any:
        """The labels of the outputs of an operation that was just executed."""
        return rule(self, call)

    def finish(self, call: Call, found: list[Raw]) -> None:
        """Note an executed operation, whose outputs have the labels `found`."""
        for tensor, labels in zip(tensors_in(call.out), found, strict=True):
            self.put(tensor, labels)
        self.record.operations.append(Operation(call, self.module, found, self._values(call)))

    def lead(self, call: Call) -> None:
        """An operation was executed: for a proof to change what came out."""

    def _values(self, call: Call) -> tuple[Tensor | None, ...]:
        return snapshot(call)

    def recover(self, call: Call, error: Exception) -> list[Raw]:  # noqa: ARG002 - for a proof to override
        """Labels of a failed operation's outputs (`call.out`), to go on; raises the error without any."""
        raise error

    def labels(self, tensor: Tensor, acting_on: Sequence[int] = ()) -> Labels:
        """The labels of a tensor; `None` for a dimension that the forward made up and that fits anything.

        Undecided dimensions (see `Block`) are decided now; those in `acting_on`, on which the
        operation acts as a whole, are then not the ones that keep the channels, if others can.
        """
        return self.decided(self.raw(tensor), acting_on)

    def raw(self, tensor: Tensor) -> Raw:
        """The labels of a tensor, undecided dimensions left so: for rules that only move dimensions."""
        channels, reason = self._numbers.get(id(tensor), ((), ""))
        for ids in channels:
            self.freeze(ids, reason)
        name = self._names.get(id(tensor))
        if name is not None:
            self.record.used.setdefault(name, self.module)
            if self._given is not None and id(tensor) not in self._labels:
                self._labels[id(tensor)] = self._given(name)
        found = self._labels.get(id(tensor))
        # Values that came from outside of the forward's operations (a Python list, an array) are numbered.
        return tuple(fixed(n) for n in tensor.shape) if found is None else found

    def decided(self, raw: Raw, acting_on: Sequence[int] = ()) -> Labels:
        """The labels `raw` with all dimensions decided."""
        axes = [raw[d] for d in acting_on]
        for axis in axes:
            if isinstance(axis, Axis):
                same = [a.index for a in axes if isinstance(a, Axis) and a.block is axis.block]
                axis.block.away_from(self, same)
        return tuple(x.block.decide(self)[x.index] if isinstance(x, Axis) else x for x in raw)

    def name(self, tensor: Tensor | None) -> str | None:
        """Qualified name when the tensor is a parameter or buffer of the network."""
        return None if tensor is None else self._names.get(id(tensor))

    def numbered(self, part: Tensor) -> None:
        """Values are written into a part of a made-up tensor: its positions differ from now on."""
        storage = part.untyped_storage()._cdata
        for tensor in self._alive:
            if tensor.untyped_storage()._cdata == storage:
                raw = self._labels[id(tensor)]
                self._labels[id(tensor)] = tuple(
                    fixed(n) if label is None else label for n, label in zip(tensor.shape, raw, strict=True)
                )

    def adopt(self, tensor: Tensor, dims: Mapping[int, Ids]) -> None:
        """Dimensions of a made-up tensor, which fit anything, are from now on those of what fills it.

        Nothing happens where another tensor shows a part of it, which would not know.
        """
        storage = _storage(tensor)
        alike = [other for other in self._alive if _storage(other) == storage]
        if all(other.shape == tensor.shape and other.stride() == tensor.stride() for other in alike):
            for other in alike:
                raw = self._labels[id(other)]
                self._labels[id(other)] = tuple(
                    dims.get(d) if label is None else label for d, label in enumerate(raw)
                )

    def holds_numbers(self, tensor: Tensor, of: Sequence[Ids | None], reason: str) -> None:
        """The values of `tensor` are numbers of channels `of`, which stay whole if anything reads them."""
        self._numbers[id(tensor)] = (list(of), reason)

    def is_constant(self, tensor: Tensor) -> bool:
        """Is the tensor a buffer of the network?"""
        return id(tensor) in self._buffers

    def tie(self, a: Ids | None, b: Ids | None) -> None:
        """The ids of `a` and `b` must be equal, position by position."""
        if a is None or b is None or a is b:
            return
        different = a != b
        if different.any():
            self.record.ties.append((a[different], b[different]))

    def tie_all(self, rows: Ids) -> None:
        """The rows of ids [n, C] must be equal, position by position."""
        for row in rows[1:]:
            self.tie(rows[0], row)

    def part(self, *parts: Ids | None) -> None:
        """Channels were taken by position, as `parts` of a tensor.

        Nothing else may tell that a cut moves them: an activation of the first eight channels, say. So a
        proof compares them, slice by slice, with what the uncut network took.
        """
        self.record.parts.setdefault(len(self.record.operations), []).append(parts)

    def border(self, ids: Ids | None, *parts: Ids) -> None:
        """Some channels of `ids` are taken up to a certain number, which may be a share of their width."""
        if ids is not None and (ids >= FIRST_FREE).any():
            self.record.borders.extend((ids, part) for part in parts)

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """The channels `ids` can't be cut, because of `reason`."""
        if ids is not None and (ids >= FIRST_FREE).any():
            self.record.frozen.append((ids, reason))

    def inexact(self, ids: Ids | None, reason: str) -> None:
        """Cutting `ids` differs from masking them in evaluation, because of `reason`."""
        if not self.trains and ids is not None and (ids >= FIRST_FREE).any():
            self.record.inexact.append((ids, reason))

    def settle(self) -> None:
        """The forwards are over: decide what no operation has decided, and count the first alone."""
        record = self.record
        if record.first is not None:
            record.unused.update(range(record.first, len(record.operations)))
            record.counts = [count for count in record.counts if count.operation < record.first]
        for operation in self.record.operations:
            for raw in operation.found:
                self.decided(tuple(x for x in raw if isinstance(x, Axis) and not x.block.parted))

    def returned(self, outputs: Sequence[Tensor]) -> None:
        """The forward returned `outputs`: forget the FLOPs of what it made and did not use for them.

        Neither an export nor fvcore keeps such operations (`torch.jit` drops them from its trace).
        """
        record = self.record
        used, stored = set(map(id, outputs)), set(map(_storage, outputs))
        for number in reversed(range(len(record.operations))):
            call = record.operations[number].call
            made = tensors_in(call.out)
            if any(id(t) in used for t in made) or (
                call.func._schema.is_mutable and not stored.isdisjoint(map(_storage, call.tensors()))
            ):
                used.update(map(id, call.tensors()))
                stored.update(map(_storage, call.tensors()))
            else:
                record.unused.add(number)
        record.counts = [count for count in record.counts if count.operation not in record.unused]

    def training(self) -> None:
        """The first forward is over, and another begins that only training runs: its FLOPs do not count."""
        self.trains = True
        self.record.first = len(self.record.operations)

    def count(self, kind: str, factor: int, shape: Sequence[int], labels: Sequence[Ids | None]) -> None:
        """Record `factor` times the product of `shape`, whose dimensions carry `labels`."""
        dims = []
        for size, ids in zip(shape, labels, strict=True):
            if ids is not None and (ids >= FIRST_FREE).any():
                dims.append(ids)
            else:
                factor *= size
        loose = any(ids is None and size > 1 for size, ids in zip(shape, labels, strict=True))
        number = len(self.record.operations)
        self.record.counts.append(Count(kind, factor, tuple(dims), number, loose))

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

    def _fresh_labels(self, tensor: Tensor, *, kernel: bool) -> Labels:
        """New ids for each position; a kernel `[*, *, kernel...]` and a table of indices have no channels."""
        if not tensor.is_floating_point() and not tensor.is_complex():
            return tuple(fixed(size) for size in tensor.shape)
        return tuple(
            np.full(size, KERNEL) if kernel and dim > 1 else (self.fresh(size) if size > 1 else fixed(size))
            for dim, size in enumerate(tensor.shape)
        )

    def fresh(self, size: int) -> Ids:
        """New ids, tied to nothing."""
        start = self.record.next_id
        self.record.next_id += size
        return np.arange(start, start + size)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _kernels(module: nn.Module) -> Iterator[Tensor]:
    """Weights [*, *, kernel...] of a convolution, also those that a parametrization makes its weight from."""
    if isinstance(module, nn.modules.conv._ConvNd):
        for name, parameter in module.named_parameters():
            ours = name.startswith(("weight", "parametrizations.weight."))
            if ours and parameter.dim() == len(module.kernel_size) + 2:
                yield parameter
