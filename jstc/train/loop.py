"""Training steps and evaluation, and the batches that they are fed with.

Nothing in a step waits for the device. Who drives a training looks after it by a callback after every step;
the loop itself neither saves nor stops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.channels.trace.ids import evaluating
from jstc.core.progress import Progress
from jstc.data import Epoch
from jstc.errors import DivergedError
from jstc.models.outputs import logits
from jstc.train import collectives, kernels, one_step, seeds
from jstc.train.device import Numerics
from jstc.train.metrics import RunningMetrics
from jstc.train.one_step import StepOptions
from jstc.train.optim import set_learning_rate
from jstc.train.schedule import Schedule

if TYPE_CHECKING:
    from jstc.data import Split

__all__ = [
    "Figures",
    "OnStep",
    "TrainFigures",
    "computes_right",
    "counted",
    "evaluate",
    "frozen",
    "stream",
    "train_steps",
]

Batch = tuple[Tensor, Tensor]


OnStep = Callable[[int, RunningMetrics], None]
"""Called after every step with its index and the sums so far; network and optimiser are as it left them."""


@dataclass(frozen=True)
class TrainFigures:
    """Result of one call of `train_steps`; loss and accuracy are means over the images, while training."""

    steps: int
    images: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Figures:
    """Result of an evaluation: top-1 accuracy (a fraction) and mean cross-entropy over the images."""

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
    metrics: RunningMetrics | None = None,
    on_step: OnStep | None = None,
) -> TrainFigures:
    """One step per batch (images [N, C, H, W], labels [N]); the first has the index `first_step`.

    The learning rate, and the random numbers of dropout and stochastic depth, depend on nothing but the
    index of the step. Torch's global random state is left as it was. The figures are those of `metrics` at
    the end, with what they held at the start. Raises `DivergedError` when the loss is not finite, looked at
    once, at the end; `StageError` when the memory of a GPU runs out, with the batch that fits; and whatever
    `on_step` raises.
    """
    metrics = RunningMetrics() if metrics is None else metrics
    step = first_step - 1
    network.train()
    with seeds.isolated():
        for step, batch in zip(itertools.count(first_step), batches, strict=False):
            set_learning_rate(optimizer, schedule.at(step))
            images, labels = _mixed(batch, step, options)
            seeds.set_global(options.seed, "step", step, *collectives.own_seed())
            optimizer.zero_grad(set_to_none=True)
            metrics.add(*_gradients(network, images, labels, options))
            one_step.step(optimizer, clip_norm=options.clip_norm, scaler=options.scaler)
            if options.average is not None:
                options.average.update()
            if on_step is not None:
                on_step(step, metrics)
    mean_loss, accuracy, seen = metrics.means()
    if not math.isfinite(mean_loss):
        where = f"before step {step + 1} of {schedule.total}"
        raise DivergedError(f"{where}: the loss is {mean_loss}", lr=schedule.base)
    return TrainFigures(metrics.batches, seen, mean_loss, accuracy)


def _mixed(batch: Batch, step: int, options: StepOptions) -> Batch:
    return batch if options.mixing is None else options.mixing(*batch, seed=options.seed, step=step)


def _gradients(
    network: nn.Module, images: Tensor, labels: Tensor, options: StepOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, scores [N, classes] and classes [N]: of mixed images, those that they have most of."""
    # Of several processes: their gradients are averaged, and the shares of a small batch are uneven.
    number = len(labels)
    weight = collectives.share(number, whole=options.images or number * collectives.world())
    try:
        loss, scores = one_step.accumulate(
            network,
            images,
            labels,
            criterion=options.criterion,
            parts=options.accumulate,
            scaler=options.scaler,
            weight=weight,
        )
        return loss, scores, labels if labels.dim() == 1 else labels.argmax(dim=1)
    except torch.OutOfMemoryError as error:
        reason = one_step.short_reason(error)
    # Not in the handler, which keeps the error and by it the activations of the step.
    raise one_step.out_of_memory(network, images, options.criterion, options.accumulate, reason=reason)


@contextmanager
def frozen(*parameters: nn.Parameter) -> Iterator[None]:
    """No gradients for `parameters` inside the block."""
    before = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


@torch.inference_mode()
def evaluate(network: nn.Module, batches: Iterable[Batch], numerics: Numerics | None = None) -> Figures:
    """Accuracy and mean cross-entropy over all of `batches`, in evaluation mode, in float32 by default.

    Of several processes at work together each gives its part of the batches, and gets the figures of all.
    The network is left as it was. Raises `StageError` when there are no images.
    """
    metrics, numerics = RunningMetrics(), numerics or Numerics()
    with evaluating(network):
        for images, labels in batches:
            scores = logits(numerics.call(network, images)).float()
            metrics.add(F.cross_entropy(scores, labels), scores, labels)
    loss, accuracy, seen = metrics.means()
    return Figures(accuracy, loss, seen)


@torch.no_grad()
def computes_right(network: nn.Module, numerics: Numerics, shape: tuple[int, ...]) -> bool:
    """Whether the kernels that `network` calls for images of `shape` [N, C, H, W] are known to be right.

    Nothing of the network changes. True on a GPU, where nothing is looked at.
    """
    where = next(network.parameters()).device
    if where.type != "cpu":
        return True
    with evaluating(network), seeds.isolated():
        numerics.call(network, torch.zeros(shape, device=where))
    return not kernels.faulty(network)


# Batches in sequence: endless ones for training, addressed by index; all of a split, counted


def stream(
    split: Split, batch_size: int, *, seed: int, start: int, count: int, augment: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches `start` to `start + count` of epoch after shuffled epoch of `split`.

    Of several processes at work together each gets its part of every batch. A pure function of its
    arguments: whoever stopped after batch k continues at `start=k`, and rounds shorter or longer than an
    epoch still see every image equally often.
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
    split: Split, batch_size: int, *, progress: Progress, stage: str, originals: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `split` in order, shown as progress of `stage`: scoring a large test split takes minutes.

    `originals`: as bytes of the size that their files have.
    """
    progress.start(stage, -(-split.num_images // batch_size), "test batch")
    batches, images = (split.originals if originals else split.ordered), 0
    for batch in batches(batch_size, part=collectives.part()):
        yield batch
        images += len(batch[1]) * collectives.world()
        progress.update(-(-min(images, split.num_images) // batch_size))
    progress.finish()
