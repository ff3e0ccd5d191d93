"""State of a user's optimiser, carried from round to round in the shapes of the whole network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jstc.channels import ChannelMap
from jstc.plan import Plan

__all__ = ["Carried", "Places"]

State = dict[str, dict[str, Any]]


@dataclass
class Carried:
    """State of the user's optimiser over the whole network's parameters: by entry, then by parameter.

    `shaped` holds what has the shape of its parameter, zeros where no round has trained, and `others` single
    numbers, such as Adam's `step`. `kind` is the optimiser's class: another one's state is not taken over.
    """

    kind: str = ""
    shaped: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    others: State = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint, by entry and parameter."""
        return {f"{entry}.{name}": t for entry, own in self.shaped.items() for name, t in own.items()}

    def document(self) -> dict[str, Any]:
        """All of a checkpoint that is no tensor of a parameter's shape, as JSON."""
        numbers = {
            entry: {n: [float(v), isinstance(v, Tensor)] for n, v in own.items()}
            for entry, own in self.others.items()
        }
        return {"kind": self.kind, "numbers": numbers}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Carried:
        """The inverse of `tensors` and `document`."""
        found = cls(document["kind"])
        for key, tensor in tensors.items():
            entry, _, name = key.partition(".")
            found.shaped.setdefault(entry, {})[name] = tensor
        for entry, own in document["numbers"].items():
            found.others[entry] = {
                name: torch.tensor(value) if is_tensor else value for name, (value, is_tensor) in own.items()
            }
        return found

    def load(self, optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], of: Places) -> None:
        """Give an optimiser over the parameters `named` the slices of what was saved."""
        if self.kind != _kind(optimizer):
            return
        slices = {entry: of.channels.take(own, of.plan) for entry, own in self.shaped.items()}
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in named.items():
            if id(parameter) not in groups:
                continue
            state: dict[str, Any] = {}
            for entry, own in slices.items():
                if name in own:
                    state[entry] = own[name].to(parameter, copy=True)
            for entry, numbers in self.others.items():
                if name in numbers:
                    state[entry] = _placed(numbers[name], parameter, groups[id(parameter)])
            if state:
                optimizer.state[parameter] = state

    @torch.no_grad()
    def save(self, optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], of: Places) -> None:
        """Take over the state of an optimiser over the parameters `named` of a sub-network."""
        if self.kind != _kind(optimizer):
            self.kind, self.shaped, self.others = _kind(optimizer), {}, {}
        left_out: set[str] = set()
        small: dict[str, dict[str, Tensor]] = {}
        for name, parameter in named.items():
            for entry, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                    small.setdefault(entry, {})[name] = value.detach().to(of.device)
                elif _is_number(value):
                    own = value.detach().cpu().clone() if isinstance(value, Tensor) else value
                    self.others.setdefault(entry, {})[name] = own
                elif value is not None:
                    left_out.add(entry)
        self._put(small, of)
        if left_out:
            warnings.warn(
                f"{self.kind}: {', '.join(sorted(left_out))} have not the shapes of parameters: they begin "
                "anew in every round",
                stacklevel=5,
            )

    def _put(self, small: Mapping[str, Mapping[str, Tensor]], of: Places) -> None:
        for entry, tensors in small.items():
            whole = self.shaped.setdefault(entry, {})
            for name, tensor in tensors.items():
                if name not in whole:
                    whole[name] = torch.zeros(of.whole[name], dtype=tensor.dtype, device=of.device)
            of.channels.put(tensors, whole, of.plan)


@dataclass(frozen=True)
class Places:
    """Where the tensors of a sub-network lie in the whole network's, whose shapes are `whole`."""

    channels: ChannelMap
    plan: Plan
    whole: Mapping[str, tuple[int, ...]]
    device: torch.device


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__qualname__


def _placed(value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    """A number of an optimiser's state where torch wants it: on the device only for fused kernels."""
    if not isinstance(value, Tensor):
        return value
    on_device = group.get("fused") or group.get("capturable")
    return value.clone().to(parameter.device) if on_device else value.clone()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
