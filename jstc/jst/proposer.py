"""What a round tries: channel scores, perturbed, and thresholds, chosen, give a plan at the budget.

Three strategies say how, each chosen once from the recipe: what ranks channels (`importance`), what sets
widths (`thresholds`), when to grow (`phases`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.channels import ChannelMap
from jstc.channels.budget import Budget
from jstc.core.seeds import derive
from jstc.jst.importance import importance_of
from jstc.jst.phases import Phase, growth_of
from jstc.jst.space import Space, lasting_gumbel, probabilities, sample, standardised
from jstc.jst.subnetwork import Target
from jstc.jst.threshnet import Choice
from jstc.jst.thresholds import thresholds_of
from jstc.plan import Plan
from jstc.recipe.schema import Recipe

__all__ = ["Proposal", "Proposer"]

Vector = NDArray[np.float64]

_COARSE_WIDTHS, _FINE_WIDTHS = 0.5, 0.04
_MOST_FINE = 0.1
"""How much sooner what was trained lately joins, in units of a threshold's logit, as a share of the recency
bonus in its score. In coarse rounds widths stay; in fine ones, where it is at most `_MOST_FINE`, thresholds
still decide, but not the drift of the probabilities."""

_DRAWS = 6
"""So many times as many choices as candidates are drawn to have different plans: steps of 8 channels swallow
most small differences."""

_IN_ROUNDS = 0.25
"""Share of sigma with which a policy explores in rounds: what they train is to stay in the next one."""


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

    `budgets` are the recipe's, resolved, by label; `judged` says that plans at given weights are judged
    before the rounds. Raises `UnknownNameError` for a threshold of a group that
    is not there.
    """

    def __init__(
        self,
        channels: ChannelMap,
        recipe: Recipe,
        budgets: Mapping[str, Budget],
        *,
        judged: bool = True,
    ) -> None:
        self.channels, self.recipe = channels, recipe
        self.spaces = Space.each(channels, recipe, budgets)
        self.importance = importance_of(recipe)
        self.thresholds = thresholds_of(channels, recipe)
        explored = judged and recipe.weights is not None and self.thresholds.policy(0) is not None
        self.growth = growth_of(recipe.search, budgets=len(self.spaces), explored=explored)

    def budget(self, round_: int) -> int:
        """Number of the budget whose turn round `round_` is."""
        return round_ % len(self.spaces)

    def propose(self, target: Target, now: Phase, round_: int, choice: Choice | None = None) -> Proposal:
        """A plan for round `round_`, of a policy's `choice` or of the likeliest one."""
        return self._draw(self.budget(round_), self._view(target, round_), now, choice)

    def candidates(self, target: Target, now: Phase, round_: int) -> list[Proposal]:
        """The plans among which round `round_` chooses, all different; the first is the likeliest.

        As many as the strategy of thresholds compares, or fewer where some turn out the same; one in a coarse
        round, where all are as good.
        """
        number, policy = self.thresholds.candidates, self.thresholds.policy(self.budget(round_))
        choices: list[Choice | None] = [None]
        if policy is not None and not now.coarse and (number > 1 or self.thresholds.learns_after_training):
            random = np.random.default_rng(derive(self.recipe.seed, "search", "thresholds", round_))
            sigma = _IN_ROUNDS * now.sigma
            drawn = policy.draw(_DRAWS * (number - 1) or 1, random, sigma=sigma)
            choices = [policy.likeliest, *drawn] if number > 1 else [*drawn]
        view = self._view(target, round_)
        different: dict[str, Proposal] = {}
        for choice in choices:
            proposal = self._draw(self.budget(round_), view, now, choice)
            different.setdefault(proposal.plan.hash, proposal)
            if len(different) == number:
                break
        return list(different.values())

    def begin(self, target: Target, budget: int) -> None:
        """Let the policy of a budget begin anew, told what the channels of every group are worth."""
        worth = [float(own.mean()) for own in target.channels_of(target.sensitivity)]
        self.thresholds.see(budget, np.array(worth))

    def of(self, target: Target, budget: int, choice: Choice | None) -> Proposal:
        """The plan of a policy's choice (None: the likeliest) for a budget, channels unperturbed."""
        return self._draw(budget, self._view(target, None), self.growth.end(), choice)

    def final(self, target: Target, budget: int = 0) -> Proposal:
        """The plan without perturbation and with the likeliest thresholds, at the last temperature."""
        return self.of(target, budget, None)

    def learn(self, proposals: Sequence[Proposal], rewards: Sequence[float], round_: int) -> float | None:
        """Teach the policy what its choices earned; returns the largest advantage, None without a choice."""
        policy = self.thresholds.policy(self.budget(round_))
        choices = [proposal.choice for proposal in proposals if proposal.choice is not None]
        return policy.learn(choices, rewards) if policy is not None and choices else None

    def _view(self, target: Target, round_: int | None) -> _View:
        """What the plans of a round are drawn from; without a round there is no noise."""
        seed, search, noise = self.recipe.seed, self.recipe.search, np.zeros(len(target.alpha))
        if round_ is not None:
            noise = lasting_gumbel(len(noise), seed=seed, round_=round_, period=search.noise_period)
        weights = standardised(self.importance.scores(target))
        recency = target.channels_of(search.recency_bonus * _recency(target))
        return _View(weights, recency, target.channels_of(noise))

    def _draw(self, budget: int, view: _View, now: Phase, choice: Choice | None) -> Proposal:
        space = self.spaces[budget].of_rounds(below=now.below)
        p = [
            probabilities(w, o, sigma=now.sigma, tau=now.tau)
            for w, o in zip(view.weights, view.noise, strict=True)
        ]
        chosen = self.thresholds.choose(now, budget, choice)
        # What has been trained ranks higher in its group, and groups keep the widths that have been trained.
        ranks = [np.log(np.maximum(q, 1e-300)) * now.tau + k for q, k in zip(p, view.recency, strict=True)]
        widths = _width_share(self.recipe.search.recency_bonus, coarse=now.coarse)
        earlier = [widths * k for k in view.recency]
        plan = sample(space, p, chosen.thresholds, offsets=chosen.offsets, ranks=ranks, earlier=earlier)
        return Proposal(plan, now, chosen.thresholds, choice)


def _width_share(bonus: float, *, coarse: bool) -> float:
    """How much the recency bonus counts for widths, as a share of what it adds to a score."""
    return _COARSE_WIDTHS if coarse else min(_FINE_WIDTHS, _MOST_FINE / max(bonus, 1e-6))


def _recency(target: Target) -> Vector:
    """How much of the last rounds trained each channel [prunable channels], 1 for all that there were."""
    trained: Vector = target.trained.double().cpu().numpy()
    most = trained.max(initial=0.0)
    return trained / most if most > 0 else trained
