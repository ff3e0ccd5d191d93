"""Values that no sound training leaves in a network: no numbers, absurdly large, or changed out of its sight.

Nothing here depends on what the network answers, because values can be wrong where no answer shows it: a
weight that meets only padding changes no answer at this image size, and every one at another.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from jstc.errors import StageError
from jstc.soundness.reach import Unreached

__all__ = ["LARGEST", "require_sane"]

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
