"""Whether a run is so short that its search begins below the budget."""

from __future__ import annotations

from jstc.data import Dataset
from jstc.recipe import Recipe
from jstc.train.schedule import total_steps

__all__ = ["begun_at_budget", "for_length", "is_long"]

_SHORT = 320_000
"""Images that search and finetune train on, each as often as it is seen. In runs of 140,000 and 275,000 a
search that begins with half the width is well above the evenly narrow network; in runs of 500,000 it is no
better or below, in large batches or small, on many images or few (docs/method.md, the length of a run)."""


def is_long(recipe: Recipe, dataset: Dataset) -> bool:
    """Whether the search of a run had better begin at the budget."""
    return total_steps(recipe, dataset) * recipe.train.batch_size >= _SHORT


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
