"""What given weights seem to expect otherwise: another preprocessing, statistics, or order of classes.

Common alternatives are tried on some training images, never on the test split: all of them on a few images,
and what does better there once more on others, so that the choice among many makes nothing look better than
it is. Nothing is changed by what is found: it is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from jstc.core.accuracy import wilson
from jstc.core.progress import Progress
from jstc.data import Dataset
from jstc.runs.alternatives import Alternative, Caller, alternatives, class_orders, new_classifier
from jstc.train.device import Numerics

__all__ = ["Mismatch", "Scored", "find"]

_GOOD = 0.97  # nothing can do clearly better than this
_LOW = 0.5  # below it the order of classes is looked at
_LEAST_GAIN = 0.03
_ERROR = 1e-3  # of calling an alternative better on images that it was not chosen by
_ALIKE = 0.01  # so near each other, the first in the list is named
_AGAIN = 3  # alternatives that are looked at once more
_SHARE = 5  # images for the choice, in per cent of those of the test split
_FEWEST, _MOST = 64, 128  # of them
_IMAGES = 4  # times as many are looked at in all
_OF_A_CLASS = 8  # images, to see which name a network has for it


@dataclass(frozen=True)
class Scored:
    """Accuracy of a network on `images` images of the test split, and that of guessing there; fractions."""

    accuracy: float
    chance: float
    images: int


@dataclass(frozen=True)
class Mismatch:
    """What seems to differ: `what` in words, `settings` the recipe keys that say it, where there are such.

    `accuracy` with it and `as_given` without, fractions of `images` training images; None: not measured.
    """

    kind: Literal["preprocessing", "statistics", "classes", "classifier"]
    what: str
    settings: dict[str, list[float]] = field(default_factory=dict)
    accuracy: float | None = None
    as_given: float | None = None
    images: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)


def find(
    network: nn.Module,
    dataset: Dataset,
    scored: Scored,
    *,
    batch_size: int,
    numerics: Numerics,
    progress: Progress,
) -> Mismatch | None:
    """The alternative that is clearly better for `network`, which has `scored` as it was given, if any is.

    The work is about a part of what scoring it was.
    """
    chosen = min(max(_SHARE * scored.images // 100, _FEWEST), _MOST)
    images = min(_IMAGES * chosen, dataset.train_full.num_images)
    if scored.accuracy >= _GOOD or images < _FEWEST:
        return None
    call = Caller(dataset.train_full, images, batch_size, numerics, progress)
    tried = alternatives(network, dataset, batch_size=batch_size, numerics=numerics)
    better = _better(tried, call, scored.chance)
    enough = (1 + scored.chance) / 2  # is explained by what is found
    if scored.accuracy >= _LOW or (better is not None and (better.accuracy or 0.0) >= enough):
        return better
    new = new_classifier(network, dataset.info.num_classes)
    if better is None and new is not None and scored.accuracy < 2 * scored.chance:
        return Mismatch("classifier", new)
    ordered = _in_other_order(network, dataset, scored, call)
    if better is None or (ordered is not None and _is_ahead(ordered, better)):
        return ordered
    return better


def _is_ahead(one: Mismatch, other: Mismatch) -> bool:
    return (one.accuracy or 0.0) > (other.accuracy or 0.0) + _LEAST_GAIN


def _better(tried: Sequence[Alternative], call: Caller, chance: float) -> Mismatch | None:
    """The best of the alternatives to the first one that is clearly better, if any is."""
    counts = (first := call.hits(tried, choosing=True)).sum(dim=1).tolist()
    least = counts[0] + max(2, math.ceil(_LEAST_GAIN * first.shape[1]))
    promising = [index for index in range(1, len(tried)) if counts[index] >= least]
    # New statistics repair much that is another thing's fault: so both are looked at.
    again = sorted(promising, key=lambda index: (tried[index].kind != "statistics", -counts[index]))
    again = sorted(again[: _AGAIN + 1])
    if not again:
        return None
    hits = call.hits([tried[0], *(tried[index] for index in again)], choosing=False)
    best, found = hits[0], None
    for index, own in zip(again, hits[1:], strict=True):
        one = tried[index]
        lead = int(own.sum()) - int(best.sum())
        ahead = _surely_better(own, best) if one.kind == "statistics" else lead > _ALIKE * len(own)
        if ahead and _surely_better(own, hits[0]) and _is_above(own, chance):
            assert one.kind != "as given"
            best, found = own, Mismatch(one.kind, one.what, one.settings, *_shares(own, hits[0]))
    return found


def _in_other_order(network: nn.Module, dataset: Dataset, scored: Scored, call: Caller) -> Mismatch | None:
    labels = dataset.info.labels
    most = max(_OF_A_CLASS * len(labels), 256)
    images = min(most, max(scored.images // 4, 1024), dataset.train_full.num_images)
    named, right = call.answers(network, images)
    for order in class_orders(labels, named, right):
        names, classes = named[order.judged], right[order.judged]
        own, before = order.class_of[names] == classes, names == classes
        if _surely_better(own, before) and float(own.double().mean()) >= (1 + scored.chance) / 2:
            return Mismatch("classes", order.what, {}, *_shares(own, before))
    return None


def _shares(own: Tensor, before: Tensor) -> tuple[float, float, int]:
    return float(own.double().mean()), float(before.double().mean()), len(own)


def _surely_better(new: Tensor, old: Tensor) -> bool:
    """Whether clearly more of the same images, bool [images], are right: by the exact sign test."""
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    if not gained or gained - lost < _LEAST_GAIN * len(new):
        return False
    tosses = gained + lost
    as_many = sum(math.comb(tosses, heads) for heads in range(gained, tosses + 1))
    return as_many / (1 << tosses) < _ERROR


def _is_above(hits: Tensor, chance: float) -> bool:
    """Whether this is clearly more than guessing, to be better than which says nothing."""
    return wilson(int(hits.sum()), len(hits))[0] > chance + 0.1 * (1 - chance)
