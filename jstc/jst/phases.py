"""Coarse to fine: how strongly a round perturbs, and whether thresholds are common to all groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jstc.data import Dataset
from jstc.recipe.schema import Recipe, SearchSettings
from jstc.train.schedule import is_long

__all__ = ["Phase", "begun_at_budget", "for_length", "phase"]


@dataclass(frozen=True)
class Phase:
    """Settings of one round: scale of the perturbation, temperature, whether it is a coarse one, and whether
    its sub-network is to be smaller than the budget allows."""

    sigma: float
    tau: float
    coarse: bool
    below: bool = False


def phase(settings: SearchSettings, round_: int, *, budgets: int = 1) -> Phase:
    """The phase of round `round_` (from 0) of a search for so many `budgets`.

    Coarse rounds stay at the first sigma and tau; then both fall to their last values, sigma linearly and tau
    geometrically. Coarse sub-networks are below the budget, unless `coarse_budget` is 1. Each budget has a
    fine round, however few rounds there are, unless all are to be coarse. Without coarse to fine, every round
    is fine, at the mean of first and last.
    """
    if not settings.coarse_to_fine:
        sigma = sum(settings.sigma) / 2 if settings.perturbation else 0.0
        return Phase(sigma, math.sqrt(settings.tau[0] * settings.tau[1]), coarse=False)
    coarse_rounds = math.ceil(settings.coarse_share * settings.rounds)
    if settings.coarse_share < 1:
        coarse_rounds = min(coarse_rounds, max(0, settings.rounds - budgets))
    t = max(0, round_ - coarse_rounds + 1) / max(1, settings.rounds - coarse_rounds)
    sigma = settings.sigma[0] + t * (settings.sigma[1] - settings.sigma[0])
    tau = settings.tau[0] ** (1 - t) * settings.tau[1] ** t
    coarse = round_ < coarse_rounds
    below = coarse and settings.coarse_budget != 1
    return Phase(sigma if settings.perturbation else 0.0, tau, coarse=coarse, below=below)


# Whether a run is so short that its search begins below the budget.


def for_length(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with `search.coarse_budget: auto` decided: 1 for a long run, `auto` still for a short one.

    What a narrow network learns early it learns at a fraction of the cost; but later the images that it was
    shown are missing in the training of the network that comes out.
    """
    auto = recipe.search.coarse_budget == "auto"
    return begun_at_budget(recipe) if auto and is_long(recipe, dataset) else recipe


def begun_at_budget(recipe: Recipe) -> Recipe:
    """The recipe without rounds below the budget, unless it says what they have."""
    if recipe.search.coarse_budget != "auto":
        return recipe
    return recipe.model_copy(update={"search": recipe.search.model_copy(update={"coarse_budget": 1.0})})
