"""The plans that a search may visit: at the budget, in the steps that the recipe asks for.

`resolve_budgets` turns the recipe's amounts into counts, once for a run; everything after it takes `Budget`s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.channels import ChannelMap
from jstc.channels.budget import Budget, WidthBounds, project, resolve, smallest, uniform_counts
from jstc.core.seeds import derive
from jstc.plan import Plan
from jstc.recipe.schema import Recipe

__all__ = [
    "Space",
    "gumbel",
    "joining_levels",
    "lasting_gumbel",
    "multiplied_levels",
    "probabilities",
    "raised",
    "resolve_budgets",
    "sample",
    "standardised",
]

Vector = NDArray[np.float64]


_WIDE = ({"parts": 2}, {"parts": 4})
_WIDE_GIVEN = ({"least": 4},)
"""What `round_to: auto` tries before its finest steps. Less wide with given weights: half of a narrow group
is too much to take from a trained network at once, and steps of 4 still are faster than free widths."""

_ROOM = 2
_CLOSE = 0.98
"""Steps are so wide where the smallest sub-network is so many times cheaper than every budget, and the
evenly cut one comes so close to it."""


def resolve_budgets(channels: ChannelMap, recipe: Recipe) -> dict[str, Budget]:
    """The recipe's budgets as counts, by label. For latencies `channels` must be timed.

    Raises `BudgetError`, which names the smallest reachable cost, when no sub-network can meet one, not even
    in the finest steps, and `RecipeError` for settings of groups that are not there.
    """
    finest = _finest(channels, recipe)
    budgets = [resolve(channels, asked, finest) for asked in recipe.budgets]
    return dict(zip(recipe.labels, budgets, strict=True))


def _finest(channels: ChannelMap, recipe: Recipe) -> WidthBounds:
    """Bounds with the smallest steps that the recipe allows; of a latency, those of the provider."""
    block = None if channels.latency is None else channels.latency.block
    return WidthBounds.from_settings(channels.groups, recipe.channels, block=block)


def _bounds(channels: ChannelMap, recipe: Recipe, budgets: Sequence[Budget]) -> WidthBounds:
    """Under `round_to: auto` the widest steps that leave the search room; processors like multiples of 8."""
    if channels.latency is None:
        for steps in _WIDE if recipe.weights is None else _WIDE_GIVEN:
            wide = WidthBounds.from_settings(channels.groups, recipe.channels, **steps)
            if all(_suits(channels, budget, wide) for budget in budgets):
                return wide
    return _finest(channels, recipe)


def _suits(channels: ChannelMap, budget: Budget, bounds: WidthBounds) -> bool:
    least = smallest(channels, bounds)
    if any(_ROOM * bound.of(least) > bound.limit for bound in budget.bounds):
        return False
    return budget.reaches(channels.cost_of_counts(uniform_counts(channels, budget, bounds)), _CLOSE)


_HALF_SUITS = (0.35, 0.8)
_OTHERWISE = 0.52
"""Coarse rounds under `coarse_budget: auto`: a network of half the width where it costs such a share of the
budget. Dearer, it would save little; cheaper, its channels would be too small a core of the later ones."""


def _coarse_share(channels: ChannelMap, budget: Budget, bounds: WidthBounds, recipe: Recipe) -> float:
    asked = recipe.search.coarse_budget
    if asked != "auto":
        return asked
    halves = np.array([group.width // 2 for group in channels.groups])
    steps = np.maximum(halves - bounds.least, 0) // bounds.step
    half = channels.cost_of_counts(bounds.least + steps * bounds.step)
    # The network itself must fit, whatever the division rounds to.
    share = max((bound.of(half) + 0.5) / bound.limit for bound in budget.bounds)
    low, high = _HALF_SUITS
    return share if low <= share <= high else _OTHERWISE


@dataclass(frozen=True)
class Space:
    """Groups, budget and bounds of one search; `coarse`: the share of the budget that coarse rounds have."""

    channels: ChannelMap
    budget: Budget
    bounds: WidthBounds
    coarse: float = 1.0

    @classmethod
    def each(cls, channels: ChannelMap, recipe: Recipe, budgets: Mapping[str, Budget]) -> list[Space]:
        """One space for each budget of a recipe, in its order, from the resolved `budgets` by label."""
        own = [budgets[label] for label in recipe.labels]
        bounds = _bounds(channels, recipe, own)
        return [
            cls(channels, budget, bounds, _coarse_share(channels, budget, bounds, recipe)) for budget in own
        ]

    def of_rounds(self, *, below: bool) -> Space:
        """The space of coarse rounds below the budget, or of the others."""
        return self.at(self.coarse) if below else self

    def at(self, share: float) -> Space:
        """This space at a share of its budget, or at the smallest that the bounds allow."""
        if share >= 1:
            return self
        budget = self.budget.at(share, least=smallest(self.channels, self.bounds))
        return Space(self.channels, budget, self.bounds)

    def plan(self, order: Sequence[NDArray[np.int64]], levels: Sequence[Vector]) -> Plan:
        """The plan that keeps, of every group, the first channels in `order`, as many as the budget allows.

        `levels[g][k]`: the value of the common scalar at which the k-th channel of group g, in that order,
        joins.
        """
        counts = project(self.channels, levels, self.budget, self.bounds).tolist()
        kept = {
            group.name: tuple(sorted(chosen[:count].tolist()))
            for group, chosen, count in zip(self.channels.groups, order, counts, strict=True)
        }
        return Plan(kept, self.channels.widths)


# Random perturbation and flexible thresholding: from channel weights to a plan (Lu et al. 2020)

_SMALLEST_SPREAD = 0.02
"""Channel weights that differ less than this are taken as equal, not blown up to unit spread."""


def standardised(groups: Sequence[Vector]) -> list[Vector]:
    """Channel weights of all groups, each group's mean removed, over the spread in the whole network.

    So sigma and tau mean the same early, when the weights have hardly moved, as late, and for any learning
    rate of theirs; what one group's weights say against another's is left to the thresholds. (Ours; the paper
    uses the weights as they are.)
    """
    centred = [g - g.mean() for g in groups]
    spread = float(np.sqrt(np.mean(np.concatenate(centred) ** 2))) if centred else 0.0
    return [c / max(spread, _SMALLEST_SPREAD) for c in centred]


def gumbel(size: int, random: np.random.Generator) -> Vector:
    """Gumbel(0, 1) noise, -log(-log u) (Lu et al. 2020)."""
    tiny = np.finfo(np.float64).tiny
    noise: Vector = -np.log(-np.log(np.maximum(random.random(size), tiny)))
    return noise


def lasting_gumbel(size: int, *, seed: int, round_: int, period: int) -> Vector:
    """Gumbel noise of which each element is drawn anew once in `period` rounds, a few of them every round.

    A pure function of its arguments. With a period of 1 every round has noise of its own, as in the paper;
    with a longer one successive plans share most of their channels, so what a round has trained is still
    there in the next.
    """
    turns = np.random.default_rng(derive(seed, "search", "turns")).integers(period, size=size)
    draw = (round_ + turns) // period  # the number of each element's present draw: one of two in a row
    first, second = round_ // period, round_ // period + 1
    both = [
        gumbel(size, np.random.default_rng(derive(seed, "search", "noise", number)))
        for number in (first, second)
    ]
    return np.where(draw == first, *both)


def probabilities(weights: Vector, noise: Vector, *, sigma: float, tau: float) -> Vector:
    """softmax((alpha + sigma * o) / tau) over the channels of one group (Lu et al. 2020)."""
    scores = (weights + sigma * noise) / tau
    exponent = np.exp(scores - scores.max())
    p: Vector = exponent / exponent.sum()
    return p


def joining_levels(p_sorted: Vector, threshold: float) -> Vector:
    """When each channel, in the order given, joins as one scalar s moves all thresholds.

    The keep set of a threshold r is the smallest whose probability adds up to r, so the k-th channel is in it
    when the k - 1 before it add up to less than r. With r moved to sigmoid(logit(r) + s), that is when
    s > logit(sum of those before) - logit(r).
    """
    before = np.concatenate([[0.0], np.cumsum(p_sorted)[:-1]])
    levels: Vector = _logit(before) - _logit(np.array(threshold))
    return np.maximum.accumulate(levels)


def multiplied_levels(p_sorted: Vector, offset: float) -> Vector:
    """When each channel, in the order given, joins as one scalar s multiplies all thresholds by exp(s).

    A group whose threshold is exp(s + offset) keeps the channels whose middle the sum of probabilities before
    that reaches: with equal probabilities it is so much wider than a group of offset 0.
    """
    middle = np.cumsum(p_sorted) - 0.5 * p_sorted
    levels: Vector = np.log(np.maximum(middle, 1e-12)) - offset
    return np.maximum.accumulate(levels)


def raised(threshold: float, by: float) -> float:
    """The threshold sigmoid(logit(r) + `by`): by as much as the projection moves all of them."""
    return threshold / (threshold + (1 - threshold) * math.exp(-by))


def _logit(p: Vector) -> Vector:
    safe = np.clip(p, 1e-9, 1 - 1e-9)
    value: Vector = np.log(safe) - np.log1p(-safe)
    return value


def sample(
    space: Space,
    p: Sequence[Vector],
    thresholds: Sequence[float],
    *,
    offsets: Sequence[float] | Vector | None = None,
    ranks: Sequence[Vector] | None = None,
    earlier: Sequence[Vector] | None = None,
) -> Plan:
    """The plan of channel probabilities and thresholds per group, projected onto the budget.

    With `offsets` of a policy the projection multiplies the thresholds (`multiplied_levels`), without them it
    moves their logits (`joining_levels`). Channels join in falling order of `ranks`, which are the
    probabilities themselves where none are given. `earlier` [channels of the group], in the units of
    levels, favours the widths that they had: as many channels of a group as have a value join so much
    sooner, whichever they are.
    """
    order = [np.argsort(-each, kind="stable") for each in ranks or p]
    chosen = [each[o] for each, o in zip(p, order, strict=True)]
    if offsets is None:
        levels = [joining_levels(each, r) for each, r in zip(chosen, thresholds, strict=True)]
    else:
        levels = [multiplied_levels(each, by) for each, by in zip(chosen, offsets, strict=True)]
    if earlier is not None:
        levels = [each - np.sort(sooner)[::-1] for each, sooner in zip(levels, earlier, strict=True)]
    return space.plan(order, levels)
