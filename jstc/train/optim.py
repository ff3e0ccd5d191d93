"""Optimisers for parameters known by name, whose state can be taken out, sliced and put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jstc.recipe.schema import TrainSettings
from jstc.train import checkpoint

__all__ = [
    "Average",
    "PartialAdamW",
    "State",
    "from_tensors",
    "get_state",
    "make",
    "new_state",
    "set_learning_rate",
    "set_state",
]

# AdamW for a network whose parts have been trained unequally often


class PartialAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) in which every element of a parameter counts its own steps.

    Not torch's, which has one count for a parameter: channels that a search cuts out and puts back have been
    trained unequally often, and the correction of an average that started at zero depends on how often
    (Kingma and Ba 2015, section 3). Where all counts are equal the two are the same. The state of a parameter
    is `exp_avg`, `exp_avg_sq` and `step`, each of its shape, there from the start as zeros.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for tensor in group["params"]:
                names = ("exp_avg", "exp_avg_sq", "step")
                self.state[tensor] = {name: torch.zeros_like(tensor, requires_grad=False) for name in names}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        for group in self.param_groups:
            tensors = [tensor for tensor in group["params"] if tensor.grad is not None]
            if tensors:
                self._step(tensors, group)

    def _step(self, tensors: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        first, second, counts = ([self.state[t][name] for t in tensors] for name in self._names)
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(tensors, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(counts, 1)
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        scale = torch._foreach_div(second, _correction(beta2, counts))
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_mul_(scale, _correction(beta1, counts))
        torch._foreach_addcdiv_(tensors, first, scale, -group["lr"])

    _names = ("exp_avg", "exp_avg_sq", "step")


def _correction(beta: float, counts: list[Tensor]) -> tuple[Tensor, ...]:
    """What an average that started at zero is too small by, after so many steps."""
    powers = torch._foreach_pow(beta, counts)
    torch._foreach_neg_(powers)
    torch._foreach_add_(powers, 1.0)
    return tuple(powers)


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


# The moving average of a network's weights, by torch's own `swa_utils`


_WARM_UP = 10


class Average:
    """After every step `average = d * average + (1 - d) * weights`, from the first step's weights.

    `d` is `decay`, but at most (1 + n) / (10 + n) after n steps (as TensorFlow's `ExponentialMovingAverage`
    has it): else what a network started from would be most of the average of a short training, and one that
    starts untrained would come off worse than one that does not. Running statistics are averaged likewise.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self._average = AveragedModel(network, multi_avg_fn=self._rule, use_buffers=True)

    @torch.no_grad()
    def update(self) -> None:
        """A step is over."""
        self._average.update_parameters(self._network)
        # Torch averages whole numbers, too, and cuts off what is behind the point: 5 can become 4.
        for mine, theirs in zip(self._average.module.buffers(), self._network.buffers(), strict=True):
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def _rule(self, averages: Any, weights: Any, _: Any) -> None:
        steps = int(self._average.n_averaged)  # on the host, wherever the network is
        decay = min(self._decay, (1 + steps) / (_WARM_UP + steps))
        rule: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        rule(averages, weights, _)

    def tensors(self) -> dict[str, Tensor]:
        """What `restore` takes; the live tensors, not copies."""
        return dict(self._average.state_dict())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        self._average.load_state_dict(dict(tensors))

    def hand_over(self) -> None:
        """Give the network the averages in place of its weights."""
        self._network.load_state_dict(self._average.module.state_dict())
