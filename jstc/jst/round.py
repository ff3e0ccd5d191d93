"""One round: train a sub-network a little, its weights and its gates in turn, and judge it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.data import Dataset, Split
from jstc.errors import StageError
from jstc.jst.subnetwork import Trial
from jstc.recipe.schema import Recipe
from jstc.train import batchnorm, collectives, ddp, monitor, seeds
from jstc.train import schedule as schedules
from jstc.train.device import as_input, autocast
from jstc.train.loop import (
    Figures,
    StepOptions,
    TrainFigures,
    evaluate,
    logits,
    step_options,
    stream,
    train_steps,
)
from jstc.train.metrics import Tally
from jstc.train.monitor import Watch
from jstc.train.schedule import Schedule

__all__ = ["Middle", "RoundFigures", "Work", "frozen", "judge", "to_call", "train_round"]

# How far the training of a round is, so that it can be put down in the middle of it and taken up again.


@dataclass
class Middle:
    """The finished parts of a round, what they came to, and the sums of the part at work.

    `watch`, where there is one, looks after every step.
    """

    part: int = 0
    images: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    watch: Watch | None = None
    _tally: Tally | None = None
    _sums: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any], watch: Watch) -> Middle:
        """The inverse of `to_dict`."""
        figures = {name: document[name] for name in ("part", "images", "loss", "accuracy")}
        return cls(**figures, watch=watch, _sums=document["sums"])

    def begin(self, schedule: Schedule, *, first_step: int) -> Tally:
        """The sums of the next part, with what was there of it before; it starts at `first_step`."""
        if self.watch is None:
            self._tally = Tally()
        else:
            self._tally = self.watch.over(schedule, first_step=first_step)
        if self._sums is not None:
            self._tally.restore(self._sums)
        return self._tally

    def end(self, figures: TrainFigures, *, steps: int) -> None:
        """A part is over, of a round of so many `steps`."""
        self.part, self._tally, self._sums = self.part + 1, None, None
        self.images += figures.images
        self.loss += figures.loss * figures.steps / steps
        self.accuracy += figures.accuracy * figures.steps / steps

    def to_dict(self) -> dict[str, Any]:
        """A JSON document, exact; waits for the device."""
        return {
            "part": self.part,
            "images": self.images,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "sums": None if self._tally is None else self._tally.to_dict(),
        }


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
        return self.recipe.search.learns_gates


def train_round(
    sub: Trial, work: Work, round_: int, *, middle: Middle | None = None, called: nn.Module | None = None
) -> RoundFigures:
    """Weights on the training split, gates on the search-validation split, alternating.

    First-order bilevel training, as in DARTS (Liu et al. 2019): each part of the weights' steps is followed
    by one step of the gates at the weights as they are. The round's batches are those after the round before.
    Goes on from `middle`, which says at any time how far it is. The weights' steps call `called`, a compiled
    form of the sub-network, where there is one.
    Raises `DivergedError` when a loss, a weight or a gate is not finite.
    """
    at, first = middle or Middle(), round_ * work.steps
    parts = min(work.recipe.search.gate_steps, work.steps) if work.learns_alpha else 1
    bounds = [first + work.steps * part // parts for part in range(parts + 1)]
    turn = round_ * work.recipe.search.gate_steps + at.part
    validation = _batches(work, "alpha", work.dataset.search_val, turn, parts - at.part)
    for start, end in itertools.pairwise(bounds[at.part :]):
        figures = _train_weights(
            sub, work, at, start=start, end=end, called=to_call(sub, work) if called is None else called
        )
        at.end(figures, steps=work.steps)
        if work.learns_alpha:
            at.images += _alpha_step(sub, next(validation), work, end)
    ddp.synchronise(sub.gated)
    monitor.require_finite(sub.gated, step=first + work.steps, schedule=work.schedule)
    return RoundFigures(at.loss, at.accuracy, at.images)


def to_call(sub: Trial, work: Work) -> nn.Module:
    """What the weights' steps call: without gates where these are not learned."""
    return sub.gated if work.learns_alpha else sub.gated.ungated()


def _train_weights(
    sub: Trial, work: Work, at: Middle, *, start: int, end: int, called: nn.Module
) -> TrainFigures:
    """The steps of a part, or what is left of them."""
    tally = at.begin(work.schedule, first_step=start)
    now = start + tally.batches
    with frozen(sub.gated.alpha), ddp.averaging(called, sync_batchnorm=_synced(work)) as network:
        return train_steps(
            network,
            _batches(work, "train", work.dataset.train, now, end - now),
            optimizer=sub.weights,
            schedule=work.schedule,
            first_step=now,
            options=work.options,
            tally=tally,
        )


def _synced(work: Work) -> bool:
    return work.recipe.train.sync_batchnorm


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


def _alpha_step(sub: Trial, batch: Batch, work: Work, step: int) -> int:
    images, labels = batch
    whole = min(work.recipe.train.batch_size, work.dataset.search_val.num_images)
    sub.gated.train()
    seeded = seeds.seeded(work.options.seed, "alpha", step, *collectives.own_seed())
    with frozen(*sub.gated.network.parameters()), seeded:
        norms = ddp.whole_batch_norms(sub.gated, wanted=_synced(work))
        with norms, autocast(images.device, work.options.dtype):
            scores = logits(sub.gated(as_input(images, channels_last=work.options.channels_last)))
        loss = F.cross_entropy(scores.float(), labels)
        if collectives.world() > 1:
            loss = loss * collectives.share(len(labels), whole=whole)
        if not loss.requires_grad:  # no group has a place for a gate, so there is nothing to learn
            return whole
        gradient = _gradient(loss, sub.gated.alpha, work.options.scaler)
    if gradient is not None:
        sub.step_alpha(gradient, work.recipe.search)
    return whole


def _gradient(loss: Tensor, alpha: Tensor, scaler: torch.amp.GradScaler | None) -> Tensor | None:
    """That of the gates, of all processes together; None where float16 was too small for it.

    As a scaler leaves out such a step.
    """
    if scaler is None:
        (gradient,) = torch.autograd.grad(loss, [alpha])
        return collectives.average(gradient)
    (scaled,) = torch.autograd.grad(scaler.scale(loss), [alpha])
    gradient = collectives.average(scaled) / scaler.get_scale()
    return gradient if gradient.isfinite().all() else None


def judge(sub: Trial, work: Work, *, limit: int | None) -> Figures:
    """Figures on the search-validation split (`limit` images of it, or all), statistics recalibrated first.

    Of several processes each judges its part of the images. The statistics all of them take over the same
    images, in batches as large as they train on: the plans' order must not depend on who saw what. Raises
    `StageError` when there is no search-validation image.
    """
    search, batch_size = work.recipe.search, work.recipe.train.batch_size
    images = min(search.recalibration_images, work.dataset.train.num_images)
    batches = work.dataset.train.ordered(batch_size // collectives.world(), limit=images)
    options = {"dtype": work.options.dtype, "channels_last": work.options.channels_last}
    network = sub.gated.ungated()
    batchnorm.recalibrate(network, batches, images=images, **options)  # type: ignore[arg-type]
    ddp.synchronise(sub.gated)  # GPUs of one kind may still choose other algorithms
    if not work.dataset.search_val.num_images:
        raise StageError("the search-validation split is empty; raise input.val_fraction")
    split = work.dataset.search_val.ordered(batch_size, limit=limit, part=collectives.part())
    return evaluate(network, split, **options)  # type: ignore[arg-type]
