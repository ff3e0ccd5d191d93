"""The resumable epoch loop of finetune and of the baseline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from jstc.errors import RunDirectoryError, StageError
from jstc.progress import Progress
from jstc.recipe import TrainSettings
from jstc.train import checkpoint, optim
from jstc.train.batches import stream
from jstc.train.history import History
from jstc.train.learner import Learner
from jstc.train.loop import StepOptions, Teacher, TrainFigures, step_options, train_steps
from jstc.train.schedule import Schedule

if TYPE_CHECKING:
    from jstc.data import Split

__all__ = ["FitResult", "Job", "fit"]


@dataclass(frozen=True)
class Job:
    """A training of `network` from `first_step` to the end of the schedule, saved after every epoch.

    `network` is called on images; `trained` (by default the same) is the module inside it whose
    parameters learn and whose tensors are saved. `optimizer` is the state that the optimiser starts with,
    of a network whose channels may have been trained unequally often; none means zeros. With
    `ema_decay` the module ends as the moving average of its weights. `identity` says what is trained; a
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


@dataclass(frozen=True)
class FitResult:
    """What a finished training took; `loss` and `accuracy` are those of the last epoch, while training.

    `optimizer` is the optimiser's state, on the device. `seconds` of training add up over all sittings.
    """

    epochs: int
    steps: int
    images: int
    seconds: float
    loss: float
    accuracy: float
    optimizer: optim.State


@dataclass
class _State:
    epoch: int = 0
    images: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    accuracy: float = 0.0

    def add(self, figures: TrainFigures, seconds: float) -> None:
        self.epoch += 1
        self.images += figures.images
        self.seconds += seconds
        self.loss, self.accuracy = figures.loss, figures.accuracy


def fit(job: Job, *, directory: Path, progress: Progress, stage: str) -> FitResult:
    """Train `job.module` in place; go on from `directory/checkpoint.safetensors` where there is one.

    A training cut off at any point and called again ends with the same tensors, bit for bit on a CPU, as
    one that ran through. After every epoch writes the checkpoint and a line of `history.jsonl`. Raises
    `RunDirectoryError` when the checkpoint belongs to another training, `StageError` when it diverges or
    when no steps are left.
    """
    if job.epochs < 1:
        raise StageError(f"{stage}: no steps are left of {job.schedule.total}: the schedule has ended")
    learner = Learner.new(job.module, job.settings, state=job.optimizer, ema_decay=job.ema_decay)
    state = _resume(job, learner, directory / "checkpoint.safetensors")
    history = History(directory / "history.jsonl", index="epoch")
    history.truncate(state.epoch)
    progress.start(stage, job.epochs, "epoch")
    while state.epoch < job.epochs:
        progress.update(state.epoch, **_figures(state))
        _train_epoch(job, learner, state)
        # The history first: a line too many is dropped on resume, a line too few would be missing.
        history.append({"epoch": state.epoch - 1, "lr": _last_rate(job, state), **_figures(state)})
        _save(job, learner, state, directory / "checkpoint.safetensors")
    progress.update(state.epoch, **_figures(state))
    progress.finish()
    learner.finish()
    return _result(job, state, learner.optimizer_state)


def _train_epoch(job: Job, learner: Learner, state: _State) -> None:
    started = time.perf_counter()
    first, end = job.epoch_start(state.epoch), job.epoch_start(state.epoch + 1)
    batches = stream(
        job.split,
        job.settings.batch_size,
        seed=job.seed,
        start=first - job.first_step,
        count=end - first,
        augment=job.augment,
    )
    figures = train_steps(
        job.network,
        batches,
        optimizer=learner.optimizer,
        schedule=job.schedule,
        first_step=first,
        options=_options(job, learner),
    )
    state.add(figures, time.perf_counter() - started)


def _options(job: Job, learner: Learner) -> StepOptions:
    options = step_options(
        job.settings,
        next(job.module.parameters()).device,
        seed=job.seed,
        images=job.split.num_images,
        num_classes=job.num_classes,
        teacher=job.teacher,
    )
    return replace(options, scaler=learner.scaler, average=learner.average)


def _figures(state: _State) -> dict[str, float]:
    return {"loss": state.loss, "accuracy": state.accuracy} if state.epoch else {}


def _last_rate(job: Job, state: _State) -> float:
    return job.schedule.at(job.epoch_start(state.epoch) - 1)


def _result(job: Job, state: _State, optimizer: optim.State) -> FitResult:
    steps = job.schedule.total - job.first_step
    return FitResult(state.epoch, steps, state.images, state.seconds, state.loss, state.accuracy, optimizer)


def _training(job: Job) -> dict[str, Any]:
    # Everything that decides the numbers; a checkpoint of a training that differs here is not ours.
    return {
        **job.identity,
        "seed": job.seed,
        "first_step": job.first_step,
        "total": job.schedule.total,
        "steps_per_epoch": job.steps_per_epoch,
        "images": job.split.num_images,
        "augment": job.augment,
        "teacher": [job.teacher.weight, job.teacher.temperature] if job.teacher else None,
        "settings": job.settings.model_dump(mode="json"),
        **({} if job.ema_decay is None else {"ema_decay": job.ema_decay}),
    }


def _save(job: Job, learner: Learner, state: _State, path: Path) -> None:
    meta = {"training": _training(job), "state": asdict(state), **learner.document()}
    checkpoint.save(path, learner.tensors(), meta)


def _resume(job: Job, learner: Learner, path: Path) -> _State:
    if not path.exists():
        return _State()
    tensors, meta = checkpoint.load(path)
    _check_same(meta.get("training"), _training(job), path)
    learner.restore(tensors, meta)
    return _State(**meta["state"])


def _check_same(theirs: Any, ours: dict[str, Any], path: Path) -> None:
    different = checkpoint.differences(theirs, ours)
    if different:
        theirs, key = theirs if isinstance(theirs, dict) else {}, different[0]
        raise RunDirectoryError(
            f"{path} belongs to another training ('{key}' was {theirs.get(key)}, is now {ours.get(key)}); "
            "use another --out, or start over with --fresh"
        )
