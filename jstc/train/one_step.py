"""From a batch to a changed network: forward and backward in one go or in parts, clipping, the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.core.torchvision_import import import_torchvision
from jstc.errors import StageError
from jstc.recipe.schema import TrainSettings
from jstc.train import collectives, seeds
from jstc.train.device import as_input, autocast

__all__ = [
    "Criterion",
    "Mixing",
    "Teacher",
    "accumulate",
    "distillation",
    "explained",
    "largest",
    "logits",
    "step",
]

# The loss of a training step: cross-entropy, and what a teacher adds.


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode to learn from; `weight` is its share of the loss."""

    network: nn.Module
    weight: float
    temperature: float


@dataclass(frozen=True)
class Criterion:
    """How a network is run and what its scores are compared with."""

    dtype: torch.dtype | None = None
    channels_last: bool = False
    label_smoothing: float = 0.0
    teacher: Teacher | None = None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over the images [N, C, H, W], and their scores [N, classes] without gradients.

        `labels` are classes [N] or shares of classes [N, classes].
        """
        images = as_input(images, channels_last=self.channels_last)
        with autocast(images.device, self.dtype):
            scores = logits(network(images)).float()
            soft = _teach(self.teacher, images)
        loss = F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)
        if self.teacher is not None and soft is not None:
            weight = self.teacher.weight
            loss = (1 - weight) * loss + weight * distillation(scores, soft, self.teacher.temperature)
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


# Mixing the images of a batch, and their labels: mixup and cutmix of torchvision.


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


# Which batch would have fitted, when the memory of a GPU ran out.

T = TypeVar("T")


def explained(
    work: Callable[[], T], network: nn.Module, images: Tensor, criterion: Criterion, parts: int
) -> T:
    """The result of `work`, the forward and backward of `images` [N, C, H, W] in so many `parts`.

    Raises `StageError` when the memory runs out in it, with the batch that fits, found by trying. The
    training is over then: trying changes gradients and the statistics of batch norms.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0].splitlines()[0]
    # Not in the handler: as long as the error is there, so is every activation of the step.
    at_once = -(-len(images) // parts)
    found = None if collectives.world() > 1 else largest(network, images, criterion, below=at_once)
    raise StageError(_advice(images, parts=parts, fits=found, reason=reason)) from None


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
