"""The target network with everything that belongs to its channels, and the way to a sub-network and back.

Two classes mean "the small network": `channels.GatedNetwork` is the module, sliced, with a gate for each
channel; `SubNetwork` is that module in training, with its plan, optimiser and the gates' averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jstc.channels import ChannelMap, GatedNetwork
from jstc.channels.reconstruction.reconstruct import Reconstruction
from jstc.channels.trace.ids import named_tensors
from jstc.errors import ChannelError
from jstc.plan import Plan
from jstc.recipe.schema import SearchSettings, TrainSettings
from jstc.train import checkpoint, collectives, optim
from jstc.train.device import to_device

__all__ = ["SubNetwork", "Target", "cut", "fit", "put_back"]

_BETAS = (0.9, 0.99)
_FORGETTING = 0.5


@dataclass
class Target:
    """The target network with everything that belongs to its channels; all changed in place.

    `alpha` [prunable channels] holds the gates (the channel weights of the paper), `moments` [2, prunable
    channels] Adam's averages of their gradients, `steps` [prunable channels] how often each was updated,
    `trained` [prunable channels] how much of the last rounds trained each, 1 for all of them,
    `sensitivity` [prunable channels] what the loss would lose with each (1 where nobody asked);
    `optimizer` is the state of the weights' optimiser, by kind and parameter.
    """

    network: nn.Module
    channels: ChannelMap
    alpha: Tensor
    moments: Tensor
    steps: Tensor
    trained: Tensor
    sensitivity: Tensor
    optimizer: optim.State

    @classmethod
    def new(cls, network: nn.Module, channels: ChannelMap, settings: TrainSettings | None) -> Target:
        """The target before the first round: all gates 1, no optimiser has made a step.

        Without `settings` its training, and the state of the optimisers, are another's business.
        """
        total = sum(group.width for group in channels.groups)
        ones = torch.ones(total, device=next(network.parameters()).device, dtype=torch.float32)
        zeros = torch.zeros_like(ones)
        return cls(
            network,
            channels,
            ones,
            zeros.repeat(2, 1),
            zeros,
            zeros.clone(),
            ones.clone(),
            {} if settings is None else optim.new_state(dict(network.named_parameters()), settings),
        )

    def index(self, plan: Plan) -> Tensor:
        """Numbers of the kept channels, in the order in which a gated sub-network holds their gates."""
        parts = [torch.tensor(plan.kept[g.name]) + g.start for g in self.channels.groups]
        return torch.cat(parts).to(self.alpha.device)

    def channels_of(self, values: Tensor | NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """A vector over all prunable channels, group by group."""
        vector = values.double().cpu().numpy() if isinstance(values, Tensor) else values
        return [vector[group.start : group.start + group.width] for group in self.channels.groups]


@dataclass
class SubNetwork:
    """A sub-network in training: physically small, gated, with optimisers that go on where they were.

    `optimizer` is that of the weights, None where whoever trains them has one; `moments` [2, kept channels]
    and `steps` [kept channels] are the gates' part of those of the target; `slopes` [kept channels] the
    absolute gradients of the training steps in the gates, summed.
    """

    plan: Plan
    gated: GatedNetwork
    optimizer: torch.optim.Optimizer | None
    moments: Tensor
    steps: Tensor
    slopes: Tensor

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the plain network by name."""
        return dict(self.gated.network.named_parameters())

    def step_gates(self, gradient: Tensor, settings: SearchSettings) -> None:
        """One Adam step (Kingma and Ba 2015) on the gates; `gradient` [kept channels].

        Not torch's Adam, because the channels of a sub-network have been updated unequally often: each
        keeps its own count for the bias correction. Gates stay at or above zero.
        """
        self.steps += 1
        with torch.no_grad():
            for moment, beta, value in zip(self.moments, _BETAS, (gradient, gradient.square()), strict=True):
                moment.lerp_(value, 1 - beta)
            first, second = (m / (1 - beta**self.steps) for m, beta in zip(self.moments, _BETAS, strict=True))
            self.gated.alpha.sub_(settings.gate_lr * first / (second.sqrt() + 1e-8)).clamp_(min=0.0)

    @torch.no_grad()
    def add_slopes(self) -> None:
        """Add the gradient in the gates, before a training step with the gradients that are there is made.

        It costs no other pass: a gate of 1 multiplies parameters, so the gradient in it is the sum of theirs
        times the parameters. What is not finite, of a step that is left out for an overflow, adds nothing.
        """
        self.slopes += self.slopes_in_gates().abs().nan_to_num(0.0, 0.0, 0.0)

    @torch.no_grad()
    def slopes_in_gates(self) -> Tensor:
        """Gradient of the loss in the logarithm of each gate [kept channels], by those of the parameters."""
        found = torch.zeros(len(self.slopes) + 1, device=self.slopes.device)
        parameters = self.parameters
        for name, index in self.gated.index.items():
            parameter = parameters[name]
            if parameter.grad is not None:
                slope = (parameter.grad * parameter).flatten(1) if parameter.dim() > 1 else None
                own = parameter.grad * parameter if slope is None else slope.sum(1)
                found.index_add_(0, index, own.float())
        return found[:-1]

    def tensors(self) -> dict[str, Tensor]:
        """All that training changes; the live tensors."""
        gates = {
            "alpha": self.gated.alpha,
            "moments": self.moments,
            "steps": self.steps,
            "slopes": self.slopes,
        }
        state = {} if self.optimizer is None else optim.get_state(self.optimizer, self.parameters)
        return checkpoint.join(network=self.gated.network.state_dict(), **state, gates=gates)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave, of a sub-network of the same plan."""
        self.gated.network.load_state_dict(checkpoint.part(tensors, "network"))
        if self.optimizer is not None:
            optim.set_state(self.optimizer, self.parameters, optim.from_tensors(tensors))
        gates = checkpoint.part(tensors, "gates")
        own = {"alpha": self.gated.alpha, "moments": self.moments, "steps": self.steps, "slopes": self.slopes}
        for name, tensor in own.items():
            tensor.copy_(gates[name])


def cut(target: Target, plan: Plan, settings: TrainSettings | None) -> SubNetwork:
    """The sub-network of a plan, with the slices of weights, statistics, gates and the optimiser's state.

    Without `settings` it has no optimiser, and stays on the target's device in its memory format.
    """
    small = target.channels.slice(target.network, plan)
    if settings is not None:
        small = to_device(small, settings, target.alpha.device)
    index = target.index(plan)
    gated = target.channels.gated(small, plan)
    with torch.no_grad():
        gated.alpha.copy_(target.alpha[index])
    optimizer = None
    if settings is not None:
        named = dict(small.named_parameters())
        optimizer = optim.make(named, settings, partial=True)
        state = {kind: target.channels.take(tensors, plan) for kind, tensors in target.optimizer.items()}
        optim.set_state(optimizer, named, state)
    slopes = torch.zeros_like(target.steps[index])
    return SubNetwork(plan, gated, optimizer, target.moments[:, index], target.steps[index], slopes)


def fit(
    target: Target,
    network: nn.Module,
    plan: Plan,
    batches: Iterable[Any],
    *,
    images: int,
    rough: bool = False,
    call: Callable[[nn.Module, Any], Any] | None = None,
) -> Reconstruction:
    """Fit the layers of a cut network to the whole one's (`ChannelMap.reconstruct`), alike in all processes.

    Raises `ChannelError`, with what to do about it, for a network whose layers cannot be fitted in turn.
    """
    try:
        found = target.channels.reconstruct(
            target.network, network, plan, batches, images=images, rough=rough, call=call
        )
    except ChannelError as error:
        advice = "search.reconstruction_images: 0 leaves them as they are cut"
        raise ChannelError(error.problem, advice) from error
    # Unequal devices may have rounded otherwise.
    collectives.copy_from_first(tensor for _, tensor in named_tensors(network))
    return found


def put_back(sub: SubNetwork, target: Target) -> None:
    """Write everything that the sub-network changed back to where it came from; the rest keeps its values."""
    target.channels.map_back(sub.gated.network, target.network, sub.plan)
    state = {} if sub.optimizer is None else optim.get_state(sub.optimizer, sub.parameters)
    for kind, tensors in state.items():
        target.channels.put(tensors, target.optimizer[kind], sub.plan)
    index = target.index(sub.plan)
    target.alpha[index] = sub.gated.alpha.detach()
    target.moments[:, index] = sub.moments
    target.steps[index] = sub.steps
    _learn_channel_weights(sub, target)
    target.trained *= _FORGETTING
    target.trained[index] += 1 - _FORGETTING


def _learn_channel_weights(sub: SubNetwork, target: Target) -> None:
    """Move what the loss would lose with each kept channel half of the way to what the round's steps say.

    Group by group, at the mean that the kept channels have: gradients shrink while a network learns, and
    those of channels that were not there are as old as they are.
    """
    start = 0
    for group in target.channels.groups:
        kept = torch.tensor(sub.plan.kept[group.name], device=target.sensitivity.device) + group.start
        slopes = sub.slopes[start : start + len(kept)]
        start += len(kept)
        mean = slopes.mean()
        if mean > 0:
            before = target.sensitivity[kept]
            target.sensitivity[kept] = before.lerp(slopes / mean * before.mean(), 1 - _FORGETTING)
