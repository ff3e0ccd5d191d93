"""What the policy finds where the worth of every plan is known: a replay on Channel-Bench-Macro.

    python -m benchmarks.allocation --data channel-bench-macro [--rewards 64] [--seeds 20] [--table FILE]

The table (github.com/xiusu/Channel-Bench-Macro, as CSV: widths, three accuracies, params, flops) holds every
width setting of a ResNet and of a MobileNet with 7 layers of 1 to 4 quarters, each trained alone three times.
The accuracy of one training is the noisy reward, the mean of the other two judges what was found; which one
teaches goes by the seed. Budgets are the FLOPs of the evenly narrow networks of 2 and 3 quarters, margins are
over those, in percentage points. A plan that comes again costs no reward, and brings the same one.

Methods: the policy as the product has it (generations, perturbation, from coarse to fine, projection), its
mean as the answer and, to compare, the best reward that it saw; random plans, with the best reward. The
search without a policy (`search.method: lean`) gives all groups the same share: its margin is none.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from jstc.channels import ChannelMap, Cost, Group
from jstc.channels.budget import Bound, Budget, WidthBounds, project
from jstc.core import files
from jstc.jst import widths
from jstc.jst.threshnet import ThreshNet, describe
from jstc.recipe import loading

__all__ = ["METHODS", "Measured", "Rewards", "main", "margins"]

Counts = NDArray[np.int64]
Vector = NDArray[np.float64]

_QUARTERS = 4
_EVEN = (2, 3)
_MOST_REPEATS = 20
"""Generations without a plan that is new: then the search has settled."""


class Measured:
    """Trained networks of one space by their widths, with costs as a channel map has them.

    `accuracies` [networks, 3] in percent. Raises `OSError`, `KeyError` or `ValueError` for another file.
    """

    streams: frozenset[str] = frozenset()

    def __init__(self, path: Path) -> None:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self._row = {row["widths"]: number for number, row in enumerate(rows)}
        self.accuracies = np.array([[float(row[f"accuracy{i}"]) for i in (1, 2, 3)] for row in rows])
        self._costs = [Cost(int(row["flops"]), int(row["params"])) for row in rows]
        layers = len(rows[0]["widths"])
        self.groups = tuple(Group(str(i), _QUARTERS, _QUARTERS * i, (str(i),)) for i in range(layers))
        self.full_counts: Counts = np.full(layers, _QUARTERS)

    def row(self, counts: Sequence[int] | Counts) -> int:
        """Number of the network with these widths, in quarters."""
        return self._row["".join(map(str, counts))]

    def cost_of_counts(self, counts: Counts) -> Cost:
        """Cost of widths [layers]."""
        return self._costs[self.row(counts)]

    @property
    def flops_share(self) -> dict[str, float]:
        """Share of the FLOPs that a layer's narrowest form saves."""
        whole = self.cost_of_counts(self.full_counts).flops
        narrow = [np.where(np.arange(len(self.groups)) == i, 1, _QUARTERS) for i in range(len(self.groups))]
        return {
            g.name: 1 - self.cost_of_counts(c).flops / whole for g, c in zip(self.groups, narrow, strict=True)
        }

    def even(self, quarters: int) -> Counts:
        """Widths of the evenly narrow network."""
        return np.full(len(self.groups), quarters)

    def projected(self, offsets: Vector, limit: int) -> Counts:
        """Widths of offsets [layers] within `limit` FLOPs, as the product projects them."""
        middle = np.log((np.arange(_QUARTERS) + 0.5) / _QUARTERS)
        budget = Budget((Bound("flops", limit, limit / self.cost_of_counts(self.full_counts).flops),))
        bounds = WidthBounds.of(self.groups)
        return project(cast(ChannelMap, self), [middle - offset for offset in offsets], budget, bounds)


class Rewards:
    """The accuracies of one training, told one plan at a time; `left` of them can still be asked for."""

    def __init__(self, table: Measured, *, column: int, number: int) -> None:
        self._table, self._column, self.left = table, column, number
        self.seen: dict[tuple[int, ...], float] = {}

    def __call__(self, counts: Counts) -> float | None:
        """Reward of these widths, None where it is new and none is left."""
        key = tuple(counts.tolist())
        if key not in self.seen:
            if not self.left:
                return None
            self.left -= 1
            self.seen[key] = float(self._table.accuracies[self._table.row(key), self._column])
        return self.seen[key]

    @property
    def best(self) -> tuple[int, ...]:
        """Widths with the largest reward."""
        return max(self.seen, key=self.seen.__getitem__)


Found = dict[str, Sequence[int]]
Method = Callable[[Measured, Rewards, int, np.random.Generator], Found]


def policy(table: Measured, rewards: Rewards, limit: int, random: np.random.Generator) -> Found:
    """The widths of the policy's mean, and those of the best reward."""
    network = ThreshNet(describe(cast(ChannelMap, table)))
    for generation, sigma, coarse in _generations(rewards.left):
        choices = network.draw(generation, random, sigma=sigma, coarse=coarse)
        earned = [rewards(table.projected(network.offsets(choice), limit)) for choice in choices]
        pairs = [(c, r) for c, r in zip(choices, earned, strict=True) if r is not None]
        if not pairs:
            break
        network.learn([c for c, _ in pairs], [r for _, r in pairs])
    mean = table.projected(network.offsets(), limit).tolist()
    return {"policy": mean, "policy, best reward": rewards.best}


def _generations(number: int) -> list[tuple[int, float, bool]]:
    """Size, perturbation and phase of each generation that the product would make of so many rewards."""
    recipe = loading.from_flags({}, ["model=resnet20", "dataset=digits", "flops=0.5", "weights=given"])
    first, last = recipe.search.sigma
    size, total = widths._GENERATION, -(-number // widths._GENERATION)
    shares = [generation / max(1, total - 1) for generation in range(total)]
    return [(size, first ** (1 - t) * last**t, t < widths._COARSE) for t in shares]


def at_random(table: Measured, rewards: Rewards, limit: int, random: np.random.Generator) -> Found:
    """The widths with the best reward of random ones at the budget."""
    repeats = 0
    while rewards.left and repeats < _MOST_REPEATS * len(table.groups):
        before = rewards.left
        rewards(table.projected(np.log(random.uniform(0.3, 1.0, len(table.groups))), limit))
        repeats = repeats + 1 if rewards.left == before else 0
    return {"random plans, best reward": rewards.best}


METHODS: dict[str, Method] = {"policy": policy, "random": at_random}


def margins(table: Measured, method: Method, *, quarters: int, rewards: int, seed: int) -> dict[str, float]:
    """Points over the evenly narrow network of what a method found, by trainings that did not teach it."""
    column, even = seed % 3, table.row(table.even(quarters))
    limit = table.cost_of_counts(table.even(quarters)).flops
    teacher = Rewards(table, column=column, number=rewards)
    found = method(table, teacher, limit, np.random.default_rng(seed))
    judges = [i for i in range(3) if i != column]
    gained = table.accuracies - table.accuracies[even]
    return {name: float(gained[table.row(counts)][judges].mean()) for name, counts in found.items()}


def _table(data: Path, *, rewards: int, seeds: range) -> list[str]:
    lines = ["| space, budget | method | over evenly narrow, points |", "|---|---|---:|"]
    for space in ("MobileNet", "ResNet"):
        table = Measured(data / f"{space}.csv")
        for quarters in _EVEN:
            found: dict[str, list[float]] = {}
            for seed in seeds:
                for method in METHODS.values():
                    each = margins(table, method, quarters=quarters, rewards=rewards, seed=seed)
                    for name, margin in each.items():
                        found.setdefault(name, []).append(margin)
            lines += [f"| {space}, {quarters}/4 | {name} | {_mean(all_)} |" for name, all_ in found.items()]
    return lines


def _mean(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):+.3f} +- {error:.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 2 where the tables are not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with MobileNet.csv and ResNet.csv")
    parser.add_argument("--rewards", type=int, default=64, help="at most; default 64")
    parser.add_argument("--seeds", type=int, default=20, help="how many; default 20")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write the table to this Markdown file")
    options: Any = parser.parse_args(arguments)
    try:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        lines = _table(options.data, rewards=options.rewards, seeds=seeds)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {options.data} has no tables of Channel-Bench-Macro: {error}", file=sys.stderr)
        return 2
    text = "\n".join(lines)
    print(text)
    if options.table is not None:
        files.write_text(options.table, f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
