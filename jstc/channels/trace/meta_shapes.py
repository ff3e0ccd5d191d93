"""Outputs of common operations on the meta device, where only shapes count.

torch infers most of them in Python, for which it imports sympy or, for norms, activations, linear layers and
many others, its whole compiler. With torch 2.14 that took 1.4 seconds of processor time, once in a process
that neither trains nor loads timm (both import it anyway), and an analysis took 2.4 times as long. What torch
infers without (reshape, pad, dropout, views) is left to it. All of this may go when torch's own inference
imports no compiler: `test_no_analysis_imports_a_compiler` then passes with an `infer` that returns None.

Layers are in `jstc.channels.trace.meta_layers`; here is what moves, reduces and combines tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jstc.channels.trace.ids import Call
from jstc.channels.trace.meta_layers import LAYERS, empty, given, like

__all__ = ["infer"]

Shape = tuple[int, ...]
Infer = Callable[[Call], Tensor | None]


def infer(call: Call) -> Tensor | None:
    """The output of a common operation on the meta device; None for any other.

    Raises `RuntimeError` where torch would, for shapes that do not fit.
    """
    known = _resolved.get(call.func, _resolve)
    if known is _resolve:
        known = _resolved[call.func] = _resolve(call.func)
    if known is None:
        return None
    if known is _arange:  # of no tensor: the device is an option
        made: Tensor | None = _arange(call)
        return made
    first = call.args[0] if call.args else None
    if not isinstance(first, Tensor):
        first = next(iter(call.tensors()), None)
    return known(call) if first is not None and first.is_meta and "out" not in call.kwargs else None


def _resolve(func: Any) -> Any:
    """The function that infers the output of an operation, by its name and then that of the overload."""
    name, _, overload = str(func).removeprefix("aten.").rpartition(".")
    if name.removesuffix("_") in _POINTWISE:
        return _in_place if name.endswith("_") else _pointwise
    return {**LAYERS, **_OTHERS}.get(f"{name}.{overload}")


def _broadcast(call: Call, *shapes: Any) -> Shape:
    """The common shape. Raises `RuntimeError` when there is none."""
    if all(shape == shapes[0] for shape in shapes):
        return tuple(shapes[0])
    rank = max(map(len, shapes))
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    sizes = [{n for n in column if n != 1} for column in columns]
    if any(len(size) > 1 for size in sizes):
        listed = " and ".join(str(list(shape)) for shape in shapes)
        raise RuntimeError(f"{call.func} got tensors of shapes {listed}, which do not fit")
    return tuple(size.pop() if size else 1 for size in sizes)


def _like(call: Call, tensors: list[Tensor]) -> Tensor:
    """An output as broad as all of `tensors`, in the memory order of one that is; the type of the first."""
    if len(tensors) == 1:
        return like(tensors[0])
    shape = _broadcast(call, *(t.shape for t in tensors))
    own = next((t for t in tensors if t.shape == shape and t.dtype is tensors[0].dtype), None)
    return empty(tensors[0], shape) if own is None else like(own)


def _keeps_type(call: Call, tensors: list[Tensor]) -> bool:
    """Are all of one type, and so is what comes out?"""
    kind = tensors[0].dtype
    numbers = [x for x in (*call.args, *call.kwargs.values()) if isinstance(x, int | float | complex)]
    if any(t.dtype is not kind for t in tensors) or any(isinstance(x, complex) for x in numbers):
        return False
    name = call.func._schema.name.removeprefix("aten::").removesuffix("_")
    whole = kind is torch.int64 and name in _WHOLE and all(type(x) is int for x in numbers)
    return whole or kind.is_floating_point


def _pointwise(call: Call) -> Tensor | None:
    tensors = call.tensors()
    return _like(call, tensors) if _keeps_type(call, tensors) else None


def _in_place(call: Call) -> Tensor | None:
    tensors = call.tensors()
    fits = _keeps_type(call, tensors) and _broadcast(call, *(t.shape for t in tensors)) == tensors[0].shape
    return call.first if fits else None  # torch says what is wrong


def _comparison(call: Call) -> Tensor:
    return empty(call.first, _broadcast(call, *(t.shape for t in call.tensors())), torch.bool)


def _masked_fill(call: Call) -> Tensor | None:
    tensors = call.tensors()
    return _like(call, tensors) if len(tensors) == 2 and tensors[1].dtype is torch.bool else None


def _softmax(call: Call) -> Tensor | None:
    x = call.first
    fits = call["dtype"] is None and x.is_floating_point() and -x.dim() <= call["dim"] < x.dim()
    return empty(x, x.shape) if fits else None


def _reduced(call: Call) -> Tensor | None:
    """Reductions over some or all dimensions."""
    x = call.first
    dims, keep, kind = (given(call, name) for name in ("dim", "keepdim", "dtype"))
    if kind is not None or not x.is_floating_point():
        return None
    listed = list(range(x.dim())) if dims is None or dims == [] else dims
    listed = [listed] if isinstance(listed, int) else listed
    if not all(-x.dim() <= d < x.dim() for d in listed):
        return None
    gone = {d % x.dim() for d in listed}
    if len(gone) < len(listed):
        return None
    return empty(x, tuple(1 if d in gone else n for d, n in enumerate(x.shape) if keep or d not in gone))


def _cat(call: Call) -> Tensor | None:
    tensors = call.args[0]
    first, dim = tensors[0].shape, call["dim"]
    rank = len(first)
    if any(t.dim() != rank or t.dtype is not tensors[0].dtype for t in tensors) or not -rank <= dim < rank:
        return None  # empty ones, that fit anything, or other types
    dim %= rank
    shapes = [t.shape for t in tensors]
    if any(s[:dim] != first[:dim] or s[dim + 1 :] != first[dim + 1 :] for s in shapes):
        listed = ", ".join(str(list(s)) for s in shapes)
        raise RuntimeError(f"tensors of shapes {listed} can't be joined along dimension {dim}")
    return empty(tensors[0], (*first[:dim], sum(s[dim] for s in shapes), *first[dim + 1 :]))


def _stack(call: Call) -> Tensor | None:
    tensors, dim = call.args[0], call["dim"]
    first, rank = tensors[0].shape, tensors[0].dim() + 1
    if any(t.shape != first or t.dtype is not tensors[0].dtype for t in tensors) or not -rank <= dim < rank:
        return None  # torch says what is wrong
    dim %= rank
    return empty(tensors[0], (*first[:dim], len(tensors), *first[dim:]))


def _copy(call: Call) -> Tensor | None:
    usual = {"device": torch.device("meta"), "layout": torch.strided, "memory_format": torch.preserve_format}
    options = {name: x for name, x in call.kwargs.items() if name != "dtype" and x not in (None, False)}
    fits = all(usual.get(name) == x for name, x in options.items())
    return like(call.first, call.kwargs.get("dtype")) if fits else None


def _roll(call: Call) -> Tensor | None:
    x, shifts, dims = call.first, call["shifts"], call["dims"]
    fits = len(shifts) == len(dims) and all(-x.dim() <= d < x.dim() for d in dims)
    return empty(x, x.shape) if fits or (len(shifts) == 1 and not dims) else None


def _indexed(call: Call) -> Tensor | None:
    """`x[i, :, j]` with arrays of numbers; masks are torch's, for their number of ones is in their values."""
    x, indices = call.first, call["indices"]
    if len(indices) > x.dim() or any(i is not None and i.dtype is not torch.int64 for i in indices):
        return None
    dims = [d for d, i in enumerate(indices) if i is not None]
    if not dims:
        return None
    shape = _broadcast(call, *(indices[d].shape for d in dims))
    before = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0  # apart, they go to the front
    rest = [n for d, n in enumerate(x.shape) if d not in dims]
    return empty(x, (*rest[:before], *shape, *rest[before:]))


def _arange(call: Call) -> Tensor | None:
    """Numbers from a start, 0 unless given, up to an end, by a step; from none of another tensor."""
    numbers, options = call.args, {name: v for name, v in call.kwargs.items() if v is not None}
    device, dtype = torch.device(options.pop("device", "cpu")), options.pop("dtype", None)
    plain = all(isinstance(n, int | float) for n in numbers) and not set(options) - {"pin_memory", "layout"}
    if device.type != "meta" or not plain:
        return None
    start, end, step = (0, *numbers, 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    if step == 0 or (end - start) / step < 0:
        return None  # torch says what is wrong
    whole = all(isinstance(n, int) for n in numbers)
    return torch.empty(
        math.ceil((end - start) / step),
        dtype=dtype or (torch.int64 if whole else torch.get_default_dtype()),
        device=device,
    )


_ACTIVATIONS = """celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid mish relu
relu6 selu sigmoid silu softplus softshrink tanh threshold"""
_ARITHMETIC = """abs add addcdiv addcmul clamp clamp_max clamp_min cos div erf exp expm1 log log1p log2 logit
maximum minimum mul neg pow reciprocal rsqrt sin sqrt square sub"""
_POINTWISE = frozenset((_ACTIVATIONS + " " + _ARITHMETIC).split())
_WHOLE = ("add", "sub", "mul", "maximum", "minimum", "abs", "neg")  # of whole numbers again whole numbers
_COMPARED = [
    f"{name}.{kind}" for name in ("eq", "ne", "lt", "le", "gt", "ge") for kind in ("Scalar", "Tensor")
]
_REDUCTIONS = "mean.dim mean.default sum.dim_IntList sum.default amax.default amin.default var.correction"
_OTHERS: dict[str, Infer] = {
    **dict.fromkeys(_COMPARED, _comparison),
    **dict.fromkeys((*_REDUCTIONS.split(), "std.correction", "linalg_vector_norm.default"), _reduced),
    **dict.fromkeys(("softmax.int", "log_softmax.int"), _softmax),
    **dict.fromkeys(
        (f"{name}.default" for name in ("clone", "empty_like", "zeros_like", "ones_like")), _copy
    ),
    "masked_fill.Scalar": _masked_fill,
    "masked_fill.Tensor": _masked_fill,
    "cat.default": _cat,
    "stack.default": _stack,
    "roll.default": _roll,
    "index.Tensor": _indexed,
    "arange.default": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
}
_resolved: dict[Any, Any] = {}
