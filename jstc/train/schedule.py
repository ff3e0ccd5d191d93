"""The one learning-rate schedule that runs through search and finetune, and the counting of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from jstc.recipe.schema import Recipe

if TYPE_CHECKING:
    from jstc.data import Dataset

__all__ = [
    "Schedule",
    "baseline_epochs",
    "baseline_schedule",
    "finetune_schedule",
    "is_long",
    "learning_rate",
    "run_schedule",
    "schedule_over",
    "stepped_rate",
    "steps_per_finetune_epoch",
    "steps_per_round",
    "total_steps",
    "warmup_steps",
]

# A warm-up is never more than this share of the training, however short a trial run is.
_LONGEST_WARMUP = 0.25

_SHORT = 320_000
"""Images that search and finetune train on, each as often as it is seen. Runs of 140,000 and 275,000 are
better by a long search that begins small; runs of 500,000 by a short one at the budget, in large batches or
small, on many images or few (docs/research/trials.md, the length of a run)."""
_LONG_RUNS_ROUND, _SHORT_RUNS_ROUND = 0.25, 1.0  # epochs, of a round whose length goes by that of the run


def learning_rate(step: int, *, total: int, warmup: int, base: float) -> float:
    """Linear warm-up to `base` over `warmup` steps, then half a cosine to zero at `total`.

    `step` counts from 0; the first step has `base / warmup`, the last one (`total - 1`) is above zero
    (Loshchilov and Hutter 2017, equation 5, without restarts).
    """
    if step < warmup:
        return base * (step + 1) / warmup
    if step >= total:
        return 0.0
    return base * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def stepped_rate(
    step: int, *, total: int, warmup: int, base: float, milestones: Sequence[float], gamma: float
) -> float:
    """Linear warm-up to `base` over `warmup` steps; times `gamma` from each milestone on, a share of `total`.

    As torch's `MultiStepLR` with the milestones in steps, rounded.
    """
    if step >= total:
        return 0.0
    passed = sum(step >= round(share * total) for share in milestones)
    return base * min(1.0, (step + 1) / max(1, warmup)) * gamma**passed


@dataclass(frozen=True)
class Schedule:
    """Learning rate per step: `warmup` steps up to `base`, down to zero at `total`.

    Down a cosine; or in steps, by `gamma` at every one of the `milestones`, where there are any.
    """

    base: float
    total: int
    warmup: int = 0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    def at(self, step: int) -> float:
        """The learning rate of `step` (from 0)."""
        if not self.milestones:
            return learning_rate(step, total=self.total, warmup=self.warmup, base=self.base)
        return stepped_rate(step, **asdict(self))


def is_long(recipe: Recipe, dataset: Dataset) -> bool:
    """Whether a run trains on so many images that its search had better be short and begin at the budget.

    Rounds whose length is left to this count as those of a long run.
    """
    steps = _run_steps(recipe, dataset, _steps_per_round(recipe, dataset, auto=_LONG_RUNS_ROUND))
    return steps * recipe.train.batch_size >= _SHORT


def steps_per_round(recipe: Recipe, dataset: Dataset) -> int:
    """Training steps of one search round."""
    auto = _LONG_RUNS_ROUND if is_long(recipe, dataset) else _SHORT_RUNS_ROUND
    return _steps_per_round(recipe, dataset, auto=auto)


def _steps_per_round(recipe: Recipe, dataset: Dataset, *, auto: float) -> int:
    """Training steps of a round that has `auto` epochs where its length goes by that of the run."""
    search = recipe.search
    epochs = auto if search.epochs_per_round == "auto" else search.epochs_per_round
    return search.steps_per_round or max(1, round(epochs * dataset.train.steps(recipe.train.batch_size)))


def steps_per_finetune_epoch(recipe: Recipe, dataset: Dataset) -> int:
    """Training steps of one finetune epoch."""
    return recipe.finetune.steps_per_epoch or dataset.train_full.steps(recipe.train.batch_size)


def total_steps(recipe: Recipe, dataset: Dataset) -> int:
    """Training steps of search and finetune together."""
    return _run_steps(recipe, dataset, steps_per_round(recipe, dataset))


def _run_steps(recipe: Recipe, dataset: Dataset, per_round: int) -> int:
    finetune = recipe.finetune.epochs * steps_per_finetune_epoch(recipe, dataset)
    return recipe.search.rounds * per_round + finetune


def warmup_steps(recipe: Recipe, dataset: Dataset, *, total: int) -> int:
    """Warm-up of a training of `total` steps: `train.warmup_epochs`, at most a quarter of all."""
    wanted = round(recipe.train.warmup_epochs * dataset.train.steps(recipe.train.batch_size))
    return min(wanted, int(_LONGEST_WARMUP * total))


def run_schedule(recipe: Recipe, dataset: Dataset) -> Schedule:
    """The schedule of the whole run; finetune starts at the step where the search ended."""
    return schedule_over(recipe, dataset, total=total_steps(recipe, dataset))


def finetune_schedule(recipe: Recipe, dataset: Dataset, *, searched: Recipe) -> Schedule:
    """The schedule of a run whose search had the recipe `searched`, which finetune alone may depart from.

    The search keeps its steps, and what it left over is finetune's: the rate goes on as in a run whose
    finetune was to be so long from the start.
    """
    planned, wanted = (
        one.finetune.epochs * steps_per_finetune_epoch(one, dataset) for one in (searched, recipe)
    )
    return schedule_over(recipe, dataset, total=total_steps(searched, dataset) - planned + wanted)


def schedule_over(recipe: Recipe, dataset: Dataset, *, total: int) -> Schedule:
    """The recipe's schedule over a training of `total` steps, with the warm-up that suits it."""
    train, warmup = recipe.train, warmup_steps(recipe, dataset, total=total)
    if train.schedule == "cosine":
        return Schedule(train.lr, total, warmup)
    return Schedule(train.lr, total, warmup, train.milestones or (), train.gamma or 1.0)


def baseline_epochs(recipe: Recipe, dataset: Dataset) -> int:
    """Epochs of the baseline: those of the search, rounded up, and those of finetune."""
    searched = recipe.search.rounds * steps_per_round(recipe, dataset)
    return math.ceil(searched / dataset.train.steps(recipe.train.batch_size)) + recipe.finetune.epochs


def baseline_schedule(recipe: Recipe, dataset: Dataset) -> Schedule:
    """The baseline's own full schedule, over exactly its epochs."""
    total = baseline_epochs(recipe, dataset) * steps_per_finetune_epoch(recipe, dataset)
    return schedule_over(recipe, dataset, total=total)
