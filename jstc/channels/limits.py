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

_FINEST = 8
"""Parts of a group that `round_to: auto` makes at most; fewer, so that narrow groups keep multiples of 8 as
well, where the budget leaves room for it (`jstc.search.space`)."""


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
    def from_settings(
        cls,
        groups: Sequence[Group],
        settings: ChannelSettings,
        *,
        block: int | None = None,
        parts: int = _FINEST,
        least: int = 1,
    ) -> Limits:
        """The limits of a recipe, with its settings for single groups; the others as for `quantum_for`.

        Raises `RecipeError`, with near names, for a pattern in `channels.groups` that matches no group.
        """
        _require_matches(groups, settings)
        return cls._each(groups, [_rule(group, settings) for group in groups], block, parts, least)

    @classmethod
    def _each(
        cls,
        groups: Sequence[Group],
        rules: Sequence[tuple[Step, float, int]],
        block: int | None = None,
        parts: int = _FINEST,
        least: int = 1,
    ) -> Limits:
        widths = np.array([g.width for g in groups], np.int64)
        pairs = zip(groups, rules, strict=True)
        steps = [quantum_for(g.width, r[0], block=block, parts=parts, least=least) for g, r in pairs]
        quantum = np.array(steps, np.int64)
        shares = np.array([r[1] for r in rules], np.float64)
        wanted = np.maximum(np.ceil(widths * shares).astype(np.int64), np.array([r[2] for r in rules], int))
        return cls(np.minimum(-(-wanted // quantum) * quantum, widths), quantum)


def quantum_for(
    width: int, round_to: Step, *, block: int | None = None, parts: int = _FINEST, least: int = 1
) -> int:
    """Step of a group's kept width; `auto` is the largest of 1, 2, 4, 8 that goes into it `parts` times.

    Where that is below `least` it is as much, or the most that goes into the group twice.
    Where it is known that the provider computes `block` channels at once, `auto` is the largest power of two
    up to that and up to a quarter of the group.
    """
    if round_to != "auto":
        return min(round_to, width)
    most = 8 if block is None else block
    part = max(width // (parts if block is None else 4), min(least, width // 2))
    step = 1
    while 2 * step <= min(most, part):
        step *= 2
    return step


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
