"""What there is to train, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from jstc.recipe import CheckpointSettings, TrainSettings
from jstc.train import optim
from jstc.train.loop import Teacher
from jstc.train.schedule import Schedule

if TYPE_CHECKING:
    from jstc.data import Split

__all__ = ["FitResult", "Job"]


@dataclass(frozen=True)
class Job:
    """A training of `network` from `first_step` to the end of the schedule, saved after every epoch
    and, in the middle of one, as often as `checkpoint` says.

    `network` is called on images; `trained` (by default the same) is the module inside it whose
    parameters learn and whose tensors are saved. `optimizer` is the state that the optimiser starts with,
    of a network whose channels may have been trained unequally often; none means zeros. With `ema_decay`
    the module ends as the moving average of its weights. `tensorboard` shows the history
    there, too. `identity` says what is trained; a checkpoint with another one is refused.
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
            "settings": self.settings.model_dump(mode="json"),
            **({} if self.ema_decay is None else {"ema_decay": self.ema_decay}),
        }


@dataclass(frozen=True)
class FitResult:
    """What a finished training took; `loss` and `accuracy` are those of the last epoch, while training.

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
