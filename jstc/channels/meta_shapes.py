"""Output shapes of the commonest layers on the meta device.

torch infers them in Python, for which it imports sympy (convolution) and its whole compiler (batch norm,
pooling): two to three seconds before the first layer. These few lines are all that is needed of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jstc.channels.labels import Call

__all__ = ["infer"]


def infer(call: Call) -> Tensor | None:
    """The output of a common operation on the meta device; None for any other.

    Raises `RuntimeError` where torch would, for shapes that do not fit.
    """
    known = _KNOWN.get(call.func)
    if known is None and call.func._schema.name.removeprefix("aten::").removesuffix("_") in _POINTWISE:
        known = _pointwise
    return None if known is None or call.first.device.type != "meta" else known(call)


def _conv2d(call: Call) -> Tensor | None:
    x, weight, bias, groups = call.first, call["weight"], call["bias"], call["groups"]
    if x.dim() != 4:
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise RuntimeError(
            f"a convolution in {groups} group(s) with weight {list(weight.shape)} got input {list(x.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(f"a bias {list(bias.shape)} does not fit the weight {list(weight.shape)}")
    return x.new_empty((x.shape[0], weight.shape[0], *_windows(call, list(weight.shape[2:]), call["stride"])))


def _windows(call: Call, kernel: list[int], stride: int | list[int]) -> list[int]:
    """Height and width after sliding a window; padding and dilation are the call's."""
    x = call.first
    steps, padding, dilation = _pair(stride), _pair(call["padding"]), _pair(call["dilation"])
    sides = [
        (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // steps[d] + 1 for d in (0, 1)
    ]
    if min(sides) < 1:
        raise RuntimeError(f"the kernel {kernel} is larger than the input {list(x.shape)}")
    return sides


def _pair(value: int | list[int]) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * 2 if len(values) == 1 else values


def _batch_norm(call: Call) -> Tensor | None:
    x = call.first
    if call["training"]:
        return None
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None and call[name].shape != x.shape[1:2]:
            raise RuntimeError(f"{name} {list(call[name].shape)} does not fit the input {list(x.shape)}")
    return x.new_empty(x.shape)


def _adaptive_pool(call: Call) -> Tensor | None:
    x = call.first
    if x.dim() != 4:
        return None
    sides = [x.shape[d] if n is None else n for d, n in zip((2, 3), _pair(call["output_size"]), strict=True)]
    return x.new_empty((*x.shape[:2], *sides))


def _max_pool(call: Call) -> Tensor | None:
    x, kernel = call.first, _pair(call["kernel_size"])
    if x.dim() != 4 or call["ceil_mode"]:
        return None
    return x.new_empty((*x.shape[:2], *_windows(call, kernel, call["stride"] or kernel)))


def _linear(call: Call) -> Tensor | None:
    x, weight, bias = call.first, call["weight"], call["bias"]
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1] or (bias is not None and len(bias) != len(weight)):
        return None  # torch says what is wrong
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _pointwise(call: Call) -> Tensor | None:
    tensors = call.tensors()
    if len({t.dtype for t in tensors}) > 1 or not call.first.is_floating_point():
        return None
    try:
        shape = np.broadcast_shapes(*(tuple(t.shape) for t in tensors))
    except ValueError:
        return None  # torch says what is wrong
    if not call.func._schema.name.endswith("_"):
        return call.first.new_empty(shape)
    return call.first if shape == tuple(call.first.shape) else None


_ACTIVATIONS = {
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "hardtanh",
    "hardswish",
}
_POINTWISE = {"add", "sub", "mul", "div", "clamp", "hardsigmoid", *_ACTIVATIONS}
_KNOWN = {
    torch.ops.aten.conv2d.default: _conv2d,
    torch.ops.aten.batch_norm.default: _batch_norm,
    torch.ops.aten.adaptive_avg_pool2d.default: _adaptive_pool,
    torch.ops.aten.max_pool2d.default: _max_pool,
    torch.ops.aten.linear.default: _linear,
}
