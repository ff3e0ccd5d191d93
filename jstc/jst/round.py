"""One round: train a sub-network a little, its weights and its gates in turn, and judge it.

`RoundContext` is what all rounds of a search have in common; `RoundProgress` says how far the training of one
is, so that it can be put down in the middle of it and taken up again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.core.seeds import derive
from jstc.data import Dataset, Split
from jstc.errors import StageError
from jstc.jst.subnetwork import SubNetwork
from jstc.models.outputs import logits
from jstc.recipe.schema import Recipe
from jstc.train import collectives, metrics, seeds
from jstc.train import schedule as schedules
from jstc.train.loop import Figures, OnStep, TrainFigures, evaluate, frozen, stream, train_steps
from jstc.train.metrics import RunningMetrics
from jstc.train.one_step import StepOptions, step_options
from jstc.train.recalibration import recalibrate

__all__ = [
    "RoundContext",
    "RoundFigures",
    "RoundProgress",
    "judge",
    "to_call",
    "train_round",
    "training_images",
]

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RoundContext:
    """What every round of a search has in common.

    `steps` of the weights make a round, in as many parts as `gate_steps` where gates are trained (0 where
    they are not); `options` are those of each of them. With `slopes` every step of the weights also tells its
    gradient in the gates (`SubNetwork.add_slopes`).
    """

    recipe: Recipe
    dataset: Dataset
    schedule: schedules.Schedule
    steps: int
    gate_steps: int
    options: StepOptions
    slopes: bool = False

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        dataset: Dataset,
        where: torch.device,
        *,
        trains_gates: bool,
        slopes: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> RoundContext:
        """The context of a recipe's rounds; `scaler` goes through all of them, in float16."""
        options = step_options(
            recipe.train,
            where,
            seed=derive(recipe.seed, "search"),
            images=dataset.train.num_images,
            num_classes=dataset.info.num_classes,
        )
        return cls(
            recipe,
            dataset,
            schedules.run_schedule(recipe, dataset),
            schedules.steps_per_round(recipe, dataset),
            recipe.search.gate_steps if trains_gates else 0,
            replace(options, scaler=scaler),
            slopes,
        )


@dataclass
class RoundProgress:
    """The finished parts of a round, what they came to, and the sums of the part at context."""

    part: int = 0
    images: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    _metrics: RunningMetrics | None = None
    _sums: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> RoundProgress:
        """The inverse of `to_dict`."""
        figures = {name: document[name] for name in ("part", "images", "loss", "accuracy")}
        return cls(**figures, _sums=document["sums"])

    def begin(self) -> RunningMetrics:
        """The sums of the next part, with what was there of it before."""
        self._metrics = RunningMetrics()
        if self._sums is not None:
            self._metrics.restore(self._sums)
        return self._metrics

    def end(self, figures: TrainFigures, *, steps: int) -> None:
        """A part is over, of a round of so many `steps`."""
        self.part, self._metrics, self._sums = self.part + 1, None, None
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
            "sums": None if self._metrics is None else self._metrics.to_dict(),
        }


@dataclass(frozen=True)
class RoundFigures:
    """Result of a round's training: mean loss and accuracy while training, images of both splits seen."""

    loss: float
    accuracy: float
    images: int


def train_round(
    sub: SubNetwork,
    context: RoundContext,
    round_: int,
    *,
    progress: RoundProgress | None = None,
    called: nn.Module | None = None,
    on_step: OnStep | None = None,
) -> RoundFigures:
    """Weights on the training split, gates on the search-validation split, alternating.

    First-order bilevel training, as in DARTS (Liu et al. 2019): each part of the weights' steps is followed
    by one step of the gates at the weights as they are. The round's batches are those after the round before.
    Goes on from `progress`, which says at any time how far it is; `on_step` is called after every step of the
    weights. These call `called`, a compiled form of the sub-network, where there is one.
    Raises `DivergedError` when a loss, a weight or a gate is not finite.
    """
    at, first = progress or RoundProgress(), round_ * context.steps
    parts = min(context.gate_steps, context.steps) or 1
    bounds = [first + context.steps * part // parts for part in range(parts + 1)]
    turn = round_ * context.gate_steps + at.part
    validation = _batches(context, "alpha", context.dataset.search_val, turn, parts - at.part)
    for start, end in itertools.pairwise(bounds[at.part :]):
        network = to_call(sub, context) if called is None else called
        figures = _train_weights(sub, context, at, start=start, end=end, called=network, on_step=on_step)
        at.end(figures, steps=context.steps)
        if context.gate_steps:
            at.images += _gate_step(sub, next(validation), context, end)
    collectives.synchronise(sub.gated)
    metrics.require_finite(sub.gated, step=first + context.steps, schedule=context.schedule)
    return RoundFigures(at.loss, at.accuracy, at.images)


def to_call(sub: SubNetwork, context: RoundContext) -> nn.Module:
    """The module that the weights' steps call: without gates where these are not learned."""
    return sub.gated if context.gate_steps else sub.gated.ungated()


def _train_weights(
    sub: SubNetwork,
    context: RoundContext,
    at: RoundProgress,
    *,
    start: int,
    end: int,
    called: nn.Module,
    on_step: OnStep | None,
) -> TrainFigures:
    """The steps of a part, or what is left of them."""
    metrics = at.begin()
    now = start + metrics.batches
    assert sub.optimizer is not None
    told = _telling_slopes(sub) if context.slopes else nullcontext()
    averaging = collectives.averaging(called, sync_batchnorm=_synced(context))
    with frozen(sub.gated.alpha), told, averaging as network:
        return train_steps(
            network,
            _batches(context, "train", context.dataset.train, now, end - now),
            optimizer=sub.optimizer,
            schedule=context.schedule,
            first_step=now,
            options=context.options,
            metrics=metrics,
            on_step=on_step,
        )


@contextmanager
def _telling_slopes(sub: SubNetwork) -> Iterator[None]:
    """Inside the block every step of the weights tells its gradient in the gates, before it is made."""
    assert sub.optimizer is not None
    hook = sub.optimizer.register_step_pre_hook(lambda *_: sub.add_slopes())
    try:
        yield
    finally:
        hook.remove()


def _synced(context: RoundContext) -> bool:
    return context.recipe.train.sync_batchnorm


def _batches(context: RoundContext, purpose: str, split: Split, start: int, count: int) -> Iterator[Batch]:
    recipe = context.recipe
    return stream(
        split,
        recipe.train.batch_size,
        seed=derive(recipe.seed, "search", purpose),
        start=start,
        count=count,
        augment=recipe.input.augment,
    )


def _gate_step(sub: SubNetwork, batch: Batch, context: RoundContext, step: int) -> int:
    images, labels = batch
    whole = min(context.recipe.train.batch_size, context.dataset.search_val.num_images)
    sub.gated.train()
    seeded = seeds.seeded(context.options.seed, "alpha", step, *collectives.own_seed())
    with frozen(*sub.gated.network.parameters()), seeded:
        norms = collectives.whole_batch_norms(sub.gated, wanted=_synced(context))
        with norms:
            scores = logits(context.options.criterion.numerics.call(sub.gated, images))
        loss = F.cross_entropy(scores.float(), labels)
        if collectives.world() > 1:
            loss = loss * collectives.share(len(labels), whole=whole)
        if not loss.requires_grad:  # no group has a place for a gate, so there is nothing to learn
            return whole
        gradient = _gradient(loss, sub.gated.alpha, context.options.scaler)
    if gradient is not None:
        sub.step_gates(gradient, context.recipe.search)
    return whole


def _gradient(loss: Tensor, alpha: Tensor, scaler: torch.amp.GradScaler | None) -> Tensor | None:
    """Gradient of the gates, of all processes together; None where float16 was too small for it.

    A scaler leaves out such a step of the weights, too.
    """
    if scaler is None:
        (gradient,) = torch.autograd.grad(loss, [alpha])
        return collectives.average(gradient)
    (scaled,) = torch.autograd.grad(scaler.scale(loss), [alpha])
    gradient = collectives.average(scaled) / scaler.get_scale()
    return gradient if gradient.isfinite().all() else None


def judge(sub: SubNetwork, context: RoundContext, *, limit: int | None, recalibrated: bool = True) -> Figures:
    """Figures on the search-validation split (`limit` images of it, or all), statistics recalibrated first.

    Of several processes each judges its part of the images. The statistics all of them take over the same
    images, in batches as large as they train on: the plans' order must not depend on who saw what. Raises
    `StageError` when there is no search-validation image.
    """
    network, numerics = sub.gated.ungated(), context.options.criterion.numerics
    if recalibrated:
        images = context.recipe.search.recalibration_images
        recalibrate(network, training_images(context, images), images=images, numerics=numerics)
    collectives.synchronise(sub.gated)  # GPUs of one kind may still choose other algorithms
    if not context.dataset.search_val.num_images:
        raise StageError("the search-validation split is empty; raise input.val_fraction")
    batch_size = context.recipe.train.batch_size
    split = context.dataset.search_val.ordered(batch_size, limit=limit, part=collectives.part())
    return evaluate(network, split, numerics)


def training_images(context: RoundContext, number: int) -> Iterator[Batch]:
    """So many training images at most, spread over the split and not augmented, in batches.

    Every one of several processes has all of them, in batches as large as it trains on.
    """
    split, batch_size = context.dataset.train, context.recipe.train.batch_size
    return split.ordered(batch_size // collectives.world(), limit=min(number, split.num_images))
