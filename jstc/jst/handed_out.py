"""A round in the user's hands: a plain, small network, what its gradients tell, and its optimiser's state."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from jstc.channels import Cost
from jstc.channels.trace.ids import named_tensors
from jstc.errors import InputError
from jstc.jst.carried import Carried, Places
from jstc.jst.proposer import Proposal
from jstc.jst.subnetwork import SubNetwork, Target
from jstc.plan import Plan
from jstc.recipe.schema import SearchSettings

__all__ = ["Phase", "Round", "Slopes", "checked", "plain", "put", "score_of"]


class Slopes:
    """Gradients of the gates, out of those of the parameters, whenever somebody's backward makes them.

    A gate of 1 would multiply the parameters of its channel, so the gradient in it is the sum of theirs times
    the parameters. Hooks on the parameters see each gradient as it comes, whatever the loop does with it.
    """

    def __init__(self, sub: SubNetwork) -> None:
        parameters = sub.parameters
        self.sum = torch.zeros_like(sub.slopes)
        self._now = sub.slopes.new_zeros(len(sub.slopes) + 1)
        self._seen: set[str] = set()
        self._lock = threading.Lock()  # of a network on several devices each has a thread of the backward
        self._hooks = [
            parameters[name].register_hook(  # type: ignore[no-untyped-call]
                partial(self._add, name, parameters[name], index)
            )
            for name, index in sub.gated.index.items()
            if parameters[name].requires_grad
        ]

    @torch.no_grad()
    def _add(self, name: str, parameter: Tensor, index: Tensor, gradient: Tensor) -> None:
        own = gradient.float() * parameter.float()  # of half numbers, products would be zeros
        own = (own.flatten(1).sum(1) if own.dim() > 1 else own).to(self._now.device)
        with self._lock:
            if name in self._seen:  # the next backward has begun
                self._flush()
            self._seen.add(name)
            self._now.index_add_(0, index.to(own.device), own)

    def _flush(self) -> None:
        self.sum += self._now[:-1].abs().nan_to_num(0.0, 0.0, 0.0)
        self._now.zero_()
        self._seen.clear()

    def __getstate__(self) -> dict[str, Any]:
        """What goes into a copy, which has no hooks."""
        return {**self.__dict__, "_hooks": [], "_lock": None}

    def stop(self) -> Tensor:
        """Take the hooks away; returns the sum of the absolute slopes [kept channels]."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._flush()
        return self.sum


Phase = Literal["coarse", "fine", "final"]


@dataclass(eq=False)
class Round:
    """A round that `JointSearch.ask` handed out, to be trained in any way and told.

    `number` counts from 0. `phase` is "coarse" or "fine"; a finalist's is "final": it is not to be trained,
    only to be judged. `network` is an ordinary module of the model's own class, on its device, in the modes
    that its modules have there; `cost` is that of `plan`.
    """

    number: int
    phase: Phase
    plan: Plan
    cost: Cost
    network: nn.Module = field(repr=False)
    _sub: SubNetwork = field(repr=False)
    _places: Places = field(repr=False)
    _shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    _carried: Carried = field(repr=False)
    _settings: SearchSettings = field(repr=False)
    _slopes: Slopes | None = field(default=None, repr=False)
    _saved: torch.optim.Optimizer | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        target: Target,
        sub: SubNetwork,
        number: int,
        phase: Phase,
        carried: Carried,
        settings: SearchSettings,
        *,
        watches: bool,
    ) -> Round:
        """The round of a sub-network; with `watches` its gradients are seen."""
        shapes = {name: tuple(p.shape) for name, p in target.network.named_parameters()}
        places = Places(target.channels, sub.plan, shapes, target.alpha.device)
        cost, slopes = target.channels.cost(sub.plan), Slopes(sub) if watches else None
        network = sub.gated.network
        own = {name: tuple(tensor.shape) for name, tensor in named_tensors(network)}
        return cls(number, phase, sub.plan, cost, network, sub, places, own, carried, settings, slopes)

    def load(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimiser of this network's parameters the state that earlier rounds have saved of them.

        Any optimiser of torch, before its first step. Moments of channels that no round has trained yet are
        zero. Does nothing in the first round, or when the optimiser is of another class than the saved one.
        """
        named = self._named(optimizer)
        self._carried.load(optimizer, named, self._places)

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the state of an optimiser for later rounds: it is taken over when the round is told."""
        self._named(optimizer)
        self._saved = optimizer

    def observe(self) -> None:
        """A step of the gates, by the gradients that a backward on held-out data has just left.

        For `search.importance: learned`, where channels rank by gates. They are folded into the network at
        once: nothing of them is left in it. Clear the gradients afterwards. Raises `InputError` with any
        other ranking, which needs no such call.
        """
        if self._settings.importance != "learned":
            raise InputError(
                "observe() trains gates, and this search has none",
                'settings=["search.importance=learned"] ranks channels by gates; gradient, the default, sees '
                "every backward by itself",
            )
        alpha = self._sub.gated.alpha
        before = alpha.detach().clone()
        slopes = self._sub.slopes_in_gates()
        self._sub.step_gates(slopes / before, self._settings)
        with torch.no_grad():
            alpha.clamp_(min=_LEAST)
            self._scale(alpha.detach() / before)

    def line(self, proposal: Proposal, score: float | None) -> dict[str, Any]:
        """Line of the history of a round that was told."""
        return {
            "round": self.number,
            "phase": self.phase,
            "score": score,
            "flops": self.cost.flops,
            "params": self.cost.params,
            "sigma": proposal.phase.sigma,
            "thresholds": [round(r, 6) for r in proposal.thresholds],
            "counts": list(self.plan.counts.values()),
            "plan_hash": self.plan.hash,
        }

    def _scale(self, ratio: Tensor) -> None:
        one = torch.ones(1, device=ratio.device)
        parameters = self._sub.parameters
        for name, index in self._sub.gated.index.items():
            scale = torch.cat([ratio, one])[index].to(parameters[name])
            parameters[name].mul_(scale.view(-1, *[1] * (parameters[name].dim() - 1)))

    def _named(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The network's parameters that an optimiser has, by name. Raises `InputError` when it has none."""
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        found: dict[str, Tensor] = {n: p for n, p in self.network.named_parameters() if id(p) in own}
        if not found:
            raise InputError(
                "the optimiser has none of this round's parameters",
                "make a new one in every round: torch.optim.AdamW(round.network.parameters())",
            )
        return found


_LEAST = 0.01
"""A gate that reaches zero could not be taken out of the weights again."""


def plain(network: nn.Module) -> nn.Module:
    """A network out of the wrappers of DistributedDataParallel, torch.compile, AveragedModel and timm's EMA.

    Raises `InputError` for one whose parameters are in pieces.
    """
    while True:
        kind = type(network).__name__
        if kind.startswith(("FullyShardedDataParallel", "FSDP")):
            raise InputError(
                f"the network is wrapped by {kind}, which keeps its parameters in pieces",
                "gather them, and tell a plain network",
            )
        inner = {
            "DistributedDataParallel": "module",
            "DataParallel": "module",
            "AveragedModel": "module",
            "ModelEmaV2": "module",
            "ModelEmaV3": "module",
            "OptimizedModule": "_orig_mod",
        }.get(kind)
        if inner is None:
            return network
        network = getattr(network, inner)


# What is told


def score_of(score: Any, *, final: bool) -> float | None:
    if score is None:
        if final:
            raise InputError("a finalist needs a score: it is by that that one of them is chosen")
        return None
    try:
        number = score.item() if isinstance(score, Tensor | np.ndarray) else score
        if isinstance(number, str | bytes):
            raise TypeError
        value = float(number)
    except (TypeError, ValueError, RuntimeError):  # torch's, of a tensor with several numbers
        raise InputError(f"a score is one number, not a {type(score).__name__}") from None
    if not math.isfinite(value):
        raise InputError(f"a score of {value} says nothing: give a finite number, or None")
    return value


@torch.no_grad()
def put(tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    """Give a network those of the tensors that it has, too."""
    for name, tensor in named_tensors(network):
        if name in tensors:
            tensor.copy_(tensors[name])


def checked(network: nn.Module, round_: Round, whole: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that was told, `whole` being the one that it was cut from.

    Buffers that a forward has made, or has made anew in another shape and that no state dict has, are left
    out. Raises `InputError` where the others are not the round's, or have values that are not finite, but in
    tensors that had such values before, as masks do.
    """
    kind, mine, theirs = type(round_.network), round_._shapes, dict(named_tensors(network))
    if (type(network).__module__, type(network).__qualname__) != (kind.__module__, kind.__qualname__):
        raise InputError(f"the network is a {type(network).__name__}, the round's is a {kind.__name__}")
    parameters = {name for name, _ in network.named_parameters()}
    odd = [name for name in mine if name not in theirs or tuple(theirs[name].shape) != mine[name]]
    passing = {name for name in odd if name in theirs} - parameters - network.state_dict().keys()
    odd = [name for name in [*odd, *(parameters - mine.keys())] if name not in passing]
    if odd:
        lines = [
            f"{name}: {_shape(_size(theirs.get(name)))}, not {_shape(mine.get(name))}" for name in odd[:5]
        ]
        raise InputError(
            f"the network does not have the shapes of round {round_.number}",
            "tell the network that the round handed out, or a copy of it",
            details=lines,
        )
    theirs = {name: tensor for name, tensor in theirs.items() if name in mine and name not in passing}
    before = dict(named_tensors(whole))
    wrong = [name for name, tensor in theirs.items() if not _is_finite(tensor) and _is_finite(before[name])]
    if wrong:
        raise InputError(
            f"the network has numbers that are not finite, in {', '.join(wrong[:3])}",
            "its training has diverged: ask for the round again, and train at a lower rate",
        )
    return theirs


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.detach().isfinite().all())


def _size(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
