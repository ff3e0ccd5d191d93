"""The plans that a search may visit: at the budget, in the quanta that the recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.channels import ChannelMap
from jstc.channels.budget import Budget, Limits, project, resolve
from jstc.plan import Plan
from jstc.recipe import Recipe

__all__ = ["Budget", "Space", "limit"]

Vector = NDArray[np.float64]


def _limits(channels: ChannelMap, recipe: Recipe) -> Limits:
    return Limits.from_settings(channels.groups, recipe.channels)


def limit(channels: ChannelMap, recipe: Recipe) -> Budget:
    """The recipe's budget as a count.

    Raises `BudgetError`, which names the smallest reachable cost, when no sub-network can meet it, and
    `RecipeError` for settings of groups that are not there.
    """
    return resolve(channels, *recipe.budget, _limits(channels, recipe))


@dataclass(frozen=True)
class Space:
    """Groups, budget and limits of one search."""

    channels: ChannelMap
    budget: Budget
    limits: Limits

    @classmethod
    def of(cls, channels: ChannelMap, recipe: Recipe) -> Space:
        """The space of a recipe. Raises `BudgetError` as `limit` does."""
        return cls(channels, limit(channels, recipe), _limits(channels, recipe))

    def plan(self, order: Sequence[NDArray[np.int64]], levels: Sequence[Vector]) -> Plan:
        """The plan that keeps, of every group, the first channels in `order`, as many as the budget allows.

        `levels[g][k]`: the value of the common scalar at which the k-th channel of group g, in that order,
        joins.
        """
        counts = project(self.channels, levels, self.budget, self.limits).tolist()
        kept = {
            group.name: tuple(sorted(chosen[:count].tolist()))
            for group, chosen, count in zip(self.channels.groups, order, counts, strict=True)
        }
        return Plan(kept, self.channels.widths)

    def split(self, vector: Vector) -> list[Vector]:
        """A vector over all prunable channels, group by group."""
        return [vector[g.start : g.start + g.width] for g in self.channels.groups]

    def join(self, values: Mapping[str, Vector]) -> Vector:
        """The inverse of `split`, from values by group name."""
        return np.concatenate([values[g.name] for g in self.channels.groups])
