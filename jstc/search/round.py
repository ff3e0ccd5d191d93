"""One round: train a sub-network a little, its weights and its gates in turn, and judge it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.data import Dataset, Split
from jstc.errors import StageError
from jstc.recipe import Recipe
from jstc.search.updater import Trial
from jstc.train import batchnorm, seeds
from jstc.train import schedule as schedules
from jstc.train.batches import stream
from jstc.train.device import as_input, autocast
from jstc.train.loop import Figures, StepOptions, evaluate, logits, step_options, train_steps

__all__ = ["RoundFigures", "Work", "judge", "train_round"]


Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RoundFigures:
    """What a round's training came to: mean loss and accuracy while training, images of both splits seen."""

    loss: float
    accuracy: float
    images: int


@dataclass(frozen=True)
class Work:
    """What every round of a search has in common."""

    recipe: Recipe
    dataset: Dataset
    schedule: schedules.Schedule
    steps: int
    options: StepOptions

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        dataset: Dataset,
        where: torch.device,
        *,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Work:
        """The work that a recipe asks for; `scaler` goes through all rounds, where training is in float16."""
        options = step_options(
            recipe.train,
            where,
            seed=seeds.derive(recipe.seed, "search"),
            images=dataset.train.num_images,
            num_classes=dataset.info.num_classes,
        )
        return cls(
            recipe,
            dataset,
            schedules.run_schedule(recipe, dataset),
            schedules.steps_per_round(recipe, dataset),
            replace(options, scaler=scaler),
        )

    @property
    def learns_alpha(self) -> bool:
        """Whether the gates are trained."""
        return self.recipe.search.importance == "learned"


def train_round(sub: Trial, work: Work, round_: int) -> RoundFigures:
    """Weights on the training split, gates on the search-validation split, alternating.

    First-order bilevel training, as in DARTS (Liu et al. 2019): each part of the weights' steps is followed
    by one step of the gates at the weights as they are. The round's batches are those after the round before.
    Raises `StageError` when the training diverges.
    """
    search = work.recipe.search
    parts = min(search.alpha_steps, work.steps) if work.learns_alpha else 1
    ends = [work.steps * (part + 1) // parts for part in range(parts)]
    first, images, loss, accuracy = round_ * work.steps, 0, 0.0, 0.0
    done = 0
    validation = _batches(work, "alpha", work.dataset.search_val, round_ * search.alpha_steps, parts)
    for end in ends:
        with _frozen(sub.gated.alpha):
            figures = train_steps(
                sub.gated,
                _batches(work, "train", work.dataset.train, first + done, end - done),
                optimizer=sub.weights,
                schedule=work.schedule,
                first_step=first + done,
                options=work.options,
            )
        done, images = end, images + figures.images
        loss += figures.loss * figures.steps / work.steps
        accuracy += figures.accuracy * figures.steps / work.steps
        if work.learns_alpha:
            images += _alpha_step(sub, next(validation), work, first + done)
    _check_finite(sub, work, first + done)
    return RoundFigures(loss, accuracy, images)


def _batches(work: Work, purpose: str, split: Split, start: int, count: int) -> Iterator[Batch]:
    recipe = work.recipe
    return stream(
        split,
        recipe.train.batch_size,
        seed=seeds.derive(recipe.seed, "search", purpose),
        start=start,
        count=count,
        augment=recipe.input.augment,
    )


@contextmanager
def _frozen(*parameters: nn.Parameter) -> Iterator[None]:
    """No gradients for `parameters` inside the block."""
    before = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


def _alpha_step(sub: Trial, batch: Batch, work: Work, step: int) -> int:
    images, labels = batch
    sub.gated.train()
    with _frozen(*sub.gated.network.parameters()), seeds.seeded(work.options.seed, "alpha", step):
        with autocast(images.device, work.options.dtype):
            scores = logits(sub.gated(as_input(images, channels_last=work.options.channels_last)))
        loss = F.cross_entropy(scores.float(), labels)
        if not loss.requires_grad:  # no group has a place for a gate, so there is nothing to learn
            return len(labels)
        gradient = _gradient(loss, sub.gated.alpha, work.options.scaler)
    if gradient is not None:
        sub.step_alpha(gradient, work.recipe.search)
    return len(labels)


def _gradient(loss: Tensor, alpha: Tensor, scaler: torch.amp.GradScaler | None) -> Tensor | None:
    """That of the gates; None where float16 was too small for it, as a scaler leaves out such a step."""
    if scaler is None:
        (gradient,) = torch.autograd.grad(loss, [alpha])
        return gradient
    (scaled,) = torch.autograd.grad(scaler.scale(loss), [alpha])
    gradient = scaled / scaler.get_scale()
    return gradient if gradient.isfinite().all() else None


def _check_finite(sub: Trial, work: Work, step: int) -> None:
    # The loss is looked at before each step only: what the last one did would go into the target network.
    finite = torch.stack([p.detach().isfinite().all() for p in sub.gated.parameters()]).all()
    if not finite:
        raise StageError(
            f"training diverged before step {step} of {work.schedule.total}: weights or gates are infinite; "
            f"try a lower train.lr (now {work.schedule.base:g}), a longer train.warmup_epochs, or "
            "train.clip_norm"
        )


def judge(sub: Trial, work: Work, *, limit: int | None) -> Figures:
    """Figures on the search-validation split (`limit` images of it, or all), statistics recalibrated first.

    Raises `StageError` when there is no search-validation image.
    """
    search, batch_size = work.recipe.search, work.recipe.train.batch_size
    images = min(search.recalibration_images, work.dataset.train.num_images)
    batches = work.dataset.train.ordered(batch_size, limit=images)
    options = {"dtype": work.options.dtype, "channels_last": work.options.channels_last}
    batchnorm.recalibrate(sub.gated, batches, images=images, **options)  # type: ignore[arg-type]
    if not work.dataset.search_val.num_images:
        raise StageError("the search-validation split is empty; raise input.val_fraction")
    split = work.dataset.search_val.ordered(batch_size, limit=limit)
    return evaluate(sub.gated, split, **options)  # type: ignore[arg-type]
