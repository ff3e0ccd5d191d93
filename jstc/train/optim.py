"""Optimisers for parameters known by name, whose state can be taken out, sliced and put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from jstc.recipe import TrainSettings
from jstc.train import checkpoint
from jstc.train.adamw import PartialAdamW

__all__ = ["State", "from_tensors", "get_state", "make", "new_state", "set_learning_rate", "set_state"]

State = dict[str, dict[str, Tensor]]
"""By kind, then by parameter: `momentum` of SGD; `exp_avg`, `exp_avg_sq` and `steps` of AdamW.

Each has the shape of its parameter, so that it is cut and put back as that is; only where a network was
trained as a whole, `steps` are one number for a parameter.
"""

_KINDS = {"sgd": ("momentum",), "adamw": ("exp_avg", "exp_avg_sq", "steps")}
_TORCHS = {"momentum": "momentum_buffer", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "steps": "step"}


def make(
    named: Mapping[str, Tensor], settings: TrainSettings, *, partial: bool = False
) -> torch.optim.Optimizer:
    """The optimiser over the parameters in `named` that require gradients; frozen ones are left out.

    Parameters of one dimension (scales and shifts of norms, biases) get no weight decay: they are few,
    so they cannot overfit, and pulling a norm's scale towards zero only fights the layer after it
    (Goyal et al. 2017, section 5.3; He et al. 2019, section 3.1).

    Its state exists from the start, as zeros, which is the same training as torch's lazy one. Make the
    optimiser after the network has its final device and memory format: the state takes the layout of its
    parameter. `partial` is for a network whose channels have been trained unequally often.
    """
    trained = [tensor for tensor in named.values() if tensor.requires_grad]
    groups = [
        {"params": [t for t in trained if t.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [t for t in trained if t.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return _adamw(groups, trained, settings, partial=partial)
    return _sgd(groups, trained, settings)


def _sgd(groups: Any, trained: list[Tensor], settings: TrainSettings) -> torch.optim.Optimizer:
    momentum = settings.momentum or 0.0
    optimizer = torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=momentum,
        nesterov=bool(settings.nesterov) and momentum > 0,
        fused=_can_fuse(trained) or None,
    )
    if momentum > 0:
        for tensor in trained:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return optimizer


def _adamw(
    groups: Any, trained: list[Tensor], settings: TrainSettings, *, partial: bool
) -> torch.optim.Optimizer:
    betas = settings.betas or (0.9, 0.999)
    if partial:
        return PartialAdamW(groups, lr=settings.lr, betas=betas)
    fused = _can_fuse(trained)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=fused or None)
    for tensor in trained:
        averages = {name: torch.zeros_like(tensor) for name in ("exp_avg", "exp_avg_sq")}
        step = torch.zeros((), dtype=torch.float32, device=tensor.device if fused else "cpu")
        optimizer.state[tensor].update({"step": step, **averages})
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


def new_state(named: Mapping[str, Tensor], settings: TrainSettings) -> State:
    """The state before the first step of the whole network's parameters: zeros of their shapes."""
    if settings.optimizer == "sgd" and not settings.momentum:
        return {}
    trained = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    return {
        kind: {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in trained.items()}
        for kind in _KINDS[settings.optimizer]
    }


def get_state(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> State:
    """The state by kind and parameter name; the live tensors, not copies.

    Holds the trained parameters of `named` only; empty for SGD without momentum.
    """
    entries = {name: optimizer.state.get(tensor, {}) for name, tensor in named.items()}
    found = {
        kind: {name: entry[key] for name, entry in entries.items() if key in entry}
        for kind, key in _TORCHS.items()
    }
    return {kind: tensors for kind, tensors in found.items() if tensors}


@torch.no_grad()
def set_state(
    optimizer: torch.optim.Optimizer,
    named: Mapping[str, Tensor],
    state: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Copy `state` into the optimiser, by kind and parameter name.

    Raises `ValueError` when the kinds, names or shapes are not those that `get_state` gives.
    """
    mine = get_state(optimizer, named)
    if mine.keys() != state.keys():
        raise ValueError(f"the optimiser's state is of another kind: {sorted(state)}, not {sorted(mine)}")
    for kind, tensors in mine.items():
        _copy(kind, tensors, state[kind])


def _copy(kind: str, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    if mine.keys() != theirs.keys():
        raise ValueError(f"{kind} and parameters differ: {sorted(mine.keys() ^ theirs.keys())}")
    for name, tensor in mine.items():
        if tensor.shape != theirs[name].shape:
            shapes = f"{list(theirs[name].shape)}, not {list(tensor.shape)}"
            raise ValueError(f"{kind} of '{name}' has shape {shapes}")
        tensor.copy_(theirs[name])


def from_tensors(tensors: Mapping[str, Tensor]) -> State:
    """The state in what `checkpoint.join(**state)` gave, among other parts."""
    found = {kind: checkpoint.part(tensors, kind) for kind in _TORCHS}
    return {kind: parts for kind, parts in found.items() if parts}
