"""SGD for parameters known by name, whose momentum can be taken out, sliced and put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from jstc.recipe import TrainSettings

__all__ = ["get_momentum", "make", "set_learning_rate", "set_momentum"]


def make(named: Mapping[str, Tensor], settings: TrainSettings) -> torch.optim.SGD:
    """SGD over the parameters in `named` that require gradients; frozen ones are left out.

    Parameters of one dimension (scales and shifts of norms, biases) get no weight decay: they are few,
    so they cannot overfit, and pulling a norm's scale towards zero only fights the layer after it
    (Goyal et al. 2017, section 5.3; He et al. 2019, section 3.1).

    Momentum exists from the start, as zeros, which is the same training as torch's lazy one. Make the
    optimiser after the network has its final device and memory format: momentum takes the layout of its
    parameter.
    """
    trained = [tensor for tensor in named.values() if tensor.requires_grad]
    groups = [
        {"params": [t for t in trained if t.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [t for t in trained if t.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=_can_fuse(trained) or None,
    )
    if settings.momentum > 0:
        for tensor in trained:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return optimizer


def _can_fuse(tensors: Iterable[Tensor]) -> bool:
    # The fused kernel is the fastest on CPU and GPU, but walks the memory of parameter, gradient and
    # momentum side by side: right only where each is dense, so that all three share one layout.
    return all(_is_dense(t) and t.is_floating_point() and t.device.type in ("cpu", "cuda") for t in tensors)


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter."""
    for group in optimizer.param_groups:
        group["lr"] = value


def get_momentum(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Momentum by parameter name, each the shape of its parameter; the live tensors, not copies.

    Holds the trained parameters of `named` only; empty when the optimiser has no momentum.
    """
    state = {name: optimizer.state.get(tensor, {}) for name, tensor in named.items()}
    return {name: entry["momentum_buffer"] for name, entry in state.items() if "momentum_buffer" in entry}


@torch.no_grad()
def set_momentum(
    optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], momentum: Mapping[str, Tensor]
) -> None:
    """Copy `momentum` into the optimiser, by parameter name.

    Raises `ValueError` when the names or shapes are not those that `get_momentum` gives.
    """
    mine = get_momentum(optimizer, named)
    if mine.keys() != momentum.keys():
        raise ValueError(f"momentum and parameters differ: {sorted(mine.keys() ^ momentum.keys())}")
    for name, tensor in mine.items():
        if tensor.shape != momentum[name].shape:
            shapes = f"{list(momentum[name].shape)}, not {list(tensor.shape)}"
            raise ValueError(f"momentum of '{name}' has shape {shapes}")
        tensor.copy_(momentum[name])
