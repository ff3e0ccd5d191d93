"""What a plan is worth without training it: its network, cut from the weights as they are, and mended."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from jstc.errors import StageError
from jstc.jst.round import RoundContext, training_images
from jstc.jst.state import State
from jstc.jst.subnetwork import fit
from jstc.plan import Plan
from jstc.train import collectives
from jstc.train.device import Numerics, to_device
from jstc.train.loop import Figures, evaluate
from jstc.train.recalibration import recalibrate

__all__ = ["FIRST_PART", "LARGEST", "MENDING", "Judge", "Judged", "PlanJudge", "Remembering"]

FIRST_PART = 4
"""A candidate is judged on one of so many parts of the images first."""
MENDING = 96
"""Training images that a candidate is mended on: few, but they order plans as many do."""
_MEMORY = 1_000_000_000
"""Bytes that the images in memory may take."""
LARGEST = 1e9
"""Loss of a network that gives no numbers."""


@dataclass(frozen=True)
class Judged:
    """Result of judging a plan; `loss` is None where the first part of the images ended it."""

    loss: float | None
    accuracy: float | None
    first: float
    images: int


class PlanJudge(Protocol):
    """Judges plans at the weights as they are; a plan that was judged is not judged again."""

    @property
    def images(self) -> int:
        """Examples that a plan is judged on."""
        ...

    def __call__(self, plan: Plan, *, bound: float = math.inf) -> Judged:
        """Judge a plan; one worse than `bound` on the first part of the examples may be left there."""
        ...

    def remember(self, plan: Plan, found: Judged, /) -> None:
        """Take over what was found earlier."""
        ...

    def thoroughly(self, plan: Plan, /) -> float:
        """Loss on all that there is to judge by."""
        ...


class Remembering(ABC):
    """Base of judges that judge a plan once."""

    _known: dict[str, Judged]

    def remember(self, plan: Plan, found: Judged) -> None:
        """Take over what was found earlier."""
        self._known[plan.hash] = found

    def __call__(self, plan: Plan, *, bound: float = math.inf) -> Judged:
        """Judge a plan; one worse than `bound` on the first part of the examples is left there."""
        known = self._known.get(plan.hash)
        if known is None or (known.loss is None and not math.isfinite(bound)):
            self._known[plan.hash] = known = self._judged(plan, bound)
        return known

    @abstractmethod
    def _judged(self, plan: Plan, bound: float) -> Judged:
        """Result for a plan that is not known."""


class Judge(Remembering):
    """Judges plans at the weights as they are: cut, mended or recalibrated, loss on common images.

    Mended roughly by `ChannelMap.reconstruct` on a few images, unless `search.reconstruction_images` is 0: so
    judged, plans are in the order of what they train to; with no more than new batch-norm statistics they
    hardly are (docs/research/given-weights.md). The images are read once and stay in memory. A plan that was
    judged is not judged again.
    """

    def __init__(self, state: State, context: RoundContext) -> None:
        self._state, self._context = state, context
        recipe = context.recipe
        split = context.dataset.search_val
        if not split.num_images:
            raise StageError("the search-validation split is empty; raise input.val_fraction")
        each = 4 * math.prod(context.dataset.info.input_shape)
        number = min(recipe.search.candidate_images, split.num_images, max(64, _MEMORY // each))
        # No process is without an image of the first batches, as all of them have to take every part.
        batch = max(collectives.world(), min(recipe.train.batch_size, -(-number // FIRST_PART)))
        batches = list(split.ordered(batch, limit=number, part=collectives.part()))
        total = -(-number // batch)
        first = -(-total // FIRST_PART)
        self._first, self._rest, self._has_rest = batches[:first], batches[first:], total > first
        mends = recipe.search.reconstruction_images
        self._fits = min(MENDING, mends) if mends else 0
        self._training = list(training_images(context, self._fits or max(2, number // 2)))
        self.images = number
        # On a processor in float32: its other kernels are checked at every new width, which takes longer.
        on_gpu, train = state.target.alpha.is_cuda, recipe.train
        own = context.options.criterion.numerics
        self._numerics = own if on_gpu else Numerics(channels_last=train.channels_last)
        self._known: dict[str, Judged] = {}

    def _judged(self, plan: Plan, bound: float) -> Judged:
        network = self._cut(plan)
        self._mend(network, plan, self._training, self._fits, rough=True)
        first = self._figures(network, self._first)
        found = Judged(None, None, first.loss, first.images)
        if not first.loss > bound:
            whole = _together(first, self._figures(network, self._rest)) if self._has_rest else first
            found = Judged(whole.loss, whole.accuracy, first.loss, whole.images)
        return found

    def thoroughly(self, plan: Plan) -> float:
        """Loss on all of the search-validation split, mended or recalibrated as after the search."""
        network, search = self._cut(plan), self._context.recipe.search
        images = search.reconstruction_images or search.recalibration_images
        batches = training_images(self._context, images)
        self._mend(network, plan, batches, search.reconstruction_images, rough=False)
        batch = self._context.recipe.train.batch_size
        split = self._context.dataset.search_val.ordered(batch, part=collectives.part())
        return self._figures(network, split).loss

    def _figures(self, network: nn.Module, batches: Iterable[Any]) -> Figures:
        """Figures of a network; one whose loss is not a number, or infinite, has lost more than any other."""
        found = evaluate(network, _copies(batches), self._numerics)
        return found if math.isfinite(found.loss) else Figures(found.accuracy, LARGEST, found.images)

    def _cut(self, plan: Plan) -> nn.Module:
        target, settings = self._state.target, self._context.recipe.train
        return to_device(target.channels.slice(target.network, plan), settings, target.alpha.device)

    def _mend(
        self, network: nn.Module, plan: Plan, batches: Iterable[Any], fits: int, *, rough: bool
    ) -> None:
        """Fit the layers on `fits` of the images in `batches`; with 0, take statistics of all of them."""
        target = self._state.target
        if fits:
            fit(target, network, plan, batches, images=fits, rough=rough)
        else:
            recalibrate(network, _copies(batches), images=2**31, numerics=self._numerics)
            collectives.synchronise(network)


def _copies(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that a forward may change in place."""
    return ((images.clone(), labels) for images, labels in batches)


def _together(first: Figures, rest: Figures) -> Figures:
    images = first.images + rest.images
    share = first.images / images
    return Figures(
        share * first.accuracy + (1 - share) * rest.accuracy,
        share * first.loss + (1 - share) * rest.loss,
        images,
    )
