"""What ranks channels: strategies that say how much each channel of a group is worth.

`importance_of` chooses one from the recipe, once; the search knows it by the protocol `Importance` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jstc.channels import ChannelMap
from jstc.channels.trace.ids import evaluating
from jstc.core.progress import Progress
from jstc.core.seeds import derive
from jstc.jst.spanning import Looks, spanning
from jstc.jst.subnetwork import Target
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from jstc.train import collectives
from jstc.train.loop import frozen

__all__ = [
    "Gates",
    "Gradients",
    "Importance",
    "Norms",
    "Random",
    "Taylor",
    "Weighted",
    "importance_of",
    "taylor",
]

Vector = NDArray[np.float64]


class Importance(Protocol):
    """Strategy that ranks the channels of each group against each other."""

    @property
    def trains_gates(self) -> bool:
        """Whether rounds have to train the gates for it."""
        ...

    @property
    def follows_training(self) -> bool:
        """Whether rounds tell it the gradients of their steps in the gates (`subnetwork.put_back`)."""
        ...

    def num_images(self, available: int, /) -> int:
        """Training images that `prepare` reads, of so many that there are."""
        ...

    def prepare(self, target: Target, looks: Looks, progress: Progress) -> None:
        """Look at the network as it was given, before the first round; what is found is kept in `target`."""
        ...

    def scores(self, target: Target) -> list[Vector]:
        """Scores of the channels by group, larger is better; a pure function of `target`."""
        ...


class _Unprepared:
    """Base of the strategies that need no look at images and no trained gates."""

    trains_gates = False
    follows_training = False

    def num_images(self, _available: int, /) -> int:
        """None."""
        return 0

    def prepare(self, target: Target, looks: Looks, progress: Progress) -> None:
        """Do nothing."""


class Norms(_Unprepared):
    """Norms of the weights that make a channel, as they are now."""

    def scores(self, target: Target) -> list[Vector]:
        """Norms by group."""
        norms = target.channels.magnitude(target.network)
        return [norms[group.name].double().numpy() for group in target.channels.groups]


@dataclass(frozen=True)
class Random(_Unprepared):
    """Random numbers drawn once, by the seed: what any other ranking has to beat."""

    seed: int

    def scores(self, target: Target) -> list[Vector]:
        """Normally distributed numbers by group, the same in every round."""
        random = np.random.default_rng(derive(self.seed, "search", "importance"))
        return target.channels_of(random.normal(size=len(target.alpha)))


@dataclass(frozen=True)
class Taylor:
    """Loss without the channel, to first order, in the network as it was given (see `taylor`)."""

    images: int
    trains_gates = False
    follows_training = False

    def num_images(self, available: int, /) -> int:
        """Number asked for, or of all there are."""
        return min(self.images, available)

    def prepare(self, target: Target, looks: Looks, progress: Progress) -> None:
        """Measure `target.sensitivity`."""
        found = taylor(target, looks, images=self.num_images(looks.num_images), progress=progress)
        target.sensitivity.copy_(found)

    def scores(self, target: Target) -> list[Vector]:
        """Losses by group, as `prepare` measured them, relative to the mean of the group."""
        return [own / max(float(own.mean()), 1e-300) for own in target.channels_of(target.sensitivity)]


@dataclass(frozen=True)
class Gradients(_Unprepared):
    """Channel weights that gradients teach: what the loss would feel, and what the training says of it.

    They begin with `spanning` on so many images of trained weights; without images, from scratch, with norms.
    """

    images: int
    follows_training = True

    def num_images(self, available: int, /) -> int:
        """Number asked for, or of all there are."""
        return min(self.images, available)

    def prepare(self, target: Target, looks: Looks, progress: Progress) -> None:
        """Measure `target.sensitivity`, or begin it with norms."""
        if self.images:
            found = spanning(target, looks, images=self.num_images(looks.num_images), progress=progress)
            target.sensitivity.copy_(found)
            return
        norms = target.channels.magnitude(target.network)
        for group in target.channels.groups:
            target.sensitivity[group.start : group.start + group.width] = norms[group.name]

    def scores(self, target: Target) -> list[Vector]:
        """Ranks by group, from 0 to 1: gains fall too steeply to be compared with noise and recency."""
        return [_ranks(own) for own in target.channels_of(target.sensitivity)]


def _ranks(values: Vector) -> Vector:
    """Share of the other values that each is not below [channels]."""
    order = np.argsort(np.argsort(-values, kind="stable"), kind="stable")
    found: Vector = 1 - order / max(1, len(values) - 1)
    return found


class Gates(_Unprepared):
    """Gates that are trained in turn with the weights (Lu et al. 2020)."""

    trains_gates = True

    def scores(self, target: Target) -> list[Vector]:
        """Gates by group."""
        return target.channels_of(target.alpha)


@dataclass(frozen=True)
class Weighted:
    """Gates, trained in turn with the weights, times what another strategy says."""

    base: Importance
    trains_gates = True
    follows_training = False

    def num_images(self, available: int, /) -> int:
        """Number that the other strategy reads."""
        return self.base.num_images(available)

    def prepare(self, target: Target, looks: Looks, progress: Progress) -> None:
        """Prepare the other strategy."""
        self.base.prepare(target, looks, progress)

    def scores(self, target: Target) -> list[Vector]:
        """Products by group."""
        gates = target.channels_of(target.alpha)
        return [gate * own for gate, own in zip(gates, self.base.scores(target), strict=True)]


def importance_of(recipe: Recipe) -> Importance:
    """The strategy that `search.importance` names."""
    norms, losses = Norms(), Taylor(recipe.search.importance_images)
    trained = recipe.weights is not None
    strategies: dict[str, Importance] = {
        "magnitude": norms,
        "random": Random(recipe.seed),
        "taylor": losses,
        "gradient": Gradients(recipe.search.importance_images if trained else 0),
        "learned": Gates(),
        "weighted": Weighted(norms),
        "weighted_taylor": Weighted(losses),
    }
    return strategies[recipe.search.importance]


_BATCH = 8
"""Over many images the gradients of a trained network add up to nothing; one by one they take too long."""


def taylor(target: Target, looks: Looks, *, images: int, progress: Progress) -> Tensor:
    """|gate x gradient of the loss in the gate| [prunable channels], comparable across groups.

    The first term of the loss's expansion for a channel that is taken out (Molchanov et al. 2017), summed
    over batches of a few training images, in float32 and evaluation mode. Groups without a gradient, such as
    those that have no place for a gate, rank by the norms of their weights, at the mean of the others. Of
    several processes each does its part of the images. Nothing of `target` changes.
    """
    network, channels = target.network, target.channels
    gated = channels.gated(network, Plan.full(channels.widths))
    total, size = torch.zeros_like(target.alpha), _BATCH * collectives.world()
    progress.start("search", looks.num_batches(size, images), "channel weights batch")
    with evaluating(network), frozen(*network.parameters()), torch.enable_grad():
        gated.alpha.data.copy_(target.alpha)
        for number, loss_of in enumerate(looks.losses(size, limit=images, reduction="mean"), start=1):
            loss = loss_of(gated)
            (gradient,) = torch.autograd.grad(loss, [gated.alpha], allow_unused=True)
            if gradient is not None:  # which it is where no group has a place for a gate
                total += (gradient * target.alpha).abs()
            progress.update(number)
    collectives.average(total)
    norms, others = channels.magnitude(network), total[_in_groups_with_any(total, channels)]
    for group in channels.groups:
        own = total[group.start : group.start + group.width]
        if not own.any():
            own.copy_(norms[group.name] * (float(others.mean()) if len(others) else 1.0))
    collectives.copy_from_first([total])  # divisions on unequal devices may differ in the last bit
    return total


def _in_groups_with_any(values: Tensor, channels: ChannelMap) -> Tensor:
    """Whether any channel of its group has a value, for each channel [prunable channels]."""
    found = torch.zeros_like(values, dtype=torch.bool)
    for group in channels.groups:
        span = slice(group.start, group.start + group.width)
        found[span] = values[span].any()
    return found
