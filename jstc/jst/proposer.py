"""What a round tries: channel scores, perturbed, and thresholds, chosen, give a plan at the budget.

Three strategies say how, each chosen once from the recipe: what ranks channels (`importance`), what sets
widths (`thresholds`), when to grow (`phases`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jstc.channels import ChannelMap
from jstc.channels.budget import Budget
from jstc.jst.importance import importance_of
from jstc.jst.phases import Phase, growth_of
from jstc.jst.space import Space, lasting_gumbel, probabilities, sample, standardised
from jstc.jst.subnetwork import Target
from jstc.jst.threshnet import Choice
from jstc.jst.thresholds import Draw, Situation, thresholds_of
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import seeds

__all__ = ["Proposal", "Proposer"]

Vector = NDArray[np.float64]

_COARSE_WIDTHS, _FINE_WIDTHS = 0.5, 0.04
_MOST_FINE = 0.1
"""How much sooner what was trained lately joins, in units of a threshold's logit, as a share of the recency
bonus in its score. In coarse rounds widths stay; in fine ones, where it is at most `_MOST_FINE`, steps of the
grid of thresholds (0.2 to 0.3 each) still decide, but not the drift of the probabilities."""

_DRAWS = 6
"""So many times as many thresholds as candidates are drawn to have different plans: steps of 8 channels
swallow most small differences."""


@dataclass(frozen=True)
class Proposal:
    """A plan, with what it was drawn from; `choice` is the policy's, where a policy chose."""

    plan: Plan
    phase: Phase
    thresholds: list[float]
    choice: Choice | None


@dataclass(frozen=True)
class _View:
    """By groups the channels' scores, standardised, their recency bonus and their noise."""

    weights: list[Vector]
    recency: list[Vector]
    noise: list[Vector]


class Proposer:
    """Draws plans for a recipe; a pure function of the seed, the round and the target's state.

    `budgets` are the recipe's, resolved, by label. Raises `UnknownNameError` for a threshold of a group that
    is not there.
    """

    def __init__(self, channels: ChannelMap, recipe: Recipe, budgets: Mapping[str, Budget]) -> None:
        self.channels, self.recipe = channels, recipe
        self.spaces = Space.each(channels, recipe, budgets)
        self.importance = importance_of(recipe)
        self.thresholds = thresholds_of(channels, recipe)
        self.growth = growth_of(recipe.search, budgets=len(self.spaces))

    def budget(self, round_: int) -> int:
        """Number of the budget whose turn round `round_` is."""
        return round_ % len(self.spaces)

    def propose(
        self,
        target: Target,
        now: Phase,
        round_: int,
        *,
        candidate: int = 0,
        incumbent: Sequence[int] | None = None,
    ) -> Proposal:
        """A plan for round `round_`; a policy draws other thresholds for other numbers of `candidate`.

        With an `incumbent`, the numbers of the thresholds that won the round before, a few groups draw anew
        and the others keep theirs. Of several candidates the first is the incumbent itself, or the likeliest.
        """
        return self._propose(self._view(target, round_), now, round_, candidate, incumbent)

    def _propose(
        self, view: _View, now: Phase, round_: int, candidate: int, incumbent: Sequence[int] | None
    ) -> Proposal:
        first = candidate == 0 and self.thresholds.candidates > 1
        generator = (
            None if first else seeds.generator(self.recipe.seed, "search", "thresholds", round_, candidate)
        )
        before = None if incumbent is None else torch.tensor(incumbent)
        return self._draw(self.budget(round_), view, now, draw=Draw(generator, before))

    def candidates(
        self, target: Target, now: Phase, round_: int, incumbent: Sequence[int] | None = None
    ) -> list[Proposal]:
        """The plans among which round `round_` chooses, all different.

        As many as the strategy of thresholds compares, or fewer where it hardly finds others; one in a coarse
        round, where all are as good.
        """
        view, number = self._view(target, round_), self.thresholds.candidates
        if now.coarse or number == 1:
            return [self._propose(view, now, round_, 0, None)]
        different: dict[str, Proposal] = {}
        for candidate in range(_DRAWS * number):
            proposal = self._propose(view, now, round_, candidate, incumbent)
            different.setdefault(proposal.plan.hash, proposal)
            if len(different) == number:
                break
        return list(different.values())

    def final(self, target: Target, budget: int = 0) -> Proposal:
        """The plan without perturbation and with the likeliest thresholds, at the last temperature."""
        return self._draw(budget, self._view(target, None), self.growth.end(), draw=Draw())

    def learn(self, proposals: Sequence[Proposal], rewards: Sequence[float], round_: int) -> float | None:
        """Teach the policy what its choices earned; returns the largest advantage, None without a choice."""
        choices = [proposal.choice for proposal in proposals]
        return self.thresholds.learn(choices, rewards, self.budget(round_))

    def _view(self, target: Target, round_: int | None) -> _View:
        """What the plans of a round are drawn from; without a round there is no noise."""
        seed, search, noise = self.recipe.seed, self.recipe.search, np.zeros(len(target.alpha))
        if round_ is not None:
            noise = lasting_gumbel(len(noise), seed=seed, round_=round_, period=search.noise_period)
        weights = standardised(self.importance.scores(target))
        recency = target.channels_of(search.recency_bonus * _recency(target))
        return _View(weights, recency, target.channels_of(noise))

    def _draw(self, budget: int, view: _View, now: Phase, *, draw: Draw) -> Proposal:
        space = self.spaces[budget].of_rounds(below=now.below)
        p = [
            probabilities(w, o, sigma=now.sigma, tau=now.tau)
            for w, o in zip(view.weights, view.noise, strict=True)
        ]
        situation = Situation(now, view.weights, p, space.budget.share)
        thresholds, choice = self.thresholds.choose(situation, draw)
        # What has been trained ranks higher in its group, and groups keep the widths that have been trained.
        ranks = [np.log(np.maximum(q, 1e-300)) * now.tau + k for q, k in zip(p, view.recency, strict=True)]
        widths = _width_share(self.recipe.search.recency_bonus, coarse=now.coarse)
        earlier = [widths * k for k in view.recency]
        plan = sample(space, p, thresholds, ranks=ranks, earlier=earlier)
        return Proposal(plan, now, thresholds, choice)


def _width_share(bonus: float, *, coarse: bool) -> float:
    """How much the recency bonus counts for widths, as a share of what it adds to a score."""
    return _COARSE_WIDTHS if coarse else min(_FINE_WIDTHS, _MOST_FINE / max(bonus, 1e-6))


def _recency(target: Target) -> Vector:
    """How much of the last rounds trained each channel [prunable channels], 1 for all that there were."""
    trained: Vector = target.trained.double().cpu().numpy()
    most = trained.max(initial=0.0)
    return trained / most if most > 0 else trained
