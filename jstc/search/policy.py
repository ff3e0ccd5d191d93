"""What a round tries: channel weights, perturbed, and thresholds, chosen, give a plan at the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jstc.channels import ChannelMap
from jstc.errors import UnknownNameError
from jstc.plan import Plan
from jstc.recipe import Recipe
from jstc.search import sampler, threshnet
from jstc.search.anneal import Phase
from jstc.search.space import Space
from jstc.search.threshnet import Choice, ThreshNet
from jstc.search.updater import Target
from jstc.train import seeds

__all__ = ["Proposal", "Proposer"]

Vector = NDArray[np.float64]

COMMON_THRESHOLD = 0.7
"""Where all groups share one threshold its value is of no account: the projection moves it to the budget."""


@dataclass(frozen=True)
class Proposal:
    """A plan, with what it was drawn from; `choice` is the policy's, where the policy chose."""

    plan: Plan
    phase: Phase
    thresholds: list[float]
    choice: Choice | None


class Proposer:
    """Draws plans for a recipe; a pure function of the seed, the round and the target's state.

    Raises `BudgetError` for a budget out of reach, `UnknownNameError` for a threshold of a group that is not
    there.
    """

    def __init__(self, channels: ChannelMap, recipe: Recipe) -> None:
        self.channels, self.recipe = channels, recipe
        self.space = Space.of(channels, recipe)
        _check_names(channels, recipe)
        self.threshnet = ThreshNet(
            len(channels.groups),
            recipe.search.threshold_grid,
            lr=recipe.search.threshnet_lr,
            entropy_bonus=recipe.search.entropy_bonus,
            seed=seeds.derive(recipe.seed, "search", "threshnet"),
        )

    def propose(self, target: Target, now: Phase, round_: int) -> Proposal:
        """The plan of round `round_`."""
        seed = self.recipe.seed
        random = np.random.default_rng(seeds.derive(seed, "search", "noise", round_))
        noise = self.space.split(sampler.gumbel(len(target.alpha), random))
        generator = seeds.generator(seed, "search", "thresholds", round_)
        return self._draw(target, now, noise, generator)

    def final(self, target: Target) -> Proposal:
        """The plan without perturbation and with the likeliest thresholds, at the last temperature."""
        now = Phase(sigma=0.0, tau=self.recipe.search.tau[1], coarse=False)
        noise = self.space.split(np.zeros(len(target.alpha)))
        return self._draw(target, now, noise, None)

    def learn(self, proposal: Proposal, reward: float) -> float | None:
        """Teach the policy what its choice earned; returns the advantage, None where it did not choose."""
        return None if proposal.choice is None else self.threshnet.learn(proposal.choice, reward)

    def _draw(
        self, target: Target, now: Phase, noise: Sequence[Vector], generator: torch.Generator | None
    ) -> Proposal:
        weights = sampler.standardised(self._importance(target))
        p = [
            sampler.probabilities(w, o, sigma=now.sigma, tau=now.tau)
            for w, o in zip(weights, noise, strict=True)
        ]
        thresholds, choice = self._thresholds(now, weights, p, generator)
        return Proposal(sampler.sample(self.space, p, thresholds), now, thresholds, choice)

    def _importance(self, target: Target) -> list[Vector]:
        kind = self.recipe.search.importance
        if kind == "learned":
            return self.space.split(target.alpha.double().cpu().numpy())
        if kind == "magnitude":
            norms = self.channels.magnitude(target.network)
            return [norms[g.name].double().numpy() for g in self.channels.groups]
        random = np.random.default_rng(seeds.derive(self.recipe.seed, "search", "importance"))
        return self.space.split(random.normal(size=len(target.alpha)))

    def _thresholds(
        self, now: Phase, weights: Sequence[Vector], p: Sequence[Vector], generator: torch.Generator | None
    ) -> tuple[list[float], Choice | None]:
        search = self.recipe.search
        if search.thresholds == "fixed":
            given = search.fixed_thresholds
            return [given.get(g.name, COMMON_THRESHOLD) for g in self.channels.groups], None
        if search.thresholds == "common" or now.coarse:
            return [COMMON_THRESHOLD] * len(self.channels.groups), None
        states = threshnet.describe(self.channels, weights, p)
        choice = self.threshnet.choose(states, generator)
        return self.threshnet.thresholds(choice), choice


def _check_names(channels: ChannelMap, recipe: Recipe) -> None:
    for name in recipe.search.fixed_thresholds:
        if name not in channels.widths:
            hint = "in search.fixed_thresholds; 'jstc inspect' lists the groups"
            raise UnknownNameError("channel group", name, channels.widths, hint)
