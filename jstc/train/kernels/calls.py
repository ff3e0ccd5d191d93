"""Calls of convolutions and linear layers: what in them decides which kernel computes them.

A `Call` is that, without the values and without the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Call", "Form", "Operands", "call_of", "run"]


Operands = tuple[Tensor, Tensor, Tensor | None]
"""Input, weight and bias."""

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"conv{dims}d": function for function, dims in _CONVOLUTIONS.items()},
    **{f"conv_transpose{dims}d": function for function, dims in _TRANSPOSED.items()},
    "linear": F.linear,
}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
_FORWARD = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_BACKWARD = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")

_MAX_WEIGHTS = 2**23
"""Larger layers (the linear ones of VGG) are no calls of ours: judging them would take gigabytes."""


@dataclass(frozen=True)
class Call:
    """A convolution or a linear layer as it is called on the CPU.

    `input` is the input's shape without the number of images, `weight` the weight's; `dtype` is the number
    format in which the kernel works (that of autocast, where it is on).
    """

    name: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool
    dtype: str
    channels_last: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1

    @property
    def key(self) -> str:
        """One word for it, the same in every process."""
        sizes = (self.input, self.weight, self.stride, self.padding, self.dilation, self.output_padding)
        layout = "channels_last" if self.channels_last else "contiguous"
        shown = ["x".join(map(str, size)) or "-" for size in sizes]
        return "/".join([self.name, *shown, str(self.groups), f"bias{self.bias:d}", self.dtype, layout])

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.name.startswith("conv_transpose")

    @property
    def precision(self) -> torch.dtype:
        """The number format as torch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def channels(self) -> int:
        """Channels, or features, of the output."""
        return self.weight[1] * self.groups if self.transposed else self.weight[0]

    @property
    def output(self) -> tuple[int, ...]:
        """The output's shape without the number of images."""
        if self.name == "linear":
            return (*self.input[:-1], self.channels)
        settings = (self.weight[2:], self.stride, self.padding, self.dilation, self.output_padding)
        sides = zip(self.input[1:], *settings, strict=True)
        if self.transposed:
            return self.channels, *((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in sides)
        return self.channels, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sides)

    def native(self, operands: Operands) -> Tensor:
        """What torch itself makes of the call, in the form in which a training has it."""
        low = self.precision in (torch.bfloat16, torch.float16)
        with torch.autocast("cpu", self.precision if low else None, enabled=low, cache_enabled=False):
            if self.name == "linear":
                return F.linear(*operands)
            names = ("stride", "padding", "dilation", "groups")
            options = {name: getattr(self, name) for name in names}
            if self.transposed:
                options["output_padding"] = self.output_padding
            result: Tensor = _FUNCTIONS[self.name](*operands, **options)
            return result

    def __str__(self) -> str:
        """In words, for people."""
        if self.name == "linear":
            return f"linear layer of {self.weight[1]} to {self.weight[0]} features"
        kernel, images = ("x".join(map(str, size)) for size in (self.weight[2:], self.input[1:]))
        inputs = self.weight[0] if self.transposed else self.weight[1] * self.groups
        told = f"{kernel} convolution of {inputs} to {self.channels} channels on {images} positions"
        steps = {"stride": self.stride, "dilation": self.dilation}
        extra = [f"{what} {_sides(size)}" for what, size in steps.items() if set(size) != {1}]
        extra += [f"{self.groups} groups"] if self.groups > 1 else []
        return f"{'transposed ' if self.transposed else ''}{told}" + "".join(f", {one}" for one in extra)


def _sides(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size if len(set(size)) > 1 else size[:1]))


def call_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Call, Operands] | None:
    """The call that `func` with these arguments is, and its tensors; None for whatever is no such call.

    A padding by name becomes one by numbers, and where it is uneven, the input is padded.
    """
    name = _NAMES.get(func) if callable(func) else None
    if name is None:
        return None
    given = dict(zip(_BACKWARD if "transpose" in name else _FORWARD, args, strict=False)) | dict(kwargs)
    x, weight, bias = given.get("input"), given.get("weight"), given.get("bias")
    if not isinstance(x, Tensor) or not isinstance(weight, Tensor) or not _is_ours(x, weight):
        return None
    if name == "linear":
        if x.dim() < 2 or weight.dim() != 2:
            return None
        return Call(name, tuple(x.shape[1:]), tuple(weight.shape), bias is not None, _dtype(x)), (
            x,
            weight,
            bias,
        )
    if x.dim() != weight.dim():  # an image without a batch
        return None
    dims = x.dim() - 2
    dilation = _each(given.get("dilation", 1), dims)
    x, padding = _padded(x, weight, given.get("padding", 0), dilation)
    call = Call(
        name,
        tuple(x.shape[1:]),
        tuple(weight.shape),
        bias is not None,
        _dtype(x),
        _is_channels_last(x) or _is_channels_last(weight),
        _each(given.get("stride", 1), dims),
        padding,
        dilation,
        _each(given.get("output_padding", 0), dims),
        int(given.get("groups", 1)),
    )
    return call, (x, weight, bias)


def _is_ours(x: Tensor, weight: Tensor) -> bool:
    plain = x.device.type == weight.device.type == "cpu" and x.layout == weight.layout == torch.strided
    return plain and x.is_floating_point() and x.numel() > 0 and 0 < weight.numel() <= _MAX_WEIGHTS


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(map(int, value)) if isinstance(value, tuple | list) else (int(value),)
    return values * dims if len(values) == 1 else values


def _padded(
    x: Tensor, weight: Tensor, padding: Any, dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """The input and its padding in numbers: torch puts an odd rest of "same" behind it."""
    dims = len(dilation)
    if not isinstance(padding, str):
        return x, _each(padding, dims)
    if padding == "valid":
        return x, (0,) * dims
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    behind = [number for total in reversed(totals) for number in (0, total % 2)]
    return F.pad(x, behind) if any(behind) else x, tuple(total // 2 for total in totals)


def _dtype(x: Tensor) -> str:
    low = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return str(torch.get_autocast_dtype("cpu") if low else x.dtype).removeprefix("torch.")


def _is_channels_last(tensor: Tensor) -> bool:
    """Whether torch takes [N, C, H, W] for one in channels-last layout: by its strides, where both fit."""
    if tensor.dim() != 4 or not tensor.is_contiguous(memory_format=torch.channels_last):
        return False
    if not tensor.is_contiguous():
        return True
    return tensor.shape[1:].numel() > 1 and tensor.stride(1) == 1 and tensor.stride(3) == tensor.shape[1]


# Calls computed in another form than the one that torch would take, forward and backward.


@dataclass(frozen=True)
class Form:
    """A way to compute a call: the number format, the layout, and whether oneDNN may be used."""

    dtype: str
    channels_last: bool = False
    onednn: bool = True

    def __str__(self) -> str:
        """In words, for people."""
        layout = ["channels-last"] if self.channels_last else []
        return ", ".join([self.dtype, *layout, *([] if self.onednn else ["without oneDNN"])])

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor in this number format and layout."""
        layout = torch.channels_last if self.channels_last and tensor.dim() == 4 else torch.contiguous_format
        return tensor.to(getattr(torch, self.dtype)).contiguous(memory_format=layout)

    def kernels(self) -> AbstractContextManager[None]:
        """Context in which torch chooses among the kernels of this form."""
        return nullcontext() if self.onednn else _without_onednn()


@contextmanager
def _without_onednn() -> Iterator[None]:
    # Not torch.backends.mkldnn.flags, which sets more than this, and warns of a setting for Intel's GPUs.
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def run(call: Call, form: Form, operands: Operands) -> Tensor:
    """The call computed in `form`; the result has the number format and layout that it would have had.

    So have the gradients of the operands. They are computed in `form`, too.
    """
    result: Tensor = _InForm.apply(call, form, *operands)
    return result


class _InForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, form: Form, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.call, ctx.form, ctx.bias = call, form, None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight)
        given = form.of(x), form.of(weight), None if bias is None else form.of(bias)
        # Autocast would change the number format back.
        with torch.autocast("cpu", enabled=False), form.kernels():
            if call.name == "linear":
                result = F.linear(*given)
            else:
                result = torch.ops.aten.convolution(*given, *_settings(call))
        layout = torch.channels_last if call.channels_last and result.dim() == 4 else torch.contiguous_format
        changed: Tensor = result.to(call.precision).contiguous(memory_format=layout)
        return changed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call, form = ctx.call, ctx.form
        x, weight = ctx.saved_tensors
        tensors = [form.of(tensor) for tensor in (gradient, x, weight)]
        needed = list(ctx.needs_input_grad[2:])
        with torch.autocast("cpu", enabled=False), form.kernels():
            if call.name == "linear":
                found = _linear_gradients(tensors, needed)
            else:
                sizes = [call.channels] if ctx.bias is not None else None
                found = torch.ops.aten.convolution_backward(*tensors, sizes, *_settings(call), needed)
        kinds = (x.dtype, weight.dtype, ctx.bias)
        own = [
            None if one is None or not want else one.to(kind)
            for one, kind, want in zip(found, kinds, needed, strict=True)
        ]
        return None, None, *own


def _settings(call: Call) -> tuple[Any, ...]:
    """The arguments of torch's convolution of any kind, after the tensors."""
    return (
        call.stride,
        call.padding,
        call.dilation,
        call.transposed,
        call.output_padding,
        call.groups,
    )


def _linear_gradients(
    tensors: list[Tensor], needed: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    gradient, x, weight = tensors
    rows, outs = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    return (
        gradient @ weight if needed[0] else None,
        outs.t() @ rows if needed[1] else None,
        outs.sum(0) if needed[2] else None,
    )
