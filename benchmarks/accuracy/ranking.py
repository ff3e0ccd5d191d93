"""Which rewards rank plans as training does: plans cut from given weights, judged, then trained.

    python -m benchmarks.accuracy.ranking --case vgg16_bn-quarter-15 --data DIR --out OUT --images 25000
                                          [--weights FILE] [--plans 22] [--lengths 1,5] [--seed 0]

Plans at the case's budget: the evenly narrow one, six tapers along the depth, then by turns random ones that
are smooth along the depth and random ones whose groups are independent; channels by the product's ranking.
Each is cut out of the given weights and judged on the search-validation split: with batch-norm statistics
estimated anew, with its layers reconstructed, with both, and after ten steps of training from either start.
Then it is trained from the reconstructed weights for each of --lengths epochs, over a schedule of its own.
Printed is the rank correlation (Spearman) of each reward with the test accuracies, over all plans.

Every figure is a line of OUT/ranking/JOB.jsonl as soon as it is known; called again, the script goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.accuracy import cut as accuracy_cut
from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy.ledger import Ledger
from benchmarks.accuracy.pretrained import given
from benchmarks.accuracy.settings import CASES, Job, Settings
from benchmarks.accuracy.work import Work
from jstc.channels import budget
from jstc.core.seeds import derive
from jstc.plan import Plan
from jstc.train import device
from jstc.train.device import Numerics
from jstc.train.loop import evaluate
from jstc.train.recalibration import recalibrate

__all__ = ["Study", "correlations", "main", "spearman"]

Vector = NDArray[np.float64]
Line = dict[str, Any]

_TAPERS = (-1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
_REACH, _SPREAD = 0.3, 0.5  # of the random offsets: how far along the depth they are alike, and their size
_STEPS = 10
_RECALIBRATION, _RECONSTRUCTION = 1024, 512  # training images


def offsets(groups: int, number: int, seed: int) -> Iterator[tuple[str, Vector]]:
    """Names and offsets [groups] of the logarithms of widths of so many plans."""
    depth = np.arange(groups) / max(1, groups - 1)
    fixed = [("even", np.zeros(groups)), *((f"taper {k:g}", -k * depth) for k in _TAPERS)]
    yield from fixed[:number]
    alike = np.exp(-((depth[:, None] - depth) ** 2) / (2 * _REACH**2)) + 1e-6 * np.eye(groups)
    factor = np.linalg.cholesky(alike)
    for turn in range(number - len(fixed)):
        drawn = _SPREAD * np.random.default_rng(derive(seed, "ranking", turn)).normal(size=groups)
        yield (f"smooth {turn}", factor @ drawn) if turn % 2 == 0 else (f"independent {turn}", drawn)


class Study:
    """The plans of one case at given weights; `lines` holds what is known of them, each also in a file."""

    def __init__(self, work: Work, path: Path) -> None:
        self.work = replace(work, ledger=Ledger(work.ledger.epoch, math.inf))
        self.network, self._path = given(work), path
        selection, self._space = accuracy_cut.ranked(self.network, self.work)
        self._ranking = selection.ranking
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a last line that was cut off is done again
        self.lines: list[Line] = [json.loads(line) for line in whole.splitlines()]
        path.write_text(whole)

    def known(self, name: str, what: str) -> bool:
        """Whether a figure of a plan is there already."""
        return any(line["plan"] == name and line["what"] == what for line in self.lines)

    def plan(self, offset: Vector) -> Plan:
        """The plan at the budget whose groups are so much wider than others, in the logarithm."""
        channels = self.work.channels
        levels = [np.log((np.arange(g.width) + 0.5) / g.width) for g in channels.groups]
        moved = [level - by for level, by in zip(levels, offset, strict=True)]
        counts = budget.project(channels, moved, self._space.budget, self._space.bounds)
        return accuracy_cut.first_ranked(channels, self._ranking, counts)

    def judge(self, name: str, plan: Plan) -> None:
        """Losses and accuracies of the plan's network without training, or after a few steps of it."""
        cost, rewards = self.work.channels.cost(plan), {}
        cut, mended = self._cut(plan), self.reconstructed(plan)
        rewards["reconstructed"] = self._figures(mended)
        for start, network in (("recalibrated", cut), ("reconstructed, recalibrated", mended)):
            self._recalibrate(network)
            rewards[start] = self._figures(network)
            self._train(network, _STEPS, f"{name}, {start}")
            rewards[f"{start}, {_STEPS} steps"] = self._figures(network)
        self._note(name, "rewards", rewards=rewards, counts=plan.counts, flops=cost.flops, params=cost.params)

    def train(self, name: str, plan: Plan, epochs: float) -> None:
        """Test accuracy after training from the reconstructed weights."""
        network = self.reconstructed(plan)
        steps = max(1, round(epochs * self.work.dataset.train_full.steps(self.work.batch)))
        self._train(network, steps, f"{name}, {epochs:g} epochs")
        self._note(name, f"after {epochs:g}", accuracy=self.work.tested(network))

    def reconstructed(self, plan: Plan) -> nn.Module:
        """The plan's network with its layers fitted to the given one."""
        network = self._cut(plan)
        batches = self.work.dataset.train.ordered(self.work.batch, limit=_RECONSTRUCTION)
        self.work.channels.reconstruct(self.network, network, plan, batches, images=_RECONSTRUCTION)
        return network

    def _cut(self, plan: Plan) -> nn.Module:
        return self.work.place(self.work.channels.slice(self.network, plan))

    def _recalibrate(self, network: nn.Module) -> None:
        batches = self.work.dataset.train.ordered(self.work.batch, limit=_RECALIBRATION)
        recalibrate(network, batches, images=_RECALIBRATION)

    def _train(self, network: nn.Module, steps: int, name: str) -> None:
        flops, split = self.work.channels.cost().flops, self.work.dataset.train_full
        self.work.train(network, split=split, steps=steps, phase="ranking", name=name, flops=flops)

    def _figures(self, network: nn.Module) -> dict[str, float]:
        found = evaluate(copy.deepcopy(network), self.work.dataset.search_val.ordered(256), Numerics())
        return {"loss": found.loss, "accuracy": found.accuracy}

    def _note(self, name: str, what: str, **figures: Any) -> None:
        self.lines.append({"plan": name, "what": what, **figures})
        with self._path.open("a") as file:
            file.write(f"{json.dumps(self.lines[-1])}\n")


def spearman(one: Vector, other: Vector) -> float:
    """Rank correlation of two vectors (Spearman 1904), NaN where all values of one are equal.

    Equal values share their mean rank.
    """

    def ranks(values: Vector) -> Vector:
        _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        shared: Vector = (last - (counts - 1) / 2)[at]
        return shared

    first, second = ranks(one), ranks(other)
    if not first.std() or not second.std():
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def correlations(lines: list[Line]) -> list[str]:
    """Table of rewards: correlation with the accuracy after each length of training, number of plans."""
    rewards = {line["plan"]: line for line in lines if line["what"] == "rewards"}
    lengths = list(dict.fromkeys(line["what"] for line in lines if line["what"] != "rewards"))
    after = {what: {x["plan"]: x["accuracy"] for x in lines if x["what"] == what} for what in lengths}
    names = list(next(iter(rewards.values()))["rewards"]) if rewards else []
    both = ("recalibrated", "reconstructed")

    def minus(plan: str, name: str) -> float:
        line = rewards[plan]
        if name == "fewer parameters":
            return -float(line["params"])
        parts = both if name == "sum of the first two" else (name,)
        return -sum(float(line["rewards"][part]["loss"]) for part in parts)

    table = [f"| minus the loss | {' | '.join(lengths)} |", "|---|" + "---:|" * len(lengths)]
    for name in [*names, *(["sum of the first two"] if set(both) <= set(names) else []), "fewer parameters"]:
        cells = []
        for what in lengths:
            plans = [plan for plan in rewards if plan in after[what]]
            values = np.array([minus(plan, name) for plan in plans])
            found = (
                spearman(values, np.array([after[what][p] for p in plans])) if len(plans) > 2 else math.nan
            )
            cells.append(f"{found:.2f} ({len(plans)})")
        table.append(f"| {name} | {' | '.join(cells)} |")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=list(CASES), required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--weights", default="")
    parser.add_argument("--images", type=int, default=Settings().images)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--plans", type=int, default=22)
    parser.add_argument("--lengths", default="1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options: Any = parser.parse_args(arguments)
    names = ("images", "test_images", "batch", "lr", "weights")
    settings = Settings(finetune=options.lengths, **{name: getattr(options, name) for name in names})
    job = Job(options.case, "cut-even", options.seed, settings, tuple(options.overrides))
    device.set_threads(1)
    where = device.device(job.recipe.device)
    dataset = accuracy_data.load(job, root=options.data, out=options.out, where=where)
    directory = options.out / "ranking" / job.name
    work = Work.of(job, dataset, where=where, directory=directory, cache=options.out / "cache")
    study = Study(work, directory.with_suffix(".jsonl"))
    drawn = offsets(len(work.channels.groups), options.plans, options.seed)
    plans = {name: study.plan(offset) for name, offset in drawn}
    for name, plan in plans.items():
        if not study.known(name, "rewards"):
            study.judge(name, plan)
    for length in job.lengths:
        for name, plan in plans.items():
            if not study.known(name, f"after {length:g}"):
                study.train(name, plan, length)
    print("\n".join(correlations(study.lines)))
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
