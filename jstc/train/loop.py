"""Training steps and evaluation. Nothing in a step waits for the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.errors import DivergedError, StageError
from jstc.recipe import TrainSettings
from jstc.train import seeds
from jstc.train.device import as_input, autocast, autocast_dtype
from jstc.train.optim import set_learning_rate
from jstc.train.schedule import Schedule
from jstc.train.tally import Tally

__all__ = [
    "Figures",
    "StepOptions",
    "Teacher",
    "TrainFigures",
    "distillation",
    "evaluate",
    "evaluating",
    "logits",
    "step_options",
    "train_steps",
]

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode to learn from; `weight` is its share of the loss."""

    network: nn.Module
    weight: float
    temperature: float


@dataclass(frozen=True)
class StepOptions:
    """What a training step does, beside the optimiser and the learning rate."""

    seed: int
    dtype: torch.dtype | None = None
    channels_last: bool = False
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    teacher: Teacher | None = None


def step_options(
    settings: TrainSettings, where: torch.device, *, seed: int, teacher: Teacher | None = None
) -> StepOptions:
    """The options that the recipe's `train` settings mean on the device `where`."""
    return StepOptions(
        seed=seed,
        dtype=autocast_dtype(settings, where),
        channels_last=settings.channels_last,
        label_smoothing=settings.label_smoothing,
        clip_norm=settings.clip_norm,
        teacher=teacher,
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
        for step, (images, labels) in zip(itertools.count(first_step), batches, strict=False):
            set_learning_rate(optimizer, schedule.at(step))
            seeds.set_global(options.seed, "step", step)
            optimizer.zero_grad(set_to_none=True)
            loss, scores = _forward(network, images, labels, options)
            loss.backward()  # type: ignore[no-untyped-call]
            _clip(optimizer, options.clip_norm)
            optimizer.step()
            sums.add(loss, scores, labels)
            sums.passed()
    mean_loss, accuracy = sums.means()
    _check_finite(mean_loss, first_step + sums.batches - before, schedule)
    return TrainFigures(sums.batches, sums.images, mean_loss, accuracy)


def _forward(
    network: nn.Module, images: Tensor, labels: Tensor, options: StepOptions
) -> tuple[Tensor, Tensor]:
    images = as_input(images, channels_last=options.channels_last)
    with autocast(images.device, options.dtype):
        scores = logits(network(images)).float()
        soft = _teach(options.teacher, images)
    loss = F.cross_entropy(scores, labels, label_smoothing=options.label_smoothing)
    if options.teacher is not None and soft is not None:
        weight = options.teacher.weight
        loss = (1 - weight) * loss + weight * distillation(scores, soft, options.teacher.temperature)
    return loss, scores.detach()


@torch.no_grad()
def _teach(teacher: Teacher | None, images: Tensor) -> Tensor | None:
    return None if teacher is None else logits(teacher.network(images)).float()


def distillation(scores: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened classes, times temperature squared; both [N, classes].

    The factor keeps the gradient's size when the temperature changes (Hinton et al. 2015, section 2).
    """
    student, teacher = ((s / temperature).log_softmax(dim=1) for s in (scores, soft))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def logits(output: object) -> Tensor:
    """The class scores [N, classes] in what a network returned.

    Networks with auxiliary heads return a tuple or an object; the main scores are first, or `.logits`.
    """
    if isinstance(output, Tensor):
        return output
    main = getattr(output, "logits", None)
    if main is None and isinstance(output, tuple | list) and output:
        main = output[0]
    if not isinstance(main, Tensor):
        raise StageError(f"the network returned {type(output).__name__}; expected class scores [N, classes]")
    return main


def _clip(optimizer: torch.optim.Optimizer, norm: float | None) -> None:
    if norm is not None:
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        nn.utils.clip_grad_norm_(tensors, norm)


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

    The network is left as it was. Raises `StageError` when there are no images.
    """
    sums = Tally()
    with evaluating(network):
        for images, labels in batches:
            with autocast(images.device, dtype):
                scores = logits(network(as_input(images, channels_last=channels_last))).float()
            sums.add(F.cross_entropy(scores, labels), scores, labels)
    loss, accuracy = sums.means()
    return Figures(accuracy, loss, sums.images)
