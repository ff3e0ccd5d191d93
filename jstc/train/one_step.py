"""From a batch to a changed network: mixing, loss, gradients in one go or in parts, clipping, the step.

The end of the file says which batch would have fitted when the memory of a GPU runs out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.core.torchvision_import import import_torchvision
from jstc.errors import StageError
from jstc.models.outputs import logits
from jstc.recipe.schema import TrainSettings
from jstc.train import collectives, seeds
from jstc.train.device import Numerics, as_input
from jstc.train.optim import Average

__all__ = [
    "Criterion",
    "Mixing",
    "StepOptions",
    "Teacher",
    "accumulate",
    "distillation",
    "largest",
    "out_of_memory",
    "short_reason",
    "step",
    "step_options",
]

# The loss of a training step: cross-entropy, and what a teacher adds


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode to learn from; `weight` is its share of the loss."""

    network: nn.Module
    weight: float
    temperature: float


@dataclass(frozen=True)
class Criterion:
    """How a network is called and what its scores are compared with."""

    numerics: Numerics = field(default_factory=Numerics)
    label_smoothing: float = 0.0
    teacher: Teacher | None = None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over the images [N, C, H, W], and their scores [N, classes] without gradients.

        `labels` are classes [N] or shares of classes [N, classes].
        """
        images = as_input(images, channels_last=self.numerics.channels_last)
        scores = logits(self.numerics.call(network, images)).float()
        soft = self._soft(images)
        loss = F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)
        if self.teacher is not None and soft is not None:
            weight = self.teacher.weight
            loss = (1 - weight) * loss + weight * distillation(scores, soft, self.teacher.temperature)
        return loss, scores.detach()

    @torch.no_grad()
    def _soft(self, images: Tensor) -> Tensor | None:
        """Scores of the teacher [N, classes]; None without one."""
        if self.teacher is None:
            return None
        return logits(self.numerics.call(self.teacher.network, images)).float()


def distillation(scores: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened classes, times temperature squared; both [N, classes].

    The factor keeps the gradient's size when the temperature changes (Hinton et al. 2015, section 2).
    """
    student, teacher = ((s / temperature).log_softmax(dim=1) for s in (scores, soft))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


Scaler = torch.amp.GradScaler | None


def accumulate(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    criterion: Criterion,
    parts: int = 1,
    scaler: Scaler = None,
    weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of the mean loss over a batch; returns that loss and the scores [N, classes].

    The batch goes through the network in `parts`, each of which counts by its images: the gradients are
    those of the whole, but batch norms see the parts. `weight` multiplies the gradients alone.
    """
    losses, scores = [], []
    for (x, y), context in _parts(network, images, labels, max(1, min(parts, len(images)))):
        with context:
            loss, score = criterion(network, x, y)
            share = len(x) / len(images) if len(images) else 1.0
            weighted = loss if share * weight == 1.0 else loss * (share * weight)
            (weighted if scaler is None else scaler.scale(weighted)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach() * share)
        scores.append(score)
    return torch.stack(losses).sum(), torch.cat(scores)


def _parts(
    network: nn.Module, images: Tensor, labels: Tensor, number: int
) -> Iterator[tuple[tuple[Tensor, Tensor], AbstractContextManager[None]]]:
    # Processes exchange their gradients once, with the last part.
    no_sync = getattr(network, "no_sync", nullcontext)
    pairs = zip(images.tensor_split(number), labels.tensor_split(number), strict=True)
    for done, pair in enumerate(pairs, start=1):
        yield pair, (nullcontext() if done == number else no_sync())


def step(optimizer: torch.optim.Optimizer, *, clip_norm: float | None = None, scaler: Scaler = None) -> None:
    """One step with the gradients that are there, their norm at most `clip_norm`.

    With a `scaler`, a step whose gradients are not finite is left out, and the next scale is lower.
    """
    if scaler is not None and clip_norm is not None:
        scaler.unscale_(optimizer)
    if clip_norm is not None:
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        nn.utils.clip_grad_norm_(tensors, clip_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


# Mixing the images of a batch, and their labels: mixup and cutmix of torchvision


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), with their alphas, for so many classes.

    With both, each step draws one of them. An alpha of 0 leaves one out.
    """

    mixup: float
    cutmix: float
    num_classes: int

    @classmethod
    def of(cls, settings: TrainSettings, num_classes: int | None) -> Mixing | None:
        """What the recipe asks for; None for nothing. Raises `ValueError` without a number of classes."""
        if not settings.mixup and not settings.cutmix:
            return None
        if num_classes is None:
            raise ValueError("mixup and cutmix need the number of classes")
        return cls(settings.mixup, settings.cutmix, num_classes)

    @cached_property
    def _transform(self) -> Any:
        v2 = import_torchvision("torchvision.transforms.v2")
        kinds = [(v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)]
        chosen = [kind(alpha=alpha, num_classes=self.num_classes) for kind, alpha in kinds if alpha]
        return chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)

    def __call__(self, images: Tensor, labels: Tensor, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Images [N, C, H, W] each mixed with another of the batch, and shares of classes [N, classes].

        A function of the arguments alone, but it sets torch's global random state: torchvision draws there.
        """
        seeds.set_global(seed, "mixing", step)
        mixed, shares = self._transform(images, labels)
        return mixed, shares


# Everything that a step does, beside the optimiser and the learning rate


@dataclass(frozen=True)
class StepOptions:
    """A training's seed, loss, mixing, clipping, and what goes along with it from step to step.

    `images` is the number of a step's images in all processes together; None: the same in each.
    """

    seed: int
    criterion: Criterion = field(default_factory=Criterion)
    images: int | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    mixing: Mixing | None = None
    scaler: Scaler = None
    average: Average | None = None


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
        criterion=Criterion(Numerics.of(settings, where), settings.label_smoothing, teacher),
        images=min(images or settings.batch_size, settings.batch_size),
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate,
        mixing=Mixing.of(settings, num_classes),
    )


# Which batch would have fitted, when the memory of a GPU ran out


def short_reason(error: torch.OutOfMemoryError) -> str:
    """First sentence of torch's message, which goes on with advice of its own."""
    return str(error).partition(". ")[0].splitlines()[0]


def out_of_memory(
    network: nn.Module, images: Tensor, criterion: Criterion, parts: int, *, reason: str
) -> StageError:
    """Advice for who trained with `images` [N, C, H, W] in so many `parts`: the batch that fits, by trying.

    Call it when the error of torch is gone: as long as that is there, so is every activation of the step.
    The training is over then: trying changes gradients and the statistics of batch norms.
    """
    at_once = -(-len(images) // parts)
    found = None if collectives.world() > 1 else largest(network, images, criterion, below=at_once)
    return StageError(_advice(images, parts=parts, fits=found, reason=reason))


def largest(network: nn.Module, images: Tensor, criterion: Criterion, *, below: int) -> int:
    """How many of `images` fit at once, of half of `below`, a quarter and so on; 0 when one does not fit."""
    number = below // 2
    while number and not _fits(network, images[:number], criterion):
        number //= 2
    return number


def _fits(network: nn.Module, images: Tensor, criterion: Criterion) -> bool:
    try:
        network.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        criterion(network, images, labels)[0].backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return False
    except ValueError:  # a batch norm that gets a single value has no statistics
        return False
    return True


def _advice(images: Tensor, *, parts: int, fits: int | None, reason: str) -> str:
    number, size = len(images), "x".join(map(str, images.shape[1:]))
    told = f"out of memory on {images.device}, training with batches of {number} images of {size}"
    if parts > 1:
        told += f" in {parts} parts"
    if fits is None:
        return f"{told} in each process ({reason}); halve train.batch_size, or double train.accumulate"
    if not fits:
        return f"{told} ({reason}); not one image fits: use a smaller network, or a smaller input.image_size"
    return (
        f"{told} ({reason}); {fits} at once fit: start over with train.batch_size={fits * parts}, or with "
        f"train.accumulate={-(-number // fits)}, which keeps the batch (--set KEY=VALUE --fresh)"
    )
