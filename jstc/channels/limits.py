"""How far each group may be cut: its least width and the step of its width, by the recipe's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jstc.channels.groups import Group
from jstc.channels.patterns import matches, near
from jstc.errors import RecipeError
from jstc.recipe import ChannelSettings

__all__ = ["Limits", "quantum_for"]

Counts = NDArray[np.int64]
Step = int | Literal["auto"]


@dataclass(frozen=True)
class Limits:
    """Least kept channels and step per group, in the order of the groups."""

    least: Counts
    quantum: Counts

    @classmethod
    def of(
        cls, groups: Sequence[Group], *, round_to: Step = 1, min_share: float = 0.0, min_width: int = 1
    ) -> Limits:
        """Multiples of `round_to` (see `quantum_for`), at least `min_share` of each group."""
        return cls._each(groups, [(round_to, min_share, min_width)] * len(groups))

    @classmethod
    def from_settings(cls, groups: Sequence[Group], settings: ChannelSettings) -> Limits:
        """The limits of a recipe, with its settings for single groups.

        Raises `RecipeError`, with near names, for a pattern in `channels.groups` that matches no group.
        """
        _require_matches(groups, settings)
        return cls._each(groups, [_rule(group, settings) for group in groups])

    @classmethod
    def _each(cls, groups: Sequence[Group], rules: Sequence[tuple[Step, float, int]]) -> Limits:
        widths = np.array([g.width for g in groups], np.int64)
        quantum = np.array([quantum_for(g.width, r[0]) for g, r in zip(groups, rules, strict=True)], np.int64)
        shares = np.array([r[1] for r in rules], np.float64)
        wanted = np.maximum(np.ceil(widths * shares).astype(np.int64), np.array([r[2] for r in rules], int))
        return cls(np.minimum(-(-wanted // quantum) * quantum, widths), quantum)


def quantum_for(width: int, round_to: Step) -> int:
    """Step of a group's kept width; `auto` is the largest of 1, 2, 4, 8 that is at most an eighth of it."""
    if round_to == "auto":
        return max(q for q in (1, 2, 4, 8) if q == 1 or q <= width // 8)
    return min(round_to, width)


def _rule(group: Group, settings: ChannelSettings) -> tuple[Step, float, int]:
    """`round_to`, `min_share` and `min_width` of one group: of the entries that set one, the last wins."""
    found = {name: getattr(settings, name) for name in ("round_to", "min_share", "min_width")}
    for pattern, own in settings.groups.items():
        if _names(group, pattern):
            found |= {name: value for name, value in own if value is not None}
    return found["round_to"], found["min_share"], found["min_width"]


def _names(group: Group, pattern: str) -> bool:
    return any(matches(name, pattern) for name in (group.name, *group.layers))


def _require_matches(groups: Sequence[Group], settings: ChannelSettings) -> None:
    for pattern in settings.groups:
        if not any(_names(group, pattern) for group in groups):
            names = list(dict.fromkeys(name for group in groups for name in (group.name, *group.layers)))
            raise RecipeError(
                f"channels.groups: '{pattern}' matches no group that can be cut, nor a layer of one; "
                f"{near(pattern, names)}; 'jstc inspect' lists the groups"
            )
