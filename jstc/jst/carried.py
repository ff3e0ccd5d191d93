"""State of a user's optimiser, carried from round to round in the shapes of the whole network."""

from __future__ import annotations

import math
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

    A parameter has all of its state here or none, as optimisers make none anew where there is some.

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
            entry: {name: _described(value) for name, value in own.items()}
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
            found.others[entry] = {name: _number(*described) for name, described in own.items()}
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
            state = {k: v for k, v in optimizer.state.get(parameter, {}).items() if v is not None}
            odd = {k for k, v in state.items() if not _has_shape_of(parameter, v) and not _is_number(v)}
            if odd:  # a part of its state is worse than none: it would not be made anew
                left_out |= odd
                self._forget(name)
                continue
            for entry, value in state.items():
                if _has_shape_of(parameter, value):
                    small.setdefault(entry, {})[name] = value.detach().to(of.device)
                else:
                    own = value.detach().cpu().clone() if isinstance(value, Tensor) else value
                    self.others.setdefault(entry, {})[name] = own
        self._put(small, of)
        if left_out:
            names = ", ".join(sorted(left_out))
            warnings.warn(
                f"{self.kind}: state is not carried to the next round where {names} have another shape than "
                "the parameter",
                stacklevel=5,
            )

    def _forget(self, name: str) -> None:
        for entries in (self.shaped, self.others):
            for own in entries.values():
                own.pop(name, None)

    def _put(self, small: Mapping[str, Mapping[str, Tensor]], of: Places) -> None:
        for entry, tensors in small.items():
            whole = self.shaped.setdefault(entry, {})
            for name, tensor in tensors.items():
                if name not in whole:
                    whole[name] = torch.zeros(of.whole[name], dtype=tensor.dtype)
                whole[name] = whole[name].to(of.device)  # out of a checkpoint it comes on the CPU
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


def _has_shape_of(parameter: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0


def _is_number(value: Any) -> bool:
    one = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    return one and math.isfinite(value)


def _described(value: Any) -> list[Any]:
    """A number as JSON: itself, and of a tensor its type and its number of dimensions."""
    if isinstance(value, Tensor):
        return [value.item(), str(value.dtype).removeprefix("torch."), value.dim()]
    return [value]


def _number(value: Any, dtype: str = "", dims: int = 0) -> Any:
    return torch.tensor(value, dtype=getattr(torch, dtype)).reshape([1] * dims) if dtype else value
