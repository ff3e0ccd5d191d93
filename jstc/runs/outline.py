"""What a run is going to do, in a few lines: for the head of its output, and for `--dry-run`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from jstc.channels.budget import Bound
from jstc.core import numbers
from jstc.recipe.schema import Recipe
from jstc.runs.stages import GIVEN
from jstc.runs.workspace import StageContext, Workspace
from jstc.train import head
from jstc.train import schedule as schedules
from jstc.train.device import autocast_dtype

__all__ = ["announce", "outline"]

Rows = list[tuple[str, str]]

_LABEL = len("directory")


def outline(workspace: Workspace, path: Path, names: Collection[str]) -> Rows:
    """Network, data, budget, training, device and directory of the stages called `names`, label and text.

    Loads the data set, as training will.
    """
    rows = [
        ("network", _network(workspace)),
        ("data", _data(workspace)),
        ("images", workspace.images.sentence),
        *(("note", note) for note in workspace.info.notes),
        ("budget", "; ".join(_budgets(workspace))),
        ("training", "; ".join(_trainings(workspace, names))),
        ("stages", ", ".join(names)),
        ("device", _device(workspace)),
        ("directory", f"{path}/"),
    ]
    return [(label, text) for label, text in rows if text]


def announce(context: StageContext) -> None:
    """Say it before the first stage that trains or scores, once in a command."""
    workspace = context.workspace
    names, workspace.to_announce = workspace.to_announce, ()
    rows = outline(workspace, context.path, names) if names else []
    for label, text in rows:
        context.progress.message(f"{label:<{_LABEL}}  {text}")


def _network(workspace: Workspace) -> str:
    recipe, cost = workspace.recipe, workspace.channels.cost()
    name = f"{recipe.model} in its CIFAR form" if workspace.spec.cifar else recipe.model
    counts = f"{numbers.count(cost.flops)} FLOPs, {numbers.count(cost.params)} parameters"
    return f"{name}, {counts}, {workspace.start}"


def _data(workspace: Workspace) -> str:
    info, dataset = workspace.info, workspace.dataset
    size = "x".join(map(str, info.input_shape))
    training, test = dataset.train_full.num_images, dataset.test.num_images
    return (
        f"{info.name}, {training:,} training and {test:,} test images of {size}, {info.num_classes} classes"
    )


def _budgets(workspace: Workspace) -> list[str]:
    return [", and ".join(map(_bound, budget.bounds)) for budget in workspace.budgets.values()]


def _bound(bound: Bound) -> str:
    show = {"flops": numbers.count, "params": numbers.count, "latency": numbers.milliseconds}
    words = {"flops": "FLOPs", "params": "parameters", "latency": "of latency"}
    most = f"{show[bound.metric](bound.shown_limit)} {words[bound.metric]} at most"
    if bound.share > 1:  # beside another bound, which is what is to be met
        return f"{most}, which the network meets as it is"
    return f"{most}, {numbers.share(bound.share)} of the network's"


def _trainings(workspace: Workspace, names: Collection[str]) -> list[str]:
    recipe, dataset = workspace.recipe, workspace.dataset
    rounds, per_round = recipe.search.rounds, schedules.steps_per_round(recipe, dataset)
    epochs, per_epoch = recipe.finetune.epochs, schedules.steps_per_finetune_epoch(recipe, dataset)
    times = f" for each of {len(recipe.budgets)} budgets" if len(recipe.budgets) > 1 else ""
    alone = head.epochs_of(recipe, dataset) if workspace.new_head else 0
    found = {
        GIVEN: f"new classifier alone {alone} epoch{'s' * (alone != 1)}" if alone else "",
        "baseline": f"target network alone {schedules.baseline_epochs(recipe, dataset)} epochs",
        "search": f"search {rounds} round{'s' * (rounds != 1)} of {per_round:,} steps" if rounds else "",
        "finetune": f"finetune {epochs} epochs of {per_epoch:,} steps{times}" if epochs else "",
    }
    told = [text for name, text in found.items() if text and name in names]
    steps = [f"a step is {recipe.train.batch_size} images"] if told else []
    return [*_untrained(recipe, names), *_judged(recipe, names), *told, *steps]


def _untrained(recipe: Recipe, names: Collection[str]) -> list[str]:
    images = recipe.search.reconstruction_images
    if recipe.weights is None or "search" not in names:
        return []
    how = f"its layers fitted on {images:,} images" if images else "its layers left as they are"
    return [f"the network is cut as it was given, {how}"]


def _judged(recipe: Recipe, names: Collection[str]) -> list[str]:
    search = recipe.search
    if recipe.weights is None or search.thresholds != "threshnet" or "search" not in names:
        return []
    times = f" for each of {len(recipe.budgets)} budgets" if len(recipe.budgets) > 1 else ""
    return [f"{search.candidates} plans{times} are judged first, without training"]


def _device(workspace: Workspace) -> str:
    where, recipe = workspace.device, workspace.recipe
    dtype = _name_of(autocast_dtype(recipe.train, where))
    if where.type == "cuda":
        return f"{torch.cuda.get_device_name(where)}, {dtype}"
    threads = torch.get_num_threads()
    return f"{where.type}, {threads} {'thread' if threads == 1 else 'threads'}, {dtype}"


def _name_of(dtype: torch.dtype | None) -> str:
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")
