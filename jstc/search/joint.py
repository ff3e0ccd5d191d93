"""Joint search-and-training: sample, train, update, again and again, from coarse to fine.

Lu, Huang, Dong, Li, Shi, Beyond Network Pruning: a Joint Search-and-Training Approach, IJCAI 2020.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from torch import nn

from jstc import files
from jstc.channels import ChannelMap
from jstc.data import Dataset
from jstc.errors import RunDirectoryError
from jstc.plan import Plan
from jstc.progress import Progress
from jstc.recipe import Recipe
from jstc.search.anneal import phase
from jstc.search.archive import Entry
from jstc.search.policy import Proposal, Proposer
from jstc.search.round import RoundFigures, Work, judge, train_round
from jstc.search.state import State
from jstc.search.updater import Trial, cut, put_back
from jstc.search.verdict import Adjust, choose_best
from jstc.train import checkpoint
from jstc.train.history import History

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
    `history.jsonl` (a line a round), `result.json`, after every round `checkpoint.safetensors`, from which
    the same call continues, and `plan.json`, `subnetwork.safetensors` (what finetune goes on with) and
    `target.safetensors` (the teacher, where one is asked for); these last in a folder for each budget, named
    by its label, with a `result.json` of its own, where there are several. `adjust` may change the best plan
    of a budget before it is written. Returns the plans by label. Raises
    `BudgetError` for a budget out of reach, `RunDirectoryError` when the checkpoint belongs to another
    search, `StageError` when training diverges.
    """
    where = next(target.parameters()).device
    proposer = Proposer(channels, recipe)
    state = State.new(target, channels, proposer.threshnet, recipe)
    _resume(state, recipe, directory)
    history = History(directory / "history.jsonl", index="round")
    history.truncate(state.round)
    work = Work.of(recipe, dataset, where, scaler=state.scaler)
    progress.start("search", recipe.search.rounds, "round")
    progress.update(state.round)
    while state.round < recipe.search.rounds and not state.settled:
        record = _round(state, proposer, work)
        history.append(record)
        state.save(directory / "checkpoint.safetensors", _identity(recipe, channels))
        progress.update(state.round, **_shown(record))
    plans = _verdicts(state, proposer, work, directory, progress, adjust=adjust)
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
        folder.mkdir(exist_ok=True)
        best = choose_best(state, proposer, work, folder, progress, budget=number, adjust=adjust)
        files.write_json(folder / "result.json", shared | _result(state, best))
        plans[label] = best.plan
    if len(labels) > 1:
        files.write_json(directory / "result.json", shared)
    return plans


def _round(state: State, proposer: Proposer, work: Work) -> dict[str, Any]:
    """Sample, train, judge, update; returns the line of the history."""
    started = time.perf_counter()
    proposal, advantage = _choose(state, proposer, work)
    sub = cut(state.target, proposal.plan, work.recipe.train)
    state.course.thresholds = None if proposal.choice is None else proposal.choice.index.tolist()
    figures = train_round(sub, work, state.round)
    reward = _reward(sub, proposal, state, work)
    put_back(sub, state.target)
    if advantage is None and reward is not None:
        advantage = proposer.learn([proposal], [reward], state.round)
    seconds = time.perf_counter() - started
    overlap = state.advance(proposal.plan, reward, images=figures.images, seconds=seconds)
    record = _record(state, proposal, figures, work)
    return {**record, "accuracy": reward, "advantage": advantage, "overlap": overlap}


def _reward(sub: Trial, proposal: Proposal, state: State, work: Work) -> float | None:
    """Accuracy after the round's training; None for most rounds whose plan can neither win nor teach.

    Judging costs about as much as a third of a round. Below the budget it is for the eye alone.
    """
    search, turn = work.recipe.search, state.round // len(state.courses)
    if proposal.phase.budget < 1 and turn % search.judge_every:
        return None
    return judge(sub, work, limit=search.reward_images).accuracy


def _choose(state: State, proposer: Proposer, work: Work) -> tuple[Proposal, float | None]:
    """The plan to train, of several the best at the weights as they are; and what the policy learnt by it."""
    search = work.recipe.search
    now = phase(search, state.round, budgets=len(state.courses))
    incumbent = state.course.thresholds
    proposals = proposer.candidates(state.target, now, state.round, incumbent)
    if len(proposals) == 1:
        return proposals[0], None
    # By the loss: on a few hundred images it tells plans apart where the accuracy is too coarse.
    subs = [cut(state.target, proposal.plan, work.recipe.train) for proposal in proposals]
    rewards = [-judge(sub, work, limit=search.candidate_images).loss for sub in subs]
    if not all(map(math.isfinite, rewards)):  # nothing to learn from; training will say what is wrong
        return proposals[0], None
    best = max(range(len(rewards)), key=rewards.__getitem__)
    return proposals[best], proposer.learn(proposals, rewards, state.round)


def _record(state: State, proposal: Proposal, figures: RoundFigures, work: Work) -> dict[str, Any]:
    cost = state.target.channels.cost(proposal.plan)
    alpha = state.target.alpha
    return {
        "round": state.round - 1,
        "budget": work.recipe.labels[(state.round - 1) % len(state.courses)],
        "phase": "coarse" if proposal.phase.coarse else "fine",
        "loss": figures.loss,
        "train_accuracy": figures.accuracy,
        "images": figures.images,
        "flops": cost.flops,
        "params": cost.params,
        "sigma": proposal.phase.sigma,
        "tau": proposal.phase.tau,
        "thresholds": [round(r, 6) for r in proposal.thresholds],
        "counts": list(proposal.plan.counts.values()),
        "plan_hash": proposal.plan.hash,
        "alpha_spread": float(alpha.std()) if len(alpha) > 1 else 0.0,
        "lr": work.schedule.at(state.round * work.steps - 1),
        "seconds": round(state.last_seconds, 3),
    }


def _shown(record: dict[str, Any]) -> dict[str, float]:
    return {key: record[key] for key in ("accuracy", "loss", "flops") if record[key] is not None}


def _identity(recipe: Recipe, channels: ChannelMap) -> dict[str, Any]:
    """What decides the numbers of a search; a checkpoint of another one is refused."""
    keys = {"model", "cifar", "weights", "dataset", "seed", "flops", "params"}
    if recipe.latency is not None:  # a checkpoint of an earlier version knows nothing of it
        keys |= {"latency", "latency_on"}
    settings = recipe.model_dump(mode="json", include=keys)
    parts = {
        name: getattr(recipe, name).model_dump(mode="json")
        for name in ("train", "search", "channels", "input")
    }
    finetune = recipe.finetune
    schedule = {"finetune_epochs": finetune.epochs, "finetune_steps_per_epoch": finetune.steps_per_epoch}
    return {**settings, **parts, **schedule, "widths": channels.widths}


def _resume(state: State, recipe: Recipe, directory: Path) -> None:
    path = directory / "checkpoint.safetensors"
    if not path.exists():
        return
    tensors, meta = checkpoint.load(path)
    _check_same(meta.get("identity"), _identity(recipe, state.target.channels), path)
    state.restore(tensors, meta)


def _check_same(theirs: Any, ours: dict[str, Any], path: Path) -> None:
    # Before anything is taken over: tensors of another network or policy do not even fit.
    different = checkpoint.differences(theirs, ours)
    if different:
        raise RunDirectoryError(
            f"{path} belongs to another search ({', '.join(different)} differ); use another --out, or --fresh"
        )


def _shared_result(state: State, work: Work) -> dict[str, Any]:
    return {
        "rounds": state.round,
        "settled": state.settled if state.could_settle else None,
        "images_seen": state.images,
        "steps": state.round * work.steps,
        "seconds": round(state.seconds, 3),
    }


def _result(state: State, best: Entry) -> dict[str, Any]:
    cost = state.target.channels.cost(best.plan)
    return {
        "accuracy": best.accuracy,
        "round_of_plan": best.round,
        "flops": cost.flops,
        "params": cost.params,
    }
