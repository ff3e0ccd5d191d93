"""Joint search-and-training under the equal-training rule: the real search and finetune, in a run folder."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.accuracy.ledger import FORWARD, judged_on
from benchmarks.accuracy.pretrained import pretrained
from benchmarks.accuracy.work import Outcome, Work, fresh
from jstc.core import files
from jstc.core.progress import Silent
from jstc.errors import StageError
from jstc.finetune import finetune
from jstc.jst.importance import importance_of
from jstc.jst.joint import search
from jstc.jst.phases import begun_at_budget, growth_of
from jstc.jst.space import Space, resolve_budgets
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import schedule as schedules
from jstc.train.metrics import History

__all__ = ["fitted", "given", "jst", "most_searched", "retrain", "spent_by"]

_NEAR_EPOCHS = 8


def jst(work: Work) -> Outcome:
    """Search, then finetune on the inherited weights, over one learning-rate schedule."""
    return _searched(work, work.target())


def given(work: Work) -> Outcome:
    """A search from a trained target network, which is paid for as the pruning rivals pay for it."""
    return _searched(work, pretrained(work))


def _searched(work: Work, network: nn.Module) -> Outcome:
    recipe, before = (
        fitted(work),
        copy.deepcopy(network),
    )  # as it was given it may teach; the search trains it
    plan, figures = _search(work, recipe, network)
    cost = work.channels.cost(plan)
    source, directory = work.directory / "search", work.directory / "finetune"
    with work.clock.phase("train"):
        finetune(
            before, work.channels, work.dataset,
            recipe=recipe, source=source, directory=directory, progress=Silent(),
        )  # fmt: skip
    result = files.read_json(directory / "result.json")
    per_image = cost.flops + _teaching(work)
    work.ledger.pay("finetune", result["images_seen"] * per_image)
    small = work.channels.slice(work.target().cpu(), plan)
    extra = {**figures, "counts": plan.counts, "ran_with": recipe.model_dump(mode="json")}
    val = figures["search"]["accuracy"]
    return Outcome(result["accuracy"], cost.flops, cost.params, small, val, extra)


def retrain(work: Work) -> Outcome:
    """A search, then its plan with new weights, over a schedule of its own, with what is left."""
    recipe = fitted(work)
    plan, figures = _search(work, recipe, work.target())
    cost = work.channels.cost(plan)
    network = fresh(work, plan, name="retrain")
    steps = work.ledger.steps(cost.flops, work.batch)
    split = work.dataset.train_full
    work.train(network, split=split, steps=steps, phase="finetune", name="retrain", flops=cost.flops)
    extra = {**figures, "counts": plan.counts, "ran_with": recipe.model_dump(mode="json")}
    val = figures["search"]["accuracy"]
    return Outcome(work.tested(network), cost.flops, cost.params, network, val, extra)


def _search(work: Work, recipe: Recipe, network: nn.Module) -> tuple[Plan, dict[str, Any]]:
    directory = work.directory / "search"
    with work.clock.phase("search"):
        search(
            network, work.channels, work.dataset,
            recipe=recipe, budgets=resolve_budgets(work.channels, recipe), directory=directory,
            progress=Silent(),
        )  # fmt: skip
    plan = Plan.load(directory / "plan.json")
    result = files.read_json(directory / "result.json")
    work.ledger.pay("search", spent_by(directory, limit=work.limit))
    if ranking := _ranking(work, recipe):
        work.ledger.pay("ranking", ranking)
        # Paid for: this is no judging.
        judged_on(work.dataset.train).judged -= importance_of(recipe).num_images(
            work.dataset.train.num_images
        )
    return plan, {"search": result, "plan_hash": plan.hash}


def spent_by(directory: Path, *, limit: int) -> float:
    """Images x FLOPs of a finished search, from its history; `limit` FLOPs an image where it has no images.

    A line's `images` are those that its weights and gates learned from, at its `flops`.
    """
    lines = History(directory / "history.jsonl", index="round").read()
    if all("images" in line for line in lines):
        return float(sum(line["images"] * line["flops"] for line in lines))
    return float(files.read_json(directory / "result.json")["images_seen"] * limit)


def most_searched(work: Work, recipe: Recipe) -> int:
    """The most that a search can cost which runs all its rounds, each at the budget of its phase."""
    search, batch = recipe.search, recipe.train.batch_size
    steps = schedules.steps_per_round(recipe, work.dataset)
    gates = min(search.gate_steps, steps) if importance_of(recipe).trains_gates else 0
    part, held = (min(batch, split.num_images) for split in (work.dataset.train, work.dataset.search_val))
    space, growth = _space(work, recipe), growth_of(search)
    phases = map(growth.at, range(search.rounds))
    limits = (space.of_rounds(below=phase.below).budget.on("flops").limit for phase in phases)
    return (steps * part + gates * held) * sum(limits) + _ranking(work, recipe)


def _space(work: Work, recipe: Recipe) -> Space:
    [space] = Space.each(work.channels, recipe, resolve_budgets(work.channels, recipe))
    return space


def _ranking(work: Work, recipe: Recipe) -> int:
    """What a search pays to rank the channels of the network that it was given."""
    return importance_of(recipe).num_images(work.dataset.train.num_images) * work.channels.cost().flops


def fitted(work: Work) -> Recipe:
    """The job's recipe with finetune as long as is left after the search, at the budget.

    Where `jst`, with all of the training, is so long that it begins at the budget, its variants do so too.
    Raises `StageError` when the search alone costs as much as all the training that there is.
    """
    recipe, ledger = _as_long_as_jst(work), work.ledger
    steps = _left_for_finetune(work, recipe, of=ledger.left, per_image=work.limit + _teaching(work))
    if steps < 1:
        searched = most_searched(work, recipe)
        raise StageError(
            f"{recipe.search.rounds} rounds of search cost {searched / ledger.epoch:.3f} epochs' worth, and "
            f"{ledger.epochs:g} are all; lower search.rounds or search.epochs_per_round (or --search-share), "
            "or raise --epochs"
        )
    return _finetuned(work, recipe, steps)


def _left_for_finetune(work: Work, recipe: Recipe, *, of: float, per_image: float) -> int:
    """Steps of finetune that can be paid after the search; below 1 where there are none."""
    part = min(work.batch, work.dataset.train_full.num_images)
    return int((of - most_searched(work, recipe)) / (part * per_image))


def _finetuned(work: Work, recipe: Recipe, steps: int) -> Recipe:
    epochs, per_epoch = _divided(steps, schedules.steps_per_finetune_epoch(recipe, work.dataset))
    changed = recipe.finetune.model_copy(update={"epochs": epochs, "steps_per_epoch": per_epoch})
    return recipe.model_copy(update={"finetune": changed})


def _as_long_as_jst(work: Work) -> Recipe:
    """The job's recipe; where rounds cost more than those of `jst`, or less is left, so few that the search
    has no larger share of it."""
    share = work.ledger.left / work.ledger.total
    plain, recipe = _sized(work, work.job.plain.recipe), work.recipe
    if _is_long(work, plain):
        plain, recipe = _sized(work, begun_at_budget(work.job.plain.recipe)), begun_at_budget(recipe)
    allowed = share * most_searched(work, plain)
    recipe = _searching(recipe, steps_per_round=plain.search.steps_per_round)
    while recipe.search.rounds > 1 and most_searched(work, recipe) > allowed:
        recipe = _searching(recipe, rounds=recipe.search.rounds - 1)
    # Said in numbers: the search itself would decide anew, for each variant by its own length.
    return _searching(recipe, coarse_budget=_space(work, recipe).coarse)


def _is_long(work: Work, recipe: Recipe) -> bool:
    """Whether `jst` as sized for all of the training is a long run where it begins small."""
    steps = _left_for_finetune(work, recipe, of=work.ledger.total, per_image=work.limit)
    return steps > 0 and schedules.is_long(_finetuned(work, recipe, steps), work.dataset)


def _searching(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with changes to its section `search`."""
    return recipe.model_copy(update={"search": recipe.search.model_copy(update=changes)})


def _sized(work: Work, recipe: Recipe) -> Recipe:
    """The recipe of `jst` with as many steps a round as the share for all of its rounds allows; those that it
    has where no share is set, in a number: by the length of the run they would change with its finetune.

    Raises `StageError` where that is none.
    """
    share = work.job.settings.search_share
    if not share:
        return _searching(recipe, steps_per_round=schedules.steps_per_round(recipe, work.dataset))

    # From there on each step costs the same.
    least = recipe.search.gate_steps if importance_of(recipe).trains_gates else 1
    cost, more = (
        most_searched(work, _searching(recipe, steps_per_round=steps)) for steps in (least, least + 1)
    )
    steps = least + math.floor((share * work.ledger.total - cost) / (more - cost))
    if steps < 1:
        raise StageError(
            f"{recipe.search.rounds} rounds of {least} steps cost {cost / work.ledger.total:.3f} of all "
            f"training, and the search may take {share:g}; lower search.rounds, or raise --search-share"
        )
    return _searching(recipe, steps_per_round=steps)


def _divided(steps: int, per_epoch: int) -> tuple[int, int]:
    """Epochs and steps of each, about `per_epoch`, that come to `steps` or as near below as they can."""
    about = max(1, round(steps / per_epoch))
    choices = range(max(1, about - _NEAR_EPOCHS), min(steps, about + _NEAR_EPOCHS) + 1)
    epochs = max(choices, key=lambda n: (n * (steps // n), -abs(n - about)))
    return epochs, steps // epochs


def _teaching(work: Work) -> float:
    """What the teacher's forward pass adds to an image of finetune."""
    teaches = work.recipe.finetune.teacher == "target"
    return FORWARD * work.channels.cost().flops if teaches else 0.0
