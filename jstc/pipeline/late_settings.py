"""Settings that only the last stages read: a run may be given others without training anything again."""

from __future__ import annotations

from collections.abc import Collection

from jstc.recipe import Recipe
from jstc.recipe_file import differences
from jstc.recipe_training import InputSettings

__all__ = ["FREE", "LATE", "changed", "merged", "other_settings", "with_free"]

LATE = ("export", "bench")
"""Sections of the recipe that are read by the stage of that name and by stages built on it, by no other."""

FREE = ("checkpoint", "tensorboard")
"""Sections and keys that change nothing in a run's numbers: every command may give others. So are the keys of
the input section that `InputSettings.FREE` names."""


def merged(recipe: Recipe, stored: Recipe, *, about: Collection[str]) -> Recipe:
    """`recipe`, but with the late sections of `stored` for the stages that the command is not `about`.

    So `jstc search` of a run that has been exported in other precisions since leaves the export alone.
    """
    return recipe.model_copy(update={name: getattr(stored, name) for name in LATE if name not in about})


def changed(stored: Recipe, recipe: Recipe) -> dict[str, list[str]]:
    """The late sections that differ, each with what differs: `export.opset: 18 -> 20`."""
    found = {name: _between(stored, recipe, name) for name in LATE}
    return {name: lines for name, lines in found.items() if lines}


def other_settings(stored: Recipe, recipe: Recipe) -> list[str]:
    """What differs outside the late sections and what is free, and makes it another run."""
    return differences(stored, with_free(merged(recipe, stored, about=()), stored))


def with_free(recipe: Recipe, other: Recipe) -> Recipe:
    """`recipe` with what `other` has of the settings that change nothing in a run's numbers."""
    reading = {name: getattr(other.input, name) for name in InputSettings.FREE}
    free = {name: getattr(other, name) for name in FREE}
    return recipe.model_copy(update=free | {"input": recipe.input.model_copy(update=reading)})


def _between(stored: Recipe, recipe: Recipe, section: str) -> list[str]:
    return differences(stored, stored.model_copy(update={section: getattr(recipe, section)}))
