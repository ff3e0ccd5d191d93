"""Connected components, the atomic channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jstc.channels.labels import Ids

__all__ = ["components"]


def components(size: int, ties: Sequence[tuple[Ids, Ids]]) -> Ids:
    """Connected components of `size` ids under `ties`: for each id the smallest id it is connected to.

    Minimum-label hooking with pointer jumping; scipy has the same, but takes longer to import than a whole
    analysis.
    """
    labels = np.arange(size)
    if not ties:
        return labels
    a, b = (np.concatenate([tie[side] for tie in ties]) for side in (0, 1))
    while True:
        low, high = np.minimum(labels[a], labels[b]), np.maximum(labels[a], labels[b])
        open_ = low != high
        if not open_.any():
            return labels
        a, b = a[open_], b[open_]
        np.minimum.at(labels, high[open_], low[open_])
        while (labels[labels] != labels).any():
            labels = labels[labels]
