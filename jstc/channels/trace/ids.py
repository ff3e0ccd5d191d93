"""Channel ids, labels, and the records of a trace: the vocabulary of the trace and its rules.

Each dimension of each tensor has a *label*: an integer array with one channel id per position, or
`None` for a dimension of a tensor that the forward made up itself and that fits anything. Ids below
`FIRST_FREE` stand for positions that can never be cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

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
    "Axis",
    "Block",
    "Call",
    "Count",
    "Ids",
    "Labels",
    "Operation",
    "Raw",
    "Recorder",
    "Site",
    "TieFailure",
    "Tying",
    "evaluating",
    "fixed",
    "keep_axis",
    "named_modules",
    "named_tensors",
    "operation_name",
    "selected",
    "tensors_held",
    "tensors_in",
    "training",
    "varying_axis",
]

Ids = NDArray[np.int64]
Labels = tuple[Ids | None, ...]

FIXED, INPUT, KERNEL, FIRST_FREE = 0, 1, 2, 16
"""Reserved ids: space and batch; channels of the network's inputs; kernel positions; the first other."""


@dataclass(frozen=True)
class Count:
    """FLOPs of the operation of that number: `factor` times the product of the widths of `dims`.

    It is `loose` where a size among the factors is that of no channel: it may follow a cut unseen.
    """

    kind: str
    factor: int
    dims: tuple[Ids, ...]
    operation: int
    loose: bool


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


# -- blocks: channels that a view has spread over several dimensions ---------------------------------------
#
# An attention views its projected tokens `[N, 3 * heads * width]` as `[N, 3, heads, width]`. Whether heads
# are kept whole or each head is made narrower shows only later, where the products are taken. So a view
# gives its dimensions one common `Block`, and the first operation that acts on one of them decides.


class Tying(Protocol):
    """The part of a trace that blocks need."""

    def tie(self, a: Ids | None, b: Ids | None) -> None: ...


class Block:
    """Channel ids over several dimensions at once; `labels` holds those of each once it is decided."""

    def __init__(self, ids: Ids, favourite: int | None = None) -> None:
        self.ids = ids
        self.labels: list[Ids] | None = None
        self.parted = False  # its parts, as of queries, keys and values, are decided each on its own
        self._favourite = favourite

    def decide(self, trace: Tying, keep: int | None = None) -> list[Ids]:
        """Keep the ids on axis `keep` and tie them along the others; the first decision stands."""
        if self.labels is None:
            self.labels = keep_axis(trace, self.ids, self._favourite if keep is None else keep)
        return self.labels

    def away_from(self, trace: Tying, axes: Sequence[int]) -> None:
        """Decide for an axis that is none of `axes`, which an operation acts on as a whole."""
        others = [d for d in range(self.ids.ndim) if d not in axes]
        if others and self.labels is None:
            favourite = self._favourite if self._favourite in others else None
            widest = max(reversed(others), key=lambda d: self.ids.shape[d])
            self.decide(trace, widest if favourite is None else favourite)


@dataclass(frozen=True)
class Axis:
    """The label of one dimension of a block."""

    block: Block
    index: int


Raw = tuple[Ids | Axis | None, ...]
"""Labels of a tensor, undecided dimensions as they are."""


def keep_axis(trace: Tying, ids: Ids, keep: int | None = None) -> list[Ids]:
    """Labels of the dimensions of `ids` when `keep` keeps the channels and they are tied along the others.

    Without `keep` it is the dimension along which alone they vary, else the widest, of equals the last.
    """
    if keep is None:
        keep = varying_axis(ids)
    if keep is None:
        keep = ids.ndim - 1 - int(np.argmax(ids.shape[::-1]))
    lines = np.moveaxis(ids, keep, -1).reshape(-1, ids.shape[keep])
    if len(lines) > 1 and (lines[1:] != lines[0]).any():
        trace.tie(np.tile(lines[0], len(lines) - 1), lines[1:].reshape(-1))
    return [lines[0] if d == keep else np.full(n, FIXED) for d, n in enumerate(ids.shape)]


def varying_axis(ids: Ids) -> int | None:
    """The dimension along which alone ids vary; None if there are several."""
    for d in range(ids.ndim):
        line = ids[tuple(slice(None) if o == d else slice(0, 1) for o in range(ids.ndim))]
        if (line != line.flat[0]).any() and (ids == line).all():
            return d
    return None


def selected(trace: Tying, raw: Raw, dim: int, index: int) -> Raw:
    """Labels without dimension `dim`, an undecided one, of which position `index` is taken.

    All positions must stay equally wide for the view that made them, so they are tied to the first.
    """
    axis = raw[dim]
    assert isinstance(axis, Axis)
    axis.block.parted = True
    ids = np.take(axis.block.ids, index, axis=axis.index)
    trace.tie(np.take(axis.block.ids, 0, axis=axis.index).reshape(-1), ids.reshape(-1))
    part = Block(ids) if ids.ndim > 1 else None
    out: list[Ids | Axis | None] = []
    for d, label in enumerate(raw):
        if d == dim:
            continue
        if isinstance(label, Axis) and label.block is axis.block:
            out.append(ids if part is None else Axis(part, label.index - (label.index > axis.index)))
        else:
            out.append(label)
    return tuple(out)


# -- operations and tensors ---------------------------------------------------------------------------------

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
    """One executed operation: arguments by their schema names, and the outputs.

    `numbers` are those of Python that it made a tensor of, where the device shows no values.
    """

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any = None
    numbers: Tensor | None = None

    def __getitem__(self, name: str) -> Any:
        """The argument called `name`, or its default."""
        if name in self.kwargs:
            return self.kwargs[name]
        position, default = _arguments(self.func)[name]
        return self.args[position] if position < len(self.args) else default

    def has(self, name: str) -> bool:
        """Does the operation have an argument called `name`?"""
        return name in _arguments(self.func)

    @property
    def kind(self) -> str:
        """Name without namespace and overload, and without the underscore of forms that work in place."""
        name: str = self.func._schema.name.split("::")[1]
        return name.rstrip("_")

    @property
    def first(self) -> Tensor:
        """The first argument."""
        return self.args[0]  # type: ignore[no-any-return]

    def tensors(self) -> list[Tensor]:
        """All tensor arguments, in order."""
        return tensors_in((self.args, self.kwargs))


@dataclass(frozen=True)
class Operation:
    """An operation of a finished trace: the module that ran it, the labels of its outputs, their values.

    Values are kept of what a forward may look at (`jstc.channels.trace.values`); on the meta device of none.
    """

    call: Call
    module: str
    found: list[Any]
    values: tuple[Tensor | None, ...] = ()


@dataclass
class Recorder:
    """Findings of one trace: what is tied, frozen and counted, and the operations themselves."""

    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    frozen: list[tuple[Ids, str]] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    unused: set[int] = field(default_factory=set)  # operations on which no output depends
    first: int | None = None  # number of operations of the first of two forwards
    sites: list[Site] = field(default_factory=list)
    parts: dict[int, list[tuple[Ids | None, ...]]] = field(default_factory=dict)  # by number of operation
    borders: list[tuple[Ids, Ids]] = field(default_factory=list)  # a dimension, and a part taken of it
    inexact: list[tuple[Ids, str]] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    headed: set[str] = field(default_factory=set)  # modules in which a view told heads from their widths
    kept: list[Any] = field(default_factory=list)  # attributes that it set: `jstc.channels.trace.memory`
    unknown: dict[str, int] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    executed: list[Any] = field(default_factory=list)  # without tensors: `jstc.channels.operations`
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


def tensors_held(output: object) -> list[Tensor]:
    """`tensors_in`, and those in the attributes of objects that torch does not take apart."""
    found, waiting, seen = [], [output], set()
    while waiting:
        for leaf in tree_leaves(waiting.pop()):
            if isinstance(leaf, Tensor):
                found.append(leaf)
            elif type(leaf) not in _NO_TREE and not isinstance(leaf, nn.Module) and id(leaf) not in seen:
                seen.add(id(leaf))
                waiting.append(_attributes(leaf))
    return found


def _attributes(owner: object) -> list[Any]:
    slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(owner, "__dict__", {}).values(), *(getattr(owner, name, None) for name in slots)]


_NO_TREE = frozenset({int, float, bool, str, type(None), complex, torch.dtype, torch.device})


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by qualified name, shared ones once under their first name.

    They are those of `named_parameters` and `named_buffers`, in one walk over the modules.
    """
    modules = named_modules(model)
    for kind in ("_parameters", "_buffers"):
        seen: set[int] = set()
        for path, module in modules:
            for name, tensor in getattr(module, kind).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield (f"{path}.{name}" if path else name), tensor


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block; afterwards every module has the mode that it had before."""
    with _in_mode(network, train=False):
        yield


@contextmanager
def training(network: nn.Module) -> Iterator[None]:
    """Training mode for the block; afterwards every module has the mode that it had before."""
    with _in_mode(network, train=True):
        yield


@contextmanager
def _in_mode(network: nn.Module, *, train: bool) -> Iterator[None]:
    before = [(module, module.training) for module in network.modules()]
    network.train(train)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """`model.named_modules()` as a list; its generators within generators take a tenth of an analysis."""
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
