"""When to grow: strategies that say how strongly a round perturbs, and how large its sub-network may be.

`growth_of` chooses one from the recipe, once; the search knows it by the protocol `Growth` alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from jstc.data import Dataset
from jstc.recipe.schema import Recipe, SearchSettings
from jstc.train.schedule import is_long

__all__ = ["CoarseToFine", "Growth", "Phase", "Steady", "begun_at_budget", "growth_of", "resolve_auto"]


@dataclass(frozen=True)
class Phase:
    """Settings of one round.

    `sigma` scales the perturbation, `tau` is the temperature of the channel probabilities. In a `coarse`
    round no policy explores; `below`: its sub-network is to be smaller than the budget allows.
    """

    sigma: float
    tau: float
    coarse: bool
    below: bool = False


class Growth(Protocol):
    """Strategy that gives every round its phase."""

    def at(self, round_: int, /) -> Phase:
        """Phase of round `round_`, from 0."""
        ...

    def end(self) -> Phase:
        """Phase of the plan that is made after the last round: at the budget, without perturbation."""
        ...


@dataclass(frozen=True)
class CoarseToFine:
    """First coarse rounds, below the budget unless `coarse_budget` is 1; then fine ones.

    Coarse rounds stay at the first sigma and tau; then both fall to their last values, sigma linearly and tau
    geometrically. Each of so many `budgets` has a fine round, however few rounds there are, unless all are
    to be coarse.
    """

    settings: SearchSettings
    budgets: int = 1

    def at(self, round_: int, /) -> Phase:
        """Coarse or fine."""
        settings, coarse_rounds = self.settings, self._coarse_rounds
        t = max(0, round_ - coarse_rounds + 1) / max(1, settings.rounds - coarse_rounds)
        sigma = settings.sigma[0] + t * (settings.sigma[1] - settings.sigma[0])
        tau = settings.tau[0] ** (1 - t) * settings.tau[1] ** t
        coarse = round_ < coarse_rounds
        below = coarse and settings.coarse_budget != 1
        return Phase(sigma if settings.perturbation else 0.0, tau, coarse=coarse, below=below)

    def end(self) -> Phase:
        """Fine, at the last temperature."""
        return Phase(0.0, self.settings.tau[1], coarse=False)

    @property
    def _coarse_rounds(self) -> int:
        number = math.ceil(self.settings.coarse_share * self.settings.rounds)
        if self.settings.coarse_share < 1:
            return min(number, max(0, self.settings.rounds - self.budgets))
        return number


@dataclass(frozen=True)
class Steady:
    """Fine rounds at the budget from the first on, at the mean of first and last sigma and tau."""

    settings: SearchSettings

    def at(self, _round: int, /) -> Phase:
        """One phase for every round: arithmetic mean of sigma, geometric mean of tau."""
        settings = self.settings
        sigma = sum(settings.sigma) / 2 if settings.perturbation else 0.0
        return Phase(sigma, math.sqrt(settings.tau[0] * settings.tau[1]), coarse=False)

    def end(self) -> Phase:
        """Fine, at the last temperature."""
        return Phase(0.0, self.settings.tau[1], coarse=False)


def growth_of(settings: SearchSettings, *, budgets: int = 1, explored: bool = False) -> Growth:
    """The strategy that `search.coarse_to_fine` names, for a search at so many `budgets`.

    Where widths were `explored` before the rounds, these train what was found: without perturbation, and at
    the last temperature, at which it was found.
    """
    if explored:
        settings = settings.model_copy(update={"perturbation": False, "tau": (settings.tau[1],) * 2})
    return CoarseToFine(settings, budgets) if settings.coarse_to_fine else Steady(settings)


# Whether a run is so short that its search begins below the budget


def resolve_auto(recipe: Recipe, dataset: Dataset) -> Recipe:
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
