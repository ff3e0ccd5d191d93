"""Accuracies and their differences: how sure they are, and when nothing follows from them. No torch.

The sampling error is that of the images: how far the accuracy on all images of the kind may lie from that on
those of the test split, 95 %. It says nothing about another seed of the training.

| question | interval |
|---|---|
| How sure is an accuracy? | Wilson's score interval: `wilson` |
| How sure is the difference of two? | Newcombe's, of the two intervals: `difference` |
| And where it is known which images changed? | Newcombe's for pairs, which is narrower: `paired_difference` |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jstc.core import numbers

__all__ = [
    "Accuracy",
    "Difference",
    "Doubt",
    "difference",
    "doubted",
    "doubts",
    "outdone",
    "paired_difference",
    "wilson",
]

_Z95 = 1.959963984540054  # 97.5 % of the normal distribution lies below
_FAR = 0.5  # of what training reached above chance

Doubt = Literal["chance", "training"]
"""Why nothing follows from an accuracy: guessing does as well, or it is far below that in training."""


def wilson(right: float, images: int, *, normal: float = _Z95) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    `normal`: another quantile of the normal distribution than that of 97.5 %.
    """
    share, square = right / images, normal * normal
    middle = (share + square / (2 * images)) / (1 + square / images)
    spread = share * (1 - share) / images + square / (4 * images * images)
    half = normal * math.sqrt(spread) / (1 + square / images)
    # At the ends the formula gives 0 and 1, but for rounding.
    return (middle - half if right else 0.0), (middle + half if right < images else 1.0)


@dataclass(frozen=True)
class Accuracy:
    """A top-1 accuracy, a fraction, on `images` images; what is not known is None.

    `chance` is what guessing reaches: 1 / classes, or the share of the largest class where that is more.
    `training` is the accuracy on the training images, while they were learnt, in the last epoch.
    """

    value: float
    images: int | None = None
    chance: float | None = None
    training: float | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Accuracy | None:
        """An accuracy with what the result of a stage that trains, or scores, has on it; None without one."""
        if result.get("accuracy") is None:
            return None
        known = (result.get(key) for key in ("test_images", "chance", "training_accuracy"))
        return cls(result["accuracy"], *known)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval."""
        return wilson(self.value * self.images, self.images) if self.images else None

    @property
    def error(self) -> float | None:
        """The sampling error: how far the further end of the interval is away."""
        if self.interval is None:
            return None
        low, high = self.interval
        return max(self.value - low, high - self.value)

    @property
    def text(self) -> str:
        """`98.16 % ±1.4`."""
        return numbers.percent(self.value, self.error)

    @property
    def doubt(self) -> Doubt | None:
        """Why nothing follows from it, if so.

        At chance: the interval does not lie above it. Far below that in training: even its upper end has less
        than half of what the training accuracy has above chance; that a network knows its training images
        better than others is usual, and no reason to doubt.
        """
        if self.interval is None or self.chance is None:
            return None
        low, high = self.interval
        if low <= self.chance:
            return "chance"
        learnt = None if self.training is None else self.training - self.chance
        return "training" if learnt is not None and high - self.chance < _FAR * learnt else None


@dataclass(frozen=True)
class Difference:
    """One accuracy less another, fractions, with its 95 % interval where the images are known."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float | None:
        """The sampling error: how far the further end of the interval is away."""
        if self.low is None or self.high is None:
            return None
        return max(self.value - self.low, self.high - self.value)

    @property
    def text(self) -> str:
        """`-0.50 ±2.2 points`."""
        return numbers.points(self.value, 0.0, self.error)

    @property
    def is_sure(self) -> bool:
        """Whether it is one beyond the sampling error, as far as that is known."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def difference(after: Accuracy, before: Accuracy) -> Difference:
    """`after` less `before`, as if of different images (Newcombe 1998, Stat. Med. 17:873, method 10).

    Of the same images it is surer than that, by how much depends on which of them both have right.
    """
    value, ours, theirs = after.value - before.value, after.interval, before.interval
    if ours is None or theirs is None:
        return Difference(value)
    return _square_and_add(after.value, ours, before.value, theirs, correlation=0.0)


def paired_difference(*, both: int, gained: int, lost: int, neither: int) -> Difference:
    """One accuracy less another on the same images (Newcombe 1998, Stat. Med. 17:2635, method 10).

    Counts of images: `both` have them right, or `neither`; `gained` the first alone, `lost` the second alone.
    """
    images = both + gained + lost + neither
    after, before = both + gained, both + lost
    product = after * (images - after) * before * (images - before)
    cross = both * neither - gained * lost
    corrected = max(cross - images / 2, 0.0) if cross > 0 else float(cross)
    correlation = corrected / math.sqrt(product) if product else 0.0
    return _square_and_add(
        after / images, wilson(after, images), before / images, wilson(before, images), correlation
    )


def _square_and_add(
    after: float,
    ours: tuple[float, float],
    before: float,
    theirs: tuple[float, float],
    correlation: float,
) -> Difference:
    down, up = (after - ours[0], theirs[1] - before), (ours[1] - after, before - theirs[0])
    low, high = (
        math.sqrt(max(mine**2 - 2 * correlation * mine * other + other**2, 0.0)) for mine, other in (down, up)
    )
    value = after - before
    return Difference(value, value - low, value + high)


# When nothing follows from a comparison, in words: the same in the report and on the model card.

_MOST_GAIN = 0.02  # that fewer channels and the search may give; in short trainings target networks lose more


def doubts(
    slim: Accuracy | None,
    *,
    given: Accuracy | None = None,
    alone: Accuracy | None = None,
    epochs: int | None = None,
) -> list[str]:
    """Sentences on why nothing follows from comparing a slim network; none where something does.

    `given` is the accuracy of the given network as it came, `alone` that of the target network trained alone
    for so many `epochs`.
    """
    named = (
        ("The slim network", slim),
        ("The given network as it came", given),
        ("The target network trained alone", alone),
    )
    found = [doubted(who, one) for who, one in named if one is not None]
    if slim is not None and alone is not None:
        found.append(outdone(slim, alone, epochs=epochs))
    return [sentence for sentence in found if sentence is not None]


def doubted(who: str, found: Accuracy) -> str | None:
    """A sentence on why nothing follows from the accuracy of `who`, if so."""
    if found.doubt == "chance":
        return (
            f"{who} scores {found.text} on the test split, where guessing reaches "
            f"{numbers.percent(found.chance)}: nothing follows from a comparison with it."
        )
    if found.doubt == "training":
        return (
            f"{who} scores {found.text} on the test split and {numbers.percent(found.training)} on the "
            "images that it was trained on: it knows these by heart, or test images are prepared in another "
            "way. Little follows from a comparison with it."
        )
    return None


def outdone(slim: Accuracy, alone: Accuracy, *, epochs: int | None) -> str | None:
    """A sentence for when the slim network beats the target network trained alone by more than it can."""
    gain = difference(slim, alone)
    if not gain.is_sure or gain.value <= _MOST_GAIN or slim.doubt or alone.doubt:
        return None
    more = gain.text.removeprefix("+")
    after = "" if epochs is None else f" after {epochs} epoch{'s' * (epochs != 1)}"
    return (
        f"The target network trained alone is not at its best{after}: the slim network has {more} more, "
        "which fewer channels do not explain. Train longer (finetune.epochs) before you compare the two."
    )
