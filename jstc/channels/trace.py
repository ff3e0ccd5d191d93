"""One traced forward: every ATen operation passes by, and channel ids travel with the tensors.

Each dimension of each tensor has a *label*: an integer array with one channel id per position, or
`None` for a dimension of a tensor that the forward made up itself and that fits anything. Ids below
`FIRST_FREE` stand for positions that can never be cut. Rules (`jstc.channels.rules`) say how the
labels pass through an operation and which ids must be equal.

The trace runs under inference mode, where composite operations (linear, layer_norm, adaptive pooling)
arrive undivided, which is the level at which fvcore counts FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
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
    "Recorder",
    "Site",
    "TieFailure",
    "Tracer",
    "named_tensors",
]

Ids = NDArray[np.int64]
Labels = tuple[Ids | None, ...]
Rule = Callable[["Tracer", "Call"], Any]

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
    """Two ids that must be equal are not (only when a cut is being proved)."""


@dataclass
class Call:
    """One executed operation: arguments by their schema names, and the outputs."""

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any = None
    _index: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """The argument called `name`, or its default."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                return self.args[position] if position < len(self.args) else argument.default_value
        raise KeyError(name)

    @property
    def first(self) -> Tensor:
        """The first argument."""
        return self.args[0]  # type: ignore[no-any-return]

    def tensors(self) -> list[Tensor]:
        """All tensor arguments, in order."""
        return [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]


@dataclass
class Recorder:
    """What one trace finds out."""

    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    frozen: list[tuple[Ids, str]] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    parts: list[tuple[Ids | None, ...]] = field(default_factory=list)
    inexact: list[tuple[Ids, str]] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    next_id: int = FIRST_FREE


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs a forward and moves labels along.

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
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = Recorder()
        self.checking = given is not None
        self._parts = iter(parts)
        self.params: dict[str, Labels] = {}
        self.last_ids: list[Ids] = []  # channels that met at the newest operation, the suspects of a failure
        self.last_op = "the first operation"
        self._labels: dict[int, Labels] = {}
        self._alive: list[Tensor] = []  # an id() is only good while its tensor lives
        self._names: dict[int, str] = {}
        self._modules: list[str] = [""]
        self._model = model
        for name, tensor in named_tensors(model):
            self._names[id(tensor)] = name
            self.params[name] = given[name] if given is not None else self._fresh_labels(tensor)
            self._set(tensor, self.params[name])

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would wrap `__torch_dispatch__` against its compiler, and import that to do so.
        return False

    # -- running -----------------------------------------------------------------------------------

    def run(self, inputs: Sequence[Any]) -> None:
        """Trace one forward in eval mode. The channels of the network's outputs are frozen."""
        for tensor in _tensors(inputs):
            self._set(
                tensor, tuple(np.full(n, INPUT if d == 1 else FIXED) for d, n in enumerate(tensor.shape))
            )
        hooks = [
            hook
            for name, module in self._model.named_modules()
            for hook in (
                module.register_forward_pre_hook(lambda _m, _a, name=name: self._modules.append(name)),
                module.register_forward_hook(lambda _m, _a, _o: self._leave()),
            )
        ]
        try:
            with torch.inference_mode(), self:
                out = self._model(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        for tensor in _tensors(out):
            for ids in self.labels(tensor):
                self.freeze(ids, "network output")

    def _leave(self) -> None:
        self._modules.pop()

    @property
    def module(self) -> str:
        """Qualified name of the module whose forward is running."""
        return self._modules[-1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from jstc.channels.meta_shapes import infer
        from jstc.channels.rules import find

        call = Call(func, args, kwargs or {})
        rule = find(func)
        if rule is None:
            with self:
                out = func.decompose(*call.args, **call.kwargs)
            if out is not NotImplemented:
                return out
            rule = _unknown
        self._suspect(call)
        out = infer(call)
        call.out = func(*call.args, **call.kwargs) if out is None else out
        found = rule(self, call)
        for tensor, labels in zip(
            _tensors(call.out), found if isinstance(found, list) else [found], strict=True
        ):
            self._set(tensor, labels)
        return call.out

    def _suspect(self, call: Call) -> None:
        tensors = call.tensors()
        if tensors:
            self.last_op = f"{_op_name(call.func)} in {self.module or 'the forward'}"
            self.last_ids = [ids for t in tensors for ids in self.labels(t) if ids is not None]

    # -- what rules use ----------------------------------------------------------------------------

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of a tensor; all `None` for one that the forward made up itself."""
        name = self._names.get(id(tensor))
        if name is not None:
            self.record.used.setdefault(name, self.module)
        return self._labels.get(id(tensor), (None,) * tensor.dim())

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

    # -- inside ------------------------------------------------------------------------------------

    def _set(self, tensor: Tensor, labels: Labels) -> None:
        assert len(labels) == tensor.dim(), (self.last_op, tensor.shape, len(labels))
        for size, ids in zip(tensor.shape, labels, strict=True):
            assert ids is None or len(ids) == size, (
                self.last_op,
                tensor.shape,
                [x is None or len(x) for x in labels],
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


def _unknown(tracer: Tracer, call: Call) -> list[Labels]:
    """An operation without a rule: whatever meets it stays whole."""
    name = _op_name(call.func)
    tracer.record.unknown[name] = tracer.record.unknown.get(name, 0) + 1
    where = f" in {tracer.module}" if tracer.module else ""
    for tensor in call.tensors():
        for ids in tracer.labels(tensor):
            tracer.freeze(ids, f"operation {name}{where} has no rule")
    return [tuple(np.zeros(size, np.int64) for size in t.shape) for t in _tensors(call.out)]


def _op_name(func: Any) -> str:
    return str(func).removesuffix(".default")


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by qualified name, shared ones once under their first name."""
    yield from model.named_parameters()
    yield from model.named_buffers()
