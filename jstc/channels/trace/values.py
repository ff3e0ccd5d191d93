"""Values that decide: how a cut network is led along the way that the uncut one took.

A forward that reads numbers (which boxes to keep, what a loss assigns to whom, `if x.mean() > 0`) takes
another way for other numbers, and a cut network has others. Two networks can be compared only on one way. So
wherever a cut leaves a result as large as it was, the cut network goes on with the uncut network's values:
whole numbers, masks, and floats in small numbers, which is all that Python ever looks at. A result of which
the size depends on values (`nonzero`, `nms`) is the uncut one, whatever came out.

Numbers that are sizes of cut dimensions are left alone, and so is what is computed from them: a forward that
does one thing for wide tensors and another for narrow ones is to be caught.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from jstc.channels.trace.ids import Call, Operation, tensors_in

__all__ = ["Leading", "decided_size", "same_random_numbers", "snapshot"]

_SMALL = 4096
"""Floats of which values are kept; Python reads no more of them one by one."""

_LIFTED = {torch.ops.aten.lift_fresh.default, torch.ops.aten._shape_as_tensor.default}
"""Operations that make a tensor of Python's numbers, which may be sizes."""

_BY_VALUES = {torch.ops.aten.where.default, torch.ops.aten.nonzero_numpy.default}

Values = tuple[Tensor | None, ...]


def snapshot(call: Call) -> Values:
    """Values of the outputs of an operation, as far as a forward may look at them; nothing changes them."""
    outputs = tensors_in(call.out) if call.numbers is None else [call.numbers]
    return tuple(tensor.clone() if _may_decide(tensor) else None for tensor in outputs)


def _may_decide(tensor: Tensor) -> bool:
    return not tensor.is_meta and (not tensor.is_floating_point() or tensor.numel() <= _SMALL)


def decided_size(call: Call) -> bool:
    """Does the size of the output depend on values? Of an operation that torch does not know it may."""
    func = call.func
    return torch.Tag.dynamic_output_shape in func.tags or func in _BY_VALUES or func.namespace != "aten"


class Leading:
    """Puts the uncut network's values in place of a cut network's own."""

    def __init__(self) -> None:
        self._sizes: dict[int, Tensor] = {}  # tensors that hold sizes of cut dimensions, or come from them

    def __call__(
        self,
        call: Call,
        expected: Operation,
        shapes: Sequence[tuple[int, ...]],
        sizes: Callable[[], set[tuple[int, int]]],
    ) -> None:
        """Replace outputs of `call` by those of `expected`, where these have the `shapes` of a cut.

        `sizes` gives widths before and after the cut, of the dimensions that it changes.
        """
        outputs = tensors_in(call.out)
        if self.spread(call):
            return
        if not outputs:
            call.out = expected.call.out  # a number that Python is given
        elif len(outputs) == len(expected.values) == len(shapes):
            self._replace(call, expected.values, shapes, sizes)

    def spread(self, call: Call) -> bool:
        """Whether what came out of `call` comes from sizes; what a number scales is none that does."""
        found = any(id(tensor) in self._sizes for tensor in call.tensors()) and not self.scales(call)
        if found:
            self._sizes.update({id(tensor): tensor for tensor in tensors_in(call.out)})
        return found

    def scales(self, call: Call) -> bool:
        """Does one number that comes from sizes meet many that do not?"""
        if not self._sizes:
            return False
        tensors = call.tensors()
        one = any(t.numel() == 1 and id(t) in self._sizes for t in tensors)
        return one and any(t.numel() > 1 and id(t) not in self._sizes for t in tensors)

    def _replace(
        self,
        call: Call,
        values: Values,
        shapes: Sequence[tuple[int, ...]],
        sizes: Callable[[], set[tuple[int, int]]],
    ) -> None:
        known = iter(zip(values, shapes, strict=True))
        given = {_storage(tensor) for tensor in call.tensors()}
        mutable, any_size, lifted = call.func._schema.is_mutable, decided_size(call), call.func in _LIFTED

        def replaced(mine: Tensor) -> Tensor:
            value, shape = next(known)
            if value is None or value.shape != shape or not (any_size or mine.shape == shape):
                return mine
            if lifted and _are_sizes(value, mine if call.numbers is None else call.numbers, sizes()):
                self._sizes[id(mine)] = mine
                return mine
            if mine.is_meta:
                return mine
            if _storage(mine) not in given or lifted:
                return value.clone()
            return mine.copy_(value) if mutable and mine.shape == shape else mine  # a view has its base's

        call.out = tree_map_only(Tensor, replaced, call.out)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _are_sizes(before: Tensor, now: Tensor, sizes: set[tuple[int, int]]) -> bool:
    """Are all numbers that differ the widths of dimensions before and after a cut, or computed by Python?

    Whatever Python read of values is the uncut network's, so other fractions come from sizes.
    """
    if before.is_floating_point():
        return not torch.allclose(before, now, rtol=0, atol=0, equal_nan=True)
    if before.dtype is torch.bool:
        return False
    pairs = {(a, b) for a, b in zip(before.flatten().tolist(), now.flatten().tolist(), strict=True) if a != b}
    return bool(pairs) and pairs <= sizes


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Every forward draws from one beginning; afterwards the generators are as they were before.

    A dropped layer, a sampled box, noise on labels: with other numbers a forward takes another way.
    """
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
