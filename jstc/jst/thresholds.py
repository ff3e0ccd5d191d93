"""What sets widths: strategies that say how much each group keeps, before the projection onto the budget.

A threshold is the share of a group's channel probabilities that its kept channels add up to (Lu et al. 2020).
`thresholds_of` chooses a strategy from the recipe, once; the search knows it by the protocol `Thresholds`
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jstc.channels import ChannelMap
from jstc.errors import UnknownNameError
from jstc.jst.phases import Phase
from jstc.jst.space import raised
from jstc.jst.threshnet import Choice, ThreshNet, describe, taper
from jstc.recipe.schema import Recipe

__all__ = [
    "COMMON_THRESHOLD",
    "Chosen",
    "CommonThreshold",
    "FixedThresholds",
    "LearnedThresholds",
    "Thresholds",
    "require_groups",
    "thresholds_of",
]

Vector = NDArray[np.float64]

COMMON_THRESHOLD = 0.7
"""Where all groups share one threshold its value is of no account: the projection moves it to the budget."""


@dataclass(frozen=True)
class Chosen:
    """Thresholds by group; and `offsets` of their logarithms [groups], where a policy gave them.

    The projection multiplies thresholds that have offsets, and moves the logits of others.
    """

    thresholds: list[float]
    offsets: list[float] | None = None


class Thresholds(Protocol):
    """Strategy that sets a threshold for each group.

    `candidates` plans are compared by their loss before a fine round trains the best of them. A strategy that
    `learns_after_training` is told instead what the only plan earned by it.
    """

    candidates: int
    learns_after_training: bool

    def policy(self, budget: int, /) -> ThreshNet | None:
        """What learns, for a budget by its number; None where nothing does."""
        ...

    def see(self, budget: int, worth: Vector, /) -> None:
        """Begin anew, for a budget, with what the channels of each group are worth [groups]."""
        ...

    def choose(self, phase: Phase, budget: int, choice: Choice | None, /) -> Chosen:
        """Thresholds of all groups; of a policy those of a choice, or the likeliest without one."""
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

    def policy(self, _budget: int, /) -> ThreshNet | None:
        """None."""
        return None

    def see(self, _budget: int, _worth: Vector, /) -> None:
        """Do nothing."""

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

    def choose(self, phase: Phase, _budget: int, _choice: Choice | None, /) -> Chosen:
        """The common threshold, raised where it is to be."""
        common = [COMMON_THRESHOLD] * len(self.offsets)
        # Below the budget an even network is the core of whatever comes: half as wide, in steps of 8.
        return Chosen(common if phase.below else [raised(COMMON_THRESHOLD, by) for by in self.offsets])


@dataclass(frozen=True)
class FixedThresholds(_Unlearning):
    """Thresholds by group as the recipe gives them."""

    thresholds: list[float]

    @classmethod
    def of(cls, channels: ChannelMap, recipe: Recipe) -> FixedThresholds:
        """From `search.fixed_thresholds`; groups that are not named share the common threshold."""
        given = recipe.search.fixed_thresholds
        return cls([given.get(group.name, COMMON_THRESHOLD) for group in channels.groups])

    def choose(self, _phase: Phase, _budget: int, _choice: Choice | None, /) -> Chosen:
        """The given thresholds, in every phase."""
        return Chosen(list(self.thresholds))


class LearnedThresholds:
    """Thresholds by the policy ThreshNet, one for each budget, in all phases.

    A policy begins with a mild taper (`threshnet.taper`), or evenly where parameters are the budget: there
    the taper was not measured.
    """

    def __init__(self, channels: ChannelMap, recipe: Recipe) -> None:
        search = recipe.search
        # Judged at given weights, all of them before the training.
        self.candidates = search.candidates if recipe.weights is None and search.perturbation else 1
        self.learns_after_training = search.candidates == 1
        lead, streams = search.residual_threshold_offset, channels.streams
        self._lead = np.array([lead if group.name in streams else 0.0 for group in channels.groups])
        self._channels, self._lr = channels, search.threshnet_lr
        start, states = taper(channels), describe(channels)
        self._starts = [np.zeros_like(start) if set(each) == {"params"} else start for each in recipe.budgets]
        self._states = [states for _ in self._starts]
        self._policies = [self._new(number) for number in range(len(self._starts))]

    def _new(self, number: int) -> ThreshNet:
        return ThreshNet(self._states[number], start=self._starts[number], lr=self._lr)

    def see(self, budget: int, worth: Vector, /) -> None:
        """Begin anew, with states that say what the channels of each group are worth [groups]."""
        self._states[budget] = describe(self._channels, worth)
        self._policies[budget] = self._new(budget)

    def policy(self, budget: int, /) -> ThreshNet | None:
        """The policy of a budget."""
        return self._policies[budget]

    def choose(self, phase: Phase, budget: int, choice: Choice | None, /) -> Chosen:
        """Thresholds of the policy's offsets, raised in residual streams as a common one is."""
        offsets = self._policies[budget].offsets(choice) + (0.0 if phase.below else self._lead)
        shown = COMMON_THRESHOLD * np.exp(offsets - offsets.max(initial=0.0))
        return Chosen(shown.tolist(), offsets.tolist())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and figures of the policies."""
        tensors: dict[str, Tensor] = {}
        figures: dict[str, Any] = {}
        for number, policy in enumerate(self._policies):
            own, figures[str(number)] = policy.state()
            own["states"] = torch.from_numpy(self._states[number])
            tensors |= {f"{number}.{name}": tensor for name, tensor in own.items()}
        return tensors, figures

    def restore(self, tensors: dict[str, Tensor], figures: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        for number in range(len(self._policies)):
            names = ("shared", "own", "states")
            own = {name: tensors[f"{number}.{name}"] for name in names}
            self._states[number] = own["states"].double().numpy()
            self._policies[number] = self._new(number)
            self._policies[number].restore(own, figures[str(number)])


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
