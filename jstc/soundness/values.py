"""Values that no sound training leaves in a network: no numbers, absurdly large, or changed out of its sight.

Nothing here depends on what the network answers, because values can be wrong where no answer shows it: a
weight that meets only padding changes no answer at this image size, and every one at another.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from jstc.channels.trace.ids import evaluating
from jstc.errors import StageError

__all__ = ["LARGEST", "Unreached", "require_sane", "unreached"]


LARGEST = 2.0**24
"""How many times as large as is usual in its network a weight may be.

float32 has 24 binary digits: beside a value that is larger by more, one of the usual size is lost. Published
weights stay below a few hundred, and means of a norm below 65,504 wherever a network was meant for float16.
Variances are squares, and so is their limit: those of a norm behind a layer that sums raw pixels, or at the
end of a residual stream without norms, reach millions.
"""

_MOVED = 10.0
"""How many times as large as it was a weight without a gradient may have become: decay makes it smaller, and
only gates, folded into it, larger."""

_SHOWN = 5


def require_sane(
    network: nn.Module, *, initial: nn.Module, unreached: Unreached | None = None, what: str = "the network"
) -> None:
    """Raise `StageError` when `network` holds a value that no sound training leaves there, with their names.

    `initial` is the network that it was made of, before training, with tensors of the same names. Of tensors
    that training does not change, such as masks, only what is not in `initial` either is wrong. Where
    `unreached` weights of `network` are given, those are to have stayed near the ones of `initial`.
    """
    absurd = dict(_absurd(network, initial))
    found = (dict(_moved(network, initial, unreached)) if unreached else {}) | absurd
    if not found:
        return
    told = [f"{name}: {reason}" for name, reason in found.items()]
    more = len(told) - _SHOWN
    details = told[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    raise StageError(
        f"{what} holds values that no sound training leaves",
        "a training that diverged, or a kernel of torch that is wrong on this machine, writes such values: "
        "`jstc doctor` tests the kernels; train again with train.precision=float32, and with a lower "
        "train.lr where the loss rose",
        details=details,
    )


def _absurd(network: nn.Module, initial: nn.Module) -> Iterator[tuple[str, str]]:
    """Tensors with values that are wrong by themselves, and what is wrong."""
    ours, theirs = _tensors(network), _tensors(initial)
    learned = [tensor for tensor in ours.values() if tensor.requires_grad]
    limit, norms = LARGEST * _usual(learned), _statistics(network)
    for name, tensor in ours.items():
        allowed = limit**2 if name in norms and name.endswith("var") else limit
        trained = tensor.requires_grad or name in norms
        if not trained and name in theirs and _beyond(theirs[name], allowed):
            continue  # its author's own
        if told := _beyond(tensor, allowed):
            yield name, told


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, of real numbers."""
    both = (*network.named_parameters(), *network.named_buffers())
    return {name: tensor for name, tensor in both if tensor.dtype.is_floating_point}


def _usual(tensors: Sequence[Tensor]) -> float:
    """The middle one of the largest values of all `tensors`, one at least."""
    found = [tensor.detach().abs().max().item() for tensor in tensors if tensor.numel()]
    sound = [value for value in found if math.isfinite(value) and value]
    return max(1.0, statistics.median(sound)) if sound else 1.0


def _statistics(network: nn.Module) -> set[str]:
    """Names of the running means and variances of norms."""
    return {
        f"{name}.{kind}" if name else kind
        for name, module in network.named_modules()
        if isinstance(module, _NormBase)
        for kind in ("running_mean", "running_var")
        if getattr(module, kind, None) is not None
    }


def _beyond(tensor: Tensor, limit: float) -> str:
    """A description of the values of a tensor that are wrong; empty for none."""
    size = tensor.detach().abs().double()
    undefined = int((~torch.isfinite(size)).sum())
    if undefined:
        return f"{undefined:,} of {tensor.numel():,} values are infinite or no numbers"
    large = int((size > limit).sum())
    if not large:
        return ""
    return f"{large:,} of {tensor.numel():,} values are above {limit:.3g}, the largest is {size.max():.3g}"


def _moved(network: nn.Module, initial: nn.Module, unreached: Unreached) -> Iterator[tuple[str, str]]:
    """Tensors with weights that have changed where no image reaches them, and what is wrong."""
    tensors, before = dict(network.named_parameters()), dict(initial.named_parameters())
    for name, positions in unreached.positions.items():
        now = tensors[name].detach()[..., positions].abs().max().item()
        then = before[name].detach()[..., positions.to(before[name].device)].abs().max().item()
        if not now <= _MOVED * then:
            yield (
                name,
                f"{int(positions.sum())} of the {positions.numel()} positions of its kernel see only padding "
                f"and have no gradient, but hold up to {now:.3g}; {then:.3g} before training",
            )


# Weights that no image reaches: positions of a convolution's kernel that see nothing but padding.
#
# A 3x3 kernel on a map of 1x1 multiplies the one value by its middle; the eight positions around it meet
# zeros, whatever the image. They get no gradient, do nothing, and are trained and stored all the same.


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
    # Two images: there are forwards that take one for a batch of none.
    with evaluating(network), torch.no_grad(), watch:
        network(torch.zeros(2, *input_shape, device=where, dtype=dtype))
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
