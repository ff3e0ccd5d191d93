"""Calls computed in another form than the one that torch would take, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jstc.train.kernels.calls import Call, Operands

__all__ = ["Form", "run"]


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
