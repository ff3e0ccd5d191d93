"""Joint search-and-training: sample, train, update, again and again, from coarse to fine.

Lu, Huang, Dong, Li, Shi, Beyond Network Pruning: a Joint Search-and-Training Approach, IJCAI 2020.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from jstc.channels import ChannelMap
from jstc.core import files, processes
from jstc.core.progress import Progress
from jstc.data import Dataset
from jstc.jst.final import Adjust, choose_best
from jstc.jst.importance import num_images
from jstc.jst.phases import for_length
from jstc.jst.proposer import Proposer
from jstc.jst.round import Work
from jstc.jst.rounds import Rounds
from jstc.jst.state import Entry, State
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import collectives

__all__ = ["search"]


def search(
    target: nn.Module,
    channels: ChannelMap,
    dataset: Dataset,
    *,
    recipe: Recipe,
    directory: Path,
    progress: Progress,
    adjust: Adjust | None = None,
) -> dict[str, Plan]:
    """Search a plan at each of the recipe's budgets while training the target network's parts.

    The budgets take turns, round by round; all of them train the one `target`, which is changed. Writes
    `history.jsonl` (a line a round), `result.json`, after every round and in the middle of long ones
    `checkpoint.safetensors`, from which the same call continues, and `plan.json`, `subnetwork.safetensors`
    (what finetune goes on with) and `target.safetensors` (the teacher, where one is asked for); these last
    in a folder for each budget, named by its label, with a `result.json` of its own, where there are
    several. `adjust` may change the best plan of a budget before it is written. Returns the plans by label.
    Raises `BudgetError` for a budget out of reach, `RunDirectoryError` when the checkpoint belongs to
    another search, `DivergedError` when training diverges more often than the settings allow.
    """
    where = next(target.parameters()).device
    recipe = for_length(recipe, dataset)
    proposer = Proposer(channels, recipe)
    state = State.new(target, channels, proposer.threshnet, recipe)
    work = Work.of(recipe, dataset, where, scaler=state.scaler)
    with processes.signals_deferred():
        rounds = Rounds(state, proposer, work, directory=directory, progress=progress)
        progress.start("search", recipe.search.rounds, "round")
        progress.update(state.round)
        while rounds.left:
            record = rounds.next()
            progress.update(state.round, **_shown(record))
    plans = _verdicts(state, proposer, work, directory, progress, adjust=adjust)
    rounds.finish()
    progress.finish()
    return plans


def _verdicts(
    state: State,
    proposer: Proposer,
    work: Work,
    directory: Path,
    progress: Progress,
    *,
    adjust: Adjust | None,
) -> dict[str, Plan]:
    """The best plan of every budget, written with its figures."""
    plans, shared = {}, _shared_result(state, work)
    labels = work.recipe.labels
    for number, label in enumerate(labels):
        folder = directory / label if len(labels) > 1 else directory
        if collectives.is_first():
            folder.mkdir(exist_ok=True)
        best = choose_best(state, proposer, work, folder, progress, budget=number, adjust=adjust)
        _write(folder / "result.json", shared | _result(state, best))
        plans[label] = best.plan
    if len(labels) > 1:
        _write(directory / "result.json", shared)
    return plans


def _write(path: Path, document: dict[str, Any]) -> None:
    if collectives.is_first():
        files.write_json(path, document)


def _shown(record: dict[str, Any]) -> dict[str, float]:
    return {key: record[key] for key in ("accuracy", "loss", "flops") if record[key] is not None}


def _shared_result(state: State, work: Work) -> dict[str, Any]:
    ranked = num_images(work.recipe.search, work.dataset.train)
    return {
        "rounds": state.round,
        "settled": state.settled if state.could_settle else None,
        "images_seen": state.images,
        **({"taylor_images": ranked} if ranked else {}),
        "steps": state.round * work.steps,
        "seconds": round(state.seconds, 3),
        **({"rollbacks": state.rollbacks} if state.rollbacks else {}),
    }


def _result(state: State, best: Entry) -> dict[str, Any]:
    cost = state.target.channels.cost(best.plan)
    return {
        "accuracy": best.accuracy,
        "round_of_plan": best.round,
        "flops": cost.flops,
        "params": cost.params,
    }
