"""The trace of a cut network, compared operation by operation with the trace of the uncut one.

Both traces run the same operations in the same order, so the n-th operation here is compared with the n-th
there (`begin` finds it, past copies that a cut makes needless). Three things must agree: the channels that
meet (`tie`), the channels that are taken by position (`part`), and the shapes of the outputs (`finish`).

Where they differ the forward goes on with what should have come out (`recover`), so that one forward finds
every place where a cut fails, not only the first. `_failure` then says whom to blame: the channels that did
not fit, and the numbers in the call that were the size of a cut dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from jstc.channels.cut_labels import CutLabels
from jstc.channels.groups import Structure
from jstc.channels.trace.ids import (
    FIRST_FREE,
    Call,
    Ids,
    Operation,
    Raw,
    TieFailure,
    tensors_in,
)
from jstc.channels.trace.state import TraceState
from jstc.channels.trace.values import Leading

__all__ = ["Diverged", "Failure", "Replay"]


class Diverged(Exception):
    """The cut network executes other operations than the uncut one."""


@dataclass(frozen=True)
class Failure:
    """An operation at which a cut network fails.

    `suspects` are ids of the channels that may be at fault; `sizes` the numbers written into the operation
    that no longer fit, each with the ids of the uncut dimension that has this size; `results` sizes and ids
    of the parts into which a tensor is split, all of them in order. `ties` would make it fit: the forward
    took a size from the first channels of each pair and gave it to the second. `operation` is its number in
    the uncut forward (of a crash between two operations minus the number of those that were done).
    """

    module: str
    reason: str
    operation: int
    suspects: tuple[Ids, ...]
    sizes: tuple[tuple[int, Ids], ...] = ()
    results: tuple[tuple[int, Ids], ...] = ()
    ties: tuple[tuple[Ids, Ids], ...] = ()


class Replay(TraceState):
    """Labels of a cut network: those of the uncut one at the kept positions, which must meet again."""

    def __init__(self, small: nn.Module, structure: Structure, keep: Ids, traced: TraceState) -> None:
        self._structure, self._traced = structure, traced
        self._cut = CutLabels(structure, keep, traced)
        self._loose = {c.operation: c for c in traced.record.counts if c.loose}
        self._expected: Operation | None = None
        self._done = 0
        self._parts: Iterator[tuple[Ids | None, ...]] = iter(())
        self.failures: list[Failure] = []
        self._leading = Leading()
        self.scaled: dict[str, list[Ids]] = {}  # where a factor has changed: by module, channels that meet it
        super().__init__(small, lambda name: self._cut.kept(traced.params[name]), traced.narrow)

    # -- what operations say ------------------------------------------------------------------------

    def tie(self, a: Ids | None, b: Ids | None) -> None:
        """The ids of `a` and `b` are equal, or it is a `TieFailure`."""
        if a is not None and b is not None and a is not b:
            _require_same(a, b, "different channels meet")

    def part(self, *parts: Ids | None) -> None:
        """The parts are those that the uncut network took there, at the kept positions."""
        expected = next(self._parts, ())
        if len(expected) != len(parts):
            raise TieFailure("channels are taken in another number of parts")
        for mine, theirs in zip(parts, expected, strict=True):
            if mine is not None and theirs is not None:
                _require_same(
                    mine, self._cut.kept_ids(theirs), "different channels are taken by their numbers"
                )

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """Nothing: it is known from the uncut network."""

    def inexact(self, ids: Ids | None, reason: str) -> None:
        """Nothing: it is known from the uncut network."""

    # -- operation by operation ---------------------------------------------------------------------

    def begin(self, call: Call) -> None:
        """Raises `Diverged` when the uncut network executed something else here."""
        super().begin(call)
        operations = self._traced.record.operations
        while self._done < len(operations) and call.func is not operations[self._done].call.func:
            if operations[self._done].call.func not in _COPIES:
                break
            self._done += 1  # of channels cut to one the order in memory is right already
        alike = self._done < len(operations) and _alike(operations[self._done].call.func, call.func)
        if call.func in _COPIES and not alike:
            self._expected = None
            return
        if not alike:
            raise Diverged(f"a cut network takes another way at {self.last_op}")
        self._expected = operations[self._done]
        self._parts = iter(self._traced.record.parts.get(self._done, ()))
        self._done += 1

    def lead(self, call: Call) -> None:
        """Where values decide the cut network goes on with those of the uncut one."""
        expected = self._expected
        if expected is None or expected.call.func is not call.func:
            return
        if call.numbers is None and all(t.is_meta for t in call.tensors()):
            self._leading.spread(call)
            return
        self._leading(call, expected, self._cut.shapes(expected), self._cut.sizes)

    def _values(self, call: Call) -> tuple[Tensor | None, ...]:  # noqa: ARG002 - none are kept of a cut network
        return ()

    def follow(self, rule: Callable[[Any, Call], Any], call: Call) -> Any:
        """Labels of the outputs. By position no rule is needed: the right shapes are the right channels.

        A view of the same channels is one of the same dimensions, too; of channels that are cut to one it
        could not be told from the shape which dimension keeps them.
        """
        expected = self._expected
        if expected is None or call.func is not expected.call.func:
            return super().follow(rule, call)
        if call.func in _VIEWS:
            theirs = self._cut.kept(self._traced.raw(expected.call.first))
            for mine, other in zip(self.labels(call.first), theirs, strict=True):
                self.tie(mine, other)
        elif call.func._schema.name not in _BY_POSITION or self._done - 1 in self._loose:
            return super().follow(rule, call)
        return [self._cut.kept(raw) for raw in expected.found]

    def count(self, kind: str, factor: int, shape: Sequence[int], labels: Sequence[Ids | None]) -> None:
        """FLOPs are known from the uncut network, unless a size in them may have followed the cut unseen."""
        known = self._loose.get(self._done - 1) if self._expected else None
        if known is not None and known.kind == kind:
            predicted = known.factor * prod(len(self._cut.kept_ids(ids)) for ids in known.dims)
            if predicted != factor * prod(shape):
                suspects = (ids for ids in (*labels, *known.dims) if ids is not None)
                raise TieFailure("a size follows channels that it can't be traced to", *suspects)

    def returned(self, outputs: Sequence[Tensor]) -> None:
        """Nothing: it is known from the uncut network."""

    def training(self) -> None:
        """The second forward begins where the uncut network began it."""
        super().training()
        assert self._traced.record.first is not None
        self._done = self._traced.record.first

    def site(self, kind: str, params: Sequence[Tensor | None], ids: Ids | None) -> None:
        """Nothing: it is known from the uncut network."""

    def finish(self, call: Call, found: list[Raw]) -> None:
        """Compare the outputs' shapes."""
        expected = self._expected
        if expected is None:  # a copy, which changes nothing
            return super().finish(call, found)
        if expected.call.func is not call.func:
            found = self._compared(call, expected, found)
        if torch.Tag.pointwise in call.func.tags or call.func is torch.ops.aten.roll.default:
            found = self._same_numbers(call, expected, found)
            other = _numbers(call, float) != _numbers(expected.call, float) or self._leading.scales(call)
            if other and not self.trains:
                self.scaled[self.module] = self._cut.met(self._done - 1)
        if not self._has_shapes(call, expected):
            shapes = ", ".join(str(list(shape)) for shape in self._cut.shapes(expected))
            found = self.recover(call, ValueError(f"expected a result of shape {shapes}"))
        return super().finish(call, found)

    def _same_numbers(self, call: Call, expected: Operation, found: list[Raw]) -> list[Raw]:
        """Numbers that are no size should not change: an attribute that follows may mean two things."""
        changed = _changed(expected.call, call)
        if not changed or changed <= {
            (n, len(self._cut.kept_ids(ids))) for n, ids in self._cut.dims(expected)
        }:
            return found
        return self.recover(call, ValueError("a number that is no width changes with a cut"))

    def _compared(self, call: Call, expected: Operation, found: list[Raw]) -> list[Raw]:
        try:
            for mine, theirs in zip(found, expected.found, strict=True):
                for a, b in zip(self.decided(mine), self._cut.kept(theirs), strict=True):
                    if a is not None and b is not None:
                        _require_same(a, b, "different channels are taken by their numbers")
        except TieFailure as failure:
            return self.recover(call, failure)
        return found

    def recover(self, call: Call, error: Exception) -> list[Raw]:
        """Note the failure and go on with an output of the right shape."""
        expected = self._expected
        if expected is None or isinstance(error, Diverged):
            raise error
        self.failures.append(self._failure(call, expected, error))
        shapes = iter(self._cut.shapes(expected))
        own = iter(tensors_in(call.out) if isinstance(error, TieFailure) else [])

        def replaced(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            shape, mine = next(shapes), next(own, None)
            if leaf is expected.call.first and isinstance(call.first, Tensor) and call.first.shape == shape:
                return call.first  # in place
            return (
                mine
                if mine is not None and mine.shape == shape
                else torch.zeros(shape, dtype=leaf.dtype, device=leaf.device)
            )

        with torch.inference_mode(False):  # a view of a parameter must not be an inference tensor
            call.out = tree_map(replaced, expected.call.out)
        return [self._cut.kept(raw) for raw in expected.found]

    def crashed(self, error: Exception) -> None:
        """The forward itself failed between two operations: whatever met at the newest may be at fault."""
        call = self._call
        ids = (
            [] if call is None else [ids for t in call.tensors() for ids in self.labels(t) if ids is not None]
        )
        module = self.module if self.crashed_in is None else self.crashed_in
        self.failures.append(Failure(module, _line(error, self.last_op), -self._done, tuple(ids)))

    def _has_shapes(self, call: Call, operation: Operation) -> bool:
        """Are the outputs as large as they should be? A dimension without a label may have any size."""
        outputs = tensors_in(call.out)
        return len(outputs) == len(operation.found) and all(
            t.dim() == len(raw)
            and all(ids is None or len(ids) == n for n, ids in zip(t.shape, self._cut.kept(raw), strict=True))
            for t, raw in zip(outputs, operation.found, strict=True)
        )

    # -- who is to blame ----------------------------------------------------------------------------

    def _failure(self, call: Call, expected: Operation, error: Exception) -> Failure:
        sizes, results = tuple(self._sizes(expected)), tuple(self._results(expected))
        ties = {(id(a), id(b)): (a, b) for a, b in self._ties(call, expected, [*sizes, *results])}
        if isinstance(error, TieFailure):
            suspects = tuple(a for a in error.args[1:] if isinstance(a, np.ndarray))
        else:
            changed = _changed(expected.call, call)
            suspects = tuple(ids for _, ids in sizes) or tuple(ids for _, ids in self._sources(changed))
        if not any((self._structure.number(ids) >= 0).any() for ids in suspects):
            raws = [self._traced.raw(t) for t in expected.call.tensors()]
            suspects = tuple(i for raw in raws for i in self._cut.whole(raw) if i is not None)
        reason = _line(error, self.last_op)
        return Failure(self.module, reason, self._done - 1, suspects, sizes, results, tuple(ties.values()))

    def _ties(
        self, call: Call, expected: Operation, sizes: Sequence[tuple[int, Ids]]
    ) -> Iterator[tuple[Ids, Ids]]:
        """Channels from which the forward took a size, with the dimensions to which it gives that size."""
        changed = _changed(expected.call, call)
        for pair, given in self._sources(changed):
            for size, ids in sizes:
                if pair[0] == size and len(self._cut.kept_ids(ids)) != pair[1] and len(ids) == len(given):
                    yield given, ids

    def _sizes(self, expected: Operation) -> Iterator[tuple[int, Ids]]:
        """Numbers in the call that were the size of a dimension which the cut changed."""
        numbers = set(_numbers(expected.call))
        if (
            "split" in expected.call.func._schema.name
        ):  # a part may be a share of an attribute, or what is left
            numbers.add(expected.call.first.shape[expected.call["dim"]])
        for size, ids in self._cut.dims(expected):
            if size in numbers and self._cut.is_cut(ids):
                yield size, ids

    def _results(self, expected: Operation) -> Iterator[tuple[int, Ids]]:
        """Sizes and ids of the parts of a split along the dimension that was split."""
        parts = expected.call.out
        if isinstance(parts, list | tuple) and "dim" in {
            a.name for a in expected.call.func._schema.arguments
        }:
            dim = expected.call["dim"]
            for part, raw in zip(parts, expected.found, strict=True):
                ids = self._cut.whole(raw)[dim] if part.dim() == expected.call.first.dim() else None
                if ids is not None:
                    yield part.shape[dim], ids

    def _sources(self, changed: Collection[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], Ids]]:
        """Dimensions that are as wide as numbers which are `changed`: sizes before and now, and their ids."""
        inside = f"{self.module}." if self.module else ""
        for operation in self._traced.record.operations if changed else ():
            if f"{operation.module}.".startswith(inside):
                for size, ids in self._cut.dims(operation):
                    pair = (size, len(self._cut.kept_ids(ids)))
                    if pair in changed:
                        yield pair, ids


def _alike(expected: Any, found: Any) -> bool:
    """A slice that takes all, as one of the first eight of seven, is executed as an alias."""
    return expected is found or {expected, found} <= _TAKING


_COMMON = """conv1d conv2d conv3d linear batch_norm layer_norm matmul cat softmax dropout
    adaptive_avg_pool2d avg_pool2d max_pool2d mean contiguous clone permute transpose
    relu relu_ relu6 relu6_ hardtanh hardtanh_ silu silu_ gelu sigmoid tanh
    hardswish hardswish_ hardsigmoid hardsigmoid_ add add_ mul mul_ sub div"""
_BY_POSITION = {f"aten::{name}" for name in _COMMON.split()}
"""The commonest operations that put nothing by a channel's number; of any other the rule is asked."""
_VIEWS = {torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten._unsafe_view.default}
_COPIES = {
    torch.ops.aten.clone.default,
    torch.ops.aten.contiguous.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.detach.default,
}
_TAKING = {torch.ops.aten.slice.Tensor, torch.ops.aten.alias.default}


def _numbers(call: Call, kind: type = int) -> list[Any]:
    return [n for n in tree_leaves((call.args, call.kwargs)) if type(n) is kind]


def _changed(before: Call, now: Call) -> set[tuple[int, int]]:
    """Numbers of a call that are others in the cut network, each with what it is there."""
    return {(a, b) for a, b in zip(_numbers(before), _numbers(now), strict=False) if a != b}


def _line(error: Exception, where: str) -> str:
    text = str(error.args[0]).strip() if error.args else ""
    line = text.splitlines()[0] if text else type(error).__name__
    return f"cannot be cut: {line[:120]} ({where})"


def _require_same(a: Ids, b: Ids, what: str) -> None:
    low = FIRST_FREE - 1  # what is never cut is all alike
    if a.shape != b.shape or not np.array_equal(np.maximum(a, low), np.maximum(b, low)):
        raise TieFailure(what, a, b)
