"""A network with everything that its training changes: what a checkpoint must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jstc.recipe import TrainSettings
from jstc.train import checkpoint, optim
from jstc.train.average import Average

__all__ = ["Learner", "scaler"]


def scaler(settings: TrainSettings, where: torch.device) -> torch.amp.GradScaler | None:
    """What keeps gradients of float16 from becoming zero (Micikevicius et al. 2018); None without float16."""
    return torch.amp.GradScaler(where.type) if settings.precision == "float16" else None


@dataclass
class Learner:
    """`network` has the parameters that learn; `scaler` is there for float16, `average` where asked for."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    average: Average | None = None

    @classmethod
    def new(
        cls,
        network: nn.Module,
        settings: TrainSettings,
        *,
        state: optim.State | None = None,
        ema_decay: float | None = None,
    ) -> Learner:
        """Before the first step; `state` is the optimiser's, of channels trained unequally often."""
        named = dict(network.named_parameters())
        optimizer = optim.make(named, settings, partial=state is not None)
        if state is not None:
            optim.set_state(optimizer, named, state)
        average = None if ema_decay is None else Average(network, ema_decay)
        where = next(iter(named.values())).device
        return cls(network, optimizer, scaler(settings, where), average)

    @property
    def optimizer_state(self) -> optim.State:
        """The optimiser's state by kind and parameter; the live tensors."""
        return optim.get_state(self.optimizer, dict(self.network.named_parameters()))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint."""
        averages = {} if self.average is None else {"average": self.average.tensors()}
        return checkpoint.join(network=self.network.state_dict(), **self.optimizer_state, **averages)

    def document(self) -> dict[str, Any]:
        """What is no tensor, as JSON; empty without float16."""
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `document` gave."""
        self.network.load_state_dict(checkpoint.part(tensors, "network"))
        named = dict(self.network.named_parameters())
        optim.set_state(self.optimizer, named, optim.from_tensors(tensors))
        if self.average is not None:
            self.average.restore(checkpoint.part(tensors, "average"))
        if self.scaler is not None:
            self.scaler.load_state_dict(document["scaler"])

    def finish(self) -> None:
        """The training is over: the network gets the averages, where there are any."""
        if self.average is not None:
            self.average.hand_over()
