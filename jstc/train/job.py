"""A training: what there is to train (`Job`), its state while it runs (`TrainState`), what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jstc.recipe.schema import CheckpointSettings, TrainSettings
from jstc.train import checkpoint, optim
from jstc.train.one_step import Teacher
from jstc.train.optim import Average
from jstc.train.schedule import Schedule

if TYPE_CHECKING:
    from jstc.data import Split

__all__ = ["FitResult", "Job", "TrainState", "scaler"]


@dataclass(frozen=True)
class Job:
    """A training of `network` from `first_step` to the end of the schedule.

    Saved after every epoch and, in the middle of one, as often as `checkpoint` says. `network` is called on
    images; `trained` (by default `network` itself) is the module inside it whose parameters learn and whose
    tensors are saved. `optimizer` is the state that the optimiser starts with, of a network whose channels
    may have been trained unequally often; none means zeros. With `ema_decay` the module ends as the moving
    average of its weights. `tensorboard` shows the history there, too. `identity` says what is trained; a
    checkpoint with another one is refused.
    """

    network: nn.Module
    split: Split
    settings: TrainSettings
    schedule: Schedule
    steps_per_epoch: int
    seed: int
    first_step: int = 0
    trained: nn.Module | None = None
    optimizer: optim.State | None = None
    teacher: Teacher | None = None
    augment: bool = True
    num_classes: int | None = None
    ema_decay: float | None = None
    tensorboard: bool = False
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        """The module that is trained and saved."""
        return self.trained or self.network

    @property
    def epochs(self) -> int:
        """Epochs to the end of the schedule; the last one is shorter where they do not divide evenly."""
        return -(-(self.schedule.total - self.first_step) // self.steps_per_epoch)

    def epoch_start(self, epoch: int) -> int:
        """Index in the schedule of the first step of `epoch`; the end of the schedule after the last."""
        return min(self.first_step + epoch * self.steps_per_epoch, self.schedule.total)

    def signature(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON: the checkpoint of a training that differs is not ours."""
        return {
            **self.identity,
            "seed": self.seed,
            "first_step": self.first_step,
            "total": self.schedule.total,
            "steps_per_epoch": self.steps_per_epoch,
            "images": self.split.num_images,
            "augment": self.augment,
            "teacher": [self.teacher.weight, self.teacher.temperature] if self.teacher else None,
            "settings": self.settings.model_dump(mode="json", exclude=set(self.settings.BEFORE)),
            **({} if self.ema_decay is None else {"ema_decay": self.ema_decay}),
        }


@dataclass(frozen=True)
class FitResult:
    """Result of a finished training; `loss` and `accuracy` are those of the last epoch, while training.

    `optimizer` is the optimiser's state, on the device. `seconds` of training add up over all sittings.
    `rollbacks` is how often it diverged and went back.
    """

    epochs: int
    steps: int
    images: int
    seconds: float
    loss: float
    accuracy: float
    optimizer: optim.State
    rollbacks: int = 0


def scaler(settings: TrainSettings, where: torch.device) -> torch.amp.GradScaler | None:
    """Scale that keeps gradients of float16 from becoming zero (Micikevicius et al. 2018); else None."""
    return torch.amp.GradScaler(where.type) if settings.precision == "float16" else None


@dataclass
class TrainState:
    """Everything that a training changes, and so what its checkpoint holds.

    `network` has the parameters that learn; `scaler` is there for float16, `average` where asked for.
    """

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
    ) -> TrainState:
        """State before the first step; `state` is the optimiser's, of channels trained unequally often."""
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
        """Scale of the gradients, as JSON; empty without float16."""
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
