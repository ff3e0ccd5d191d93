"""The end of a search: the best plans judged once more, with the weights as they are now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jstc.channels import fold
from jstc.core.progress import Progress
from jstc.jst.proposer import Proposer
from jstc.jst.round import Work, judge
from jstc.jst.state import Entry, State, read_plan
from jstc.jst.subnetwork import Target, Trial, cut
from jstc.plan import Plan
from jstc.train import checkpoint, collectives, handover, optim

__all__ = ["Adjust", "choose_best"]

Adjust = Callable[[Plan, Sequence[NDArray[np.int64]], int], Plan]
"""From a plan, the channels of every group, best first, and the number of the budget: the plan to take."""


def choose_best(
    state: State,
    proposer: Proposer,
    work: Work,
    directory: Path,
    progress: Progress,
    *,
    budget: int = 0,
    adjust: Adjust | None = None,
) -> Entry:
    """The best candidate for a budget on the whole search-validation split, written to `directory`.

    Candidates are the archive's plans and the one without perturbation. They are cut from the final target
    network and their batch-norm statistics recalibrated; of equal ones the unperturbed plan wins, then the
    newer. `budget` is its number in the recipe. What `adjust` makes of the winner is written instead of it.
    """
    candidates = _candidates(state, proposer, budget)
    best: tuple[Entry, Trial] | None = None
    progress.start("search", len(candidates), "candidate")
    for number, entry in enumerate(candidates, start=1):
        sub = cut(state.target, entry.plan, work.recipe.train)
        accuracy = judge(sub, work, limit=None).accuracy
        progress.update(number, accuracy=accuracy)
        if best is None or accuracy > best[0].accuracy:
            best = (Entry(entry.plan, accuracy, entry.round), sub)
    assert best is not None
    chosen, groups = best[0].plan, state.target.channels.widths
    if collectives.decided(lambda: adjust is not None):  # measured once, by the first of several processes
        adjusted = collectives.decided(lambda: _adjust(adjust, chosen, state, proposer, budget).to_dict())
        best = _adjusted(*best, read_plan(adjusted, groups), state, work)
    collectives.require_same(best[0].plan.hash, "the best plan")
    _write(*best, state, work, directory)
    return best[0]


def _candidates(state: State, proposer: Proposer, budget: int) -> list[Entry]:
    """Of several processes, those of the first."""

    def found() -> list[list[Any]]:
        settled = Entry(proposer.final(state.target, budget).plan, 0.0, state.round)
        entries = state.courses[budget].archive.entries
        others = [e for e in entries if e.plan.hash != settled.plan.hash]
        candidates = [settled, *sorted(others, key=lambda e: -e.round)]
        return [[e.plan.to_dict(), e.accuracy, e.round] for e in candidates]

    groups = state.target.channels.widths
    return [Entry(read_plan(plan, groups), *rest) for plan, *rest in collectives.decided(found)]


def _adjust(adjust: Adjust | None, plan: Plan, state: State, proposer: Proposer, budget: int) -> Plan:
    assert adjust is not None
    return adjust(plan, _ranked(plan, state, proposer), budget)


def _ranked(plan: Plan, state: State, proposer: Proposer) -> list[NDArray[np.int64]]:
    """The channels of every group: the kept ones before the others, each by falling importance."""
    found, importance = [], proposer.importance(state.target)
    for group, own in zip(state.target.channels.groups, importance, strict=True):
        kept = np.isin(np.arange(group.width), plan.kept[group.name])
        found.append(np.lexsort((-own, ~kept)))
    return found


def _adjusted(entry: Entry, sub: Trial, plan: Plan, state: State, work: Work) -> tuple[Entry, Trial]:
    if plan.hash == entry.plan.hash:
        return entry, sub
    sub = cut(state.target, plan, work.recipe.train)
    return Entry(plan, judge(sub, work, limit=None).accuracy, entry.round), sub


def _write(entry: Entry, sub: Trial, state: State, work: Work, directory: Path) -> None:
    if collectives.is_first():
        optimizer = optim.get_state(sub.weights, sub.parameters)
        step = state.round * work.steps
        entry.plan.save(directory / "plan.json")
        handover.save_subnetwork(
            directory / "subnetwork.safetensors", sub.gated, optimizer=optimizer, plan=entry.plan, step=step
        )
    recipe = work.recipe
    if recipe.finetune.teacher == "target" and recipe.weights is None:
        _write_teacher(state.target, work, directory / "target.safetensors")


def _write_teacher(target: Target, work: Work, path: Path) -> None:
    """The whole target network with its gates folded: a plain state dict."""
    sub = cut(target, Plan.full(target.channels.widths), work.recipe.train)
    judge(sub, work, limit=1)  # for the recalibration
    state = {name: t.contiguous() for name, t in fold(sub.gated).state_dict().items()}
    if collectives.is_first():
        checkpoint.save(path, state, {})
