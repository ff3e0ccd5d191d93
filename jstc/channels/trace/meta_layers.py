"""Outputs of layers on the meta device: convolutions, pools, norms, matrix products, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jstc.channels.trace.ids import Call

__all__ = ["LAYERS", "empty", "given", "like"]

_META = torch.device("meta")


def empty(model: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor without memory, of the type of another."""
    return torch.empty(shape, dtype=dtype or model.dtype, device=_META)


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor without memory, of the shape and memory order of another, and of its type without `dtype`."""
    if x.is_contiguous():
        return empty(x, x.shape, dtype)
    strides, step = [0] * x.dim(), 1
    for d in sorted(range(x.dim()), key=lambda d: (x.stride(d), -d)):
        strides[d], step = step, step * x.shape[d]
    return torch.empty_strided(x.shape, strides, dtype=dtype or x.dtype, device="meta")


def given(call: Call, name: str, default: Any = None) -> Any:
    """The argument called `name`; `default` for an operation that has none."""
    try:
        return call[name]
    except KeyError:
        return default


def _tuple(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * rank if len(values) == 1 else values


def _convolution(call: Call) -> Tensor | None:
    """Input [N, C, *], weight [C_out, C / groups, *kernel]; padding in numbers."""
    x, weight, bias, groups = call.first, call["weight"], call["bias"], call["groups"]
    if x.dim() != weight.dim() or isinstance(call["padding"], str):
        return None
    shape = weight.shape
    if x.shape[1] != shape[1] * groups or shape[0] % groups:
        raise RuntimeError(
            f"a convolution in {groups} group(s) with weight {list(shape)} got input {list(x.shape)}"
        )
    if bias is not None and bias.shape != shape[:1]:
        raise RuntimeError(f"a bias {list(bias.shape)} does not fit the weight {list(shape)}")
    return empty(x, (x.shape[0], shape[0], *_windows(call, shape[2:], call["stride"])))


def _windows(call: Call, kernel: Sequence[int], stride: Any, *, ceil: bool = False) -> list[int]:
    """Sizes of the space after a window slid over it; padding and dilation are the call's."""
    size, rank = call.first.shape[2:], len(kernel)
    steps, padding = _tuple(stride, rank), _tuple(call["padding"], rank)
    dilation = _tuple(given(call, "dilation", 1), rank)
    found = []
    for n, k, step, pad, gap in zip(size, kernel, steps, padding, dilation, strict=True):
        room = n + 2 * pad - gap * (k - 1) - 1
        count = (room + (step - 1 if ceil else 0)) // step + 1
        found.append(count - (ceil and (count - 1) * step >= n + pad))  # none may start in the padding
    if min(found) < 1:
        raise RuntimeError(f"the kernel {list(kernel)} is larger than the input {list(call.first.shape)}")
    return found


def _transposed_convolution(call: Call) -> Tensor | None:
    """Input [N, C, *], weight [C, C_out / groups, *kernel]."""
    x, weight, bias, groups = call.first, call["weight"], call["bias"], call["groups"]
    if x.dim() != weight.dim():
        return None
    width, rank = weight.shape[1] * groups, x.dim() - 2
    if x.shape[1] != weight.shape[0] or x.shape[1] % groups or (bias is not None and bias.shape != (width,)):
        raise RuntimeError(
            f"a transposed convolution in {groups} group(s) with weight {list(weight.shape)} got input "
            f"{list(x.shape)}" + ("" if bias is None else f" and bias {list(bias.shape)}")
        )
    names = ("stride", "padding", "output_padding", "dilation")
    sides = list(
        zip(x.shape[2:], weight.shape[2:], *(_tuple(call[name], rank) for name in names), strict=True)
    )
    space = [(n - 1) * step - 2 * pad + gap * (k - 1) + more + 1 for n, k, step, pad, more, gap in sides]
    fits = min(space) > 0 and all(more < max(step, gap) for _, _, step, _, more, gap in sides)
    return empty(x, (x.shape[0], width, *space)) if fits else None


def _pool(call: Call) -> Tensor | None:
    x, kernel = call.first, _tuple(call["kernel_size"], 2)
    padding = _tuple(call["padding"], 2)
    if x.dim() != 4 or any(pad > k // 2 for pad, k in zip(padding, kernel, strict=True)):
        return None  # torch says what is wrong
    return empty(x, (*x.shape[:2], *_windows(call, kernel, call["stride"] or kernel, ceil=call["ceil_mode"])))


def _adaptive_pool(call: Call) -> Tensor | None:
    x = call.first
    if x.dim() != 4:
        return None
    wanted = _tuple(call["output_size"], 2)
    return empty(
        x, (*x.shape[:2], *(n if w is None else w for n, w in zip(x.shape[2:], wanted, strict=True)))
    )


def _resize(call: Call) -> Tensor | None:
    """Nearest and bilinear interpolation of [N, C, H, W] to a size, or by factors."""
    x, size, factors = call.first, call["output_size"], call["scale_factors"]
    if x.dim() != 4 or (size is None) == (factors is None):
        return None
    size = size or [int(n * factor) for n, factor in zip(x.shape[2:], factors, strict=True)]
    return empty(x, (*x.shape[:2], *size)) if min(size) > 0 else None


def _batch_norm(call: Call) -> Tensor | None:
    x = call.first
    if call["training"]:
        return None
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None and call[name].shape != x.shape[1:2]:
            raise RuntimeError(f"{name} {list(call[name].shape)} does not fit the input {list(x.shape)}")
    return like(x)


def _layer_norm(call: Call) -> Tensor | None:
    x, shape = call.first, tuple(call["normalized_shape"])
    params = [tuple(t.shape) for t in (call["weight"], given(call, "bias")) if t is not None]
    if not shape or x.dim() < len(shape):
        return None
    if any(own != shape for own in (x.shape[-len(shape) :], *params)):
        raise RuntimeError(f"a norm over {shape} with parameters {params} got input {list(x.shape)}")
    return empty(x, x.shape)


def _group_norm(call: Call) -> Tensor | None:
    x, groups = call.first, call["num_groups"]
    params = [tuple(t.shape) for t in (call["weight"], call["bias"]) if t is not None]
    if x.dim() < 2:
        return None
    if x.shape[1] % groups or any(own != x.shape[1:2] for own in params):
        raise RuntimeError(f"a norm in {groups} groups with parameters {params} got input {list(x.shape)}")
    return like(x)


def _linear(call: Call) -> Tensor | None:
    x, weight, bias = call.first, call["weight"], call["bias"]
    if weight.dim() != 2 or not x.dim():
        return None
    if x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        extra = "" if bias is None else f" and bias {list(bias.shape)}"
        raise RuntimeError(
            f"a linear layer with weight {list(weight.shape)}{extra} got input {list(x.shape)}"
        )
    return empty(x, (*x.shape[:-1], weight.shape[0]))


def _matmul(call: Call) -> Tensor | None:
    """[*, n, k] x [*, k, m], and the vector forms of `torch.matmul`."""
    a, b = call.args[:2]
    if not a.dim() or not b.dim() or a.dtype is not b.dtype:
        return None
    left, right = (1, *a.shape) if a.dim() == 1 else a.shape, (*b.shape, 1) if b.dim() == 1 else b.shape
    batch = _batch(left[:-2], right[:-2])
    if left[-1] != right[-2] or batch is None:
        raise RuntimeError(f"matrices of shapes {list(a.shape)} and {list(b.shape)} can't be multiplied")
    return empty(a, (*batch, *left[-2:-1][: a.dim() - 1], *right[-1:][: b.dim() - 1]))


def _batch(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...] | None:
    """The common shape; None when there is none."""
    rank = max(len(a), len(b))
    pairs = list(zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True))
    if any(n != m and 1 not in (n, m) for n, m in pairs):
        return None
    return tuple(m if n == 1 else n for n, m in pairs)


def _attention(call: Call) -> Tensor | None:
    """Query [*, n, d], key [*, m, d], value [*, m, e]."""
    query, key, value, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
    if query.dim() < 3 or len({query.shape[:-2], key.shape[:-2], value.shape[:-2]}) > 1:
        return None  # broadcast, or it does not fit
    scores = (*query.shape[:-1], key.shape[-2])
    fits = query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2]
    if not fits or (mask is not None and _batch(mask.shape, scores) != scores):
        listed = ", ".join(str(list(t.shape)) for t in (query, key, value, mask) if t is not None)
        raise RuntimeError(f"attention between shapes that do not fit: {listed}")
    return empty(query, (*query.shape[:-1], value.shape[-1]))


def _einsum(call: Call) -> Tensor | None:
    """Without ellipsis, repeated letters in one operand, or sizes of one that are broadcast."""
    equation, tensors = call.args[0].replace(" ", ""), call.args[1]
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(tensors) or not (left + right).replace(",", "").isalpha():
        return None
    sizes: dict[str, int] = {}
    for letters, tensor in zip(terms, tensors, strict=True):
        if len(letters) != tensor.dim() or len({*letters}) < len(letters):
            return None
        for letter, n in zip(letters, tensor.shape, strict=True):
            if sizes.setdefault(letter, n) != n:
                return None
    known = {*right} <= {*sizes} and len({*right}) == len(right)
    known = known and len({t.dtype for t in tensors}) == 1
    return empty(tensors[0], tuple(sizes[letter] for letter in right)) if known else None


LAYERS: dict[str, Callable[[Call], Tensor | None]] = {
    **{f"conv{d}d.default": _convolution for d in (1, 2, 3)},
    "conv_transpose1d.default": _transposed_convolution,
    **{f"conv_transpose{d}d.input": _transposed_convolution for d in (2, 3)},
    "max_pool2d.default": _pool,
    "avg_pool2d.default": _pool,
    "adaptive_avg_pool2d.default": _adaptive_pool,
    "upsample_nearest2d.vec": _resize,
    "upsample_bilinear2d.vec": _resize,
    "batch_norm.default": _batch_norm,
    "layer_norm.default": _layer_norm,
    "rms_norm.default": _layer_norm,
    "group_norm.default": _group_norm,
    "linear.default": _linear,
    "matmul.default": _matmul,
    "mm.default": _matmul,
    "bmm.default": _matmul,
    "scaled_dot_product_attention.default": _attention,
    "einsum.default": _einsum,
}
