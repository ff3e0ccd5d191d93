"""Which plan is chosen in the end, for each budget, and what is handed on of it.

`choose_best` judges the best plans once more, with the weights as they are now, and gives a
`Selection`. Whoever wants another plan than the winner, one that was measured and corrected, has it judged by
`with_plan`; `save` writes what finetune goes on with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jstc.channels import fold
from jstc.channels.reconstruction.reconstruct import Reconstruction
from jstc.core import numbers
from jstc.core.progress import Progress
from jstc.jst.proposer import Proposer
from jstc.jst.round import RoundContext, judge, training_images
from jstc.jst.state import Entry, State, read_plan
from jstc.jst.subnetwork import SubNetwork, Target, cut, fit
from jstc.jst.turns import finalists, ranking
from jstc.plan import Plan
from jstc.train import checkpoint, collectives, handover, optim

__all__ = ["Selection", "choose_best", "mended", "save", "with_plan"]


@dataclass(frozen=True)
class Mended:
    """Reconstruction of a sub-network: accuracies on the search-validation split, and its layers.

    `recalibrated` is the accuracy as it was cut, with batch-norm statistics estimated anew, and `accuracy`
    with the layers fitted, which are left as they were cut where that is better.
    """

    recalibrated: float
    accuracy: float
    seconds: float
    found: Reconstruction

    @property
    def is_kept(self) -> bool:
        """Whether it answers at least as well as without."""
        return self.accuracy >= self.recalibrated

    @property
    def sentence(self) -> str:
        """Sentence for people."""
        fitted, left_out = self.found.layers, self.found.left_out
        told = (
            f"reconstruction: {len(fitted)} layers were fitted to the whole network on "
            f"{self.found.images:,} images; top-1 of the search-validation split "
            f"{numbers.percent(self.recalibrated)} as cut, {numbers.percent(self.accuracy)} "
        )
        if not self.is_kept:
            return f"{told}fitted: they stay as cut"
        told += "now"
        return f"{told}; left as cut: {', '.join(left_out)}" if left_out else told

    def to_dict(self) -> dict[str, Any]:
        """JSON document."""
        layers = {name: {"before": e.before, "after": e.after} for name, e in self.found.layers.items()}
        return {
            "accuracy_as_cut": self.recalibrated,
            **({} if self.is_kept else {"accuracy_as_fitted": self.accuracy}),
            "images": self.found.images,
            "seconds": round(self.seconds, 3),
            "explained": layers,
            "left_out": dict(self.found.left_out),
        }


def _mend(
    plan: Plan, recalibrated: float, target: Target, context: RoundContext
) -> tuple[SubNetwork, Mended]:
    """The sub-network of a plan, cut out of trained weights, its layers fitted to those of the whole one.

    Batch-norm statistics are those that the weights came with, or estimated anew, whichever answers better.
    """
    since = time.perf_counter()
    sub = cut(target, plan, context.recipe.train)
    images = context.recipe.search.reconstruction_images
    batches = training_images(context, images)
    found = fit(target, sub.gated.network, plan, batches, images=images)
    kept = judge(sub, context, limit=None, recalibrated=False).accuracy
    before = {name: buffer.clone() for name, buffer in sub.gated.network.named_buffers()}
    accuracy = judge(sub, context, limit=None).accuracy
    if kept >= accuracy:
        accuracy = kept
        for name, buffer in sub.gated.network.named_buffers():
            buffer.copy_(before[name])
    return sub, Mended(recalibrated, accuracy, time.perf_counter() - since, found)


# At the end of a search


@dataclass(frozen=True)
class Selection:
    """The plan chosen for a budget, with its accuracy now, and its network, recalibrated.

    `ranking` has the channels of every group, the first to keep first: the kept ones before the others, each
    by falling importance. `mended` says what a reconstruction did, where there was one.
    """

    entry: Entry
    sub: SubNetwork
    ranking: list[NDArray[np.int64]]
    mended: Mended | None = None

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.entry.plan


def choose_best(
    state: State, proposer: Proposer, context: RoundContext, progress: Progress, *, budget: int = 0
) -> Selection:
    """The best candidate for a budget, by its number in the recipe, on the whole search-validation split.

    Candidates are the archive's plans and the one without perturbation. They are cut from the final target
    network and their batch-norm statistics recalibrated; of equal ones the unperturbed plan wins, then the
    newer.
    """
    candidates = finalists(state, proposer, budget)
    best: _Judged | None = None
    progress.start("search", len(candidates), "candidate")
    for number, entry in enumerate(candidates, start=1):
        found = _judged(entry.plan, entry.round, state, context)
        progress.update(number, accuracy=found.entry.accuracy)
        if best is None or found.entry.accuracy > best.entry.accuracy:
            best = found
    assert best is not None
    return Selection(best.entry, best.sub, ranking(best.entry.plan, state, proposer), best.mended)


class _Judged(NamedTuple):
    entry: Entry
    sub: SubNetwork
    mended: Mended | None


def _judged(plan: Plan, round_: int, state: State, context: RoundContext) -> _Judged:
    """The sub-network of a plan with its accuracy; mended, where nothing was trained since it was given."""
    if context.recipe.search.reconstruction_images and not context.recipe.search.rounds:
        return mended(plan, round_, state, context)
    sub = cut(state.target, plan, context.recipe.train)
    return _Judged(Entry(plan, judge(sub, context, limit=None).accuracy, round_), sub, None)


def mended(plan: Plan, round_: int, state: State, context: RoundContext) -> _Judged:
    """The sub-network of a plan, cut from the weights as they were given, and mended where that helps."""
    sub = cut(state.target, plan, context.recipe.train)
    accuracy = judge(sub, context, limit=None).accuracy
    fitted, found = _mend(plan, accuracy, state.target, context)
    if found.is_kept:
        sub, accuracy = fitted, found.accuracy
    return _Judged(Entry(plan, accuracy, round_), sub, found)


def with_plan(selection: Selection, plan: Plan, state: State, context: RoundContext) -> Selection:
    """The selection with another plan, judged as the candidates were."""
    if plan.hash == selection.plan.hash:
        return selection
    plan = read_plan(plan.to_dict(), state.target.channels.widths)
    found = _judged(plan, selection.entry.round, state, context)
    return Selection(found.entry, found.sub, selection.ranking, found.mended)


def save(selection: Selection, state: State, context: RoundContext, directory: Path) -> None:
    """Write `plan.json`, `subnetwork.safetensors`, and `target.safetensors` where it is to be the teacher."""
    collectives.require_same(selection.plan.hash, "the best plan")
    sub = selection.sub
    assert sub.optimizer is not None
    if collectives.is_first():
        selection.plan.save(directory / "plan.json")
        handover.save_subnetwork(
            directory / "subnetwork.safetensors",
            sub.gated,
            optimizer=optim.get_state(sub.optimizer, sub.parameters),
            plan=selection.plan,
            step=state.round * context.steps,
        )
    recipe = context.recipe
    if recipe.finetune.teacher == "target" and recipe.weights is None:
        _save_teacher(state.target, context, directory / "target.safetensors")


def _save_teacher(target: Target, context: RoundContext, path: Path) -> None:
    """The whole target network with its gates folded: a plain state dict."""
    sub = cut(target, Plan.full(target.channels.widths), context.recipe.train)
    judge(sub, context, limit=1)  # for the recalibration
    state = {name: t.contiguous() for name, t in fold(sub.gated).state_dict().items()}
    if collectives.is_first():
        checkpoint.save(path, state, {})
