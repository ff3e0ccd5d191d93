"""Channel ids and what is said of them: the vocabulary of the trace and its rules.

Each dimension of each tensor has a *label*: an integer array with one channel id per position, or
`None` for a dimension of a tensor that the forward made up itself and that fits anything. Ids below
`FIRST_FREE` stand for positions that can never be cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = [
    "FIRST_FREE",
    "FIXED",
    "INPUT",
    "KERNEL",
    "Call",
    "Count",
    "Ids",
    "Labels",
    "Operation",
    "Recorder",
    "Site",
    "TieFailure",
    "fixed",
    "named_modules",
    "named_tensors",
    "operation_name",
    "tensors_in",
]

Ids = NDArray[np.int64]
Labels = tuple[Ids | None, ...]

FIXED, INPUT, KERNEL, FIRST_FREE = 0, 1, 2, 16
"""Reserved ids: space and batch; channels of the network's inputs; kernel positions; the first other."""


@dataclass(frozen=True)
class Count:
    """FLOPs of one operation: `factor` times the product of the widths of `dims`."""

    kind: str
    factor: int
    dims: tuple[Ids, ...]


@dataclass(frozen=True)
class Site:
    """Parameters that scale the channels `ids` along their first dimension.

    `kind` is "norm" for a norm of each channel alone, "writer" for an operation that makes new channels.
    """

    kind: str
    params: tuple[str, ...]
    ids: Ids


class TieFailure(Exception):
    """Two arrays of ids that must be equal are not (only when a cut is being proved): a message and both."""


_known_arguments: dict[int, dict[str, tuple[int, Any]]] = {}  # by id(): operations live for ever


def _arguments(func: torch._ops.OpOverload) -> dict[str, tuple[int, Any]]:
    """Position and default of each argument of an operation."""
    found = _known_arguments.get(id(func))
    if found is None:
        arguments = enumerate(func._schema.arguments)
        found = {a.name: (i, a.default_value if a.has_default_value() else None) for i, a in arguments}
        _known_arguments[id(func)] = found
    return found


@dataclass
class Call:
    """One executed operation: arguments by their schema names, and the outputs."""

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any = None

    def __getitem__(self, name: str) -> Any:
        """The argument called `name`, or its default."""
        if name in self.kwargs:
            return self.kwargs[name]
        position, default = _arguments(self.func)[name]
        return self.args[position] if position < len(self.args) else default

    @property
    def first(self) -> Tensor:
        """The first argument."""
        return self.args[0]  # type: ignore[no-any-return]

    def tensors(self) -> list[Tensor]:
        """All tensor arguments, in order."""
        return tensors_in((self.args, self.kwargs))


@dataclass(frozen=True)
class Operation:
    """An operation of a finished trace: the module that ran it, and the labels of its outputs."""

    call: Call
    module: str
    found: list[Any]


@dataclass
class Recorder:
    """What one trace finds out."""

    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    frozen: list[tuple[Ids, str]] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    parts: dict[int, list[tuple[Ids | None, ...]]] = field(default_factory=dict)  # by number of operation
    borders: list[tuple[Ids, Ids]] = field(default_factory=list)  # a dimension, and a part taken of it
    inexact: list[tuple[Ids, str]] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    executed: list[Any] = field(default_factory=list)  # the same without tensors (`jstc.channels.operations`)
    next_id: int = FIRST_FREE


def operation_name(func: Any) -> str:
    """`aten.conv2d` for its default overload."""
    return str(func).removesuffix(".default")


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, and in whatever else torch knows to take apart."""
    kind = type(tree)
    if isinstance(tree, Tensor):
        return [tree]
    if kind is tuple or kind is list:
        return [tensor for part in tree if type(part) not in _NO_TREE for tensor in tensors_in(part)]
    if kind in _NO_TREE:
        return []
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


_NO_TREE = frozenset({int, float, bool, str, type(None), complex, torch.dtype, torch.device})


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by qualified name, shared ones once under their first name.

    As `named_parameters` and `named_buffers`, in one walk over the modules.
    """
    modules = named_modules(model)
    for kind in ("_parameters", "_buffers"):
        seen: set[int] = set()
        for path, module in modules:
            for name, tensor in getattr(module, kind).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield (f"{path}.{name}" if path else name), tensor


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """As `model.named_modules()`, whose generators within generators take a tenth of an analysis."""
    found: dict[int, tuple[str, nn.Module]] = {}
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in found:
            continue
        found[id(module)] = (path, module)
        prefix = f"{path}." if path else ""
        children = [(prefix + name, child) for name, child in module._modules.items() if child is not None]
        waiting.extend(reversed(children))
    return list(found.values())


@cache
def fixed(size: int) -> Ids:
    """Labels of a dimension without channels; one array for all of a size."""
    ids = np.full(size, FIXED)
    ids.setflags(write=False)
    return ids
