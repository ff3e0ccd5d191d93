"""Weights that no image reaches: positions of a convolution's kernel that see nothing but padding.

A 3x3 kernel on a map of 1x1 multiplies the one value by its middle; the eight positions around it meet zeros,
whatever the image. They get no gradient, do nothing, and are trained and stored all the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Unreached", "unreached"]

_CONVOLUTIONS = ("convolution", "_convolution")


@dataclass(frozen=True)
class Unreached:
    """Kernel positions by parameter, True where no image of `input_shape` [C, H, W] reaches them.

    `positions[name]` has the kernel's own dimensions, [kH, kW]; parameters without such a position are left
    out. `weights` of the network's `params` parameters are at such positions.
    """

    positions: Mapping[str, Tensor]
    input_shape: tuple[int, int, int]
    weights: int
    params: int

    @property
    def share(self) -> float:
        """The share of all parameters that no image reaches."""
        return self.weights / max(1, self.params)

    def to_dict(self) -> dict[str, Any]:
        """A JSON document; `layers` in the order of the forward."""
        return {
            "weights": self.weights,
            "share": self.share,
            "image_size": list(self.input_shape[1:]),
            "layers": [name.rpartition(".")[0] or name for name in self.positions],
        }


def unreached(network: nn.Module, input_shape: tuple[int, int, int]) -> Unreached:
    """Weights of `network` that no image of `input_shape` [C, H, W] reaches, by one forward on its device.

    A kernel that is used several times is reached where any use reaches it. Only zero padding counts, of a
    convolution itself or put around its input just before. The network is left as it was.
    """
    parameters = dict(network.named_parameters())
    where = next((p.device for p in parameters.values()), torch.device("cpu"))
    dtype = next((p.dtype for p in parameters.values()), torch.float32)
    watch = _Watch({id(parameter): name for name, parameter in parameters.items()})
    training = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        # Two images: there are forwards that take one for a batch of none.
        with torch.no_grad(), watch:
            network(torch.zeros(2, *input_shape, device=where, dtype=dtype))
    finally:
        for module, was in training:
            module.training = was
    positions = {name: ~seen for name, seen in watch.seen.items() if not bool(seen.all())}
    weights = sum(int(positions[name].sum()) * math.prod(parameters[name].shape[:2]) for name in positions)
    return Unreached(positions, input_shape, weights, sum(p.numel() for p in parameters.values()))


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects in `seen`, by parameter, which positions of its kernel have met a value of their input."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[str, Tensor] = {}
        self._names = names
        self._padded: dict[int, tuple[Tensor, list[int]]] = {}  # by id() of a tensor that is kept here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = func._schema.name.split("::")[1]
        if kind == "constant_pad_nd" and (len(args) < 3 or args[2] == 0) and min(args[1]) >= 0:
            before = self._padded.get(id(args[0]), (None, []))[1]
            around = [sum(pair) for pair in itertools.zip_longest(args[1], before, fillvalue=0)]
            self._padded = {id(out): (out, around)}  # the last one alone: it is used at once
        elif kind in _CONVOLUTIONS and not args[6]:
            self._convolution(*args[:2], *args[3:6])
        return out

    def _convolution(
        self, images: Tensor, kernel: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Any
    ) -> None:
        name = self._names.get(id(kernel))
        if name is None:  # computed by the forward: it is no parameter's own
            return
        seen = torch.ones((), dtype=torch.bool)
        around = self._padded.get(id(images), (images, []))[1]
        for axis, length in enumerate(kernel.shape[2:]):
            place = 2 * (kernel.dim() - 3 - axis)  # torch names the last dimension first
            before, after = around[place : place + 2] or (0, 0)
            size = images.shape[2 + axis] - before - after
            pad = _of(padding, axis)
            ends = (before + pad, after + pad)
            one = _axis(size, length, ends, _of(stride, axis), _of(dilation, axis))
            seen = seen.unsqueeze(-1) & one
        self.seen[name] = self.seen[name] | seen if name in self.seen else seen


def _of(values: Sequence[int], axis: int) -> int:
    """The value for an axis, of one that all share or of one for each."""
    return values[axis] if len(values) > 1 else values[0]


def _axis(size: int, length: int, padding: tuple[int, int], stride: int, dilation: int) -> Tensor:
    """Positions of a kernel along an axis, bool [length]: True for those that meet one of `size` values."""
    outputs = (size + sum(padding) - dilation * (length - 1) - 1) // stride + 1
    starts = stride * torch.arange(outputs) - padding[0]
    places = starts.unsqueeze(1) + dilation * torch.arange(length)
    return ((places >= 0) & (places < size)).any(dim=0)
