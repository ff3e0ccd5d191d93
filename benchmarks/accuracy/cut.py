"""From given weights: a plan, its network cut out of them and mended, then finetune of several lengths.

All methods go through the product's search without rounds and its finetune; they differ in who makes the
plan, and in that the rivals' networks are not reconstructed, as theirs are not: statistics of batch norms are
estimated anew for all. Every length of finetune is a training of its own, over a learning-rate schedule of
its own, from the same cut network, and the test split is read once at the end of each.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import nn

from benchmarks.accuracy.pretrained import given
from benchmarks.accuracy.work import Outcome, Work
from jstc.channels import budget
from jstc.core import files
from jstc.core.progress import Silent
from jstc.finetune import finetune
from jstc.jst.joint import Search
from jstc.jst.selection import Selection
from jstc.jst.space import Space, resolve_budgets
from jstc.plan import Plan
from jstc.recipe.schema import Recipe

__all__ = ["cut"]


def cut(work: Work) -> Outcome:
    """Cut the given network by the method's plan, and test it after each length of finetune."""
    network = given(work)
    with work.clock.phase("search"):
        selection, extra = _selected(network, work)
    plan, after = selection.plan, {}
    cost = work.channels.cost(plan)
    for length in work.job.lengths:
        result = _finetuned(network, length, work)
        work.ledger.pay("finetune", result["images_seen"] * cost.flops)
        after[f"{length:g}"] = result["accuracy"]
    extra |= {
        "after": after,
        "counts": plan.counts,
        "search": files.read_json(work.directory / "search" / "result.json"),
        "ran_with": work.recipe.model_dump(mode="json"),
    }
    small, val = work.channels.slice(work.target().cpu(), plan), selection.entry.accuracy
    return Outcome(result["accuracy"], cost.flops, cost.params, small, val, extra)


def _selected(network: nn.Module, work: Work) -> tuple[Selection, dict[str, Any]]:
    """The method's plan with its mended network, which is written for finetune to start from."""
    recipe, extra = work.recipe, {}
    budgets = resolve_budgets(work.channels, recipe)
    search = Search(
        copy.deepcopy(network), work.channels, work.dataset,
        recipe=recipe, budgets=budgets, directory=work.directory / "search", progress=Silent(),
    )  # fmt: skip
    search.run_rounds()
    (label,) = search.labels
    selection = search.select(label)
    if work.job.method == "cut-even":
        [space] = Space.each(work.channels, recipe, budgets)
        selection = search.with_plan(selection, _even(selection, space))
    elif not work.job.searches:
        from benchmarks.accuracy import torch_pruning as accuracy_tp

        ratio, plan = accuracy_tp.planned(network, work)
        selection, extra = search.with_plan(selection, plan), {"ratio": ratio}
    search.save(label, selection)
    search.finish()
    return selection, extra


def _even(selection: Selection, space: Space) -> Plan:
    """The same share of every group, of the channels that the search ranks first."""
    channels = space.channels
    counts = budget.uniform_counts(channels, space.budget, space.bounds)
    kept = {
        group.name: tuple(sorted(ranked[:count].tolist()))
        for group, ranked, count in zip(channels.groups, selection.ranking, counts, strict=True)
    }
    return Plan(kept, channels.widths)


def _finetuned(network: nn.Module, length: float, work: Work) -> dict[str, Any]:
    """What finetune of so many epochs comes to; its training is the same for every method."""
    directory = work.directory / f"finetune-{length:g}"
    with work.clock.phase("train"):
        finetune(
            network, work.channels, work.dataset,
            recipe=_as_long(work.recipe, length, work), source=work.directory / "search",
            directory=directory, progress=Silent(),
        )  # fmt: skip
    result: dict[str, Any] = files.read_json(directory / "result.json")
    return result


def _as_long(recipe: Recipe, length: float, work: Work) -> Recipe:
    epochs = math.ceil(length)
    steps = round(length * work.dataset.train_full.steps(work.batch))
    per_epoch = max(1, steps // epochs) if epochs else None
    changed = recipe.finetune.model_copy(update={"epochs": epochs, "steps_per_epoch": per_epoch})
    return recipe.model_copy(update={"finetune": changed})
