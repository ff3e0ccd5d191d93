"""What a round tries: channel weights, perturbed, and thresholds, chosen, give a plan at the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jstc.channels import ChannelMap
from jstc.errors import UnknownNameError
from jstc.jst import sampler, threshnet
from jstc.jst.phases import Phase
from jstc.jst.space import Space
from jstc.jst.subnetwork import Target
from jstc.jst.threshnet import Choice, ThreshNet
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import seeds

__all__ = ["Proposal", "Proposer"]

Vector = NDArray[np.float64]

COMMON_THRESHOLD = 0.7
"""Where all groups share one threshold its value is of no account: the projection moves it to the budget."""

_COARSE_WIDTHS, _FINE_WIDTHS = 0.5, 0.04
_MOST_FINE = 0.1
"""How much sooner what was trained lately joins, in units of a threshold's logit, as a share of the inertia
in its score. In coarse rounds widths stay; in fine ones, where it is at most `_MOST_FINE`, steps of the grid
of thresholds (0.2 to 0.3 each) still decide, but not the drift of the probabilities."""

_DRAWS = 6
"""So many times as many thresholds as candidates are drawn to have different plans: steps of 8 channels
swallow most small differences."""


@dataclass(frozen=True)
class Proposal:
    """A plan, with what it was drawn from; `choice` is the policy's, where the policy chose."""

    plan: Plan
    phase: Phase
    thresholds: list[float]
    choice: Choice | None


@dataclass(frozen=True)
class View:
    """What plans are drawn from: by groups the channels' weights, standardised, their inertia and noise."""

    weights: list[Vector]
    inertia: list[Vector]
    noise: list[Vector]


@dataclass(frozen=True)
class Draw:
    """How thresholds are drawn: without a generator those of `before`, or the likeliest without these."""

    generator: torch.Generator | None
    before: Tensor | None


class Proposer:
    """Draws plans for a recipe; a pure function of the seed, the round and the target's state.

    Raises `BudgetError` for a budget out of reach, `UnknownNameError` for a threshold of a group that is not
    there.
    """

    def __init__(self, channels: ChannelMap, recipe: Recipe) -> None:
        self.channels, self.recipe = channels, recipe
        self.spaces = Space.each(channels, recipe)
        _check_names(channels, recipe)
        lead = recipe.search.residual_threshold_offset
        self._leads = [lead if group.name in channels.streams else 0.0 for group in channels.groups]
        self.threshnet = ThreshNet(
            len(channels.groups),
            recipe.search.threshold_grid,
            start=COMMON_THRESHOLD,
            lr=recipe.search.threshnet_lr,
            entropy_bonus=recipe.search.entropy_bonus,
            seed=seeds.derive(recipe.seed, "search", "threshnet"),
        )

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
        """A plan for round `round_`; the policy draws other thresholds for other numbers of `candidate`.

        With an `incumbent`, the numbers of the thresholds that won the round before, a few groups draw anew
        and the others keep theirs. Of several candidates the first is the incumbent itself, or the likeliest.
        """
        return self._propose(self._view(target, round_), now, round_, candidate, incumbent)

    def _propose(
        self, view: View, now: Phase, round_: int, candidate: int, incumbent: Sequence[int] | None
    ) -> Proposal:
        first = candidate == 0 and self.recipe.search.candidates > 1
        generator = (
            None if first else seeds.generator(self.recipe.seed, "search", "thresholds", round_, candidate)
        )
        before = None if incumbent is None else torch.tensor(incumbent)
        return self._draw(self.budget(round_), view, now, draw=Draw(generator, before))

    def candidates(
        self, target: Target, now: Phase, round_: int, incumbent: Sequence[int] | None = None
    ) -> list[Proposal]:
        """The plans among which round `round_` chooses, all different.

        As many as `search.candidates`, or fewer where the policy hardly finds others; one in a coarse round,
        where all are as good, and one where thresholds are not chosen.
        """
        search, view = self.recipe.search, self._view(target, round_)
        if now.coarse or search.candidates == 1 or search.thresholds != "threshnet":
            return [self._propose(view, now, round_, 0, None)]
        different: dict[str, Proposal] = {}
        for candidate in range(_DRAWS * search.candidates):
            proposal = self._propose(view, now, round_, candidate, incumbent)
            different.setdefault(proposal.plan.hash, proposal)
            if len(different) == search.candidates:
                break
        return list(different.values())

    def final(self, target: Target, budget: int = 0) -> Proposal:
        """The plan without perturbation and with the likeliest thresholds, at the last temperature."""
        now = Phase(sigma=0.0, tau=self.recipe.search.tau[1], coarse=False)
        return self._draw(budget, self._view(target, None), now, draw=Draw(None, None))

    def learn(self, proposals: Sequence[Proposal], rewards: Sequence[float], round_: int) -> float | None:
        """Teach the policy what its choices earned; returns the largest advantage, None without a choice."""
        choices = [proposal.choice for proposal in proposals if proposal.choice is not None]
        return self.threshnet.learn(choices, rewards, self.budget(round_)) if choices else None

    def _split(self, vector: Vector) -> list[Vector]:
        return self.spaces[0].split(vector)

    def _view(self, target: Target, round_: int | None) -> View:
        """That of a round; without one there is no noise."""
        seed, search, noise = self.recipe.seed, self.recipe.search, np.zeros(len(target.alpha))
        if round_ is not None:
            noise = sampler.lasting_gumbel(len(noise), seed=seed, round_=round_, period=search.noise_period)
        weights = sampler.standardised(self.importance(target))
        return View(weights, self._split(search.recency_bonus * _recency(target)), self._split(noise))

    def _draw(self, budget: int, view: View, now: Phase, *, draw: Draw) -> Proposal:
        space = self.spaces[budget].of_rounds(below=now.below)
        p = [
            sampler.probabilities(w, o, sigma=now.sigma, tau=now.tau)
            for w, o in zip(view.weights, view.noise, strict=True)
        ]
        states = threshnet.describe(self.channels, view.weights, p, share=space.budget.share)
        thresholds, choice = self._thresholds(now, states, draw)
        # What has been trained ranks higher in its group, and groups keep the widths that have been trained.
        ranks = [np.log(np.maximum(q, 1e-300)) * now.tau + k for q, k in zip(p, view.inertia, strict=True)]
        widths = _width_inertia(self.recipe.search.recency_bonus, coarse=now.coarse)
        earlier = [widths * k for k in view.inertia]
        plan = sampler.sample(space, p, thresholds, ranks=ranks, earlier=earlier)
        return Proposal(plan, now, thresholds, choice)

    def importance(self, target: Target) -> list[Vector]:
        """By what the channels of each group rank, as `search.importance` says; larger is better."""
        search = self.recipe.search
        if search.importance == "random":
            random = np.random.default_rng(seeds.derive(self.recipe.seed, "search", "importance"))
            return self._split(random.normal(size=len(target.alpha)))
        gates = self._split(target.alpha.double().cpu().numpy())
        if search.importance == "learned":
            return gates
        if search.measures_losses:
            found = self._split(target.taylor.double().cpu().numpy())
        else:
            norms = self.channels.magnitude(target.network)
            found = [norms[g.name].double().numpy() for g in self.channels.groups]
        return [a * own for a, own in zip(gates, found, strict=True)] if search.learns_gates else found

    def _thresholds(self, now: Phase, states: Tensor, draw: Draw) -> tuple[list[float], Choice | None]:
        search = self.recipe.search
        if search.thresholds == "fixed":
            given = search.fixed_thresholds
            return [given.get(g.name, COMMON_THRESHOLD) for g in self.channels.groups], None
        if search.thresholds == "common" or now.coarse:
            common = [COMMON_THRESHOLD] * len(self.channels.groups)
            # Below the budget an even network is the core of whatever comes: half as wide, in steps of 8.
            return common if now.below else self._favoured(common), None
        choice = self.threshnet.choose(states, draw.generator, before=draw.before)
        return self._favoured(self.threshnet.thresholds(choice)), choice

    def _favoured(self, thresholds: Sequence[float]) -> list[float]:
        """The thresholds with those of residual streams raised by `search.residual_threshold_offset`."""
        return [sampler.raised(r, lead) for r, lead in zip(thresholds, self._leads, strict=True)]


def _width_inertia(inertia: float, *, coarse: bool) -> float:
    """As a share of `inertia`, the largest that a channel can have."""
    return _COARSE_WIDTHS if coarse else min(_FINE_WIDTHS, _MOST_FINE / max(inertia, 1e-6))


def _recency(target: Target) -> Vector:
    """How much of the last rounds trained each channel [prunable channels], 1 for all that there were."""
    trained: Vector = target.trained.double().cpu().numpy()
    most = trained.max(initial=0.0)
    return trained / most if most > 0 else trained


def _check_names(channels: ChannelMap, recipe: Recipe) -> None:
    for name in recipe.search.fixed_thresholds:
        if name not in channels.widths:
            hint = "in search.fixed_thresholds; 'jstc inspect' lists the groups"
            raise UnknownNameError("channel group", name, channels.widths, hint)
