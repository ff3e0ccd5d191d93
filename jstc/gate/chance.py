"""What chance does to a share that was counted on images: accuracies, and answers that agree.

A drop counts where it is more than other images of the kind would give by chance: its one-sided 95 %
interval (Newcombe 1998, Stat. Med. 17:873, method 10) lies above none. Both runs are taken for independent.
On the same images they seldom are, so that the test is on the safe side: where nothing changed it fails less
often than one time in twenty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from jstc.core.accuracy import wilson

__all__ = ["Counted"]

_Z95 = 1.6448536269514722  # 95 % of the normal distribution lies below
_MOST_IMAGES = 2**40


@dataclass(frozen=True)
class Counted:
    """Two shares, `base` of so many images and `new` of others."""

    base: float
    new: float
    base_images: int
    new_images: int

    @property
    def images(self) -> int:
        """The smaller number of images."""
        return min(self.base_images, self.new_images)

    @property
    def least_drop(self) -> float:
        """Lower end of the one-sided 95 % interval of base less new."""
        return _least(self.base, self.new, self.base_images, self.new_images)

    @property
    def detectable(self) -> float:
        """The smallest drop of the base, in whole images of the new run, that would be more than chance."""
        size = self.new_images

        def shows(lost: int) -> bool:
            after = max(self.base - lost / size, 0.0)
            return _least(self.base, after, self.base_images, size) > 0

        return _first(shows, math.ceil(self.base * size)) / size

    def enough(self, drop: float) -> int | None:
        """Images, in both runs, on which such a drop of the base would be more than chance; None: never."""
        after = self.base - drop
        if drop <= 0 or after < 0:
            return None
        found = _first(lambda images: _least(self.base, after, images, images) > 0, _MOST_IMAGES)
        return found if found < _MOST_IMAGES else None


def _least(before: float, after: float, before_images: int, after_images: int) -> float:
    low, _ = wilson(before * before_images, before_images, normal=_Z95)
    _, high = wilson(after * after_images, after_images, normal=_Z95)
    return before - after - math.hypot(before - low, high - after)


def _first(holds: Callable[[int], bool], last: int) -> int:
    """The smallest number from 1 to `last` that holds, when all above it hold as well; or `last`."""
    begin, end = 1, max(last, 1)
    while begin < end:
        middle = (begin + end) // 2
        begin, end = (begin, middle) if holds(middle) else (middle + 1, end)
    return begin
