"""Whether a run is so short that its search begins below the budget."""

from __future__ import annotations

from jstc.data import Dataset
from jstc.recipe import Recipe
from jstc.train.schedule import is_long

__all__ = ["begun_at_budget", "for_length"]


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
