"""Training steps and evaluation. Nothing in a step waits for the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.core.progress import Progress
from jstc.data import Epoch
from jstc.errors import DivergedError
from jstc.recipe.schema import TrainSettings
from jstc.train import collectives, one_step, seeds
from jstc.train.device import as_input, autocast, autocast_dtype
from jstc.train.metrics import Tally
from jstc.train.one_step import Criterion, Mixing, Teacher, distillation, logits
from jstc.train.optim import Average, set_learning_rate
from jstc.train.schedule import Schedule

if TYPE_CHECKING:
    from jstc.data import Split

__all__ = [
    "Figures",
    "StepOptions",
    "Teacher",
    "TrainFigures",
    "counted",
    "distillation",
    "evaluate",
    "evaluating",
    "logits",
    "step_options",
    "stream",
    "train_steps",
]

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StepOptions:
    """What a training step does, beside the optimiser and the learning rate.

    `images` is the number of a step's images in all processes together; None: the same in each.
    """

    seed: int
    images: int | None = None
    dtype: torch.dtype | None = None
    channels_last: bool = False
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    teacher: Teacher | None = None
    accumulate: int = 1
    mixing: Mixing | None = None
    scaler: torch.amp.GradScaler | None = None
    average: Average | None = None

    @property
    def criterion(self) -> Criterion:
        """How the network is run and its loss made."""
        return Criterion(self.dtype, self.channels_last, self.label_smoothing, self.teacher)


def step_options(
    settings: TrainSettings,
    where: torch.device,
    *,
    seed: int,
    images: int,
    num_classes: int | None = None,
    teacher: Teacher | None = None,
) -> StepOptions:
    """The options that the recipe's `train` settings mean on `where`, for a split of so many `images`.

    Without a scaler, an average: these are a training's own. Mixing needs the number of classes.
    """
    return StepOptions(
        seed=seed,
        images=min(images or settings.batch_size, settings.batch_size),
        dtype=autocast_dtype(settings, where),
        channels_last=settings.channels_last,
        label_smoothing=settings.label_smoothing,
        clip_norm=settings.clip_norm,
        teacher=teacher,
        accumulate=settings.accumulate,
        mixing=Mixing.of(settings, num_classes),
    )


@dataclass(frozen=True)
class TrainFigures:
    """Of one call of `train_steps`; loss and accuracy are means over the images, while training."""

    steps: int
    images: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Figures:
    """Of one evaluation: top-1 accuracy (a fraction) and mean cross-entropy over the images."""

    accuracy: float
    loss: float
    images: int


def train_steps(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    first_step: int,
    options: StepOptions,
    tally: Tally | None = None,
) -> TrainFigures:
    """One step per batch (images [N, C, H, W], labels [N]); the first has the index `first_step`.

    The learning rate, and the random numbers of dropout and stochastic depth, depend on nothing but the
    index of the step. Torch's global random state is left as it was. The figures are those of `tally` at
    the end, with what it held at the start. Raises `DivergedError` when the loss is not finite, looked at
    once, at the end.
    """
    sums = Tally() if tally is None else tally
    before = sums.batches
    network.train()
    with seeds.isolated():
        for step, batch in zip(itertools.count(first_step), batches, strict=False):
            set_learning_rate(optimizer, schedule.at(step))
            images, labels = _mixed(batch, step, options)
            seeds.set_global(options.seed, "step", step, *collectives.own_seed())
            optimizer.zero_grad(set_to_none=True)
            sums.add(*_gradients(network, images, labels, options))
            one_step.step(optimizer, clip_norm=options.clip_norm, scaler=options.scaler)
            if options.average is not None:
                options.average.update()
            sums.passed()
    mean_loss, accuracy, seen = sums.means()
    _check_finite(mean_loss, first_step + sums.batches - before, schedule)
    return TrainFigures(sums.batches, seen, mean_loss, accuracy)


def _mixed(batch: Batch, step: int, options: StepOptions) -> Batch:
    return batch if options.mixing is None else options.mixing(*batch, seed=options.seed, step=step)


def _gradients(
    network: nn.Module, images: Tensor, labels: Tensor, options: StepOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, scores and classes [N]: of mixed images, those that they have most of."""
    # Of several processes: their gradients are averaged, and the shares of a small batch are uneven.
    number = len(labels)
    criterion, parts = options.criterion, options.accumulate
    work = partial(
        one_step.accumulate,
        network,
        images,
        labels,
        criterion=criterion,
        parts=parts,
        scaler=options.scaler,
        weight=collectives.share(number, whole=options.images or number * collectives.world()),
    )
    loss, scores = one_step.explained(work, network, images, criterion, parts)
    return loss, scores, labels if labels.dim() == 1 else labels.argmax(dim=1)


def _check_finite(loss: float, step: int, schedule: Schedule) -> None:
    if loss - loss != 0:
        raise DivergedError(f"before step {step} of {schedule.total}: the loss is {loss}", lr=schedule.base)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block; afterwards every module has the mode that it had before."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
) -> Figures:
    """Accuracy and mean cross-entropy over all of `batches`, in evaluation mode.

    Of several processes at work together each gives its part of the batches, and gets the figures of all.
    The network is left as it was. Raises `StageError` when there are no images.
    """
    sums = Tally()
    with evaluating(network):
        for images, labels in batches:
            with autocast(images.device, dtype):
                scores = logits(network(as_input(images, channels_last=channels_last))).float()
            sums.add(F.cross_entropy(scores, labels), scores, labels)
    loss, accuracy, seen = sums.means()
    return Figures(accuracy, loss, seen)


# Batches in sequence: endless ones for training, addressed by index; all of a split, counted.


def stream(
    split: Split, batch_size: int, *, seed: int, start: int, count: int, augment: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches `start` to `start + count` of epoch after shuffled epoch of `split`.

    Of several processes at work together each gets its part of every batch. A pure function of its
    arguments: whoever stopped after batch k continues at `start=k`, and rounds
    shorter or longer than an epoch still see every image equally often.
    """
    epoch, offset = divmod(start, split.steps(batch_size))
    while count > 0:
        wanted = Epoch(seed, epoch, start=offset, augment=augment)
        batches = split.shuffled(batch_size, wanted, part=collectives.part())
        for batch in islice(batches, count):
            count -= 1
            yield batch
        epoch, offset = epoch + 1, 0


def counted(
    split: Split, batch_size: int, *, progress: Progress, stage: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `split` in order, shown as progress of `stage`: scoring a large test split takes minutes."""
    progress.start(stage, -(-split.num_images // batch_size), "test batch")
    for done, batch in enumerate(split.ordered(batch_size, part=collectives.part()), start=1):
        yield batch
        progress.update(done)
    progress.finish()
