"""Joint search-and-training: sample, train, update, again and again, from coarse to fine.

Lu, Huang, Dong, Li, Shi, Beyond Network Pruning: a Joint Search-and-Training Approach, IJCAI 2020.
"""

from __future__ import annotations

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
from jstc.search.updater import cut, put_back
from jstc.search.verdict import choose_best
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
) -> Plan:
    """Search a plan at the recipe's budget while training the target network's parts; `target` is changed.

    Writes `plan.json`, `subnetwork.safetensors` (what finetune goes on with), `target.safetensors` (the
    teacher, where one is asked for), `history.jsonl` (a line a round), `result.json`, and after every round
    `checkpoint.safetensors`, from which the same call continues. Raises `BudgetError` for a budget out of
    reach, `RunDirectoryError` when the checkpoint belongs to another search, `StageError` when training
    diverges.
    """
    where = next(target.parameters()).device
    proposer = Proposer(channels, recipe)
    state = State.new(target, channels, proposer.threshnet, recipe)
    _resume(state, recipe, directory)
    history = History(directory / "history.jsonl", index="round")
    history.truncate(state.round)
    work = Work.of(recipe, dataset, where)
    progress.start("search", recipe.search.rounds, "round")
    progress.update(state.round)
    while state.round < recipe.search.rounds and not state.settled:
        record = _round(state, proposer, work)
        history.append(record)
        state.save(directory / "checkpoint.safetensors", _identity(recipe, channels))
        progress.update(state.round, **_shown(record))
    best = choose_best(state, proposer, work, directory, progress)
    files.write_json(directory / "result.json", _result(state, channels, best, work))
    progress.finish()
    return best.plan


def _round(state: State, proposer: Proposer, work: Work) -> dict[str, Any]:
    """Sample, train, judge, update; returns the line of the history."""
    started = time.perf_counter()
    now = phase(work.recipe.search, state.round)
    proposal = proposer.propose(state.target, now, state.round)
    sub = cut(state.target, proposal.plan, work.recipe.train)
    figures = train_round(sub, work, state.round)
    reward = judge(sub, work, limit=work.recipe.search.reward_images)
    put_back(sub, state.target)
    advantage = proposer.learn(proposal, reward)
    overlap = state.plan.overlap(proposal.plan) if state.plan is not None else None
    state.advance(proposal.plan, reward, overlap, figures.images, time.perf_counter() - started)
    record = _record(state, proposal, figures, work)
    return {**record, "accuracy": reward, "advantage": advantage, "overlap": overlap}


def _record(state: State, proposal: Proposal, figures: RoundFigures, work: Work) -> dict[str, Any]:
    cost = state.target.channels.cost(proposal.plan)
    alpha = state.target.alpha
    return {
        "round": state.round - 1,
        "phase": "coarse" if proposal.phase.coarse else "fine",
        "loss": figures.loss,
        "train_accuracy": figures.accuracy,
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
    return {key: record[key] for key in ("accuracy", "loss", "flops")}


def _identity(recipe: Recipe, channels: ChannelMap) -> dict[str, Any]:
    """What decides the numbers of a search; a checkpoint of another one is refused."""
    keys = {"model", "cifar", "weights", "dataset", "seed", "flops", "params"}
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


def _result(state: State, channels: ChannelMap, best: Entry, work: Work) -> dict[str, Any]:
    cost = channels.cost(best.plan)
    return {
        "rounds": state.round,
        "settled": state.settled,
        "accuracy": best.accuracy,
        "round_of_plan": best.round,
        "flops": cost.flops,
        "params": cost.params,
        "images_seen": state.images,
        "steps": state.round * work.steps,
        "seconds": round(state.seconds, 3),
    }
