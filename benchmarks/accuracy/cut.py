"""From given weights: a plan, its network cut out of them and mended, then finetune of several lengths.

All methods go through the product's search without rounds and its finetune; they differ in who makes the
plan, and in that the rivals' networks are not reconstructed, as theirs are not: statistics of batch norms are
estimated anew for all. Every length of finetune is a training of its own, over a learning-rate schedule of
its own, from the same cut network, and the test split is read once at the end of each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.accuracy.pretrained import given
from benchmarks.accuracy.work import Outcome, Work
from jstc.channels import ChannelMap, budget
from jstc.core import files
from jstc.core.progress import Silent
from jstc.finetune import finetune
from jstc.jst.joint import Search
from jstc.jst.selection import Selection
from jstc.jst.space import Space, resolve_budgets
from jstc.plan import Plan
from jstc.recipe.schema import Recipe

__all__ = ["cut", "first_ranked", "ranked"]

Counts = NDArray[np.int64]


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


def ranked(network: nn.Module, work: Work) -> tuple[Selection, Space]:
    """What the search of the job's recipe selects, with its ranking of all channels; and its space."""
    search, space = _searched(network, work)
    selection = search.select(search.labels[0])
    search.finish()
    return selection, space


def _searched(network: nn.Module, work: Work) -> tuple[Search, Space]:
    recipe, budgets = work.recipe, resolve_budgets(work.channels, work.recipe)
    search = Search(
        copy.deepcopy(network), work.channels, work.dataset,
        recipe=recipe, budgets=budgets, directory=work.directory / "search", progress=Silent(),
    )  # fmt: skip
    search.run_rounds()
    [space] = Space.each(work.channels, recipe, budgets)
    return search, space


def _selected(network: nn.Module, work: Work) -> tuple[Selection, dict[str, Any]]:
    """The method's plan with its mended network, which is written for finetune to start from."""
    (search, space), extra = _searched(network, work), {}
    (label,) = search.labels
    selection = search.select(label)
    if work.job.method == "cut-even":
        counts = budget.uniform_counts(work.channels, space.budget, space.bounds)
        plan = first_ranked(work.channels, selection.ranking, counts)
        selection = search.with_plan(selection, plan)
    elif not work.job.searches:
        from benchmarks.accuracy import torch_pruning as accuracy_tp

        ratio, plan = accuracy_tp.planned(network, work)
        selection, extra = search.with_plan(selection, plan), {"ratio": ratio}
    search.save(label, selection)
    search.finish()
    return selection, extra


def first_ranked(channels: ChannelMap, ranking: Sequence[Counts], counts: Counts) -> Plan:
    """The plan of so many channels of each group [groups], those that are ranked first."""
    kept = {
        group.name: tuple(sorted(best[:count].tolist()))
        for group, best, count in zip(channels.groups, ranking, counts, strict=True)
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
