"""Labels beside marks, where they cover neither a mark nor a line nor each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

__all__ = ["place_labels"]

# Where a label may stand, in points from its mark, best first; and how its text is aligned there.
_PLACES = (
    (0, -16, "center"), (6, -14, "left"), (9, -3.5, "left"), (0, 9, "center"), (-6, 6, "right"),
    (-9, -3.5, "right"), (6, 7, "left"), (-6, -14, "right"), (0, -28, "center"), (0, 21, "center"),
)  # fmt: skip

_WEIGHT = 8  # a mark is worth more than a piece of a line


def place_labels(
    axes: Axes, places: Sequence[tuple[float, float]], labels: Sequence[tuple[str, str]]
) -> None:
    """Each label where it covers neither a mark nor another label, as far as there is such a place."""
    drawn = axes.figure
    drawn.draw_without_rendering()  # type: ignore[union-attr]
    taken = [_around(place) for place in _along(axes)]
    for (label, colour), place in zip(labels, places, strict=True):
        tried = []
        for across, up, side in _PLACES:
            text = axes.annotate(
                label, place, (across, up), textcoords="offset points", ha=side, color=colour, fontsize=9.5
            )
            box = text.get_window_extent().padded(2)
            tried.append((_covered(box, taken, axes), text, box))
            if tried[-1][0] < 1:
                break
        best = min(tried, key=lambda found: found[0])
        for found in tried:
            if found is not best:
                found[1].remove()
        taken.append(best[2])


def _along(axes: Axes) -> list[tuple[float, float]]:
    """Pixels on the marks and the lines."""
    import numpy as np

    found: list[tuple[float, float]] = []
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_xydata())
        found += [(x, y) for x, y in corners for _ in range(_WEIGHT)]
        for start, end in itertools.pairwise(corners):
            steps = max(2, int(np.hypot(*(end - start)) / 4))
            found += [tuple(place) for place in np.linspace(start, end, steps)]
    return found


def _around(place: tuple[float, float], half: float = 2.0) -> Bbox:
    from matplotlib.transforms import Bbox

    x, y = place
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _covered(box: Bbox, taken: Sequence[Bbox], axes: Axes) -> float:
    """Pixels that a label at `box` would cover, or that stand outside the axes."""
    inside = _overlap(box, axes.get_window_extent())
    return sum(_overlap(box, other) for other in taken) + box.width * box.height - inside


def _overlap(one: Bbox, other: Bbox) -> float:
    from matplotlib.transforms import Bbox

    both = Bbox.intersection(one, other)
    return 0.0 if both is None else float(both.width * both.height)
