"""What sets widths: strategies that say how much each group keeps, before the projection onto the budget.

A threshold is the share of a group's channel probabilities that its kept channels add up to (Lu et al. 2020).
`thresholds_of` chooses a strategy from the recipe, once; the search knows it by the protocol `Thresholds`
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jstc.channels import ChannelMap
from jstc.core.seeds import derive
from jstc.errors import UnknownNameError
from jstc.jst.phases import Phase
from jstc.jst.space import raised
from jstc.jst.threshnet import Choice, ThreshNet, describe
from jstc.recipe.schema import Recipe

__all__ = [
    "COMMON_THRESHOLD",
    "CommonThreshold",
    "Draw",
    "FixedThresholds",
    "LearnedThresholds",
    "Situation",
    "Thresholds",
    "require_groups",
    "thresholds_of",
]

Vector = NDArray[np.float64]
Chosen = tuple[list[float], Choice | None]

COMMON_THRESHOLD = 0.7
"""Where all groups share one threshold its value is of no account: the projection moves it to the budget."""


@dataclass(frozen=True)
class Situation:
    """What a strategy sees: the phase, and by groups the channels' weights, standardised, and probabilities.

    `share` is that of the target network which the budget allows.
    """

    phase: Phase
    weights: list[Vector]
    probabilities: list[Vector]
    share: float


@dataclass(frozen=True)
class Draw:
    """How thresholds are drawn: without a generator those of `before`, or the likeliest without these.

    `before` [groups] are numbers in the grid of a policy's thresholds.
    """

    generator: torch.Generator | None = None
    before: Tensor | None = None


class Thresholds(Protocol):
    """Strategy that sets a threshold for each group.

    `candidates` plans are compared by their loss before a fine round trains the best of them. A strategy that
    `learns_after_training` is told instead what the only plan earned by it.
    """

    candidates: int
    learns_after_training: bool

    def choose(self, situation: Situation, draw: Draw, /) -> Chosen:
        """Thresholds of all groups; and the choice to learn from, of a strategy that learns."""
        ...

    def learn(
        self, choices: Sequence[Choice | None], rewards: Sequence[float], budget: int, /
    ) -> float | None:
        """Learn what choices for a budget, by its number, earned; the largest advantage, None for nothing."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and figures from which `restore` continues exactly."""
        ...

    def restore(self, tensors: dict[str, Tensor], figures: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


class _Unlearning:
    """Base of the strategies that learn nothing and keep no state."""

    candidates = 1
    learns_after_training = False

    def learn(
        self, _choices: Sequence[Choice | None], _rewards: Sequence[float], _budget: int, /
    ) -> float | None:
        """None."""
        return None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing."""
        return {}, {}

    def restore(self, tensors: dict[str, Tensor], figures: dict[str, Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class CommonThreshold(_Unlearning):
    """One threshold for all groups; `offsets` by group raise it in its logit, in rounds at the budget."""

    offsets: list[float]

    @classmethod
    def of(cls, channels: ChannelMap, recipe: Recipe) -> CommonThreshold:
        """With `search.residual_threshold_offset` for the residual streams."""
        offset = recipe.search.residual_threshold_offset
        return cls([offset if group.name in channels.streams else 0.0 for group in channels.groups])

    def choose(self, situation: Situation, _draw: Draw, /) -> Chosen:
        """The common threshold, raised where it is to be."""
        common = [COMMON_THRESHOLD] * len(self.offsets)
        # Below the budget an even network is the core of whatever comes: half as wide, in steps of 8.
        return common if situation.phase.below else self.with_offsets(common), None

    def with_offsets(self, thresholds: Sequence[float]) -> list[float]:
        """Thresholds by group with the offsets added in their logits."""
        return [raised(r, by) for r, by in zip(thresholds, self.offsets, strict=True)]


@dataclass(frozen=True)
class FixedThresholds(_Unlearning):
    """Thresholds by group as the recipe gives them."""

    thresholds: list[float]

    @classmethod
    def of(cls, channels: ChannelMap, recipe: Recipe) -> FixedThresholds:
        """From `search.fixed_thresholds`; groups that are not named share the common threshold."""
        given = recipe.search.fixed_thresholds
        return cls([given.get(group.name, COMMON_THRESHOLD) for group in channels.groups])

    def choose(self, _situation: Situation, _draw: Draw, /) -> Chosen:
        """The given thresholds, in every phase."""
        return list(self.thresholds), None


class LearnedThresholds:
    """Thresholds by the policy ThreshNet in fine rounds, a common one in coarse rounds."""

    def __init__(self, channels: ChannelMap, recipe: Recipe) -> None:
        search = recipe.search
        self.candidates = search.candidates
        self.learns_after_training = search.candidates == 1
        self._channels, self._common = channels, CommonThreshold.of(channels, recipe)
        self.net = ThreshNet(
            len(channels.groups),
            search.threshold_grid,
            start=COMMON_THRESHOLD,
            lr=search.threshnet_lr,
            entropy_bonus=search.entropy_bonus,
            seed=derive(recipe.seed, "search", "threshnet"),
        )

    def choose(self, situation: Situation, draw: Draw, /) -> Chosen:
        """Thresholds drawn from the policy's grid, raised in residual streams as a common one is."""
        if situation.phase.coarse:
            return self._common.choose(situation, draw)
        states = describe(self._channels, situation.weights, situation.probabilities, share=situation.share)
        choice = self.net.choose(states, draw.generator, before=draw.before)
        return self._common.with_offsets(self.net.thresholds(choice)), choice

    def learn(
        self, choices: Sequence[Choice | None], rewards: Sequence[float], budget: int, /
    ) -> float | None:
        """One step of the policy; plans of coarse rounds, which it did not choose, teach it nothing."""
        own = [choice for choice in choices if choice is not None]
        return self.net.learn(own, rewards, budget) if own else None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and figures of the policy."""
        return self.net.state()

    def restore(self, tensors: dict[str, Tensor], figures: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.net.restore(tensors, figures)


def thresholds_of(channels: ChannelMap, recipe: Recipe) -> Thresholds:
    """The strategy that `search.thresholds` names. Raises `UnknownNameError` as `require_groups` does."""
    require_groups(channels, recipe.search.fixed_thresholds)
    if recipe.search.thresholds == "threshnet":
        return LearnedThresholds(channels, recipe)
    if recipe.search.thresholds == "fixed":
        return FixedThresholds.of(channels, recipe)
    return CommonThreshold.of(channels, recipe)


def require_groups(channels: ChannelMap, thresholds: Mapping[str, float]) -> None:
    """Raise `UnknownNameError` for a threshold of a group that is not there."""
    for name in thresholds:
        if name not in channels.widths:
            hint = "in search.fixed_thresholds; 'jstc inspect' lists the groups"
            raise UnknownNameError("channel group", name, channels.widths, hint)
