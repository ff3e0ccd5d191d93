"""The resumable epoch loop of finetune and of the baseline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jstc.core import signals
from jstc.core.progress import Progress
from jstc.errors import DivergedError, RunDirectoryError, StageError
from jstc.train import checkpoint, collectives, device, kernels, metrics
from jstc.train.checkpoint import Checkpoints
from jstc.train.job import FitResult, Job, TrainState
from jstc.train.loop import TrainFigures, stream, train_steps
from jstc.train.metrics import RunningMetrics, TrainingMonitor, open_history
from jstc.train.one_step import StepOptions, step_options
from jstc.train.schedule import Schedule

__all__ = ["fit"]


def fit(job: Job, *, directory: Path, progress: Progress, stage: str) -> FitResult:
    """Train `job.module` in place; go on from `directory/checkpoint.safetensors` where there is one.

    A training cut off at any point and called again ends with the same tensors, bit for bit on a CPU, as
    one that ran through. After every epoch writes the checkpoint and a line of `history.jsonl`. One that
    diverges goes back to the start of the epoch and on with a lower learning rate, as often as the
    settings allow. Raises `RunDirectoryError` when the checkpoint belongs to another training,
    `StageError` when it diverges for good or when no steps are left.
    """
    if job.epochs < 1:
        raise StageError(f"{stage}: no steps are left of {job.schedule.total}: the schedule has ended")
    with signals.signals_deferred():
        training = _Training(job, directory, progress)
        progress.start(stage, job.epochs, "epoch")
        while training.state.epoch < job.epochs:
            progress.update(training.state.epoch, **training.figures())
            training.epoch()
    progress.update(training.state.epoch, **training.figures())
    progress.finish()
    training.finish()
    return training.result()


@dataclass
class _Progress:
    """How far a training is, between two epochs."""

    epoch: int = 0
    images: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    accuracy: float = 0.0
    rollbacks: int = 0

    def add(self, figures: TrainFigures) -> None:
        self.epoch += 1
        self.images += figures.images
        self.loss, self.accuracy = figures.loss, figures.accuracy


class _Training:
    """A job at work in a directory.

    `_good` is the state at the start of the epoch (tensors and document): what a diverging epoch goes back
    to. A checkpoint in the middle of an epoch holds both that and the state as it is now; `_sums` are then
    the metrics of the part of the epoch that was done, until the epoch goes on.
    """

    def __init__(self, job: Job, directory: Path, progress: Progress) -> None:
        self.job, self.progress = job, progress
        self.trained = TrainState.new(job.module, job.settings, state=job.optimizer, ema_decay=job.ema_decay)
        self.state = _Progress()
        self._history = open_history(
            directory, index="epoch", tensorboard=job.tensorboard and collectives.is_first()
        )
        self._saved = Checkpoints(
            directory / "checkpoint.safetensors",
            keep=job.checkpoint.keep,
            check=self._check,
            warn=progress.message,
        )
        self._monitor = TrainingMonitor(job.checkpoint, self._save_in_the_middle)
        self._metrics = RunningMetrics()
        self._since = time.perf_counter()
        self._sums: Mapping[str, Any] | None = None
        self._resume()

    def epoch(self) -> None:
        """An epoch, or what is left of one; or back to its start, when the training diverges."""
        self._since = time.perf_counter()
        try:
            figures = self._train()
            network = self.job.module.state_dict()
            collectives.require_equal(network, f"the network after epoch {self.state.epoch + 1}")
            metrics.require_finite(self.job.module, step=self._end, schedule=self._schedule)
        except DivergedError as error:
            self._roll_back(error)
            return
        self.state.seconds += self._spent()
        self.state.add(figures)
        self._keep()
        collectives.decided(self._write)
        self._monitor.at_rest()

    def figures(self) -> dict[str, float]:
        """Loss and accuracy of the last epoch, to be shown; empty before the first."""
        return {"loss": self.state.loss, "accuracy": self.state.accuracy} if self.state.epoch else {}

    def finish(self) -> None:
        """All epochs are over."""
        if collectives.is_first():
            self._saved.drop_older()
        self.trained.finish()
        collectives.synchronise(self.job.module)

    def result(self) -> FitResult:
        """Result of all epochs, in this sitting and those before."""
        state, steps = self.state, self.job.schedule.total - self.job.first_step
        return FitResult(
            state.epoch,
            steps,
            state.images,
            state.seconds,
            state.loss,
            state.accuracy,
            self.trained.optimizer_state,
            state.rollbacks,
        )

    @property
    def _end(self) -> int:
        return self.job.epoch_start(self.state.epoch + 1)

    @property
    def _schedule(self) -> Schedule:
        return metrics.lowered(self.job.schedule, self.job.settings, self.state.rollbacks)

    def _train(self) -> TrainFigures:
        job, schedule, self._metrics = self.job, self._schedule, RunningMetrics()
        if self._sums is not None:
            self._metrics.restore(self._sums)
        at = job.epoch_start(self.state.epoch) + self._metrics.batches
        batches = stream(
            job.split,
            job.settings.batch_size,
            seed=job.seed,
            start=at - job.first_step,
            count=self._end - at,
            augment=job.augment,
        )
        with collectives.averaging(job.network, sync_batchnorm=job.settings.sync_batchnorm) as network:
            return train_steps(
                network,
                batches,
                optimizer=self.trained.optimizer,
                schedule=schedule,
                first_step=at,
                options=_options(job, self.trained),
                metrics=self._metrics,
                on_step=lambda step, metrics: self._after_step(step, metrics, schedule),
            )

    def _after_step(self, step: int, metrics: RunningMetrics, schedule: Schedule) -> None:
        kernels.say(self.progress.message)
        self._monitor.after_step(step, metrics, schedule)

    def _spent(self) -> float:
        return time.perf_counter() - self._since

    def _roll_back(self, error: DivergedError) -> None:
        self.state.rollbacks += 1
        self.state.seconds += self._spent()
        to = f"the start of epoch {self.state.epoch + 1}"
        precision = device.precision(self.job.settings, next(self.job.module.parameters()).device)
        self.progress.message(
            metrics.rolled_back(error, self.job.settings, self.state.rollbacks, to=to, precision=precision)
        )
        self.trained.restore(*self._good)
        self._sums = None

    def _keep(self) -> None:
        """Remember the state between two epochs, in the host's memory: to go back to."""
        self._good = checkpoint.copies(self.trained.tensors()), self.trained.document()
        self._sums = None

    def _write(self) -> None:
        # The history first: a line too many is dropped on resume, a line too few would be missing.
        rate = self._schedule.at(self.job.epoch_start(self.state.epoch) - 1)
        self._history.append({"epoch": self.state.epoch - 1, "lr": rate, **self.figures()})
        tensors, document = self._good
        meta = {"training": self.job.signature(), "state": asdict(self.state), **document}
        self._saved.save(tensors, meta)

    def _save_in_the_middle(self) -> None:
        """The state as it is now, and with it the one at the start of the epoch."""
        sums = self._metrics.to_dict()
        collectives.decided(lambda: self._write_middle(sums))

    def _write_middle(self, sums: Mapping[str, Any]) -> None:
        start, start_document = self._good
        state = replace(self.state, seconds=self.state.seconds + self._spent())
        meta = {
            "training": self.job.signature(),
            "state": asdict(state),
            "middle": dict(sums),
            "start": start_document,
            **self.trained.document(),
        }
        self._saved.save({**self.trained.tensors(), **checkpoint.join(start=start)}, meta)

    def _resume(self) -> None:
        saved = collectives.from_first(self._saved.load)
        collectives.copy_from_first(self.trained.tensors().values())
        tensors, meta = ({}, {}) if saved is None else saved
        if saved is not None:
            self.state = _Progress(**meta["state"])
            self.trained.restore(tensors, meta)
        self._keep()
        if "middle" in meta:  # what was just restored is not the start of the epoch, which is beside it
            self._good = checkpoint.part(tensors, "start"), meta["start"]
            self._sums = meta["middle"]
        if collectives.is_first():
            self._history.truncate(self.state.epoch)

    def _check(self, meta: Mapping[str, Any], path: Path) -> None:
        theirs, ours = meta.get("training"), self.job.signature()
        different = checkpoint.differences(theirs, ours)
        if different:
            theirs, key = theirs if isinstance(theirs, dict) else {}, different[0]
            raise RunDirectoryError(
                f"{path} belongs to another training ('{key}' was {theirs.get(key)}, is now {ours.get(key)})",
                "use another directory, or start over with --fresh",
            )


def _options(job: Job, trained: TrainState) -> StepOptions:
    options = step_options(
        job.settings,
        next(job.module.parameters()).device,
        seed=job.seed,
        images=job.split.num_images,
        num_classes=job.num_classes,
        teacher=job.teacher,
    )
    return replace(options, scaler=trained.scaler, average=trained.average)
